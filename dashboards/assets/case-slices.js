/* The three planes as pictures that the server drew: keys and clicks move through the volume. */
"use strict";
(() => {
  const page = window.segcalCase;
  if (!page) return;
  const { state, query, AXES } = page;
  // The axes across and up of a plane, and whether the picture is upside down along the latter.
  const PLANES = { z: ["x", "y", false], y: ["x", "z", true], x: ["y", "z", true] };
  const length = (axis) => state.shape[AXES.indexOf(axis)];

  /* Where the picture lies in its frame, which it fills as far as its shape allows. */
  const placed = (image) => {
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight) || 0;
    const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
    return { left: (box.width - width) / 2, top: (box.height - height) / 2, width, height, box };
  };

  /* A line that leaves free what it points at. */
  const gap = (turn, at) => `linear-gradient(${turn}, rgb(255 90 90 / 80%) ${at - 8}px, transparent 0 ${at + 8}px, rgb(255 90 90 / 80%) 0)`;

  const start = () => {
    const planes = document.getElementById("slices");
    if (!planes || planes.dataset.live) return;
    planes.dataset.live = "1";
    const figures = [...planes.querySelectorAll(".plane")];

    const cross = (figure) => {
      const [across, up, turned] = PLANES[figure.dataset.axis];
      const picture = placed(figure.querySelector("img"));
      if (!picture.width) return;
      const x = (Number(query[across]) + 0.5) / length(across);
      const y = (Number(query[up]) + 0.5) / length(up);
      const [line, column] = figure.querySelectorAll(".cross");
      Object.assign(line.style, {
        display: "block", left: `${picture.left}px`, width: `${picture.width}px`, height: "1px",
        top: `${picture.top + picture.height * (turned ? 1 - y : y)}px`, background: gap("90deg", picture.width * x),
      });
      Object.assign(column.style, {
        display: "block", top: `${picture.top}px`, height: `${picture.height}px`, width: "1px",
        left: `${picture.left + picture.width * x}px`, background: gap("180deg", picture.height * (turned ? 1 - y : y)),
      });
    };
    const draw = (figure) => {
      const image = figure.querySelector("img"), { axis } = figure.dataset;
      const shown = {};
      for (const name of ["method", "member", "structure", "layer", "channel", "truth", "opacity", "threshold", axis]) shown[name] = query[name];
      const source = `${state.base}/slices/${axis}.png?${new URLSearchParams(state.predicted ? shown : { ...shown, layer: "none" })}`;
      if (image.getAttribute("src") !== source) image.src = source;
      image.alt = `${figure.dataset.name} slice ${query[axis]} with overlay`;
      figure.querySelector(".index").textContent = query[axis];
      cross(figure);
    };
    const all = () => figures.forEach(draw);

    let waiting = 0;
    page.follow(() => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(all);
    });
    for (const figure of figures) {
      const { axis } = figure.dataset, image = figure.querySelector("img");
      const [across, up, turned] = PLANES[axis];
      image.addEventListener("load", () => cross(figure));
      image.addEventListener("click", (event) => {
        const picture = placed(image);
        const part = (value, size, axis) => Math.min(length(axis) - 1, Math.max(0, Math.floor((value / size) * length(axis))));
        const row = part(event.clientY - picture.box.top - picture.top, picture.height, up);
        page.set({
          [across]: part(event.clientX - picture.box.left - picture.left, picture.width, across),
          [up]: turned ? length(up) - 1 - row : row,
        });
      });
      figure.querySelector(".picture").addEventListener("keydown", (event) => {
        const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 }[event.key];
        if (!step) return;
        event.preventDefault();
        page.move(axis, step);
      });
      figure.querySelector(".picture").addEventListener("wheel", (event) => {
        event.preventDefault();
        page.move(axis, event.deltaY < 0 ? 1 : -1);
      }, { passive: false });
      for (const link of figure.querySelectorAll(".step")) {
        link.addEventListener("click", (event) => {
          event.preventDefault();
          page.move(axis, Number(link.dataset.step));
        });
      }
    }
    window.addEventListener("resize", all);
    all();
  };

  /* The axial slice by every member follows, after a moment: it is many pictures. */
  const strip = [...document.querySelectorAll(".strip img")];
  let later = 0;
  page.follow(() => {
    clearTimeout(later);
    later = setTimeout(() => {
      for (const image of strip) image.src = page.url("/slices/z.png", { member: image.dataset.seed });
    }, 200);
  });

  /* Put the pictures in place of a viewer that cannot be. told: what is said, true: that there is no WebGL. */
  page.showSlices = (told) => {
    const template = document.getElementById("planes");
    if (template && !document.getElementById("slices")) {
      document.getElementById("gl")?.remove();
      document.getElementById("stage").append(template.content.cloneNode(true));
    }
    const notice = document.getElementById("nowebgl");
    notice.hidden = !told;
    if (typeof told === "string") notice.textContent = told;
    start();
  };
  page.follow((changes) => {
    if (!changes.view) return;
    page.keep(); // the new page is made by the URL
    location.reload();
  });
  if (query.view === "slices") page.showSlices(false);
})();
