// Arrow keys, space, the buttons or a swipe turn the page; N shows the notes. What a figure or a
// question needs for itself (arrows in a slider, a swipe in a plot) stays with it.
const root = document.documentElement, slides = [...document.querySelectorAll("main > section")];
const counter = document.querySelector("nav output"), WIDE = matchMedia("(min-width: 900px)");
const dark = matchMedia("(prefers-color-scheme: dark)");
let at = Math.min(Number(location.hash.slice(1)) || 1, slides.length) - 1;

// The interactive figures read their colours from the theme.
const paint = () => { root.dataset.theme = dark.matches ? "dark" : "light"; };
dark.addEventListener("change", paint);
paint();

// A slide that is too high, in this build or on this screen, gets smaller until it fits.
function fit(slide) {
  slide.style.setProperty("--fit", 1);
  const body = slide.querySelector(".body");
  for (let size = 0.95; WIDE.matches && body.scrollHeight > body.clientHeight + 1 && size > 0.5; size -= 0.05) {
    slide.style.setProperty("--fit", size);
  }
}

function show(index) {
  at = Math.max(0, Math.min(index, slides.length - 1));
  slides.forEach((slide, i) => slide.toggleAttribute("hidden", i !== at));
  counter.textContent = `${at + 1} / ${slides.length}`;
  history.replaceState(null, "", `#${at + 1}`);
  requestAnimationFrame(() => requestAnimationFrame(() => fit(slides[at]))); // once plots know their room
}

const OWN = "input, select, textarea, .vcq-table, aside";
addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  if (event.target.closest(OWN) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.closest("summary, button, a")) return;
  if (step) { event.preventDefault(); show(at + step); }
  if (event.key === "Home") show(0);
  if (event.key === "End") show(slides.length - 1);
  if (event.key === "n" || event.key === "N") document.body.classList.toggle("notes");
});
document.querySelector("nav").addEventListener("click", ({ target }) => {
  if (target.dataset.by) show(at + Number(target.dataset.by));
});
let start = null;
addEventListener("touchstart", ({ target, touches: [touch] }) => {
  start = target.closest(".vcq, table, mjx-container, aside") ? null : touch.clientX;
});
addEventListener("touchend", ({ changedTouches: [touch] }) => {
  if (start !== null && Math.abs(touch.clientX - start) > 60) show(at - Math.sign(touch.clientX - start));
  start = null;
});
addEventListener("hashchange", () => show(Number(location.hash.slice(1)) - 1));
addEventListener("resize", () => fit(slides[at]));
addEventListener("toggle", () => fit(slides[at]), true); // an answer that is opened needs room
addEventListener("beforeprint", () => slides.forEach((slide) => slide.removeAttribute("hidden")));
addEventListener("afterprint", () => show(at));
// Mathematics is set once while everything is visible: what is hidden has no width.
addEventListener("load", () => window.MathJax.startup.promise.then(() => {
  show(at);
  root.dataset.ready = "";
}));
