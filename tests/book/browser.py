"""Every page in a real Chromium, over file://: light, dark and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from runner.pdf import chromium
from vcqlib.chapters import figures

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
# A folded table is laid out anew in the frame after its column has changed.
SETTLED = """() => new Promise(done =>
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"""
# `preload` would fetch the style sheets, which a browser refuses over file://.
AXE_RUN = "() => axe.run({preload: false}).then(result => result.violations)"
AXE_TABLES = """() => document.querySelector('table')
  ? axe.run('table', {preload: false}).then(result => result.violations) : []"""
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
# A table or a block of code that is wider than its column, or a formula than its table.
SIDEWAYS = """() => {
  const box = e => e.tagName === 'ARTICLE' || getComputedStyle(e).overflowX !== 'visible'
    ? e : box(e.parentElement);
  const right = e => e.getBoundingClientRect().right;
  const said = e => `${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 40)}`;
  const found = [];
  for (const e of document.querySelectorAll('article :is(table, pre)')) {
    const { scrollWidth, clientWidth } = box(e);
    if (scrollWidth > clientWidth + 1)
      found.push(`${said(e)}: ${scrollWidth} in ${clientWidth} px`);
    if ([...e.querySelectorAll('mjx-container')].some(formula => right(formula) > right(e) + 1))
      found.push(`${said(e)}: a formula is cut`);
  }
  return found;
}"""

LEAST = 9.0  # pixels of text in a figure on a phone
# Figures whose text is smaller: `drawn` is its height in the pixels of the image itself.
SMALL = """([drawn, least]) => [...document.querySelectorAll('article .cell_output img')]
  .filter(e => e.clientWidth && drawn * e.clientWidth / e.naturalWidth < least)
  .map(e => `${e.alt.slice(0, 60)}: ${e.naturalWidth} px shown on ${e.clientWidth} px`)"""


@dataclass
class Visit:
    """What one page did, opened once and shown in light, dark and phone width."""

    page: str
    troubles: list[str] = field(default_factory=list)  # console errors, failed or outside requests
    wide: list[str] = field(default_factory=list)  # what is wider than a phone
    sideways: list[str] = field(default_factory=list)  # tables and code wider than their column
    small: list[str] = field(default_factory=list)  # figures whose text a phone makes too small
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
            seen.violations += _told(scheme, page.evaluate(AXE_RUN))
        seen.formulas = tuple(page.evaluate(FORMULAS))
        seen.sideways = [f"{size['width']} px: {fault}" for fault in page.evaluate(SIDEWAYS)]
        page.set_viewport_size({"width": PHONE, "height": 844})
        page.evaluate(SETTLED)
        seen.wide = page.evaluate(WIDE, PHONE)
        seen.sideways += [f"{PHONE} px: {fault}" for fault in page.evaluate(SIDEWAYS)]
        drawn = figures.TEXT * figures.DPI / 72
        seen.small = page.evaluate(SMALL, [drawn, LEAST])
        seen.violations += _told("phone", page.evaluate(AXE_TABLES))
    return seen


def _told(setting: str, violations: list[dict[str, Any]]) -> list[str]:
    return [
        f"{setting}: {rule['id']}: {node['target'][0]} {node['html'][:120]} {_reason(node)}"
        for rule in violations
        for node in rule["nodes"]
    ]


def _reason(node: dict[str, Any]) -> str:
    return "; ".join(check["message"] for check in node["any"] + node["none"])


def _outside(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:", "about:"))
