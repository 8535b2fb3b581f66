/* What the book's interactive figures share: schedules, exact t*, settings, steps, plots.

   A figure is <div class="vcq vcq-KIND" data-config='{…}'> with its static version inside
   (vcqlib/interactives.py writes it). KIND.js calls vcq.mount. The theory says the same as
   vcqlib/theory.py and vcqlib/schedules.py; browser tests compare them. No library, no network. */
"use strict";
window.vcq ??= (() => {
  // ------------------------------------------------------------------------------ theory

  const roundHalfUp = (x) => Math.floor(x + 0.5);

  function codebookSizes({ schedule, length, kMin, kMax, ramp, power = 1 }) {
    const of = (name) => codebookSizes({ schedule: name, length, kMin, kMax, ramp, power });
    if (schedule === "reversed") return of("loglinear").reverse();
    if (schedule === "matched") {
      const bits = of("loglinear").reduce((sum, k) => sum + Math.log2(k), 0);
      return Array(length).fill(roundHalfUp(2 ** (bits / length)));
    }
    const low = Math.log2(kMin), high = Math.log2(kMax), span = kMax - kMin;
    const size = {
      uniform: () => kMax,
      doubling: (u, t) => Math.min(kMin * 2 ** Math.min(t, 60), kMax),
      loglinear: (u) => 2 ** (low + (high - low) * u ** power),
      linear: (u) => kMin + span * u,
      quadratic: (u) => kMin + span * u ** 2,
      cosine: (u) => kMin + (span * (1 - Math.cos(Math.PI * u))) / 2,
    }[schedule];
    return Array.from({ length }, (_, t) =>
      roundHalfUp(size(ramp > 1 ? Math.min(1, t / (ramp - 1)) : 0, t)));
  }

  /** Smallest t with K_1 · … · K_t >= n, exact; null if the sizes never reach n (a BigInt). */
  function cliffPosition(n, sizes) {
    let cells = 1n, t = 0;
    while (cells < n) {
      if (t === sizes.length) return null;
      cells *= BigInt(sizes[t++]);
    }
    return t;
  }

  function runningSum(values) {
    let sum = 0;
    return values.map((value) => (sum += value));
  }

  // ------------------------------------------------------------------------------- drawing

  const count = (x) => x.toLocaleString("en-US");
  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  /** A number of the text, with its exact value for whoever reads the page by program. */
  const datum = (name, x, text = x) => `<data class="${name}" value="${x}">${text}</data>`;
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`)
    .join("");

  function ticks(most, wanted) {
    const rough = most / wanted, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((f) => f >= rough);
    return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
  }

  /** One panel over positions as SVG text: curves = [class, values]; lines = [class, value,
      label], horizontal. */
  function panel({ id, top, width, height, shown, most, title, curves, lines, cliff }) {
    const left = 44, right = 10, plot = width - left - right;
    const x = (t) => left + (shown === 1 ? 0.5 : (t - 1) / (shown - 1)) * plot;
    const y = (value) => top + height - (Math.min(value, 1e6) / most) * height;
    const out = [`<clipPath id="${id}"><rect x="${left - 4}" y="${top - 4}" width="${plot + 8}" ` +
      `height="${height + 8}"/></clipPath>`, `<text x="0" y="${top - 12}">${title}</text>`];
    for (const value of ticks(most, 4)) {
      out.push(`<path class="grid" d="M${left} ${y(value)}H${width - right}"/>` +
        `<text class="tick" x="${left - 6}" y="${y(value) + 4}" text-anchor="end">` +
        `${+value.toFixed(3)}</text>`);
    }
    const marks = ticks(shown, width < 480 ? 5 : 9).map((t) => Math.max(1, Math.ceil(t)));
    for (const t of new Set(marks)) {
      out.push(`<text class="tick" x="${x(t)}" y="${top + height + 17}" ` +
        `text-anchor="middle">${t}</text>`);
    }
    out.push(`<g clip-path="url(#${id})">`);
    for (const [name, value, text] of lines) {
      out.push(`<path class="${name}" d="M${left} ${y(value)}H${width - right}"/>` +
        `<text class="tick" x="${width - right}" y="${y(value) - 5}" text-anchor="end">${text}</text>`);
    }
    for (const [name, values] of curves) {
      const points = values.slice(0, shown).map((value, i) => [x(i + 1), y(value)]);
      out.push(`<path class="${name}" d="${path(points)}"/>`);
      if (name === "own" && shown <= 64) {
        out.push(...points.map(([cx, cy]) => `<circle class="dot" cx="${cx}" cy="${cy}" r="3"/>`));
      }
    }
    out.push("</g>");
    if (cliff && cliff <= shown) {
      const end = x(cliff) > width - 70;
      out.push(`<path class="cliff" d="M${x(cliff)} ${top}V${top + height}"/><text class="tick" ` +
        `x="${x(cliff) + (end ? -5 : 5)}" y="${top + 10}" ` +
        `text-anchor="${end ? "end" : "start"}">t* = ${cliff}</text>`);
    }
    return out.join("");
  }

  /** One picture of a sprite: column and row of `columns` by `rows` pictures of equal size. */
  function tile(sprite, columns, rows, column, row, label) {
    const at = (i, n) => (n > 1 ? (100 * i) / (n - 1) : 0);
    return `<span class="vcq-tile" role="img" aria-label="${escape(label)}" style="` +
      `background-image: url(${sprite}); background-size: ${100 * columns}% ${100 * rows}%; ` +
      `background-position: ${at(column, columns)}% ${at(row, rows)}%"></span>`;
  }

  // ------------------------------------------------------------------------------ settings

  /** Numbers that a reader may set; the slider runs over `scale`, a box beside it is exact. */
  const FIELDS = {
    n: { label: "N, sequences", said: "N", least: 1n, most: 10n ** 18n, slider: [0, 12, 0.05],
      from: (v) => BigInt(Math.round(10 ** v)), to: (n) => Math.log10(Number(n)) },
    kMin: { label: "K<sub>min</sub>, first codebook", said: "K min", least: 2, most: 2 ** 32,
      slider: [1, 18, 1], from: (v) => 2 ** v, to: Math.log2 },
    kMax: { label: "K<sub>max</sub>, last codebook", said: "K max", least: 2, most: 2 ** 32,
      slider: [1, 18, 1], from: (v) => 2 ** v, to: Math.log2 },
    length: { label: "T, positions", said: "T", least: 1, most: 1024, slider: [1, 1024, 1],
      from: Number, to: Number },
    ramp: { label: "ramp, positions until K<sub>max</sub>", said: "ramp", least: 1, most: 4096,
      slider: [1, 1024, 1], from: Number, to: Number },
    power: { label: "power, 1 is a straight ramp", said: "power", least: 0.01, most: 100,
      slider: [0.25, 4, 0.25], from: Number, to: Number, real: true },
  };

  function field(id, name, { label, said, slider: [least, most, step], real }) {
    return `<div class="vcq-field"><label for="${id}-${name}">${label}</label>
      <input type="range" id="${id}-${name}" name="${name}" min="${least}" max="${most}"
        step="${step}"><input type="text" inputmode="${real ? "decimal" : "numeric"}"
        name="${name}-exact" size="9" autocomplete="off" aria-label="${said}, exact value"></div>`;
  }

  function select(id, name, label, options) {
    const entries = options.map(([value, text = value]) =>
      `<option value="${escape(value)}">${escape(text)}</option>`);
    return `<div class="vcq-field"><label for="${id}-${name}">${label}</label>
      <select id="${id}-${name}" name="${name}">${entries.join("")}</select></div>`;
  }

  /** The number that was typed; null if it is none or out of range. */
  function parse({ least, most, real }, text) {
    const plain = text.replace(/[\s,_]/g, "");
    if (real) return plain && plain >= least && plain <= most ? Number(plain) : null;
    const big = /^\d{1,19}$/.test(plain) ? BigInt(plain) : -1n;
    if (big < BigInt(least) || big > BigInt(most)) return null;
    return typeof least === "bigint" ? big : Number(big);
  }

  /** Keep settings `s` and the controls of a form in step; returns what shows them again.
      other(control) takes in a control that is no field; show() draws. */
  function bind({ form, output, fields, s, other, show }) {
    const control = (name) => form.elements.namedItem(name); // elements.length is a number

    function set(name, value) {
      const follows = s.ramp === s.length; // a ramp over the whole sequence stays one
      s[name] = value;
      if (name === "length" && (follows || s.ramp > s.length)) s.ramp = s.length;
      if (name === "kMin") s.kMax = Math.max(s.kMin, s.kMax);
      if (name === "kMax") s.kMin = Math.min(s.kMin, s.kMax);
    }

    function refresh(changed) {
      for (const [name, { to }] of Object.entries(fields)) {
        const exact = control(`${name}-exact`), slider = control(name);
        if (name === "ramp") slider.max = Math.max(s.length, s.ramp);
        if (changed !== name || document.activeElement !== slider) slider.value = to(s[name]);
        if (document.activeElement !== exact) exact.value = String(s[name]);
        slider.setAttribute("aria-valuetext", count(s[name]));
        exact.removeAttribute("aria-invalid");
      }
      control("schedule").value = s.schedule;
      show();
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", ({ target }) => {
      const exact = target.name.endsWith("-exact");
      const name = exact ? target.name.slice(0, -6) : target.name, known = fields[name];
      if (name === "schedule") s.schedule = target.value;
      else if (!known) other(target, set);
      else {
        const value = exact ? parse(known, target.value) : known.from(Number(target.value));
        if (value === null) {
          target.setAttribute("aria-invalid", "true");
          output.textContent = `${known.said} must be a ${known.real ? "" : "whole "}number from ` +
            `${known.least} to ${count(known.most)}.`;
          return;
        }
        set(name, value);
      }
      refresh(name);
    });
    form.addEventListener("focusout", ({ target }) => {
      if (target.name?.endsWith("-exact")) setTimeout(refresh); // show the number that is in force
    });
    return refresh;
  }

  // --------------------------------------------------------------------------------- steps

  /** A slider between two buttons, for figures that are gone through step by step. */
  function stepper(id, label) {
    return `<div class="vcq-steps"><label for="${id}-step">${label}</label><div>
      <button type="button" data-by="-1" aria-label="one step back">◀</button>
      <input type="range" id="${id}-step" name="step" min="0" step="1">
      <button type="button" data-by="1" aria-label="one step on">▶</button></div></div>`;
  }

  /** Call show(step, slider) now and whenever the slider, a button or another control moves. */
  function steps(live, most, first, show) {
    const slider = live.querySelector("[name=step]");
    slider.max = most;
    slider.value = first;
    const refresh = () => {
      show(Number(slider.value), slider);
      for (const button of live.querySelectorAll("[data-by]")) { // stays focusable at the ends
        const end = button.dataset.by < 0 ? slider.min : slider.max;
        button.setAttribute("aria-disabled", slider.value === end);
      }
    };
    live.addEventListener("click", ({ target }) => {
      if (!target.dataset.by) return;
      slider.value = Number(slider.value) + Number(target.dataset.by);
      refresh();
    });
    live.addEventListener("input", refresh);
    refresh();
    return refresh;
  }

  // ------------------------------------------------------------------------------ the page

  /** Text that is read out when it changes, and only then. */
  function say(output, html) {
    if (output.innerHTML !== html) output.innerHTML = html;
  }

  /** Draw again when the room for a drawing gets wider or narrower. */
  function onResize(element, draw) {
    let width = element.clientWidth;
    new ResizeObserver(() => {
      if (Math.abs(element.clientWidth - width) <= 1) return;
      width = element.clientWidth;
      draw();
    }).observe(element);
  }

  /** Bring every figure of a kind to life: build(where, config, id). */
  function mount(kind, build) {
    for (const root of document.querySelectorAll(`.vcq-${kind}:not([data-ready])`)) {
      const live = document.createElement("div"), id = `vcq-${document.querySelectorAll("[data-ready]").length}`;
      live.className = "vcq-live";
      root.append(live);
      build(live, JSON.parse(root.dataset.config), id);
      root.dataset.ready = ""; // from here on the static version is hidden
    }
  }

  return { codebookSizes, cliffPosition, runningSum, count, escape, datum, ticks, panel, tile, FIELDS,
    field, select, bind, stepper, steps, say, onResize, mount };
})();
