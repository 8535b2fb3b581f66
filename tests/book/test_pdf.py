"""The printed book: every chapter, its mathematics typeset, its page numbers right."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from pypdf import PdfReader

from runner.chapters import Book
from runner.pdf import one_page
from throwaway import ROOT

PRINTED = ROOT / "build" / "smoke" / "book.pdf"
PAGE = """<html><head></head><body><article><section><h1>Book</h1></section>
<div class="toctree-wrapper"><section id="one"><h2>1. One<a href="#one">#</a></h2>
<a href="index.html#id2">2026</a><a href="slides/45.html">Slides</a></section></div></article>
</body></html>"""


def test_contents_and_links_of_the_single_page() -> None:
    html, anchors = one_page(PAGE)
    assert anchors == ["chapter-1"]
    assert '<p><a href="#chapter-1">1. One</a><span></span></p>' in html
    assert 'href="#id2"' in html and "index.html" not in html
    assert "Slides" in html and "slides/" not in html


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """The text of every printed page, its white space made single blanks."""
    assert PRINTED.exists(), "no printed book: run `python book/build.py smoke --pdf` first"
    return [re.sub(r"\s+", " ", page.extract_text()) for page in PdfReader(PRINTED).pages]


def title(path: Path) -> str:
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        text = nbformat.reads(text, as_version=4).cells[0].source
    return re.search(r"^# (.+)$", text, re.MULTILINE)[1]


@pytest.mark.book
def test_every_page_of_the_book_is_printed_where_the_contents_say(pages: list[str]) -> None:
    (root, *others) = Book(ROOT / "book").pages().values()
    assert title(root) in pages[0]
    contents = " ".join(pages[:2])
    for path in others:
        number = int(re.search(rf"{re.escape(title(path))} (\d+)", contents)[1])
        assert title(path) in pages[number - 1], path.name
        assert re.search(rf"(^| ){number}( |$)", pages[number - 1]), path.name  # in its footer


@pytest.mark.book
def test_mathematics_is_typeset_and_solutions_are_open(pages: list[str]) -> None:
    text = " ".join(pages)
    # `$N$`, `$\log_2 N$` or `\(N\)`: code may hold a dollar sign, but not these
    assert re.findall(r"\$\w\$|\$\\[a-z]+[^$]{0,60}\$|\\\([^()]{1,60}\\\)", text) == []
    cells = [cell for chapter in Book(ROOT / "book").chapters() for cell in chapter.read().cells]
    written = re.findall(r"\{solution(?:-start)?\}", "\n".join(cell.source for cell in cells))
    assert text.count("Solution to") == len(written)
