"""The book as one PDF: Jupyter Book's single page, a cover, contents, printed by Chromium."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from runner.chapters import Book
from runner.stage import jupyter_book
from vcqlib.files import atomic_path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
STYLE = Path(__file__).with_name("print.css")
TYPESET = "() => window.MathJax?.startup?.promise?.then(() => true) ?? true"
# Solutions start closed on the page; on paper they are open. Folded code stays away.
OPEN = """() => {
  document.documentElement.dataset.theme = 'light';
  document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'));
  document.querySelectorAll('details:not(.hide, .quiz)').forEach(e => { e.open = true; });
  document.querySelectorAll('img').forEach(e => { e.loading = 'eager'; });
  return Promise.all([...document.images].map(e => e.decode().catch(() => 0))).then(() => true);
}"""
NUMBER = """pages => {
  for (const [id, page] of Object.entries(pages))
    document.querySelector(`nav.contents a[href="#${id}"] + span`).textContent = page;
}"""
FOOTER = """<div style="width: 100%; font: 8pt sans-serif; text-align: center; color: #555">
<span class="pageNumber"></span></div>"""


def chromium() -> str:
    """Path of the system's Chromium; missing, the error says how to get it."""
    for name in filter(None, (os.environ.get("CHROMIUM"), *BROWSERS)):
        if found := shutil.which(name):
            return found
    raise FileNotFoundError(
        "Chromium not found: apt-get install chromium, or set CHROMIUM=/path/to/chromium"
    )


def pdf(book: Book, out: Path) -> Path:
    """Print `out/stage`, which `stage` has laid out and `html` has checked, into `out/book.pdf`."""
    folder = jupyter_book(book, out, "singlehtml", [])
    if folder is None:
        raise RuntimeError("the pages were built, but not the single page behind the PDF")
    page = folder / "index.html"
    html, chapters = one_page(page.read_text(encoding="utf-8"))
    page.write_text(html, encoding="utf-8")
    with atomic_path(out / "book.pdf") as temporary:
        temporary.write_bytes(print_page(page, chapters))
    shutil.rmtree(out / "jupyter-book")
    return out / "book.pdf"


def one_page(html: str) -> tuple[str, list[str]]:
    """The single page with contents in front, and the anchors of its chapters."""
    page = BeautifulSoup(html, "html.parser")
    contents = page.new_tag("nav", attrs={"class": "contents"})
    contents.append(_tag(page, "h2", "Contents"))
    anchors = []
    for heading in page.select(".toctree-wrapper > section > h2, .toctree-wrapper > span + h2"):
        anchor = f"chapter-{len(anchors) + 1}"
        heading["id"] = anchor
        link = page.new_tag("a", href=f"#{anchor}")
        link.string = heading.get_text(" ").replace("#", "").strip()
        entry = page.new_tag("p")
        entry.extend([link, page.new_tag("span")])
        contents.append(entry)
        anchors.append(anchor)
    page.select_one("article h1").insert_after(contents)
    for link in page.select('a[href^="index.html#"]'):  # so that it stays within the file
        link["href"] = link["href"].removeprefix("index.html")
    for link in page.select('a[href^="slides/"], a[href^="handouts/"]'):
        link.unwrap()  # they lie beside the pages; on paper there is nothing to follow
    page.head.append(_tag(page, "style", STYLE.read_text(encoding="utf-8")))
    return str(page), anchors


def print_page(page: Path, anchors: list[str]) -> bytes:
    """Print twice: the first time tells on which page each anchor comes to stand."""
    from playwright.sync_api import sync_playwright  # with the browser: only this needs them
    from pypdf import PdfReader

    layout = {"format": "A4", "print_background": True, "tagged": True, "outline": True}
    layout |= {"display_header_footer": True, "header_template": "<span></span>"}
    layout |= {"footer_template": FOOTER}
    layout |= {"margin": {"top": "18mm", "bottom": "18mm", "left": "20mm", "right": "20mm"}}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            tab = browser.new_page()
            tab.emulate_media(media="print", color_scheme="light")
            tab.goto(page.as_uri(), wait_until="load", timeout=120_000)
            tab.wait_for_function(TYPESET, timeout=300_000)
            tab.evaluate(OPEN)
            first = PdfReader(io.BytesIO(tab.pdf(**layout)))
            places = {k.lstrip("/"): v for k, v in first.named_destinations.items()}
            pages = {k: first.get_destination_page_number(places[k]) + 1 for k in anchors}
            tab.evaluate(NUMBER, pages)
            return tab.pdf(**layout)
        finally:
            browser.close()


def _tag(page: BeautifulSoup, name: str, text: str) -> Tag:
    tag = page.new_tag(name)
    tag.string = text
    return tag
