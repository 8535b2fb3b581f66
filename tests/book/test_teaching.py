"""Slides, exercise sheet and solutions hold what the chapters hold, and only that."""

from __future__ import annotations

import re

import nbformat
import pytest
from bs4 import BeautifulSoup

from runner.chapters import Book, Chapter
from runner.teaching import exercises, slides, solutions
from throwaway import ROOT

PAGE = """<article><section><h1>1. One</h1><p>The promise.</p>
<div class="admonition"><p class="admonition-title">Goals</p><ul><li>A goal</li></ul></div>
<section><h2>Body</h2><p>Said before.</p><figure><img src="_images/a.png" alt="a">
<figcaption><p>Seen.</p></figcaption></figure><p>Said after.</p>
<div class="proof theorem"><p>True.</p></div></section>
<section><h2>Summary</h2><ul><li>Short.</li></ul></section>
<section><h2>Exercises</h2><div class="exercise admonition"><p>Do it.</p></div>
<div class="solution admonition"><p>Done.</p></div></section></section></article>"""
CHAPTERS = [c for c in Book(ROOT / "book").chapters() if c.name[:2].isdigit()]
PARTS = ("{admonition} What you will learn\n:class: tip", "**Prerequisites.** ",
         "**Running time.** ", "\n## Summary\n", "\n## Exercises\n", "\n## Further reading\n",
         "## Quiz\n")  # fmt: skip


def article() -> BeautifulSoup:
    return BeautifulSoup(PAGE, "html.parser").article


def test_a_deck_shows_figures_and_theorems_and_keeps_words_for_the_notes() -> None:
    deck = BeautifulSoup(slides(article(), "../"), "html.parser")
    titles = [tag.get_text() for tag in deck.select("section > h1, section > h2")]
    assert titles == ["1. One", "Goals", "Body", "Body", "Summary"]
    figure, theorem = deck.select("section")[2:4]
    assert figure.img["src"] == "../_images/a.png"
    assert figure.aside.get_text() == "Said before."
    assert theorem.aside.get_text() == "Said after."
    assert "Done." not in deck.get_text()


def test_the_sheet_has_exercises_without_solutions() -> None:
    (sheet,) = exercises(article())
    assert "Do it." in sheet and "Done." not in sheet


def test_solutions_keep_order_code_and_numbers(tmp_path) -> None:  # noqa: ANN001
    v4 = nbformat.v4
    glued = v4.new_output("display_data", {"application/papermill.record/text/plain": "2.5"},
                          metadata={"scrapbook": {"name": "x"}})  # fmt: skip
    text = (
        "## Exercises\n\n```{exercise} By hand\n:label: ex-a\n\nHow much is {glue:text}`x:.2f`?\n"
        "```\n\n```{solution-start} ex-a\n:class: dropdown\n```\n\nThis much:"
    )
    cells = [v4.new_markdown_cell("# One"), v4.new_code_cell("x = 2.5", outputs=[glued]),
             v4.new_markdown_cell(text), v4.new_code_cell("assert x"),
             v4.new_markdown_cell("It is.\n\n```{solution-end}\n```\n\nMore text.")]  # fmt: skip
    path = tmp_path / "01_one.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    made = [cell.source for cell in solutions([Chapter("01_one", path)], tmp_path).cells]
    assert made[1:] == ["### By hand\n\nHow much is 2.50?", "### Solution", "This much:",
                        "assert x", "It is."]  # fmt: skip


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_every_chapter_has_its_parts(chapter: Chapter) -> None:
    cells = chapter.read().cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert [part for part in PARTS if part not in text] == []
    title, promise, *_ = cells[0].source.split("\n\n")
    assert title.startswith("# ") and len(promise) > 150
    kinds = re.findall(r"\{exercise\} (By hand|By code|Open)", text)
    assert set(kinds) == {"By hand", "By code", "Open"} and len(kinds) >= 3
    assert len(re.findall(r"\{exercise\}", text)) == len(kinds)
    labels = re.findall(r"\{exercise\}[^\n]*\n:label: (\S+)", text)
    assert set(re.findall(r"\{solution(?:-start)?\} (\S+)", text)) == set(labels)
    assert len(re.findall(r":class: dropdown", text)) == len(labels)
    quiz = cells[-1].source
    assert len(re.findall(r"^\d\. ", quiz, re.MULTILINE)) == quiz.count("- (x) ") == 3
    inside, asserted = False, 0
    for cell in cells:
        if cell.cell_type == "code":
            asserted += inside and "assert " in cell.source
        elif "{solution-" in cell.source:
            inside = cell.source.rindex("{solution-") == cell.source.rfind("{solution-start}")
    assert asserted >= 1  # what is solved by code is checked by code
