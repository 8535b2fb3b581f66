// Arrow keys, space, a tap at the left or right edge, or a swipe turn the page; N shows the notes.
const slides = [...document.querySelectorAll("main > section")];
let at = Math.min(Number(location.hash.slice(1)) || 1, slides.length) - 1;
const counter = document.createElement("p");
counter.id = "counter";
document.querySelector("main").append(counter);

function show(index) {
  at = Math.max(0, Math.min(index, slides.length - 1));
  slides.forEach((slide, i) => slide.toggleAttribute("hidden", i !== at));
  counter.textContent = `${at + 1} / ${slides.length}`;
  history.replaceState(null, "", `#${at + 1}`);
}

addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1,
                ArrowLeft: -1, ArrowUp: -1, PageUp: -1}[event.key];
  if (event.target.closest("summary") && event.key === " ") return;
  if (step) { event.preventDefault(); show(at + step); }
  if (event.key === "Home") show(0);
  if (event.key === "End") show(slides.length - 1);
  if (event.key === "n" || event.key === "N") document.body.classList.toggle("notes");
});
let start = null;
addEventListener("touchstart", event => { start = event.touches[0].clientX; });
addEventListener("touchend", event => {
  const moved = event.changedTouches[0].clientX - start;
  if (Math.abs(moved) > 60) show(at - Math.sign(moved));
});
addEventListener("beforeprint", () => slides.forEach(slide => slide.removeAttribute("hidden")));
addEventListener("afterprint", () => show(at));
// Mathematics is set once while everything is visible: what is hidden has no width.
addEventListener("load", () => window.MathJax.startup.promise.then(() => show(at)));
