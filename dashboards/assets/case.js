/* The state of a case's page: it lies in the URL, the controls change it, and the viewers follow it.
   window.segcalCase = { state, query, set(changes), keep(), follow(function), url(path, changes) } */
"use strict";
(() => {
  const block = document.getElementById("case-state");
  if (!block) return;
  const state = JSON.parse(block.textContent);
  const query = { ...state.query };
  const form = document.getElementById("controls");
  const viewers = [];
  const AXES = ["z", "y", "x"];

  const text = (changes = {}) => new URLSearchParams({ ...query, ...changes }).toString();
  const url = (path, changes = {}) => `${state.base}${path}?${text(changes)}`;

  /* Every state has its URL. Browsers allow only so many changes in a while: the last of a quick series counts. */
  let written = 0;
  const keep = () => {
    clearTimeout(written);
    history.replaceState(null, "", `?${text()}`);
  };
  const write = () => {
    clearTimeout(written);
    written = setTimeout(keep, 120);
  };
  let asked = 0, turn = 0;
  const readValues = () => {
    clearTimeout(asked);
    asked = setTimeout(async () => {
      const mine = ++turn;
      const answer = await fetch(url("/values")).catch(() => null);
      const told = answer?.ok ? await answer.text() : "";
      if (told && mine === turn) document.getElementById("values").innerHTML = told; // a slow answer is of an older voxel
    }, 80);
  };

  const scale = () => state.legends[query.layer];
  const shortened = (value) => String(Math.round(Number(value) * 1000) / 1000);
  const set = (changes) => {
    const told = {};
    for (const [name, value] of Object.entries(changes)) if (query[name] !== String(value)) told[name] = query[name] = String(value);
    if (!Object.keys(told).length) return;
    if (told.layer && scale()?.high && Number(query.threshold) > scale().high) told.threshold = query.threshold = "0.05";
    show();
    write();
    if (AXES.some((axis) => axis in told)) readValues();
    for (const follow of viewers) follow(told);
  };

  const show = () => {
    for (const name of ["opacity", "threshold", ...AXES]) {
      if (name === "threshold" && scale()?.high) form.elements.threshold.max = shortened(scale().high);
      form.elements[name].value = query[name];
      form.elements[`${name}_is`].value = AXES.includes(name) ? query[name] : shortened(query[name]);
    }
    for (const name of ["method", "member", "channel", "layer", "structure", "view"]) form.elements[name].value = query[name];
    form.querySelector("input[type=checkbox][name=truth]").checked = query.truth === "1";
    const painted = query.layer === "probability" || query.layer === "entropy";
    form.elements.threshold.disabled = !painted;
    form.elements.opacity.disabled = query.layer === "none";
    form.elements.structure.disabled = query.layer !== "probability";
    for (const part of document.querySelectorAll("#legend [data-layer]")) part.hidden = part.dataset.layer !== query.layer;
    const of = document.querySelector("#legend .of");
    if (of) of.textContent = `p(${query.structure})`;
    document.querySelector("#legend [data-truth]").hidden = query.truth !== "1";
    for (const part of document.querySelectorAll("#legend .true")) {
      part.hidden = query.layer === "probability" && part.dataset.structure !== query.structure;
    }
  };

  const move = (axis, step) => {
    const last = state.shape[AXES.indexOf(axis)] - 1;
    set({ [axis]: Math.min(last, Math.max(0, Number(query[axis]) + step)) });
  };

  form.addEventListener("input", (event) => {
    const { name, type, checked, value, dataset } = event.target;
    if ("reload" in dataset) return;
    set({ [name]: type === "checkbox" ? (checked ? "1" : "0") : value });
  });
  form.addEventListener("change", (event) => {
    if (!("reload" in event.target.dataset)) return;
    const changes = { [event.target.name]: event.target.value };
    if (event.target.name === "method") changes.member = "";
    keep();
    location.assign(`?${text(changes)}`);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  /* Links to other members and cases keep what was changed since the page came. */
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.keep");
    if (!link) return;
    const target = new URL(link.href);
    for (const [name, value] of Object.entries(query)) {
      if (name !== "member" && target.searchParams.has(name)) target.searchParams.set(name, value);
    }
    link.href = target.href;
  }, true);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea")) return;
    const link = { p: "a[rel=prev]", n: "a[rel=next]" }[event.key];
    if (link) document.querySelector(`.turn ${link}`)?.click();
  });

  window.segcalCase = { state, query, set, keep, move, url, AXES, follow: (viewer) => viewers.push(viewer) };
  show();
  window.addEventListener("pageshow", show); // who goes back sees what the URL says, not what was chosen last
})();
