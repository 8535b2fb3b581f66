/* Page "Draw with the model": a small trained AR model and decoder, run in the reader's browser.

   Config: models, each with name, label, file (the script that holds it, see
   vcqlib/chapters/page_model.py), sizes [T] and cliff t*; classes; n, training images; temperature,
   guidance and seed to begin with; megabytes of a file. The file is loaded when the first picture is asked for. */
"use strict";
(() => {
  const { datum, escape } = vcq;
  const EPS = 2 ** -23; // of RMSNorm in float32
  const SIDE = 28, SHOWN = 24, KEPT = 10; // pixels; bars; pictures in the row below

  // ------------------------------------------------------------------------- the model

  /** The script's tensors by name, as {data, shape}; int8 rows are multiplied with their scale. */
  async function load({ name, file }) {
    if (!vcq.models?.[name]) {
      await new Promise((done, failed) => {
        const tag = Object.assign(document.createElement("script"), { src: file, onload: done });
        tag.onerror = () => failed(new Error(`${file} could not be loaded`));
        document.head.append(tag);
      });
    }
    const { layout, data, heads, layers } = vcq.models[name];
    const packed = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = await new Response(stream).arrayBuffer(), found = {};
    let at = 0;
    for (const [key, type, ...shape] of layout) {
      const kind = { float32: Float32Array, int8: Int8Array, uint8: Uint8Array }[type];
      found[key] = { data: new kind(bytes, at, shape.reduce((a, b) => a * b)), shape };
      at += found[key].data.byteLength;
    }
    for (const [key, tensor] of Object.entries(found)) {
      const scale = found[`${key}.scale`]?.data, width = tensor.shape[1];
      if (scale) tensor.data = Float32Array.from(tensor.data, (q, i) => q * scale[(i / width) | 0]);
    }
    return { heads, layers, ...found };
  }

  const row = ({ data, shape }, i) => data.subarray(i * shape[1], (i + 1) * shape[1]);

  /** weight [out, in] times x: the first `count` entries. */
  function times({ data, shape: [all, width] }, x, count = all) {
    const y = new Float32Array(count);
    for (let o = 0, w = 0; o < count; o++) {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += data[w++] * x[i];
      y[o] = sum;
    }
    return y;
  }

  function rmsNorm(x, { data }, out = new Float32Array(x.length)) {
    let sum = 0;
    for (const value of x) sum += value * value;
    const scale = 1 / Math.sqrt(sum / x.length + EPS);
    for (let i = 0; i < x.length; i++) out[i] = x[i] * scale * data[i];
    return out;
  }

  /** x · Φ(x); erf after Abramowitz and Stegun 7.1.26, error below 1.5e-7. */
  function gelu(x) {
    const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + 0.3275911 * z);
    const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 +
      t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-z * z);
    return 0.5 * x * (x < 0 ? tail : 2 - tail);
  }

  /** Turn the pairs (i, i + half) of a head by the angles of position t, in place. */
  function rotate(head, t) {
    const half = head.length / 2;
    for (let i = 0; i < half; i++) {
      const angle = t * 10000 ** (-i / half), cos = Math.cos(angle), sin = Math.sin(angle);
      const [a, b] = [head[i], head[i + half]];
      head[i] = a * cos - b * sin;
      head[i + half] = b * cos + a * sin;
    }
  }

  function softmax(scores) {
    const most = scores.reduce((a, b) => Math.max(a, b)), out = scores.map((s) => Math.exp(s - most));
    const sum = out.reduce((a, b) => a + b);
    return out.map((value) => value / sum);
  }

  /** One sequence that the AR model reads code by code; keys and values are kept. */
  function reader(model, label) {
    const past = Array.from({ length: model.layers }, () => ({ keys: [], values: [] }));
    let next = row(model["ar.class_embedding.weight"], label), t = 0;

    function attend(layer, x) {
      const part = (name) => model[`ar.blocks.${layer}.attention.${name}.weight`];
      const width = x.length, size = width / model.heads, { keys, values } = past[layer];
      const qkv = times(part("qkv"), x), out = new Float32Array(width);
      for (let h = 0; h < 2 * model.heads; h++) { // queries, then keys
        const head = qkv.subarray(h * size, (h + 1) * size);
        rotate(rmsNorm(head, part(h < model.heads ? "q_norm" : "k_norm"), head), t);
      }
      keys.push(qkv.subarray(width, 2 * width));
      values.push(qkv.subarray(2 * width));
      for (let h = 0; h < model.heads; h++) {
        const first = h * size, scores = new Float32Array(keys.length);
        keys.forEach((key, s) => {
          for (let i = first; i < first + size; i++) scores[s] += qkv[i] * key[i];
          scores[s] /= Math.sqrt(size);
        });
        softmax(scores).forEach((share, s) => {
          for (let i = first; i < first + size; i++) out[i] += share * values[s][i];
        });
      }
      return times(part("out"), out);
    }

    function feedForward(layer, x) {
      const both = times(model[`ar.blocks.${layer}.mlp.gate_up.weight`], x), half = both.length / 2;
      const y = both.subarray(half).map((up, i) => gelu(both[i]) * up);
      return times(model[`ar.blocks.${layer}.mlp.out.weight`], y);
    }

    return {
      /** Logits of the first `size` codes at the next position. */
      logits(size) {
        let x = Float32Array.from(next);
        const add = (y) => { x = x.map((value, i) => value + y[i]); };
        for (let layer = 0; layer < model.layers; layer++) {
          const norm = (name) => model[`ar.blocks.${layer}.${name}_norm.weight`];
          add(attend(layer, rmsNorm(x, norm("attention"))));
          add(feedForward(layer, rmsNorm(x, norm("mlp"))));
        }
        t++;
        return times(model["ar.head.weight"], rmsNorm(x, model["ar.norm.weight"]), size);
      },
      take(code) { next = row(model["ar.code_embedding.weight"], code); },
    };
  }

  /** Uniform numbers in [0, 1) from a seed (mulberry32). */
  function chance(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let x = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
      return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** Codes [T] that begin with `prefix`, and the distribution that each one was drawn from. */
  function sample(model, sizes, { label, temperature, guidance, prefix, random }) {
    const none = model["ar.class_embedding.weight"].shape[0] - 1;
    const told = reader(model, label), free = guidance === 1 ? null : reader(model, none);
    const codes = [], shares = [];
    sizes.forEach((size, t) => {
      let logits = told.logits(size);
      if (free) {
        const other = free.logits(size);
        logits = logits.map((value, v) => other[v] + guidance * (value - other[v]));
      }
      const share = softmax(logits.map((value) => value / temperature));
      let code = prefix[t], left = random(); // a kept code uses its number up, so the rest differs
      if (code === undefined) {
        code = share.findIndex((p) => (left -= p) < 0);
        if (code < 0) code = share.indexOf(Math.max(...share)); // rounding at the very end
      }
      codes.push(code);
      shares.push(share);
      told.take(code);
      free?.take(code);
    });
    return { codes, shares };
  }

  /** Greys [784] in [-1, 1] of the first codes of a picture; the rest is each position's mean. */
  function decode(model, codes) {
    const [length, dim] = model.means.shape;
    let x = new Float32Array(length * dim);
    for (let t = 0; t < length; t++) {
      x.set(t < codes.length ? row(model.rows, codes[t]) : row(model.means, t), t * dim);
    }
    const layer = (name) => {
      const bias = model[`tokenizer.decoder.${name}.bias`].data;
      return times(model[`tokenizer.decoder.${name}.weight`], x).map((y, i) => y + bias[i]);
    };
    for (let i = 0; model[`tokenizer.decoder.layers.${i}.bias`]; i++) x = layer(`layers.${i}`).map(gelu);
    return layer("out").map((y) => Math.max(-1, Math.min(1, y)));
  }

  /** The training image of a class that looks most like a picture, both decoded from codes. */
  function nearest(model, label, codes) {
    const pixels = decode(model, codes), all = (model.decoded ??= new Map());
    if (!all.has(label)) {
      const rows = [...model.labels.data.keys()].filter((i) => model.labels.data[i] === label);
      all.set(label, rows.map((i) => ({ codes: row(model.codes, i), pixels: decode(model, row(model.codes, i)) })));
    }
    let best = { error: Infinity };
    for (const one of all.get(label)) {
      const error = one.pixels.reduce((sum, y, i) => sum + (y - pixels[i]) ** 2, 0) / pixels.length;
      if (error < best.error) best = { ...one, error };
    }
    return { ...best, among: all.get(label).length, equal: codes.filter((c, t) => c === best.codes[t]).length };
  }

  /** How many training images begin with these codes. */
  function sharing(model, codes) {
    return model.labels.data.reduce((n, _, i) => n + codes.every((c, t) => c === row(model.codes, i)[t]), 0);
  }

  // -------------------------------------------------------------------------- drawing

  function paint(canvas, pixels) {
    const image = new ImageData(SIDE, SIDE);
    pixels.forEach((y, i) => image.data.set([...Array(3).fill(Math.round((y + 1) * 127.5)), 255], 4 * i));
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  const canvas = (label) => `<canvas class="vcq-tile" width="${SIDE}" height="${SIDE}" role="img" ` +
    `aria-label="${escape(label)}"></canvas>`;
  const bits = (share) => share.reduce((sum, p) => (p > 0 ? sum - p * Math.log2(p) : sum), 0);
  const percent = (p) => `${(100 * p).toFixed(p < 0.095 ? 1 : 0)} %`;

  /** Bits that are open at every position drawn so far, within the bits that it could hold. */
  function drawBits(svg, { sizes, cliff }, shares, t) {
    const width = Math.max(260, svg.parentElement.clientWidth), left = 26, top = 24, height = 96;
    const step = (width - left - 4) / sizes.length, most = Math.log2(Math.max(...sizes));
    const y = (value) => top + height * (1 - value / most), out = [];
    svg.setAttribute("viewBox", `0 0 ${width} ${top + height + 22}`);
    for (const value of vcq.ticks(most, 4)) {
      out.push(`<path class="grid" d="M${left} ${y(value)}H${width}"/><text class="tick" ` +
        `x="${left - 5}" y="${y(value) + 4}" text-anchor="end">${value}</text>`);
    }
    sizes.forEach((size, i) => {
      const x = left + i * step + 2, high = Math.log2(size);
      out.push(`<rect class="room" x="${x}" y="${y(high)}" width="${step - 4}" height="${top + height - y(high)}"/>`);
      if (i < t) {
        const open = bits(shares[i]);
        out.push(`<rect class="bar${i + 1 > cliff ? " none" : ""}" x="${x}" y="${y(open)}" width="${step - 4}" ` +
          `height="${top + height - y(open)}"/>`);
      }
      if (step > 22 || i % 2 === 0) {
        out.push(`<text class="tick" x="${x + step / 2 - 2}" y="${top + height + 15}" text-anchor="middle">${i + 1}</text>`);
      }
    });
    const at = left + cliff * step;
    out.push(`<path class="cliff" d="M${at} ${top - 8}V${top + height}"/><text class="tick" x="${at + 4}" ` +
      `y="${top - 10}">t* = ${cliff}</text><text class="tick" x="0" y="12">bits</text>`);
    svg.innerHTML = out.join("");
    const values = shares.slice(0, t).map((share) => bits(share).toFixed(1));
    svg.setAttribute("aria-label", `Bits that the model left open at each position drawn: ${values.join(", ") || "none yet"}.`);
  }

  /** The most likely codes of one position, the drawn one marked. */
  function drawShares(svg, share, code, t) {
    const width = Math.max(260, svg.parentElement.clientWidth), top = 26, height = 90;
    const order = [...share.keys()].sort((a, b) => share[b] - share[a]);
    const shown = order.slice(0, SHOWN);
    if (!shown.includes(code)) shown[shown.length - 1] = code;
    const step = width / SHOWN, most = share[order[0]], out = [];
    svg.setAttribute("viewBox", `0 0 ${width} ${top + height + 22}`);
    shown.forEach((v, i) => {
      const high = Math.max(1, (height * share[v]) / most), x = i * step + 1;
      out.push(`<rect class="bar${v === code ? " none" : ""}" x="${x}" y="${top + height - high}" width="${step - 2}" height="${high}"/>`);
      if (v === code) {
        const anchor = i < 2 ? "start" : i > SHOWN - 3 ? "end" : "middle";
        const place = { start: x, middle: x + step / 2 - 1, end: x + step - 2 }[anchor];
        out.push(`<text class="tick" x="${place}" y="${top + height + 15}" text-anchor="${anchor}">code ${v}</text>`);
      }
    });
    const rest = order.slice(SHOWN).reduce((sum, v) => sum + share[v], 0);
    out.push(`<text class="tick" x="0" y="12">position ${t}: the ${shown.length} most likely of ${share.length} codes` +
      `${share.length > SHOWN ? `; the others ${percent(rest)}` : ""}</text>`);
    svg.innerHTML = out.join("");
    svg.setAttribute("aria-label", `Predicted distribution at position ${t}: most likely code ${order[0]} with ` +
      `${percent(most)}; drawn code ${code} with ${percent(share[code])}.`);
  }

  function setting(id, name, label, [least, most, step], value) {
    return `<div class="vcq-field"><label for="${id}-${name}">${label}: <span data-of="${name}"></span></label>
      <input type="range" class="vcq-wide" id="${id}-${name}" name="${name}" min="${least}" max="${most}" step="${step}" value="${value}"></div>`;
  }

  // ------------------------------------------------------------------------ the figure

  vcq.mount("draw", (live, config, id) => {
    const { models, classes } = config, last = models[0].sizes.length;
    live.innerHTML = `<form class="vcq-controls" aria-label="Settings of the drawing">
      ${vcq.select(id, "model", "codebook", models.map(({ label }, i) => [i, label]))}
      ${vcq.select(id, "label", "class", classes.map((name, i) => [i, name]))}
      ${setting(id, "temperature", "temperature", [0.1, 2, 0.05], config.temperature)}
      ${setting(id, "guidance", "guidance", [1, 4, 0.25], config.guidance)}</form>
      <p class="vcq-actions"><button type="button" data-act="draw">Draw</button>
      <button type="button" data-act="again" aria-disabled="true">Keep these codes, draw the rest again</button></p>
      ${vcq.stepper(id, "codes shown")}
      <output class="vcq-readout" aria-live="polite"></output>
      <div class="vcq-drawn"><figure>${canvas("nothing drawn yet")}<figcaption>drawn so far</figcaption></figure>
      <figure>${canvas("no training image yet")}<figcaption>nearest training image, from its codes</figcaption></figure>
      <div><div class="vcq-plot"><svg role="img" focusable="false" aria-label="Bits, nothing drawn yet"></svg></div>
      <div class="vcq-plot"><svg role="img" focusable="false" aria-label="Distribution, nothing drawn yet"></svg></div></div></div>
      <ul class="vcq-codes" aria-label="codes"></ul>
      <p>Drawn before, the last one first:</p><ul class="vcq-draws" aria-label="pictures drawn before"></ul>`;
    const form = live.querySelector("form"), slider = live.querySelector("[name=step]");
    const output = live.querySelector("output"), codes = live.querySelector(".vcq-codes");
    const [now, training] = live.querySelectorAll("canvas"), [open, shares] = live.querySelectorAll("svg");
    const before = live.querySelector(".vcq-draws"), again = live.querySelector("[data-act=again]");
    const value = (name) => Number(form.elements.namedItem(name).value);
    const still = matchMedia("(prefers-reduced-motion: reduce)");
    let drawn = null, seed = config.seed, timer = 0, asked = 0;
    form.addEventListener("submit", (event) => event.preventDefault());

    const refresh = vcq.steps(live, last, 0, (m) => {
      for (const name of ["temperature", "guidance"]) live.querySelector(`[data-of=${name}]`).textContent = value(name);
      slider.setAttribute("aria-valuetext", `${m} of ${last} codes`);
      const arm = drawn?.arm ?? models[value("model")];
      again.setAttribute("aria-disabled", !drawn || m === last);
      drawBits(open, arm, drawn?.shares ?? [], drawn ? m : 0);
      if (!drawn) {
        vcq.say(output, "<strong>Nothing drawn yet.</strong> The first drawing fetches the model, " +
          `about ${config.megabytes} MB; ` + "then everything runs here, on your machine.");
        return;
      }
      const { model, label } = drawn, shown = drawn.codes.slice(0, m), t = Math.max(1, m);
      const said = `${classes[label]}, ${arm.label}, first ${m} of ${last} codes`;
      paint(now, decode(model, shown));
      now.setAttribute("aria-label", said);
      drawShares(shares, drawn.shares[t - 1], drawn.codes[t - 1], t);
      codes.innerHTML = drawn.codes.map((code, i) => `<li${i < m ? ' class="kept"' : ""}>${i < m ? code : "?"}</li>`).join("");
      const { near } = drawn, n = sharing(model, shown);
      if (near) {
        paint(training, near.pixels);
        training.setAttribute("aria-label", `nearest training image: mean squared distance ${near.error.toFixed(3)}`);
      }
      vcq.say(output, `<strong>${datum("m", m)} of ${last} codes.</strong> ` + (m
        ? `Position ${m}, ${m > arm.cliff ? "after" : "up to"} the cliff at t* = ${arm.cliff}: ` +
          `${datum("bits", bits(drawn.shares[m - 1]), bits(drawn.shares[m - 1]).toFixed(2))} bits were open; ` +
          `the code drawn had ${percent(drawn.shares[m - 1][drawn.codes[m - 1]])}. `
        : "The picture is what all positions' mean codes decode to. ") +
        `${datum("sharing", n, vcq.count(n))} of ${vcq.count(config.n)} training images begin with these codes.` +
        (m === last && near ? ` The nearest of ${near.among} training images of the class lies at ` +
          `${datum("error", near.error, near.error.toFixed(3))} (mean squared) and has ` +
          `${datum("equal", near.equal)} of the ${last} codes.` : ""));
    });

    function show(m) {
      slider.value = m;
      refresh();
    }

    function play(from) {
      clearInterval(timer);
      show(still.matches ? last : from);
      if (!still.matches) {
        timer = setInterval(() => (Number(slider.value) < last ? show(Number(slider.value) + 1) : clearInterval(timer)), 350);
      }
    }

    /** Draw with these codes kept; `anew` takes other random numbers. */
    async function draw(prefix, anew) {
      const arm = models[value("model")], turn = ++asked, label = value("label");
      if (anew) seed++;
      clearInterval(timer);
      live.dataset.state = "busy";
      try {
        arm.ready ??= load(arm);
        const model = await arm.ready;
        if (turn !== asked) return;
        const start = performance.now(), random = chance(seed);
        const made = sample(model, arm.sizes, { label, temperature: value("temperature"), guidance: value("guidance"), prefix, random });
        const whole = decode(model, made.codes);
        live.dataset.ms = performance.now() - start;
        drawn = { ...made, arm, model, label };
        remember(whole, prefix.length);
        play(prefix.length);
        setTimeout(() => { // the first time it decodes all training images of the class
          if (turn !== asked) return;
          drawn.near = nearest(model, label, drawn.codes);
          refresh();
          live.dataset.state = "ready";
        }, 50);
      } catch (error) {
        delete arm.ready;
        vcq.say(output, `<strong>The model is not there:</strong> ${escape(error.message)}. It is made when the book is built.`);
        live.dataset.state = "failed";
      }
    }

    function remember(pixels, kept) {
      const item = document.createElement("li"), said = kept ? `${kept} codes kept` : "drawn anew";
      item.innerHTML = canvas(`${classes[drawn.label]}, ${drawn.arm.label}, ${said}`) + said;
      paint(item.firstChild, pixels);
      before.prepend(item);
      while (before.children.length > KEPT) before.lastChild.remove();
    }

    live.addEventListener("click", ({ target }) => {
      if (target.dataset.act === "draw") draw([], drawn !== null);
      if (target.dataset.act === "again" && target.getAttribute("aria-disabled") !== "true") {
        draw(drawn.codes.slice(0, Number(slider.value)), true);
      }
      if (target.dataset.by) clearInterval(timer);
    });
    slider.addEventListener("input", () => clearInterval(timer));
    form.addEventListener("change", () => drawn && draw([], false)); // the same random numbers
    vcq.onResize(open.parentElement, refresh);
  });

  vcq.drawing = { load, reader, sample, decode, nearest };
})();
