"""Slides, sheets and solutions hold what the chapters hold, and only that."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from runner.chapters import Book, Chapter, Refused
from runner.lectures import Pages, deck, lectures, tables
from runner.teaching import exercises, solutions
from throwaway import ROOT

PAGE = """<article><section id="one"><h1>1. One</h1><p>The promise.</p>
<section id="body"><h2>Body</h2><p>Said before.</p><figure id="fig-seen">
<img src="_images/a.png" alt="a"><figcaption><a href="#thm-true">Seen.</a></figcaption></figure>
<p>Said after.</p><div class="proof theorem" id="thm-true"><p>True.</p></div>
<div class="vcq vcq-box" data-config='["_static/x.js"]'></div><script src="y.js"></script></section>
<section id="do"><h2>Exercises</h2><div class="exercise admonition" id="ex-do">
<p class="admonition-title">Do</p><p>Do it.</p></div>
<div class="solution admonition"><p>Done.</p></div></section></section></article>"""
CHAPTERS = [c for c in Book(ROOT / "book").chapters() if c.name[:2].isdigit()]
PARTS = ("{admonition} What you will learn\n:class: tip", "**Prerequisites.** ",
         "**Running time.** ", "\n## Summary\n", "\n## Exercises\n", "\n## Further reading\n",
         "## Quiz\n")  # fmt: skip


PLAN = """
9:
  title: one
  about: For all.
  homework: [ex-do]
  blocks:
    - {minutes: 5, what: Look., slides: [{title: Before, show: thm-true}]}
    - minutes: 4
      what: Bet.
      slides:
        - {bet: "How < many?", answer: fig-seen}
        - {title: What is seen, show: fig-seen}
        - {title: A box, show: 01_one .vcq-box}
"""


def article() -> BeautifulSoup:
    return BeautifulSoup(PAGE, "html.parser").article


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """A book of one page with the plan above, and that page as built."""
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "01_one.html").write_text(PAGE)
    (tmp_path / "teaching.yaml").write_text(PLAN)
    return Book(tmp_path)


def refused(book: Book, old: str, new: str) -> str:
    """What is said of the plan with one thing changed."""
    (book.folder / "teaching.yaml").write_text(PLAN.replace(old, new))
    with pytest.raises(Refused) as error:
        deck(lectures(book)[9], Pages(book.folder / "html", ["01_one"]))
    return str(error.value)


def test_slides_follow_the_plan_and_words_around_a_thing_are_its_notes(book: Book) -> None:
    made, kinds = deck(lectures(book)[9], Pages(book.folder / "html", ["01_one"]))
    slides = BeautifulSoup(made, "html.parser").select("section")
    titles = [slide.find(["h1", "h2"]).get_text() for slide in slides]
    assert titles == ["The entropy cliff", "Before", "Bet 1", "What is seen", "A box", "Homework"]
    theorem, bet, figure, box = slides[1:5]
    assert bet.select_one(".body").get_text() == "How < many?"
    assert figure.img["src"] == "../_images/a.png"
    assert figure.select_one("figure a")["href"] == "../01_one.html#thm-true"
    assert figure.select_one("a.source")["href"] == "../01_one.html#fig-seen"
    assert figure.aside.get_text() == "Said before.Said after."
    assert theorem.aside.get_text() == "Said after."
    assert kinds == ["box"] and box.select_one(".vcq-box")["data-config"] == '["../_static/x.js"]'
    assert not BeautifulSoup(made, "html.parser").select("[id], script")
    assert slides[5].a["href"] == "../01_one.html#ex-do"


def test_the_table_of_a_lecture_names_what_its_slides_show(book: Book) -> None:
    page = tables("Before.\n\n<!-- lectures -->\n", lectures(book))
    assert "## 9 minutes: one" in page and '<a href="slides/9.html">' in page
    assert "| 4 | Bet. | {numref}`fig-seen`, [](01_one.ipynb) |" in page
    assert "| 5 | Look. | {prf:ref}`thm-true` |" in page
    assert "Homework: {numref}`ex-do`." in page


def test_a_plan_with_a_fault_is_refused_by_name(book: Book) -> None:
    assert "by no slide" in refused(book, "show: fig-seen", "show: thm-true")
    both = refused(book, "thm-true", "thm-tru")
    assert "'thm-tru'" in both and "thm-true" in both and "lecture 9" in both
    assert "'.vcq-bx'" in refused(book, ".vcq-box", ".vcq-bx")
    assert "'02_two'" in refused(book, "01_one .vcq", "02_two .vcq")
    assert "before its bet" in refused(book, "thm-true", "fig-seen")
    assert "10 minutes" in refused(book, "minutes: 4", "minutes: 5")
    assert "'tab-x'" in refused(book, "[ex-do]", "[tab-x]")
    assert "must have title" in refused(book, "title: Before, ", "")
    assert "colour" in refused(book, "{title: Before", "{colour: red, title: Before")


def test_the_sheet_has_exercises_without_solutions() -> None:
    (sheet,) = exercises(article(), "01_one")
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
    assert len(re.findall(r"\{solution[^\n]*\n:class: dropdown", text)) == len(labels)
    quiz = cells[-1].source
    assert len(re.findall(r"^\d\. ", quiz, re.MULTILINE)) == quiz.count("- (x) ") == 3
    inside, asserted = False, 0
    for cell in cells:
        if cell.cell_type == "code":
            asserted += inside and "assert " in cell.source
        elif "{solution-" in cell.source:
            inside = cell.source.rindex("{solution-") == cell.source.rfind("{solution-start}")
    assert asserted >= 1  # what is solved by code is checked by code
