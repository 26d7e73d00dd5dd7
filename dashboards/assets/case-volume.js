/* Planes and 3-D by NiiVue, where there is WebGL 2; else the pictures of slices. */
"use strict";
(() => {
  const page = window.segcalCase;
  if (!page || page.query.view !== "3d") return;
  const { state, query, AXES } = page;
  const canvas = document.getElementById("gl");
  const LABELS = 1002; // NIFTI_INTENT_LABEL
  const LOST = "The volumes could not be drawn: the planes are shown as pictures. Load the page again for another try.";
  const TOUCH = 1e-3; // what a scale keeps of its length

  const hasWebGL = () => {
    try { return Boolean(document.createElement("canvas").getContext("webgl2")); } catch { return false; }
  };
  const script = (source) => new Promise((done, failed) => {
    const element = Object.assign(document.createElement("script"), { src: source, onload: done, onerror: failed });
    document.head.append(element);
  });
  const channels = (colours) => {
    const part = (from) => colours.map((colour) => parseInt(colour.slice(from, from + 2), 16));
    return { R: part(0), G: part(2), B: part(4) };
  };
  /* 256 colours of the part of a scale above a threshold; the first is clear, as is all that lies below. */
  const above = (colours, share) => {
    const mixed = { R: [], G: [], B: [], A: [], I: [] };
    const anchors = channels(colours);
    for (let n = 0; n < 256; n++) {
      const at = (share + ((1 - share) * n) / 255) * (colours.length - 1);
      const low = Math.min(Math.floor(at), colours.length - 2);
      for (const key of "RGB") mixed[key].push(Math.round(anchors[key][low] * (low + 1 - at) + anchors[key][low + 1] * (at - low)));
      mixed.A.push(n ? 255 : 0);
      mixed.I.push(n);
    }
    return mixed;
  };
  /* Colours of small integers from 1 on; 0 is clear. */
  const labels = (entries) => {
    const { R, G, B } = channels(entries.map(([colour]) => colour));
    return { R: [0, ...R], G: [0, ...G], B: [0, ...B], A: [0, ...R.map(() => 255)], I: [0, ...R.map((_, n) => n + 1)] };
  };

  const { spacing_mm: spacing, shape } = state;
  const toMm = () => {
    const [z, y, x] = AXES.map((axis) => Number(query[axis]));
    return [-x * spacing[2], -y * spacing[1], z * spacing[0]];
  };
  const toVoxel = (mm) => {
    const found = [mm[2] / spacing[0], -mm[1] / spacing[1], -mm[0] / spacing[2]];
    return Object.fromEntries(AXES.map((axis, n) => [axis, Math.min(shape[n] - 1, Math.max(0, Math.round(found[n])))]));
  };

  const run = async () => {
    if (!hasWebGL()) return page.showSlices(true);
    try {
      await script(document.getElementById("stage").dataset.niivue);
    } catch { return page.showSlices(LOST); }
    const { Niivue, NVImage } = window.niivue;
    const viewer = new Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, showAllOrientationMarkers: true,
      isOrientationTextVisible: !state.stored, backColor: [0, 0, 0, 1], fontColor: [0.91, 0.93, 0.95, 1],
      crosshairColor: [1, 0.35, 0.35, 0.9], crosshairWidth: 0.6, crosshairWidthUnit: "percent", crosshairGap: 6,
      show3Dcrosshair: true, cycleClipPlaneHotKey: "", viewModeHotKey: "", clipPlaneColor: [0, 0, 0, 0], dragAndDropEnabled: false, logLevel: "error", loadingText: "loading",
    });
    page.viewer = viewer;
    canvas.addEventListener("webglcontextlost", () => page.showSlices(LOST));
    canvas.hidden = false;
    await viewer.attachToCanvas(canvas);
    const wide = canvas.clientWidth > canvas.clientHeight;
    viewer.setCustomLayout(wide ? [
      { sliceType: 0, position: [0, 0, 0.5, 1] }, { sliceType: 1, position: [0.505, 0, 0.235, 0.5] },
      { sliceType: 2, position: [0.76, 0, 0.235, 0.5] }, { sliceType: 4, position: [0.5, 0.5, 0.5, 0.5] },
    ] : [
      { sliceType: 0, position: [0, 0, 1, 0.5] }, { sliceType: 1, position: [0, 0.5, 0.5, 0.25] },
      { sliceType: 2, position: [0.5, 0.5, 0.5, 0.25] }, { sliceType: 4, position: [0, 0.75, 1, 0.25] },
    ]);

    const url = (name, whose) => `${state.base}/volumes/${name}.nii.gz${whose ? `?${whose}` : ""}`;
    const whose = new URLSearchParams({ method: query.method, member: query.member }).toString();
    const kept = new Map(); // volumes that were loaded: to look at them again costs nothing
    const volume = async (name, change, mine = "") => {
      if (!kept.has(name)) kept.set(name, await NVImage.loadFromUrl({ url: url(name, mine), name: `${name}.nii.gz`, colormap: "gray" }));
      const found = kept.get(name);
      change(found);
      return found;
    };
    const painted = (found) => {
      const { colours, high } = state.legends[query.layer];
      const low = Math.min(Number(query.threshold), high - TOUCH);
      viewer.addColormap("segcal-layer", above(colours, low / high));
      found._colormap = "segcal-layer";
      [found.cal_min, found.cal_max, found.opacity] = [low, high, Number(query.opacity)];
    };
    const image = () => volume(`fine-${state.channels.indexOf(query.channel)}`, (found) => { [found.cal_min, found.cal_max] = [0, 1]; });
    const overlay = () => {
      if (!state.predicted || query.layer === "none") return [];
      if (query.layer === "error") {
        return [volume("error", (found) => {
          found.setColormapLabel(labels(state.legends.error));
          found.opacity = Number(query.opacity);
        }, whose)];
      }
      return [volume(query.layer === "entropy" ? "entropy" : `p-${1 + state.structures.indexOf(query.structure)}`, painted, whose)];
    };
    const truth = () => {
      if (query.truth !== "1") return [];
      const name = query.layer === "probability" ? `outline-${1 + state.structures.indexOf(query.structure)}` : "outline";
      return [volume(name, (found) => {
        found.setColormapLabel(labels(state.legends.truth));
        found.hdr.intent_code = LABELS; // with it NiiVue paints rims at full strength, and an outline is all rim
      })];
    };

    /* The image stays as it is: that is most of the work. */
    const repaint = () => {
      viewer.refreshColormaps();
      viewer.overlays.forEach((found, n) => viewer.refreshLayers(found, n + 1));
    };
    const place = () => {
      viewer.scene.crosshairPos = viewer.mm2frac(toMm());
      viewer.drawScene();
    };
    let loading = Promise.resolve();
    const load = () => {
      loading = loading.then(async () => {
        const wanted = await Promise.all([image(), ...overlay(), ...truth()]);
        const same = viewer.volumes[0] === wanted[0] && wanted.length > 1;
        [viewer.volumes, viewer.back, viewer.overlays] = [wanted, wanted[0], wanted.slice(1)]; // all at once: addVolume draws each
        if (same) repaint();
        else viewer.updateGLVolume();
        place();
        canvas.dataset.drawn = [query.channel, query.layer, query.structure, query.truth].join(" ");
      }).catch((error) => { console.error(error); page.showSlices(LOST); });
      return loading;
    };
    viewer.opts.atlasOutline = 1;
    viewer.setClipPlane([0, 290, -10]);
    window.addEventListener("beforeprint", () => viewer.drawScene()); // what was shown is taken away after each frame
    let repainted = 0;
    let own = false; // the crosshair was moved on the canvas
    viewer.onLocationChange = (where) => {
      if (!viewer.volumes.length || canvas.dataset.drawn === undefined) return;
      own = true;
      page.set(toVoxel(where.mm));
      own = false;
      if (Math.hypot(...toMm().map((mm, n) => mm - where.mm[n])) > 0.01) place(); // to the voxel's middle
    };
    page.follow((changes) => {
      if (["channel", "layer", "structure", "truth"].some((name) => name in changes)) return load();
      if (state.predicted && query.layer !== "none" && viewer.volumes[1] && ("opacity" in changes || "threshold" in changes)) {
        if (query.layer !== "error") painted(viewer.volumes[1]);
        viewer.volumes[1].opacity = Number(query.opacity);
        cancelAnimationFrame(repainted);
        repainted = requestAnimationFrame(() => {
          repaint();
          viewer.drawScene();
          canvas.dataset.painted = `${query.opacity} ${query.threshold}`;
        });
      }
      if (!own && AXES.some((axis) => axis in changes)) place();
    });
    canvas.addEventListener("keydown", (event) => {
      const [axis, step] = { ArrowLeft: ["x", -1], ArrowRight: ["x", 1], ArrowUp: ["y", -1], ArrowDown: ["y", 1], PageUp: ["z", 1], PageDown: ["z", -1] }[event.key] || [];
      if (!axis) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      page.move(axis, step);
    }, true);
    await load();
  };
  run();
})();
