/* Chapter 06b: the plane as a tokenizer cuts it, training points and samples, for several N.

   Config (vcqlib/chapters/scenes.py): ns; steps; side; length T; training, coordinates; arms, each
   with name, sizes, cells (codes of side × side places) and filled (at which of ns a cell holds one
   training point, and two); at, for each of ns: passes, samples, known, share, fresh, repeated,
   alone [T]. Numbers below 64 are a character each, coordinates two. */
"use strict";
(() => {
  const { count, datum, escape } = vcq;
  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const numbers = (text) => Array.from(text, (c) => ALPHABET.indexOf(c));

  /** Points as [x, y] in 0..1, y upwards. */
  function points(text) {
    const n = numbers(text), out = [];
    for (let i = 0; i < n.length; i += 4) {
      out.push([(64 * n[i] + n[i + 1] + 0.5) / 4096, (64 * n[i + 2] + n[i + 3] + 0.5) / 4096]);
    }
    return out;
  }

  function draw(svg, arm, k, m, config) {
    const { side, length, ns } = config, size = Math.min(520, Math.max(260, svg.parentElement.clientWidth));
    const step = size / side, one = [], several = [], edges = [];
    const cell = (row, column) => arm.codes.slice((row * side + column) * length, (row * side + column) * length + m).join();
    const ids = Array.from({ length: side }, (_, row) => Array.from({ length: side }, (_, column) => cell(row, column)));
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const x = (column * step).toFixed(1), top = ((side - 1 - row) * step).toFixed(1);
        const [first, second] = m ? arm.when(row * side + column, m) : [0, 0];
        if (first <= k) (second <= k ? several : one).push(`M${x} ${top}h${step.toFixed(1)}v${step.toFixed(1)}h-${step.toFixed(1)}z`);
        if (column && ids[row][column] !== ids[row][column - 1]) edges.push(`M${x} ${top}v${step.toFixed(1)}`);
        if (row && ids[row][column] !== ids[row - 1][column]) edges.push(`M${x} ${((side - row) * step).toFixed(1)}h${step.toFixed(1)}`);
      }
    }
    const dots = (name, list, r) => list.map(([x, y]) =>
      `<circle class="${name}" cx="${(x * size).toFixed(1)}" cy="${((1 - y) * size).toFixed(1)}" r="${r}"/>`).join("");
    const { drawn, known, repeated } = arm.at[k], training = config.points.slice(0, Math.min(ns[k], config.points.length));
    svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
    svg.innerHTML = `<rect class="frame" width="${size}" height="${size}"/><path class="cell-several" d="${several.join("")}"/>` +
      `<path class="cell-one" d="${one.join("")}"/><path class="edge" d="${edges.join("")}"/>` +
      dots("new", drawn.filter((_, i) => !known[i]), 2.6) + dots("copy", drawn.filter((_, i) => known[i]), 2.6) +
      dots("training", training.filter((_, i) => !repeated[i]), 4.2) + dots("training full", training.filter((_, i) => repeated[i]), 4.2);
  }

  vcq.mount("cells", (live, config, id) => {
    const { ns, steps, length } = config, percent = (x) => `${Math.round(100 * x)} %`;
    config.points = points(config.training);
    for (const arm of config.arms) {
      const filled = numbers(arm.filled);
      arm.codes = numbers(arm.cells);
      arm.when = (place, m) => [filled[place * length + m - 1] >> 3, filled[place * length + m - 1] & 7];
      arm.at = arm.at.map((at) => ({ ...at, drawn: points(at.samples), known: numbers(at.known), repeated: numbers(at.repeated) }));
    }
    live.innerHTML = `<form class="vcq-controls" aria-label="Settings of the plane">
      ${vcq.select(id, "arm", "schedule", config.arms.map(({ name }, i) => [i, name]))}
      <div class="vcq-field"><label for="${id}-m">cells by the first m codes: <span data-of="m"></span></label>
      <input type="range" class="vcq-wide" id="${id}-m" name="m" min="0" max="${length}" step="1" value="2"></div>
      ${vcq.stepper(id, "training points N")}</form>
      <output class="vcq-readout" aria-live="polite"></output>
      <div class="vcq-plot vcq-plane"><svg role="img" focusable="false"></svg></div>
      <ul class="vcq-legend"><li><i class="ring"></i>training point${config.points.length < ns.at(-1) ? ` (at most ${config.points.length} drawn)` : ""}</li>
      <li><i class="full"></i>one that a sample repeats</li><li><i class="dot"></i>new sample</li>
      <li><i class="dot copy"></i>sample with the codes of a training point</li>
      <li><i class="square one"></i>cell with one training point</li><li><i class="square"></i>with several</li></ul>`;
    const svg = live.querySelector("svg"), output = live.querySelector("output");
    const choice = live.querySelector("[name=arm]"), depth = live.querySelector("[name=m]");
    live.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    const refresh = vcq.steps(live, ns.length - 1, 1, (k, slider) => {
      const arm = config.arms[choice.value], m = Number(depth.value), at = arm.at[k], n = ns[k];
      const alone = m ? at.alone[m - 1] : n === 1 ? 1 : 0;
      slider.setAttribute("aria-valuetext", `${count(n)} training points`);
      depth.setAttribute("aria-valuetext", `${m} of ${length} codes`);
      live.querySelector("[data-of=m]").textContent = m;
      draw(svg, arm, k, m, config);
      vcq.say(output, `<strong>${escape(arm.name)}, N = ${datum("n", n, count(n))}: ` +
        `${datum("share", at.share, percent(at.share))} of the samples repeat a training sequence,</strong> ` +
        `after ${count(steps)} steps (${at.passes < 10 ? at.passes.toFixed(1) : Math.round(at.passes)} passes). ` +
        `Of fresh points ${datum("fresh", at.fresh, percent(at.fresh))} have a known one. By ${datum("m", m)} ` +
        `code${m === 1 ? "" : "s"} ${datum("alone", alone, percent(alone))} of the training points are alone in their cell.`);
      svg.setAttribute("aria-label", `The plane, cut into cells by ${m} codes, with training points and samples. ${output.textContent}`);
    });
    vcq.onResize(svg.parentElement, refresh);
  });
})();
