/* Chapter 04: design a schedule, see what it does, and take the command that runs the chapter.

   Config: n, length, kMin, kMax, ramp, power, schedule: the chapter's own; chapter, its file. */
"use strict";
(() => {
  const { count, datum, panel } = vcq;
  const SCHEDULES = ["uniform", "doubling", "loglinear", "linear", "quadratic", "cosine"];
  const { n, kMin, kMax, length, ramp, power } = vcq.FIELDS;
  const FIELDS = {
    n: { ...n, slider: [1, 9, 0.05] },
    kMin: { ...kMin, slider: [1, 16, 1] }, kMax: { ...kMax, slider: [1, 16, 1] },
    length: { ...length, most: 256, slider: [1, 256, 1] }, ramp, power,
  };

  function solve(s) {
    const sizes = vcq.codebookSizes(s), bits = sizes.map(Math.log2), capacity = vcq.runningSum(bits);
    return {
      sizes, bits, capacity,
      cliff: vcq.cliffPosition(s.n, sizes),
      held: capacity[s.length - 1],
      search: sizes.reduce((sum, k) => sum + k, 0),
    };
  }

  /** What papermill needs to be told: never a value that is the default for every chapter. */
  function command(s, chapter) {
    const given = [["schedule", s.schedule], ["length", s.length], ["k_max", s.kMax],
      ["k_min", s.kMin], ["n_images", s.n]];
    if (s.schedule !== "uniform" && s.schedule !== "doubling" && s.ramp !== s.length) given.push(["ramp", s.ramp]);
    if (s.schedule === "loglinear" && s.power !== 1) given.push(["power", s.power]);
    return `papermill book/${chapter}.ipynb out.ipynb ` +
      given.map(([name, value]) => `-p ${name} ${value}`).join(" ");
  }

  function readout(s, own, uniform) {
    const percent = (part, all) => `${Math.round((100 * part) / all)} %`;
    const budget = Math.log2(Number(s.n)).toFixed(2);
    const where = own.cliff === null ?
      `<strong>No cliff</strong>${datum("cliff", "none", "")}: fewer bits than the log₂ N = ${budget} of the data set.` :
      `<strong>t* = ${datum("cliff", own.cliff)}</strong> of ${s.length}; uniform: ${uniform.cliff ?? "none"}.`;
    return `${where} Capacity ${datum("held", own.held, own.held.toFixed(1))} bits, ` +
      `${percent(own.held, uniform.held)} of uniform. Search ${datum("search", own.search, count(own.search))} ` +
      `inner products for each image, ${percent(own.search, uniform.search)} of uniform.`;
  }

  function draw(svg, id, own, uniform, s) {
    const width = Math.max(260, svg.parentElement.clientWidth), budget = Math.log2(Number(s.n));
    const common = { width, height: 150, shown: s.length, cliff: own.cliff };
    svg.setAttribute("viewBox", `0 0 ${width} 452`);
    svg.innerHTML = panel({
      ...common, id: `${id}-a`, top: 28, title: "codebook size K_t, logarithmic",
      most: 1.15 * Math.max(4, Math.log2(s.kMax)), wanted: 7, label: (bits) => count(2 ** bits),
      curves: [["uniform", uniform.bits], ["own", own.bits]], lines: [],
    }) + panel({
      ...common, id: `${id}-b`, top: 244, title: "capacity of the first t positions, bits",
      most: 1.1 * Math.max(own.held, 1.5 * budget, 1),
      curves: [["uniform", uniform.capacity], ["own", own.capacity]],
      lines: [["budget", budget, `log₂ N = ${budget.toFixed(2)}`]],
    }) + `<text x="${width / 2}" y="440" text-anchor="middle">position t</text>`;
  }

  vcq.mount("schedule", (live, config, id) => {
    live.innerHTML = `<form class="vcq-controls" aria-label="Settings of the schedule">
      ${vcq.select(id, "schedule", "schedule", SCHEDULES.map((name) => [name]))}
      ${Object.entries(FIELDS).map(([name, field]) => vcq.field(id, name, field)).join("")}</form>
      <output class="vcq-readout" aria-live="polite"></output>
      <div class="vcq-plot"><svg role="img" focusable="false"></svg></div>
      <ul class="vcq-legend"><li><i class="own"></i>this schedule</li>
      <li><i class="uniform"></i>uniform K<sub>max</sub></li></ul>
      <div class="vcq-command"><code tabindex="0" role="group" aria-label="papermill command"></code>
      <button type="button">Copy the command</button><span role="status"></span></div>
      <details><summary>The sizes as a list</summary><p class="vcq-sizes"></p></details>`;
    const form = live.querySelector("form"), svg = live.querySelector("svg");
    const output = live.querySelector("output"), code = live.querySelector("code");
    const s = { ...config, n: BigInt(config.n) };
    if (!SCHEDULES.includes(s.schedule)) s.schedule = "loglinear";

    function show() {
      for (const name of ["ramp", "power"]) { // only what the schedule uses can be moved
        const used = name === "ramp" ? !["uniform", "doubling"].includes(s.schedule) : s.schedule === "loglinear";
        form.elements[name].disabled = form.elements[`${name}-exact`].disabled = !used;
      }
      const own = solve(s), uniform = solve({ ...s, schedule: "uniform" });
      vcq.say(output, readout(s, own, uniform));
      draw(svg, id, own, uniform, s);
      svg.setAttribute("aria-label", `Codebook sizes and capacity by position. ${output.textContent}`);
      code.textContent = command(s, config.chapter);
      live.querySelector(".vcq-sizes").textContent = own.sizes.join(", ");
      live.querySelector("[role=status]").textContent = "";
    }

    live.querySelector("button").addEventListener("click", async () => {
      const status = live.querySelector("[role=status]");
      try {
        await navigator.clipboard.writeText(code.textContent);
        status.textContent = "Copied.";
      } catch { // a page opened as a file may not write to the clipboard: mark the text instead
        getSelection().selectAllChildren(code);
        status.textContent = document.execCommand("copy") ? "Copied." : "Marked: press Ctrl+C.";
      }
    });
    const refresh = vcq.bind({ form, output, fields: FIELDS, s, show, other: () => {} });
    vcq.onResize(svg.parentElement, show);
    refresh();
  });
})();
