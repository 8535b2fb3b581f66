/* Chapter 08: keep the first m codes of an image, let the AR model draw the others again and again.

   Config: length T; images, their labels; steps, the values of m; draws; arms, each with name,
   codes [images][T], bits [steps], spread [images][steps] (mean squared distance of the draws from
   their mean) and sprite [images × steps, 2 + draws]: all codes decoded, mean of the draws, draws. */
"use strict";
(() => {
  const { datum, escape, tile } = vcq;
  const SHOWN = 32; // codes that are written out, at most

  function board(arm, config, image, at) {
    const { images, steps, draws, length } = config, m = steps[at];
    const one = (column, label) => tile(arm.sprite, 2 + draws, images.length * steps.length, column,
      image * steps.length + at, `${images[image]}, ${arm.name}: ${label}`);
    const codes = arm.codes[image].slice(0, SHOWN).map((code, t) =>
      `<li${t < m ? ' class="kept"' : ""}>${t < m ? code : "?"}</li>`);
    const drawn = Array.from({ length: draws }, (_, i) => `<li>${one(2 + i, `draw ${i + 1}`)}${i + 1}</li>`);
    return `<p><b>${escape(arm.name)}</b></p><ul class="vcq-codes" aria-label="codes of ${escape(arm.name)}: the first ${m} ` +
      `are kept, the others drawn">${codes.join("")}${length > SHOWN ? "<li>…</li>" : ""}</ul>
      <ul class="vcq-draws"><li>${one(0, "decoded from all its codes")}all codes</li>
      <li class="kept">${one(1, "mean of the draws")}mean of draws</li>${drawn.join("")}</ul>`;
  }

  vcq.mount("sampler", (live, config, id) => {
    const { arms, images, steps, length } = config;
    live.innerHTML = `<form class="vcq-controls" aria-label="Settings of the sampler board">
      ${vcq.select(id, "image", "image", images.map((label, i) => [i, label]))}
      ${vcq.stepper(id, "codes kept, m")}</form>
      <output class="vcq-readout" aria-live="polite"></output><div class="vcq-boards"></div>`;
    const output = live.querySelector("output"), boards = live.querySelector(".vcq-boards");
    const image = live.querySelector("[name=image]");
    live.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    vcq.steps(live, steps.length - 1, Math.min(2, steps.length - 1), (at, slider) => {
      const i = Number(image.value);
      slider.setAttribute("aria-valuetext", `${steps[at]} of ${length} codes`);
      const each = arms.map((arm) => `${escape(arm.name)}: ${datum("bits", arm.bits[at], arm.bits[at].toFixed(1))} bits kept, ` +
        `draws lie ${datum("spread", arm.spread[i][at], arm.spread[i][at].toFixed(3))} from their mean`);
      vcq.say(output, `<strong>${escape(images[i])}: ${datum("m", steps[at])} of ${length} codes kept.</strong> ` +
        `${each.join("; ")} (mean squared distance).`);
      boards.innerHTML = arms.map((arm) => board(arm, config, i, at)).join("");
    });
  });
})();
