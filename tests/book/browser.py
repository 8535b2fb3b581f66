"""Every page in a real Chromium, over file://: light, dark and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from runner.pdf import chromium

AXE = Path(__file__).with_name("axe.min.js")
PHONE = 390  # pixels
# Solutions and dropdowns start closed; what is hidden is not checked, so open them.
OPEN = """() => {
  const still = document.createElement('style');  // colours are judged when nothing fades any more
  still.textContent = '* {transition: none !important; animation: none !important;}';
  document.head.append(still);
  document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'));
  document.querySelectorAll('details').forEach(e => { e.open = true; });
}"""
# `preload` would fetch the style sheets, which a browser refuses over file://.
AXE_RUN = "() => axe.run({preload: false}).then(result => result.violations)"
TYPESET = "() => window.MathJax?.startup?.promise?.then(() => true) ?? true"
THEME = """wanted => {
  const theme = document.documentElement.dataset.theme;
  return !theme || theme === wanted;
}"""
FORMULAS = """() => [document.querySelectorAll('.math').length,
  document.querySelectorAll('.math > mjx-container, .math mjx-container').length,
  document.querySelectorAll('[data-mjx-error], mjx-merror').length]"""
WIDE = """width => {
  const right = e => Math.round(e.getBoundingClientRect().right);
  const all = document.documentElement.scrollWidth;
  if (all <= width) return [];
  return [...document.querySelectorAll('main *')].filter(e => right(e) > width + 1).slice(0, 5)
    .map(e => `${e.tagName}.${e.className} ends at ${right(e)}`).concat([`page is ${all} px wide`]);
}"""


@dataclass
class Visit:
    """What one page did, opened once and shown in light, dark and phone width."""

    page: str
    troubles: list[str] = field(default_factory=list)  # console errors, failed or outside requests
    wide: list[str] = field(default_factory=list)  # what is wider than a phone
    violations: list[str] = field(default_factory=list)  # of axe-core's rules
    formulas: tuple[int, int, int] = (0, 0, 0)  # in the source, typeset, in error


@contextmanager
def launched() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, file: Path, visit: Visit, **options: Any) -> Iterator[Page]:
    """A page over file://, its mathematics typeset; its troubles are noted in `visit`."""
    context = browser.new_context(**options)
    page = context.new_page()
    note = visit.troubles.append
    page.on("console", lambda message: message.type == "error" and note(message.text))
    page.on("pageerror", lambda error: note(str(error)))
    page.on("requestfailed", lambda request: note(f"failed: {request.url}"))
    page.on("request", lambda request: _outside(request.url) and note(f"outside: {request.url}"))
    try:
        page.goto(file.as_uri(), wait_until="load")
        page.wait_for_function(TYPESET)
        yield page
    finally:
        context.close()


def visit(browser: Browser, folder: Path, name: str) -> Visit:
    """One page of the book in three settings; axe-core runs in light and dark."""
    seen = Visit(name)
    size = {"width": 1280, "height": 900}
    with opened(browser, folder / name, seen, viewport=size) as page:
        page.evaluate(OPEN)
        page.add_script_tag(content=AXE.read_text("utf-8"))
        for scheme in ("light", "dark"):  # the book follows the reader's system
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function(THEME, arg=scheme)
            seen.violations += [
                f"{scheme}: {rule['id']}: {node['target'][0]} {node['html'][:120]} {_reason(node)}"
                for rule in page.evaluate(AXE_RUN)
                for node in rule["nodes"]
            ]
        seen.formulas = tuple(page.evaluate(FORMULAS))
        page.set_viewport_size({"width": PHONE, "height": 844})
        seen.wide = page.evaluate(WIDE, PHONE)
    return seen


def _reason(node: dict[str, Any]) -> str:
    return "; ".join(check["message"] for check in node["any"] + node["none"])


def _outside(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:", "about:"))
