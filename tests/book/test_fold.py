"""Tables that are wider than their column are folded, and remain tables to whoever hears them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page

from browser import AXE, AXE_TABLES, PHONE, SETTLED, SIDEWAYS, Visit, launched, opened
from interactive import ASSETS

SHELL = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tables</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{assets}/custom.css"><script src="{assets}/fold.js"></script></head>
<body><main><article class="bd-article"><h1>Tables</h1><div class="cell_output">{body}</div>
</article></main></body></html>"""
WIDE = pd.DataFrame(
    [[i + column / 10 for column in range(8)] for i in range(3)],
    index=pd.MultiIndex.from_tuples([("one", "a"), ("one", "b"), ("two", "a")]),
    columns=pd.Index([f"column {i}" for i in range(8)], name="arm"),
).rename_axis(index=["set", "arm of the set"])
PLAIN = """<table class="table"><thead>
<tr><th><p>name</p></th><th><p>\\(K_t\\), <b>size</b></p></th></tr></thead>
<tbody><tr><td><p>uniform</p></td><td><p>{}</p></td></tr></tbody></table>"""
# What the book's extension makes of the tables of pandas.
PAGE = {"<th></th>": "<td></td>", 'class="dataframe"': 'class="dataframe" tabindex="0"'}
LABELS = "all => all.map(e => e.dataset.label)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[[str], Page]]:
    """Open a page with these tables on a phone."""
    file, seen = tmp_path / "tables.html", Visit("tables")
    file.touch()
    with opened(browser, file, seen, viewport={"width": PHONE, "height": 844}) as page:

        def write(body: str) -> Page:
            for old, new in PAGE.items():
                body = body.replace(old, new)
            file.write_text(SHELL.format(assets=ASSETS.as_uri(), body=body), "utf-8")
            page.reload()
            return page

        yield write
    assert seen.troubles == []


def folded(page: Page) -> list[bool]:
    page.evaluate(SETTLED)
    return page.eval_on_selector_all("table", "all => all.map(e => e.matches('.folded'))")


def test_a_wide_frame_is_folded_and_says_at_each_value_what_it_is(show) -> None:
    page = show(WIDE.to_html())
    assert folded(page) == [True] and page.evaluate(SIDEWAYS) == []
    rows = page.locator("tbody tr")
    for i in range(3):
        labels = rows.nth(i).locator("td").evaluate_all(LABELS)
        assert labels == [f"arm column {j}" for j in range(8)]
    shared = page.eval_on_selector_all("tbody th", LABELS)
    assert shared == ["", "", "one", "", ""]  # the second row belongs to "one" too
    shown = page.eval_on_selector_all(
        "thead th", "all => all.filter(e => e.clientWidth > 1).map(e => e.textContent)"
    )
    assert shown == ["set", "arm of the set"]  # the corner
    boxes = [rows.nth(0).locator("td").nth(j).bounding_box() for j in range(8)]
    assert all(a["y"] < b["y"] for a, b in zip(boxes, boxes[1:], strict=False))


def test_it_stays_a_table_for_screen_readers(show) -> None:
    page = show(WIDE.to_html())
    page.add_script_tag(content=AXE.read_text("utf-8"))
    assert page.evaluate(AXE_TABLES) == []
    assert page.get_by_role("table").count() == 1
    assert page.get_by_role("row").count() == len(page.query_selector_all("tr")) == 5
    heads = page.get_by_role("columnheader").all_text_contents()
    assert heads == ["arm", *WIDE.columns, "set", "arm of the set"]
    assert page.get_by_role("rowheader").all_text_contents() == ["one", "a", "b", "two", "a"]
    assert page.get_by_role("cell", name="2.7").count() == 1
    assert page.locator("[tabindex]").count() == 0  # nothing to scroll


def test_what_fits_or_is_empty_is_left_as_it_is(show) -> None:
    narrow = WIDE.iloc[:, :1].reset_index(drop=True)
    page = show(narrow.iloc[:0].to_html() + narrow.to_html() + PLAIN.format("short"))
    assert folded(page) == [False, False, False]


def test_a_table_follows_its_column(show) -> None:
    page = show(WIDE.to_html())
    for width, expected in ((1280, False), (PHONE, True)):
        page.set_viewport_size({"width": width, "height": 844})
        assert folded(page) == [expected]
    page.emulate_media(media="print")
    assert page.locator("tbody tr").first.evaluate("e => getComputedStyle(e).display") == (
        "table-row"
    )


def test_a_table_in_a_closed_box_is_folded_when_it_is_opened(show) -> None:
    page = show(f"<div hidden>{WIDE.to_html()}</div>")
    assert folded(page) == [False]
    page.evaluate("() => document.querySelector('[hidden]').removeAttribute('hidden')")
    assert folded(page) == [True]


def test_formulas_and_marks_in_headings_become_plain_words(show) -> None:
    page = show(PLAIN.format("nameless" * 9))
    assert folded(page) == [True] and page.evaluate(SIDEWAYS) == []
    assert page.eval_on_selector_all("td", LABELS) == ["name", "K_t, size"]
