/* Light or dark, before the first paint: what was chosen here, else what the system prefers (segcal.css).
   window.segcalTheme(): "light" or "dark" as shown now. A change dispatches "segcal:theme" on the document. */
"use strict";
(() => {
  const KEY = "segcal-theme";
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try { return localStorage.getItem(KEY); } catch { return null; } // storage may be forbidden
  };
  const shown = () => root.dataset.theme || (system.matches ? "dark" : "light");
  const tell = () => document.dispatchEvent(new CustomEvent("segcal:theme", { detail: shown() }));
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  window.segcalTheme = shown;
  system.addEventListener("change", tell);
  // Paper is white: what is dark here is printed light
  let chosen;
  const put = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    tell();
  };
  window.addEventListener("beforeprint", () => { chosen = root.dataset.theme; put("light"); });
  window.addEventListener("afterprint", () => put(chosen));
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    if (!button) return;
    const name = () => { button.title = `${shown() === "dark" ? "Dark" : "Light"}; click for ${shown() === "dark" ? "light" : "dark"}`; };
    button.hidden = false;
    name();
    button.addEventListener("click", () => {
      root.dataset.theme = shown() === "dark" ? "light" : "dark";
      try { localStorage.setItem(KEY, root.dataset.theme); } catch { /* holds for this page */ }
      name();
      tell();
    });
  });
})();
