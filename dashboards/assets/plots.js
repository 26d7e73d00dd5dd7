/* Draws the plots of a view from its JSON block (#plot-data), and again when light turns to dark. */
"use strict";
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (index) => css(`--c${index % 6}`);
  const DASHES = ["solid", "dash", "dot"]; // from the seventh on, colours come again with another dash
  const faded = (hex, alpha) => `${hex}${Math.round(255 * alpha).toString(16).padStart(2, "0")}`;
  const short = (value) => {
    if (value === null || !Number.isFinite(value)) return "n/a";
    const size = Math.abs(value);
    return size > 0 && size < 0.0005 ? value.toExponential(1) : value.toFixed(size < 1 ? 3 : size < 100 ? 2 : 0);
  };
  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  const axis = (title, more = {}) => ({
    title: { text: title, standoff: 8, font: { size: 13 } }, tickfont: { size: 11.5 }, gridcolor: css("--line"), linecolor: css("--strong"), zeroline: false,
    ticks: "outside", ticklen: 4, tickcolor: css("--strong"), automargin: true, ...more,
  });
  const layout = (more) => ({
    paper_bgcolor: css("--back"), plot_bgcolor: css("--back"), font: { family: css("--font"), size: 12.5, color: css("--ink") },
    margin: { l: 60, r: 20, t: 16, b: 50 }, showlegend: false, hovermode: "closest", dragmode: "zoom",
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--strong"), font: { color: css("--ink"), family: css("--font") }, align: "left" },
    ...more,
  });
  // Named one by one: what Plotly offers by itself includes sending the plot to a server of its own
  const BUTTONS = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const CONFIG = { displaylogo: false, responsive: true, modeBarButtons: BUTTONS, showSendToCloud: false, plotlyServerURL: "" };

  function curve(panel, band) {
    const sizes = [...new Set(panel.curves.flatMap((c) => c.sizes))].sort((a, b) => a - b);
    const traces = [];
    for (const c of panel.curves) {
      const line = { color: colour(c.colour), dash: DASHES[Math.floor(c.colour / 6) % 3], width: 2 };
      if (band === "both" || band === "percentiles") {
        traces.push({
          x: [...c.sizes, ...[...c.sizes].reverse()], y: [...c.high, ...[...c.low].reverse()], fill: "toself", mode: "lines",
          fillcolor: faded(line.color, 0.16), line: { width: 0 }, hoverinfo: "skip",
        });
      }
      const text = c.sizes.map((size, i) =>
        `<b>${escaped(c.label)}</b>, M = ${size}<br>${short(c.mean[i])} (${short(c.low[i])}–${short(c.high[i])})` +
        `${c.error[i] === null ? "" : ` ± ${short(c.error[i])}`}<br>${c.draws[i]} draw${c.draws[i] === 1 ? "" : "s"} of a pool of ${c.pool}`);
      const bars = band === "both" || band === "errors";
      traces.push({
        x: c.sizes, y: c.mean, mode: "lines+markers", line, marker: { size: 7, color: line.color }, text, hovertemplate: "%{text}<extra></extra>",
        error_y: { type: "data", array: c.error.map((e) => e ?? 0), visible: bars, color: line.color, thickness: 1.3, width: 4 },
      });
    }
    return [traces, layout({
      xaxis: axis("members M", { type: "log", tickvals: sizes, ticktext: sizes.map(String) }),
      yaxis: axis(panel.unit, { tickformat: ".3~f" }),
    })];
  }

  function reliability(diagram, alone) {
    const rows = diagram.rows.filter((r) => r.count > 0);
    const middle = (r) => (r.low + r.high) / 2;
    const width = (r) => 0.92 * (r.high - r.low);
    const text = rows.map((r) =>
      `confidence ${short(r.confidence)}, accuracy ${short(r.accuracy)}<br>${r.count.toLocaleString("en")} voxels${r.enough ? "" : ", too few"}`);
    const bar = (chosen, more) => ({
      type: "bar", x: chosen.map(middle), width: chosen.map(width), text: chosen.map((r) => text[rows.indexOf(r)]), textposition: "none",
      hovertemplate: "%{text}<extra></extra>", ...more,
    });
    const strength = (chosen, full, few) => chosen.map((r) => (r.enough ? full : few));
    const gap = (chosen, shade, shape) => bar(chosen, {
      y: chosen.map((r) => Math.abs(r.confidence - r.accuracy)), base: chosen.map((r) => Math.min(r.accuracy, r.confidence)),
      marker: {
        color: faded(css(shade), 0.12), opacity: strength(chosen, 1, 0.35), line: { color: css(shade), width: 1 },
        pattern: { shape, fgcolor: css(shade), size: 5, solidity: 0.25 },
      },
    });
    const over = rows.filter((r) => r.confidence >= r.accuracy);
    const under = rows.filter((r) => r.confidence < r.accuracy);
    const most = Math.max(1000, ...rows.map((r) => r.count));
    const traces = [
      bar(rows, { y: rows.map((r) => Math.min(r.accuracy, r.confidence)), marker: { color: css("--c0"), opacity: strength(rows, 0.8, 0.25) } }),
      gap(over, "--bad", "/"), gap(under, "--good", "."),
      bar(rows, { y: rows.map((r) => r.count), yaxis: "y2", marker: { color: css("--soft"), opacity: strength(rows, 0.8, 0.35) } }),
    ];
    return [traces, layout({
      barmode: "overlay", margin: { l: 56, r: 14, t: 12, b: 44 },
      xaxis: axis("confidence", { range: [0, 1], dtick: 0.2, anchor: "y2" }),
      yaxis: axis("accuracy", { range: [0, 1], dtick: alone ? 0.1 : 0.2, domain: [0.31, 1] }),
      yaxis2: axis("voxels", { type: "log", range: [-0.2, Math.log10(3 * most)], domain: [0, 0.22], dtick: 2, exponentformat: "power" }),
      shapes: [
        { type: "line", x0: 0, y0: 0, x1: 1, y1: 1, xref: "x", yref: "y", line: { color: css("--soft"), width: 1.2, dash: "dash" } },
        { type: "line", x0: 0, x1: 1, y0: 1000, y1: 1000, xref: "x", yref: "y2", line: { color: css("--soft"), width: 1, dash: "dot" } },
      ],
    })];
  }

  const SYMBOLS = { source: "circle", target: "x" };
  const NAMES = { source: "source domain", target: "target domain" };
  const LINES = { all: "solid", source: "dash", target: "dot" };
  const DICE_TICKS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999];
  const logit = (dice) => Math.log(dice / (1 - dice));

  function scatter(data) {
    const traces = [];
    data.structures.forEach((structure, index) => {
      for (const domain of data.domains) {
        const own = data.points.filter((p) => p.structure === structure && p.domain === domain);
        if (!own.length) continue;
        traces.push({
          x: own.map((p) => p.entropy), y: own.map((p) => p.logit_dice), mode: "markers", customdata: own.map((p) => p.url),
          name: data.domains.length > 1 ? `${escaped(structure)}, ${NAMES[domain] ?? domain}` : escaped(structure),
          text: own.map((p) => `<b>${escaped(p.case_id)}</b><br>${escaped(structure)}, ${NAMES[domain] ?? domain}<br>H(S) ${short(p.entropy)} nats, Dice ${short(p.dice)}`),
          hovertemplate: "%{text}<br><i>click to open the case</i><extra></extra>",
          marker: { color: colour(index), symbol: SYMBOLS[domain] ?? "diamond", size: domain === "source" ? 9 : 10, opacity: 0.85, line: { width: 0.8, color: css("--back") } },
        });
      }
    });
    for (const fit of data.fits) {
      traces.push({
        x: [fit.low, fit.high], y: [fit.low, fit.high].map((h) => fit.intercept + fit.slope * h), mode: "lines", hoverinfo: "skip",
        name: data.fits.length > 1 ? `fit, ${fit.domain}` : "fit", line: { color: css("--ink"), width: 1.6, dash: LINES[fit.domain] ?? "solid" },
      });
    }
    const logits = data.points.map((p) => p.logit_dice);
    const range = logits.length ? [Math.min(...logits) - 0.4, Math.max(...logits) + 0.4] : [-2, 2];
    return [traces, layout({
      showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, xanchor: "left" }, margin: { l: 64, r: 20, t: 10, b: 50 },
      xaxis: axis("H(S), nats"),
      yaxis: axis("Dice (logit axis)", { range, tickvals: DICE_TICKS.map(logit), ticktext: DICE_TICKS.map(String) }),
    })];
  }

  function draw(holder, data) {
    const put = (id, [traces, shape]) => {
      const element = document.getElementById(id);
      if (element) window.Plotly.react(element, traces, shape, CONFIG);
      return element;
    };
    if (holder.dataset.kind === "curve") for (const panel of data.panels) put(`plot-${panel.name}`, curve(panel, data.band));
    if (holder.dataset.kind === "reliability") data.diagrams.forEach((d, i) => put(`plot-${i}`, reliability(d, data.diagrams.length === 1)));
    if (holder.dataset.kind === "scatter") {
      const element = put("plot-scatter", scatter(data));
      if (!element.dataset.wired) {
        element.dataset.wired = "yes";
        element.on("plotly_click", (event) => {
          const url = event.points[0]?.customdata;
          if (url) location.assign(url);
        });
        element.on("plotly_hover", (event) => element.classList.toggle("over-point", Boolean(event.points[0]?.customdata)));
        element.on("plotly_unhover", () => element.classList.remove("over-point"));
      }
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const holder = document.getElementById("plot-data");
    if (!holder || !window.Plotly) return;
    const data = JSON.parse(holder.textContent);
    draw(holder, data);
    document.addEventListener("segcal:theme", () => draw(holder, data));
  });
})();
