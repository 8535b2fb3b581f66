/* The cliff explorer of chapter 01: what codebook sizes do to the position of the cliff.

   Every <div class="vcq-explorer" data-config='{…}'> on the page becomes an explorer. The theory
   below says the same as vcqlib/theory.py and vcqlib/schedules.py (a browser test compares them);
   t* is exact (BigInt), entropies are in bits. No library, no network. */
"use strict";
(() => {
  // ------------------------------------------------------------------------------ theory

  const roundHalfUp = (x) => Math.floor(x + 0.5);

  function codebookSizes({ schedule, length, kMin, kMax, ramp }) {
    const of = (name) => codebookSizes({ schedule: name, length, kMin, kMax, ramp });
    if (schedule === "reversed") return of("loglinear").reverse();
    if (schedule === "matched") {
      const bits = of("loglinear").reduce((sum, k) => sum + Math.log2(k), 0);
      return Array(length).fill(roundHalfUp(2 ** (bits / length)));
    }
    const low = Math.log2(kMin), high = Math.log2(kMax), span = kMax - kMin;
    const size = {
      uniform: () => kMax,
      doubling: (u, t) => Math.min(kMin * 2 ** Math.min(t, 60), kMax),
      loglinear: (u) => 2 ** (low + (high - low) * u),
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

  /** E[log2(1 + B)], B ~ Binomial(n − 1, 1/cells): the bits that one sequence still shares. */
  function sharedBits(n, cells) {
    const trials = n - 1, p = 1 / cells, mean = trials * p;
    if (mean === 0) return 0;
    if (mean > 1e4) {
      const v = mean * (1 - p), m = 1 + mean, third = v * (1 - 2 * p);
      const fourth = v * (1 - 6 * p * (1 - p));
      const series = -v / (2 * m ** 2) + third / (3 * m ** 3) -
        (fourth + 3 * v ** 2) / (4 * m ** 4) + (2 * v * third) / m ** 5 - (2.5 * v ** 3) / m ** 6;
      return Math.log2(m) + series / Math.LN2;
    }
    const top = Math.min(trials, Math.floor(mean + 12 * Math.sqrt(mean) + 60));
    const odds = Math.log(p) - Math.log1p(-p), logs = [0];
    let most = 0;
    for (let b = 1; b <= top; b++) {
      logs.push(logs[b - 1] + Math.log((trials - b + 1) / b) + odds);
      most = Math.max(most, logs[b]);
    }
    let sum = 0, total = 0;
    logs.forEach((value, b) => {
      const weight = Math.exp(value - most);
      total += weight;
      sum += weight * Math.log2(1 + b);
    });
    return sum / total;
  }

  function expectedEntropy(n, sizes) {
    let cells = 1, before = Math.log2(n);
    return sizes.map((k) => {
      const after = sharedBits(n, (cells *= k)), bits = before - after;
      before = after;
      return bits;
    });
  }

  function runningSum(values) {
    let sum = 0;
    return values.map((value) => (sum += value));
  }

  /** Everything that is shown, from the settings. */
  function solve(s) {
    const sizes = codebookSizes(s), bits = sizes.map(Math.log2), n = Number(s.n);
    const entropy = expectedEntropy(n, sizes);
    const spent = runningSum(entropy), total = spent[spent.length - 1];
    return {
      sizes, bits, entropy, spent, total,
      capacity: runningSum(bits),
      cliff: cliffPosition(s.n, sizes),
      log2n: Math.log2(n),
      nearly: spent.findIndex((x) => x >= 0.99 * total) + 1,
    };
  }

  // ------------------------------------------------------------------------------- drawing

  const count = (x) => x.toLocaleString("en-US");
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`)
    .join("");

  function ticks(most, wanted) {
    const rough = most / wanted, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((f) => f >= rough);
    return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
  }

  /** One panel as SVG text: curves = [class, values]; lines = [class, value, label], horizontal. */
  function panel({ id, top, width, height, shown, most, title, curves, lines, cliff }) {
    const left = 38, right = 10, plot = width - left - right;
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
    for (const [name, value, label] of lines) {
      out.push(`<path class="${name}" d="M${left} ${y(value)}H${width - right}"/>` +
        `<text class="tick" x="${width - right}" y="${y(value) - 5}" text-anchor="end">${label}</text>`);
    }
    for (const [name, values] of curves) {
      const points = values.slice(0, shown).map((value, i) => [x(i + 1), y(value)]);
      out.push(`<path class="${name}" d="${path(points)}"/>`);
      if (name === "own" && shown <= 64) {
        out.push(...points.map(([cx, cy]) => `<circle class="dot" cx="${cx}" cy="${cy}" r="3"/>`));
      }
    }
    out.push("</g>");
    if (cliff) {
      const end = x(cliff) > width - 70;
      out.push(`<path class="cliff" d="M${x(cliff)} ${top}V${top + height}"/><text class="tick" ` +
        `x="${x(cliff) + (end ? -5 : 5)}" y="${top + 10}" ` +
        `text-anchor="${end ? "end" : "start"}">t* = ${cliff}</text>`);
    }
    return out.join("");
  }

  function draw(svg, id, own, uniform, shown) {
    const width = Math.max(260, svg.parentElement.clientWidth), height = 150;
    const most = (...lists) => 1.12 * Math.max(0.5, ...lists.flatMap((l) => l.slice(0, shown)));
    const common = { width, height, shown, cliff: own.cliff };
    svg.setAttribute("viewBox", `0 0 ${width} 452`);
    svg.innerHTML = panel({
      ...common, id: `${id}-a`, top: 28, title: "bits that the first t positions can hold",
      most: 1.5 * Math.max(1, own.log2n),
      curves: [["uniform", uniform.capacity], ["spent", own.spent], ["own", own.capacity]],
      lines: [["budget", own.log2n, `log₂ N = ${own.log2n.toFixed(2)}`]],
    }) + panel({
      ...common, id: `${id}-b`, top: 244, title: "expected conditional entropy of position t, bits",
      most: most(own.entropy, uniform.entropy),
      curves: [["uniform", uniform.entropy], ["capacity", own.bits], ["own", own.entropy]],
      lines: [],
    }) + `<text x="${width / 2}" y="440" text-anchor="middle">position t</text>`;
  }

  // ------------------------------------------------------------------------------ the page

  const SCHEDULES = ["uniform", "doubling", "loglinear", "linear", "quadratic", "cosine",
    "reversed", "matched"];
  const LIMIT = { n: 10n ** 18n, kMin: 2 ** 32, kMax: 2 ** 32, length: 1024, ramp: 4096 };
  const LEAST = { n: 1n, kMin: 2, kMax: 2, length: 1, ramp: 1 };
  const FIELDS = [ // setting, label, slider's least, most and step
    ["n", "N, sequences", 0, 12, 0.05],
    ["kMin", "K<sub>min</sub>, first codebook", 1, 18, 1],
    ["kMax", "K<sub>max</sub>, last codebook", 1, 18, 1],
    ["length", "T, positions", 1, 1024, 1],
    ["ramp", "ramp, positions until K<sub>max</sub>", 1, 1024, 1],
  ];
  const NAMES = { n: "N", kMin: "K min", kMax: "K max", length: "T", ramp: "ramp" };
  const fromSlider = {
    n: (v) => BigInt(Math.round(10 ** v)), kMin: (v) => 2 ** v, kMax: (v) => 2 ** v,
    length: Number, ramp: Number,
  };
  const toSlider = {
    n: (n) => Math.log10(Number(n)), kMin: Math.log2, kMax: Math.log2, length: Number, ramp: Number,
  };

  function readout(s, own, uniform) {
    const value = (name, x, text) => `<data class="${name}" value="${x}">${text}</data>`;
    const budget = `log₂ N = ${value("log2n", own.log2n, own.log2n.toFixed(2))} bits`;
    const spent = value("spent", own.total, own.total.toFixed(2));
    const held = value("held", own.capacity[s.length - 1], own.capacity[s.length - 1].toFixed(1));
    const other = uniform.cliff === null ? "has none" : `has it at ${uniform.cliff}`;
    const compare = s.schedule === "uniform" ? "" : ` Uniform K = ${count(s.kMax)} ${other}.`;
    if (own.cliff === null) {
      return `<strong>No cliff</strong>${value("cliff", "none", "")}: ${count(s.length)} positions ` +
        `hold ${held} bits, fewer than ${budget}. Ideal codes spend ${spent} of them.${compare}`;
    }
    return `<strong>t* = ${value("cliff", own.cliff, own.cliff)}</strong> of ${count(s.length)} ` +
      `positions, which hold ${held} bits; the data set has ${budget}. Ideal codes have spent 99 % ` +
      `of their ${spent} bits after ${value("nearly", own.nearly, own.nearly)} positions.${compare}`;
  }

  function table(own, shown) {
    const cell = (x, digits) => `<td><data value="${x}">${digits ? x.toFixed(digits) : count(x)}` +
      "</data></td>";
    return own.sizes.slice(0, shown).map((k, i) => `<tr><th scope="row">${i + 1}</th>` +
      cell(k, 0) + cell(own.capacity[i], 2) + cell(own.entropy[i], 4) + "</tr>").join("");
  }

  function markup(id) {
    const field = ([name, label, least, most, step]) => `
      <div class="vcq-field"><label for="${id}-${name}">${label}</label>
      <input type="range" id="${id}-${name}" name="${name}" min="${least}" max="${most}"
        step="${step}"><input type="text" inputmode="numeric" name="${name}-exact" size="9"
        autocomplete="off" aria-label="${NAMES[name]}, exact value"></div>`;
    return `<form class="vcq-controls" aria-label="Settings of the cliff explorer">
      <div class="vcq-field"><label for="${id}-set">data set</label>
      <select id="${id}-set" name="set"></select></div>
      <div class="vcq-field"><label for="${id}-schedule">schedule of K<sub>t</sub></label>
      <select id="${id}-schedule" name="schedule"></select></div>
      ${FIELDS.map(field).join("")}
      <div class="vcq-field vcq-check"><label><input type="checkbox" name="all"> show all
      positions</label></div></form>
      <output class="vcq-readout" aria-live="polite"></output>
      <div class="vcq-plot"><svg role="img" focusable="false"></svg></div>
      <ul class="vcq-legend"><li><i class="own"></i>this schedule</li>
      <li><i class="uniform"></i>uniform K<sub>max</sub></li>
      <li><i class="capacity"></i>log₂ K<sub>t</sub></li>
      <li><i class="spent"></i>spent by ideal codes</li></ul>
      <details><summary>The same as a table</summary><div class="vcq-table" tabindex="0"
      role="region" aria-label="Values by position"><table><thead><tr><th scope="col">t</th>
      <th scope="col">K<sub>t</sub></th><th scope="col">capacity, bits</th>
      <th scope="col">expected entropy, bits</th></tr></thead><tbody></tbody></table></div></details>`;
  }

  function start(root, number) {
    const config = JSON.parse(root.dataset.config), id = `vcq-${number}`;
    const live = document.createElement("div");
    live.className = "vcq-live";
    live.innerHTML = markup(id);
    root.append(live);
    root.dataset.ready = "";
    const form = live.querySelector("form"), svg = live.querySelector("svg");
    const output = live.querySelector("output");
    const control = (name) => form.elements.namedItem(name); // elements.length is a number
    const s = { ...config, n: BigInt(config.n) };
    if (!SCHEDULES.includes(s.schedule)) s.schedule = "loglinear";

    for (const name of SCHEDULES) control("schedule").append(new Option(name, name));
    control("set").append(new Option("other", ""));
    for (const [name, n] of config.sets) control("set").append(new Option(name, n));

    /** Bring settings that depend on each other in line, then show everything. */
    function refresh(changed) {
      if (changed === "kMin") s.kMax = Math.max(s.kMin, s.kMax);
      if (changed === "kMax") s.kMin = Math.min(s.kMin, s.kMax);
      for (const [name] of FIELDS) {
        const exact = control(`${name}-exact`), slider = control(name);
        if (name === "ramp") slider.max = Math.max(s.length, s.ramp);
        if (changed !== name || document.activeElement !== slider) {
          slider.value = toSlider[name](s[name]);
        }
        if (document.activeElement !== exact) exact.value = String(s[name]);
        slider.setAttribute("aria-valuetext", count(s[name]));
        exact.removeAttribute("aria-invalid");
      }
      control("schedule").value = s.schedule;
      control("set").value = config.sets.some(([, n]) => BigInt(n) === s.n) ? String(s.n) : "";
      const own = solve(s), uniform = solve({ ...s, schedule: "uniform" });
      const end = own.cliff === null ? s.length : Math.max(8, Math.ceil(1.6 * own.nearly) + 3);
      const shown = control("all").checked ? s.length : Math.min(s.length, end);
      const text = readout(s, own, uniform);
      if (output.innerHTML !== text) output.innerHTML = text;
      draw(svg, id, own, uniform, shown);
      svg.setAttribute("aria-label", "Capacity and expected conditional entropy by position. " +
        output.textContent);
      live.querySelector("tbody").innerHTML = table(own, shown);
    }

    function typed(name, exact) {
      const text = exact.value.replace(/[\s,_]/g, "");
      const big = /^\d{1,19}$/.test(text) ? BigInt(text) : -1n;
      if (big < BigInt(LEAST[name]) || big > BigInt(LIMIT[name])) {
        exact.setAttribute("aria-invalid", "true");
        output.textContent = `${NAMES[name]} must be a whole number from ${LEAST[name]} to ` +
          `${count(LIMIT[name])}.`;
        return false;
      }
      set(name, name === "n" ? big : Number(big));
      return true;
    }

    function set(name, value) {
      const follows = s.ramp === s.length; // a ramp over the whole sequence stays one
      s[name] = value;
      if (name === "length" && (follows || s.ramp > s.length)) s.ramp = s.length;
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", ({ target }) => {
      let name = target.name;
      if (name.endsWith("-exact")) {
        name = name.slice(0, -6);
        if (!typed(name, target)) return;
      } else if (name === "set") {
        if (target.value) set("n", BigInt(target.value));
      } else if (name === "schedule") s.schedule = target.value;
      else if (name !== "all") set(name, fromSlider[name](Number(target.value)));
      refresh(name);
    });
    form.addEventListener("focusout", ({ target }) => {
      if (target.name?.endsWith("-exact")) setTimeout(refresh); // show the number that is in force
    });
    let width = 0;
    new ResizeObserver(([entry]) => {
      if (Math.abs(entry.contentRect.width - width) > 1) refresh();
      width = entry.contentRect.width;
    }).observe(svg.parentElement);
    refresh();
  }

  document.querySelectorAll(".vcq-explorer:not([data-ready])").forEach(start);
})();
