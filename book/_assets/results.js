/* Chapters 07 and 10: every comparison of the records. Choose method, control, regime and measure:
   the ratio of each seed, its interval and verdict, and where both arms stand against uniform
   codebooks of all sizes.

   Config: rows, one for each comparison: method, control, regime, measure, pairs [[method's value,
   control's], …], ratio, low, high (null with few seeds), interval, corrected, detectable, verdict;
   and rates, regime → measure → [[arm, bits, value, whether its sizes are equal], …]. */
"use strict";
(() => {
  const { datum, escape } = vcq;
  const CHOICES = [["regime", "regime"], ["control", "control"], ["method", "method"],
    ["measure", "measure"]];
  const two = (x) => x.toFixed(2);

  function readout(row) {
    const n = row.pairs.length, seeds = n === 1 ? "one seed" : `${n} seeds`;
    const could = row.verdict === "not to be told apart" && row.detectable ?
      ` So many seeds would have shown a difference of ${Math.round(100 * (row.detectable - 1))} %` +
      " four times out of five." : "";
    return `${escape(row.method)} over ${escape(row.control)} <strong>` +
      `${datum("ratio", row.ratio, two(row.ratio))}</strong> (${escape(row.interval)}), ${seeds}: ` +
      `<strong>${escape(row.verdict)}</strong>. After the correction for looking at several ` +
      `controls: ${escape(row.corrected)}.${could}`;
  }

  /** One line with a logarithmic axis: a dot for each seed, the mean and its interval. */
  function ratios(row, width) {
    const all = [...row.pairs.map(([a, b]) => a / b), row.low ?? 1, row.high ?? 1, 1];
    const reach = Math.max(1.6, ...all.map((r) => Math.max(r, 1 / r))) * 1.1;
    const left = 16, right = 16, y = 62;
    const x = (r) => left + (0.5 + Math.log(r) / (2 * Math.log(reach))) * (width - left - right);
    const out = ['<text x="0" y="14">method over control, a dot for each seed</text>'];
    for (const r of [0.1, 0.2, 0.5, 0.7, 1, 1.4, 2, 5, 10].filter((r) => r < reach && r > 1 / reach)) {
      out.push(`<path class="${r === 1 ? "budget" : "grid"}" d="M${x(r)} 34V94"/>` +
        `<text class="tick" x="${x(r)}" y="110" text-anchor="middle">${r}</text>`);
    }
    if (row.low) out.push(`<path class="own" style="stroke-width:5" d="M${x(row.low)} ${y + 18}H${x(row.high)}"/>`);
    out.push(`<circle class="alone" cx="${x(row.ratio)}" cy="${y + 18}" r="6"/>`);
    row.pairs.forEach(([a, b], i) => {
      out.push(`<circle class="dot" style="opacity:.75" cx="${x(a / b)}" cy="${y - 8 - 6 * (i % 3)}" r="4"/>`);
    });
    out.push(`<text class="tick" x="${x(1) - 8}" y="30" text-anchor="end">◀ method better</text>` +
      `<text class="tick" x="${x(1) + 8}" y="30">control better ▶</text>`);
    return out.join("");
  }

  /** The measure of every arm against its total bits; a line joins the uniform codebooks. */
  function rates(points, row, width, top, height) {
    const left = 44, right = 12, bits = points.map((p) => p[1]);
    const low = Math.min(...points.map((p) => p[2])) * 0.9, high = Math.max(...points.map((p) => p[2])) * 1.1;
    const least = Math.min(...bits) - 4, span = Math.max(...bits) + 4 - least;
    const x = (b) => left + ((b - least) / span) * (width - left - right);
    const y = (v) => top + height * (1 - Math.log(v / low) / Math.log(high / low));
    const out = [`<text x="0" y="${top - 12}">${escape(row.measure)} over total bits</text>`];
    for (const v of [low / 0.9, Math.sqrt(low * high), high / 1.1]) {
      out.push(`<path class="grid" d="M${left} ${y(v)}H${width - right}"/><text class="tick" ` +
        `x="${left - 6}" y="${y(v) + 4}" text-anchor="end">${+v.toPrecision(2)}</text>`);
    }
    const line = points.filter((p) => p[3]).sort((a, b) => a[1] - b[1]);
    out.push(`<path class="spent" d="${line.map((p, i) => `${i ? "L" : "M"}${x(p[1])} ${y(p[2])}`).join("")}"/>`);
    let free = top; // arms of equal rate: the next name goes below the last one
    for (const [arm, b, v, equal] of [...points].sort((a, b) => b[2] - a[2])) {
      const chosen = arm === row.method || arm === row.control;
      out.push(`<circle class="${arm === row.method ? "dot" : arm === row.control ? "alone" : "shared"}" ` +
        `cx="${x(b)}" cy="${y(v)}" r="${chosen ? 7 : 4}"/>`);
      if (chosen || !equal) {
        const end = x(b) > width - 90, at = Math.max(y(v) + 4, free);
        free = at + 12;
        out.push(`<text class="tick code" x="${x(b) + (end ? -10 : 10)}" y="${at}" ` +
          `text-anchor="${end ? "end" : "start"}">${escape(arm)}</text>`);
      }
    }
    let last = -Infinity; // the rates that were trained, as far as they fit
    for (const b of [...new Set(line.map((p) => Math.round(p[1])))]) {
      if (x(b) < last + 34) continue;
      last = x(b);
      out.push(`<text class="tick" x="${last}" y="${top + height + 17}" text-anchor="middle">${b}</text>`);
    }
    return out.join("");
  }

  vcq.mount("results", (live, { rows, rates: curves }, id) => {
    const s = { ...rows[0] };
    live.innerHTML = `<form class="vcq-controls" aria-label="Which comparison"></form>
      <output class="vcq-readout" aria-live="polite"></output>
      <div class="vcq-plot"><svg role="img" focusable="false"></svg></div>`;
    const form = live.querySelector("form"), svg = live.querySelector("svg");
    const output = live.querySelector("output");
    const fits = (row, depth) => CHOICES.slice(0, depth).every(([name]) => row[name] === s[name]);

    /** Later choices offer only what is recorded for the earlier ones; what was chosen is kept. */
    function offer() {
      const there = CHOICES.map(([name], depth) => {
        const options = [...new Set(rows.filter((row) => fits(row, depth)).map((row) => row[name]))];
        if (!options.includes(s[name])) s[name] = options[0];
        return options;
      });
      const focus = document.activeElement?.name;
      form.innerHTML = CHOICES.map(([name, label], i) => // one option is no choice
        there[i].length > 1 ? vcq.select(id, name, label, there[i].map((v) => [v])) : "").join("");
      for (const choice of form.elements) choice.value = s[choice.name];
      if (focus) form.elements.namedItem(focus)?.focus();
    }

    function show() {
      const row = rows.find((each) => fits(each, CHOICES.length));
      const width = Math.max(260, svg.parentElement.clientWidth);
      const points = curves[row.regime]?.[row.measure] ?? [];
      const both = points.length > 1;
      svg.setAttribute("viewBox", `0 0 ${width} ${both ? 400 : 120}`);
      svg.innerHTML = ratios(row, width) + (both ? rates(points, row, width, 160, 210) : "");
      vcq.say(output, readout(row));
      svg.setAttribute("aria-label", `${row.regime}, ${row.measure}. ${output.textContent}`);
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", ({ target }) => { s[target.name] = target.value; offer(); show(); });
    vcq.onResize(svg.parentElement, show);
    offer();
    show();
  });
})();
