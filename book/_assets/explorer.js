/* The cliff explorer of chapter 01: design a schedule, see what its sizes do to the position of the
   cliff, and take the command that runs a chapter with it.

   Config: n (a string: it may be beyond 2^53), length, kMin, kMax, ramp, power, schedule; sets,
   pairs of name and N; chapter, whose file the command names. Expected entropies are in bits, as in vcqlib/theory.py; vcq.js has the rest. */
"use strict";
(() => {
  const { codebookSizes, cliffPosition, runningSum, count, datum, panel } = vcq;

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
      search: sizes.reduce((sum, k) => sum + k, 0),
    };
  }

  function draw(svg, id, own, uniform, shown) {
    const width = Math.max(260, svg.parentElement.clientWidth), height = 130;
    const most = (...lists) => 1.12 * Math.max(0.5, ...lists.flatMap((l) => l.slice(0, shown)));
    const common = { width, height, shown, cliff: own.cliff };
    svg.setAttribute("viewBox", `0 0 ${width} 412`);
    svg.innerHTML = panel({
      ...common, id: `${id}-a`, top: 28, title: "bits that the first t positions can hold",
      most: 1.5 * Math.max(1, own.log2n),
      curves: [["uniform", uniform.capacity], ["spent", own.spent], ["own", own.capacity]],
      lines: [["budget", own.log2n, `log₂ N = ${own.log2n.toFixed(2)}`]],
    }) + panel({
      ...common, id: `${id}-b`, top: 224, title: "expected conditional entropy of position t, bits",
      most: most(own.entropy, uniform.entropy),
      curves: [["uniform", uniform.entropy], ["capacity", own.bits], ["own", own.entropy]],
      lines: [],
    }) + `<text x="${width / 2}" y="400" text-anchor="middle">position t</text>`;
  }

  const SCHEDULES = ["uniform", "doubling", "loglinear", "linear", "quadratic", "cosine",
    "reversed", "matched"];
  const { n, kMin, kMax, length, ramp, power } = vcq.FIELDS;
  const FIELDS = { n, kMin, kMax, length, ramp, power };
  const RAMPED = ["loglinear", "linear", "quadratic", "cosine", "reversed", "matched"];
  const POWERED = ["loglinear", "reversed", "matched"]; // the last two are made of the first

  /** What papermill needs to be told: never a value that is the default for every chapter. */
  function command(s, chapter) {
    const given = [["schedule", s.schedule], ["n_images", s.n], ["length", s.length],
      ["k_max", s.kMax], ["k_min", s.kMin]];
    if (RAMPED.includes(s.schedule) && s.ramp !== s.length) given.push(["ramp", s.ramp]);
    if (POWERED.includes(s.schedule) && s.power !== 1) given.push(["power", s.power]);
    return `papermill book/${chapter}.ipynb out.ipynb ` +
      given.map(([name, value]) => `-p ${name} ${value}`).join(" ");
  }

  function readout(s, own, uniform) {
    const budget = `log₂ N = ${datum("log2n", own.log2n, own.log2n.toFixed(2))} bits`;
    const spent = datum("spent", own.total, own.total.toFixed(2));
    const held = datum("held", own.capacity[s.length - 1], own.capacity[s.length - 1].toFixed(1));
    const other = uniform.cliff === null ? "has none" : `has it at ${uniform.cliff}`;
    const share = Math.round((100 * own.search) / uniform.search);
    const search = ` The search takes ${datum("search", own.search, count(own.search))} inner products an image`;
    const compare = s.schedule === "uniform" ? `${search}.` :
      ` Uniform K = ${count(s.kMax)} ${other}.${search}, ${share} % of uniform.`;
    if (own.cliff === null) {
      return `<strong>No cliff</strong>${datum("cliff", "none", "")}: ${count(s.length)} positions ` +
        `hold ${held} bits, fewer than ${budget}. Ideal codes spend ${spent} of them.${compare}`;
    }
    return `<strong>t* = ${datum("cliff", own.cliff)}</strong> of ${count(s.length)} ` +
      `positions, which hold ${held} bits; the data set has ${budget}. Ideal codes have spent 99 % ` +
      `of their ${spent} bits after ${datum("nearly", own.nearly)} positions.${compare}`;
  }

  function table(own, shown) {
    const cell = (x, digits) => `<td><data value="${x}">${digits ? x.toFixed(digits) : count(x)}` +
      "</data></td>";
    return own.sizes.slice(0, shown).map((k, i) => `<tr><th scope="row">${i + 1}</th>` +
      cell(k, 0) + cell(own.capacity[i], 2) + cell(own.entropy[i], 4) + "</tr>").join("");
  }

  function markup(id, sets) {
    return `<form class="vcq-controls" aria-label="Settings of the cliff explorer">
      ${vcq.select(id, "set", "data set", [["", "other"], ...sets.map(([name, n]) => [n, name])])}
      ${vcq.select(id, "schedule", "schedule of K<sub>t</sub>", SCHEDULES.map((name) => [name]))}
      ${Object.entries(FIELDS).map(([name, field]) => vcq.field(id, name, field)).join("")}
      <div class="vcq-field vcq-check"><label><input type="checkbox" name="all"> show all
      positions</label></div></form>
      <output class="vcq-readout" aria-live="polite"></output>
      <div class="vcq-plot"><svg role="img" focusable="false"></svg></div>
      <ul class="vcq-legend"><li><i class="own"></i>this schedule</li>
      <li><i class="uniform"></i>uniform K<sub>max</sub></li>
      <li><i class="capacity"></i>log₂ K<sub>t</sub></li>
      <li><i class="spent"></i>spent by ideal codes</li></ul>
      <div class="vcq-command"><code tabindex="0" role="group" aria-label="papermill command"></code>
      <button type="button">Copy the command</button><span role="status"></span></div>
      <details><summary>The same as a table</summary><div class="vcq-table" tabindex="0"
      role="region" aria-label="Values by position"><table><thead><tr><th scope="col">t</th>
      <th scope="col">K<sub>t</sub></th><th scope="col">capacity, bits</th>
      <th scope="col">expected entropy, bits</th></tr></thead><tbody></tbody></table></div></details>`;
  }

  vcq.mount("explorer", (live, config, id) => {
    live.innerHTML = markup(id, config.sets);
    const form = live.querySelector("form"), svg = live.querySelector("svg");
    const output = live.querySelector("output"), { set, all } = form.elements;
    const code = live.querySelector("code"), status = live.querySelector("[role=status]");
    const s = { power: 1, ...config, n: BigInt(config.n) };
    if (!SCHEDULES.includes(s.schedule)) s.schedule = "loglinear";

    function show() {
      const straight = !POWERED.includes(s.schedule); // there is nothing for a power to bend
      form.elements.power.disabled = form.elements["power-exact"].disabled = straight;
      code.textContent = command(s, config.chapter);
      status.textContent = "";
      set.value = config.sets.some(([, n]) => BigInt(n) === s.n) ? String(s.n) : "";
      const own = solve(s), uniform = solve({ ...s, schedule: "uniform" });
      const end = own.cliff === null ? s.length : Math.max(8, Math.ceil(1.6 * own.nearly) + 3);
      const shown = all.checked ? s.length : Math.min(s.length, end);
      vcq.say(output, readout(s, own, uniform));
      draw(svg, id, own, uniform, shown);
      svg.setAttribute("aria-label", "Capacity and expected conditional entropy by position. " +
        output.textContent);
      live.querySelector("tbody").innerHTML = table(own, shown);
    }

    live.querySelector("button").addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        status.textContent = "Copied.";
      } catch { // a page opened as a file may not write to the clipboard: mark the text instead
        getSelection().selectAllChildren(code);
        status.textContent = document.execCommand("copy") ? "Copied." : "Marked: press Ctrl+C.";
      }
    });
    const refresh = vcq.bind({
      form, output, fields: FIELDS, s, show,
      other: (control, put) => control === set && set.value && put("n", BigInt(set.value)),
    });
    vcq.onResize(svg.parentElement, show);
    refresh();
  });
})();
