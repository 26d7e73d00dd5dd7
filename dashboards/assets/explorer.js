/* What the pages do beyond links: choices that take effect at once, and the form that asks for an analysis. */
"use strict";
(() => {
  const ready = (act) => (document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", act) : act());

  // A choice goes into the URL; "all" is what a URL without it means.
  function choose(form) {
    const url = new URL(location.href);
    for (const select of form.querySelectorAll("select")) {
      if (select.value === "all") url.searchParams.delete(select.name);
      else url.searchParams.set(select.name, select.value);
    }
    location.assign(url);
  }

  const numbers = (text) => text.split(/[\s,]+/).filter(Boolean).map(Number);

  function asked(form) {
    const fields = new FormData(form);
    const spec = { experiment: form.dataset.experiment };
    const methods = fields.getAll("methods");
    if (fields.get("tasks")) spec.tasks = [fields.get("tasks")];
    if (methods.length) spec.methods = methods;
    if (fields.get("M").trim()) spec.M = numbers(fields.get("M"));
    if (fields.get("n").trim()) spec.n = Number(fields.get("n"));
    return spec;
  }

  async function ask(form, answer) {
    const button = form.querySelector("button");
    button.disabled = true;
    answer.className = "";
    answer.textContent = "Asking…";
    try {
      const response = await fetch(form.action, {
        method: "POST",
        headers: { "content-type": "application/json", accept: "application/json" },
        body: JSON.stringify(asked(form)),
      });
      const told = await response.json();
      if (!response.ok) throw new Error(told.error?.message ?? told.detail ?? `status ${response.status}`);
      answer.textContent = told.status === "finished" ? "That was computed before: " : "It is being computed: ";
      if (told.run_id) {
        const link = document.createElement("a");
        link.href = `/reports/${encodeURIComponent(told.run_id)}`;
        link.textContent = "its report";
        answer.append(link);
      }
      window.htmx?.ajax("GET", location.pathname, { target: "#reports", select: "#reports", swap: "outerHTML" });
    } catch (error) {
      answer.className = "bad";
      answer.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  }

  ready(() => {
    for (const form of document.querySelectorAll("form[data-auto]")) {
      form.addEventListener("change", () => choose(form));
      form.addEventListener("submit", (event) => { event.preventDefault(); choose(form); });
      // Who goes back sees what the URL says, not what was chosen last
      window.addEventListener("pageshow", () => form.reset());
    }
    const form = document.getElementById("analysis");
    if (form) {
      const answer = document.getElementById("analysis-answer");
      form.querySelector("button").disabled = false;
      form.addEventListener("submit", (event) => { event.preventDefault(); ask(form, answer); });
    }
  });
})();
