/* Chapter 05: held-out images decoded from their first m codes, several arms side by side.

   Config: length T; images, their labels; steps, the prefix lengths that were decoded; original,
   a sprite of one column; arms, each with name, sprite [images, steps], bits and mse [steps]. */
"use strict";
(() => {
  const { datum, escape, tile } = vcq;

  vcq.mount("decoder", (live, config, id) => {
    const { arms, images, steps } = config, last = steps.length - 1;
    const most = Math.ceil(Math.max(...arms.map(({ bits }) => bits[last])));
    live.innerHTML = `<form class="vcq-controls" aria-label="Settings of the decoder">
      ${vcq.select(id, "by", "compare arms at", [["codes", "the same number of codes"], ["bits", "the same number of bits"]])}
      ${vcq.stepper(id, "how much is decoded")}</form>
      <output class="vcq-readout" aria-live="polite"></output>
      <div class="vcq-pictures" style="--columns: ${arms.length + 1}"></div>`;
    const by = live.querySelector("[name=by]"), slider = live.querySelector("[name=step]");
    const output = live.querySelector("output"), pictures = live.querySelector(".vcq-pictures");
    live.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    by.addEventListener("input", () => { // stay at the same place of the first arm
      const codes = by.value === "codes", bits = arms[0].bits, at = Number(slider.value);
      slider.max = codes ? last : most;
      slider.value = codes ? bits.findLastIndex((b) => b <= at + 1e-9) : Math.ceil(bits[at]);
    });

    /** Index of the decoded prefix of an arm: the longest within the budget, if bits count. */
    const index = ({ bits }, at) => by.value === "codes" ? at : bits.findLastIndex((b) => b <= at + 1e-9);

    vcq.steps(live, last, Math.floor(last / 4), (at) => {
      const shown = arms.map((arm) => ({ ...arm, at: index(arm, at) }));
      const text = by.value === "codes" ? `first ${steps[at]} of ${config.length} codes` : `at most ${at} bits`;
      slider.setAttribute("aria-valuetext", text);
      const each = shown.map((arm) => `${escape(arm.name)}: ${datum("m", steps[arm.at])} codes, ` +
        `${datum("bits", arm.bits[arm.at], arm.bits[arm.at].toFixed(1))} bits, ` +
        `squared error ${datum("mse", arm.mse[arm.at], arm.mse[arm.at].toFixed(3))}`);
      vcq.say(output, `<strong>Decoded: ${text}.</strong> ${each.join("; ")}.`);
      const heads = shown.map((arm) => `<div><b>${escape(arm.name)}</b><br>m = ${steps[arm.at]}</div>`);
      const rows = images.map((label, row) => shown.map((arm) =>
        tile(arm.sprite, steps.length, images.length, arm.at, row, `${label}, ${arm.name}, first ${steps[arm.at]} codes`))
        .concat(tile(config.original, 1, images.length, 0, row, `${label}, original`)).join(""));
      pictures.innerHTML = `${heads.join("")}<div><b>original</b></div>${rows.join("")}`;
    });
  });
})();
