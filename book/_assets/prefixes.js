/* Chapter 01: the prefix tree of a few real sequences, grown token by token.

   Config: arms, each with name, sizes [P] and codes [rows][P]; labels [rows]; pictures, a sprite
   of one row, or null. Everything shown is counted here, from the codes. */
"use strict";
(() => {
  const { count, datum } = vcq;

  /** Groups of equal prefixes at t = 0..P: {rows, parent, code}; rows in the order of the tree. */
  function grow({ codes, sizes }) {
    const order = codes.map((_, i) => i);
    order.sort((a, b) => {
      const t = codes[a].findIndex((code, s) => code !== codes[b][s]);
      return t < 0 ? a - b : codes[a][t] - codes[b][t];
    });
    const levels = [[{ rows: order, parent: null }]];
    for (let t = 0; t < sizes.length; t++) {
      levels.push(levels[t].flatMap((parent) => {
        const parts = new Map();
        for (const row of parent.rows) {
          const code = codes[row][t];
          if (!parts.has(code)) parts.set(code, { rows: [], parent, code });
          parts.get(code).rows.push(row);
        }
        return [...parts.values()];
      }));
    }
    return { order, levels };
  }

  /** Ĥ_t for t = 1..P: the mean number of halvings of a row's group. */
  function entropies({ order, levels }) {
    const shared = levels.map((groups) =>
      groups.reduce((sum, { rows }) => sum + rows.length * Math.log2(rows.length), 0));
    return shared.slice(1).map((bits, t) => (shared[t] - bits) / order.length);
  }

  function solve(arm) {
    const tree = grow(arm), bits = entropies(tree);
    return {
      ...arm, ...tree, bits,
      spent: vcq.runningSum(bits),
      prefixes: tree.levels.map((groups) => groups.length),
      alone: tree.levels.map((groups) => groups.filter(({ rows }) => rows.length === 1).length),
    };
  }

  function draw(svg, id, tree, t, config) {
    const width = Math.max(260, svg.parentElement.clientWidth), n = tree.order.length;
    const row = config.pictures ? 32 : 24, top = 42, foot = top + n * row, bars = 72, last = tree.sizes.length;
    const side = config.pictures ? 30 : 0, left = 12, right = width - side - 14;
    const x = (s) => left + (s / last) * (right - left);
    const y = (group) => {
      const at = group.rows.map((i) => tree.order.indexOf(i));
      return top + row * (0.5 + (at[0] + at[at.length - 1]) / 2);
    };
    const out = [];
    svg.setAttribute("viewBox", `0 0 ${width} ${foot + bars + 40}`);
    if (t) out.push(`<rect class="column" x="${x(t) - (x(1) - x(0)) + 9}" y="0" ` +
      `width="${x(1) - x(0)}" height="${foot + bars + 36}" rx="4"/>`);
    const mid = (s) => (x(s - 1) + x(s)) / 2 + 9; // the middle of a position's column
    const narrow = x(1) - x(0) < 50;
    for (let s = 1; s <= last; s++) {
      const size = count(tree.sizes[s - 1]);
      out.push(`<text class="tick" x="${mid(s)}" y="12" text-anchor="middle">${narrow ? s : `t = ${s}`}</text>` +
        `<text class="tick" x="${mid(s)}" y="27" text-anchor="middle">${narrow ? size : `K = ${size}`}</text>`);
    }
    if (narrow) out.push('<text class="tick" x="0" y="12">t</text><text class="tick" x="0" y="27">K</text>');
    for (let s = 1; s <= t; s++) {
      for (const group of tree.levels[s]) {
        const [x0, y0, x1, y1] = [x(s - 1), y(group.parent), x(s), y(group)];
        const known = group.parent.rows.length === 1, bend = (x0 + x1) / 2;
        out.push(`<path class="${known ? "rest" : "branch"}${!known && s === t ? " new" : ""}" ` +
          `d="M${x0} ${y0}C${bend} ${y0} ${bend} ${y1} ${x1} ${y1}"/>`);
        if (!known || s === t) {
          out.push(`<text class="tick code" x="${x1 - 9}" y="${y1 - 4}" text-anchor="end">${group.code}</text>`);
        }
      }
    }
    for (let s = t; s >= 0; s--) {
      for (const group of tree.levels[s]) {
        const size = group.rows.length;
        if (size > 1) {
          const r = 4 + 1.6 * Math.sqrt(size);
          out.push(`<circle class="shared" cx="${x(s)}" cy="${y(group)}" r="${r}"/>`);
          if (size > 4) out.push(`<text class="tick" x="${x(s)}" y="${y(group) + 4}" text-anchor="middle">${size}</text>`);
        } else if (group.parent?.rows.length > 1) {
          out.push(`<circle class="alone" cx="${x(s)}" cy="${y(group)}" r="5"/>`);
        }
      }
    }
    if (side) {
      out.push(`<defs><image id="${id}-all" width="${config.labels.length}" height="1" ` +
        `preserveAspectRatio="none" href="${config.pictures}"/></defs>`);
      const seen = new Set(tree.levels[t].filter((g) => g.rows.length === 1).flatMap((g) => g.rows));
      tree.order.forEach((i, at) => out.push(
        `<svg x="${width - side}" y="${top + row * at + 1}" width="${side}" height="${side}" ` +
        `viewBox="${i} 0 1 1" opacity="${seen.has(i) ? 1 : 0.35}"><use href="#${id}-all"/></svg>`));
    }
    const most = Math.max(1, ...tree.bits), base = foot + bars + 14;
    out.push(`<path class="grid" d="M${left} ${base}H${right + 9}"/>`);
    for (let s = 1; s <= t; s++) {
      const height = (bars * tree.bits[s - 1]) / most;
      out.push(`<rect class="bar" x="${mid(s) - 9}" y="${base - height}" width="18" height="${height}"/>` +
        `<text class="tick" x="${mid(s)}" y="${base - height - 4}" text-anchor="middle">` +
        `${tree.bits[s - 1].toFixed(2)}</text>`);
    }
    out.push(`<text class="tick" x="${left}" y="${base + 18}">bits that position t tells, given the ones before</text>`);
    svg.innerHTML = out.join("");
  }

  function readout(tree, t) {
    const n = tree.order.length, total = Math.log2(n).toFixed(2);
    if (!t) return `No token yet: the ${n} sequences share the empty prefix. There are log₂ ${n} = ${total} bits to spend.`;
    const alone = tree.alone[t], prefixes = tree.prefixes[t];
    return `<strong>Position ${datum("t", t)} of ${tree.sizes.length}</strong> tells ` +
      `${datum("bits", tree.bits[t - 1], tree.bits[t - 1].toFixed(2))} bits, given the ones before. ` +
      `${datum("spent", tree.spent[t - 1], tree.spent[t - 1].toFixed(2))} of ${total} bits are spent. ` +
      `${datum("prefixes", prefixes)} different prefix${prefixes === 1 ? "" : "es"}; ` +
      `${datum("alone", alone)} of ${n} sequences ${alone === 1 ? "stands" : "stand"} alone` +
      `${alone === n ? ": from here on, nothing is left to tell." : "."}`;
  }

  function table(tree, t) {
    const cell = (value, text = value) => `<td><data value="${value}">${text}</data></td>`;
    return tree.bits.slice(0, t).map((bits, i) => `<tr><th scope="row">${i + 1}</th>` +
      cell(tree.sizes[i]) + cell(tree.prefixes[i + 1]) + cell(tree.alone[i + 1]) +
      cell(bits, bits.toFixed(3)) + cell(tree.spent[i], tree.spent[i].toFixed(3)) + "</tr>").join("");
  }

  vcq.mount("prefixes", (live, config, id) => {
    const names = config.arms.map(({ name }, i) => [i, name]);
    live.innerHTML = `<form class="vcq-controls" aria-label="Settings of the prefix tree">
      ${vcq.select(id, "arm", "codes of the arm", names)}
      ${vcq.stepper(id, "tokens read")}</form>
      <output class="vcq-readout" aria-live="polite"></output>
      <div class="vcq-plot"><svg role="img" focusable="false"></svg></div>
      <ul class="vcq-legend"><li><i class="ring"></i>prefix that several share, with their number</li>
      <li><i class="full"></i>prefix of one alone</li>
      <li><i class="rest"></i>its later tokens, known already</li></ul>
      <details><summary>The same as a table</summary><div class="vcq-table" tabindex="0"
      role="group" aria-label="Values by position"><table><thead><tr><th scope="col">t</th>
      <th scope="col">K<sub>t</sub></th><th scope="col">prefixes</th><th scope="col">alone</th>
      <th scope="col">bits</th><th scope="col">spent</th></tr></thead><tbody></tbody></table></div></details>`;
    const svg = live.querySelector("svg"), output = live.querySelector("output");
    const trees = config.arms.map(solve), arm = live.querySelector("[name=arm]");
    arm.value = 0;
    live.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    const refresh = vcq.steps(live, trees[0].sizes.length, trees[0].sizes.length, (t, slider) => {
      const tree = trees[arm.value];
      slider.setAttribute("aria-valuetext", `${t} of ${tree.sizes.length} tokens`);
      draw(svg, id, tree, t, config);
      vcq.say(output, readout(tree, t));
      const joined = tree.levels[t].map(({ rows }) => rows.map((i) => config.labels[i]).join(", "));
      svg.setAttribute("aria-label", `Prefix tree of ${tree.name} after ${t} tokens. ` +
        `Groups that share their prefix: ${joined.join("; ")}.`);
      live.querySelector("tbody").innerHTML = table(tree, t);
    });
    vcq.onResize(svg.parentElement, refresh);
  });
})();
