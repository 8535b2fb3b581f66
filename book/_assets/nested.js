/* Chapter 04: nested codebooks, position by position: which rows of one table it may use, and how
   its code divides the plane.

   Config: sizes [T]; rows [K_T][2], of length 1; points [n][2], of length 1. */
"use strict";
(() => {
  const { count, datum } = vcq;
  const dot = ([a, b], [c, d]) => a * c + b * d;
  const hue = (k) => `hsl(${Math.round(k * 137.5) % 360} 60% 50%)`;

  /** Code of every point among the first k rows, and the mean squared distance from that row. */
  function quantize({ rows, points }, k) {
    const codes = points.map((point) => {
      let best = 0;
      for (let i = 1; i < k; i++) if (dot(point, rows[i]) > dot(point, rows[best])) best = i;
      return best;
    });
    const error = codes.reduce((sum, code, i) => sum + 2 - 2 * dot(points[i], rows[code]), 0);
    return { codes, error: error / points.length };
  }

  /** One table: column t has the first K_t of its rows filled. */
  function stairs({ sizes, rows }, t) {
    const width = 260, left = 34, top = 22, foot = 190;
    const w = (width - left) / sizes.length, h = (foot - top) / rows.length;
    const out = [`<text class="tick" x="0" y="12">row of the table</text>`];
    sizes.forEach((size, s) => rows.forEach((_, k) => out.push(
      `<rect class="row${k < size ? " may" : ""}${s + 1 === t ? " now" : ""}" x="${left + s * w + 1}" ` +
      `y="${top + k * h + 0.5}" width="${w - 2}" height="${h - 1}"/>`)));
    for (const k of [0, rows.length - 1]) {
      out.push(`<text class="tick" x="${left - 5}" y="${top + (k + 0.5) * h + 4}" text-anchor="end">${k}</text>`);
    }
    sizes.forEach((_, s) => out.push(`<text class="tick" x="${left + (s + 0.5) * w}" y="${foot + 15}" ` +
      `text-anchor="middle">${s + 1}</text>`));
    return `<svg viewBox="0 0 ${width} 226" role="img" aria-label="Staircase: position t may use the first ` +
      `${sizes.join(", ")} rows.">${out.join("")}<text class="tick" x="${left + (width - left) / 2}" y="222" ` +
      `text-anchor="middle">position t</text></svg>`;
  }

  /** The points on their circle, in the colour of their code; rows as arrows, borders dashed. */
  function plane({ sizes, rows, points }, t, { codes }) {
    const k = sizes[t - 1], before = t > 1 ? sizes[t - 2] : 0, r = 74;
    const at = ([a, b], far) => `${(130 + far * a).toFixed(1)} ${(113 - far * b).toFixed(1)}`;
    const angle = ([a, b]) => (Math.atan2(b, a) + 2 * Math.PI) % (2 * Math.PI);
    const sorted = rows.slice(0, k).map(angle).sort((a, b) => a - b);
    const out = sorted.map((from, i) => {
      const to = i + 1 < k ? sorted[i + 1] : sorted[0] + 2 * Math.PI, mid = (from + to) / 2;
      return `<path class="edge" d="M130 113L${at([Math.cos(mid), Math.sin(mid)], 98)}"/>`;
    });
    points.forEach((point, i) => out.push(`<circle cx="${130 + (r + (i % 7) * 3) * point[0]}" ` +
      `cy="${113 - (r + (i % 7) * 3) * point[1]}" r="2.4" fill="${hue(codes[i])}"/>`));
    rows.slice(0, k).forEach((row, i) => out.push(
      `<path class="arrow${i >= before ? " new" : ""}" d="M130 113L${at(row, 58)}"/>` +
      `<circle cx="${130 + 58 * row[0]}" cy="${113 - 58 * row[1]}" r="4" fill="${hue(i)}"/>` +
      `<text class="tick" x="${130 + 106 * row[0]}" y="${117 - 106 * row[1]}" text-anchor="middle">${i}</text>`));
    return `<svg viewBox="0 0 260 226" role="img" aria-label="Points on a circle, divided by the nearest of the ` +
      `first ${k} rows.">${out.join("")}</svg>`;
  }

  vcq.mount("nested", (live, config, id) => {
    const { sizes } = config, found = sizes.map((k) => quantize(config, k));
    live.innerHTML = `${vcq.stepper(id, "position t")}
      <output class="vcq-readout" aria-live="polite"></output>
      <div class="vcq-plot vcq-nested-plots"></div>`;
    const output = live.querySelector("output"), slider = live.querySelector("[name=step]");
    slider.min = 1;
    vcq.steps(live, sizes.length, 1, (t) => {
      const k = sizes[t - 1], before = t > 1 ? sizes[t - 2] : 0, { error } = found[t - 1];
      slider.setAttribute("aria-valuetext", `position ${t} of ${sizes.length}`);
      const fresh = before === k ? "no row is new" : k - before === 1 ? `row ${k - 1} is new` :
        `rows ${before} to ${k - 1} are new`;
      vcq.say(output, `<strong>Position ${datum("t", t)} may use the first ${datum("size", k)} of ` +
        `${count(config.rows.length)} rows</strong>, log₂ ${k} = ${Math.log2(k).toFixed(2)} bits; ${fresh}. ` +
        `Mean squared distance to the nearest row: ${datum("error", error, error.toFixed(3))}.`);
      live.querySelector(".vcq-plot").innerHTML = stairs(config, t) + plane(config, t, found[t - 1]);
    });
  });
})();
