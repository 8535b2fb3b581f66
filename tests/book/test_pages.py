"""The built smoke book: links, loads, alt texts, and every page in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
import yaml
from playwright.sync_api import Browser

from browser import Visit, launched, opened, visit
from pages import broken_links, images_without_alt, load, outside_loads
from throwaway import ROOT

pytestmark = [pytest.mark.book, pytest.mark.timeout(1200)]
HTML = ROOT / "build" / "smoke" / "html"


@pytest.fixture(scope="module")
def html() -> Path:
    assert (HTML / "index.html").exists(), f"no book in {HTML}: run `make smoke` first"
    return HTML


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def visits(html: Path, browser: Browser) -> list[Visit]:
    """Every page in light, dark and phone width: visited once, judged by several tests."""
    return [visit(browser, html, name) for name in load(html)]


def test_links_and_anchors_resolve(html: Path) -> None:
    assert broken_links(html) == []


def test_no_page_loads_anything_from_outside(html: Path) -> None:
    assert outside_loads(html) == []


def test_every_image_has_an_alt_text(html: Path) -> None:
    assert images_without_alt(html) == []


def test_every_page_of_the_contents_is_there(html: Path) -> None:
    from runner.chapters import Book

    names = {f"{name}.html" for name in Book(ROOT / "book").pages()}
    assert names <= set(load(html))


def test_chapters_carry_their_buttons(html: Path) -> None:
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    branch = "main/book/01_cliff.ipynb"
    page = load(html)["01_cliff.html"]
    links = {unquote(tag.get("href") or "") for tag in page("a")}
    assert {url, f"{url}/edit/{branch}"} <= links
    launch = {link for link in links if "colab" in link or "mybinder" in link}
    assert len(launch) == 2  # the theme's buttons and those in the text lead to the same two places
    assert all("book/01_cliff.ipynb" in link for link in launch)
    assert page.find("meta", property="og:title")["content"]


def test_no_console_error_and_no_failed_or_outside_request(visits: list[Visit]) -> None:
    assert [(seen.page, seen.troubles) for seen in visits if seen.troubles] == []


def test_no_sideways_scrolling_on_a_phone(visits: list[Visit]) -> None:
    assert [(seen.page, seen.wide) for seen in visits if seen.wide] == []


def test_no_table_and_no_code_is_wider_than_its_column(visits: list[Visit]) -> None:
    assert [(seen.page, seen.sideways) for seen in visits if seen.sideways] == []


def test_text_in_figures_can_be_read_on_a_phone(visits: list[Visit]) -> None:
    assert [(seen.page, seen.small) for seen in visits if seen.small] == []


def test_axe_finds_no_violation(visits: list[Visit]) -> None:
    assert [(seen.page, seen.violations) for seen in visits if seen.violations] == []


def test_all_formulas_are_typeset(visits: list[Visit]) -> None:
    counts = {seen.page: seen.formulas for seen in visits}
    assert any(written for written, _, _ in counts.values())
    assert counts == {page: (written, written, 0) for page, (written, _, _) in counts.items()}


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("codebook", "appendix_glossary.html#term-codebook"),
        ("should I use", "index.html"),  # where the answer is
        ("entropy cliff", "appendix_glossary.html#term-entropy-cliff"),
        ("t*", "01_cliff.html"),  # where it is defined
    ],
)
def test_search_puts_first_what_was_meant(
    html: Path, browser: Browser, words: str, first: str
) -> None:
    seen = Visit("search.html")
    with opened(browser, html / "search.html", seen) as page:
        page.goto(f"{(html / 'search.html').as_uri()}?q={quote(words)}")
        found = page.wait_for_selector("#search-results li a").evaluate("a => a.href")
    parts = urlsplit(found)
    assert f"{Path(parts.path).name}#{parts.fragment}".startswith(first)
    assert seen.troubles == []
