"""Slides and sheets of the built smoke book in a browser: they fit, they answer, they print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from browser import AXE, AXE_RUN, Visit, launched, opened
from runner.chapters import Book
from runner.lectures import lectures
from throwaway import ROOT

pytestmark = [pytest.mark.book, pytest.mark.timeout(600)]
HTML = ROOT / "build" / "smoke" / "html"
PLAN = lectures(Book(ROOT / "book"))
PROJECTOR, PHONE = {"width": 1280, "height": 720}, {"width": 375, "height": 750}
READY = "document.documentElement.dataset.ready === ''"
SHOWN = "main > section:not([hidden])"
# What sticks out of the slide that is shown, is cut off in it, or is written too small to read:
# 12 px for words, 9 px for the marks of a plot; also a title of two lines.
FAULTS = """least => {
  const slide = document.querySelector('main > section:not([hidden])'), found = [];
  const body = slide.querySelector('.body'), title = slide.querySelector('h1, h2');
  const cut = e => e.clientHeight && getComputedStyle(e).overflow !== 'visible' &&
    (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1);
  for (const e of [slide, body, ...body.querySelectorAll('div, table, pre, ul, ol, p, figure')])
    if (!e.closest('svg, mjx-container, .vcq-table') && cut(e))
      found.push(`cut: ${e.tagName}.${e.className}`);
  for (const e of body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect();
    if (!box.width || e.closest('.vcq-static, .vcq-table, g[clip-path], defs') ||
        e.parentElement.closest('mjx-container')) continue;
    if (e.ownerSVGElement && e.tagName !== 'text') continue;
    if (box.right > innerWidth + 1 || (least.page && box.bottom > innerHeight + 1))
      found.push(`outside: ${e.tagName}.${e.getAttribute('class')}`);
    const words = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!words || e.closest('mjx-container') || e.closest('sub')) continue;
    const svg = e.ownerSVGElement;
    const scale = svg ? svg.getScreenCTM().a : (e.currentCSSZoom ?? 1);
    const size = parseFloat(getComputedStyle(e).fontSize) * (svg ? scale : 1);
    if (size < (svg ? least.mark : least.word) - 0.01)
      found.push(`${size.toFixed(1)} px: ${e.textContent}`);
  }
  const line = parseFloat(getComputedStyle(title).lineHeight);
  const lines = title.getBoundingClientRect().height / line;
  if (least.page && lines > 1.5) found.push('title of two lines');
  if (document.documentElement.scrollWidth > innerWidth) found.push('page scrolls sideways');
  return [...new Set(found)].slice(0, 5);
}"""
# A figure answers if a control of its own changes what it says or draws.
STATE = """e => e.querySelector('.vcq-live').innerHTML +
  [...e.querySelectorAll('input, select')].map(i => i.value)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert (HTML / "slides").exists(), f"no slides in {HTML}: run `make smoke` first"
    with launched() as browser:
        yield browser


def deck(minutes: int) -> Path:
    return HTML / "slides" / f"{minutes}.html"


def turn(page: Page, number: int) -> None:
    page.evaluate("n => { location.hash = `#${n}`; }", number)
    reached = "n => document.querySelector('nav output').textContent.startsWith(`${n} `)"
    page.wait_for_function(reached, arg=number)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 30)))")


def at(page: Page) -> int:
    return int(page.inner_text("nav output").split()[0])


def faults(page: Page, least: dict[str, Any]) -> list[tuple[int, str, list[str]]]:
    found = []
    for number in range(1, page.locator("main > section").count() + 1):
        turn(page, number)
        if seen := page.evaluate(FAULTS, least):
            found.append((number, page.inner_text(f"{SHOWN} :is(h1, h2)"), seen))
    return found


@pytest.mark.parametrize("minutes", PLAN)
def test_every_slide_fits_a_projector_and_can_be_read(browser: Browser, minutes: int) -> None:
    seen = Visit(str(minutes))
    with opened(browser, deck(minutes), seen, viewport=PROJECTOR) as page:
        page.wait_for_function(READY)
        assert page.locator("main > section").count() == len(PLAN[minutes].slides) + 2
        assert faults(page, {"page": True, "word": 12, "mark": 9}) == []
        written, typeset = page.evaluate(
            "() => ['.math', '.math mjx-container'].map(s => document.querySelectorAll(s).length)"
        )
        assert written == typeset > 0
    assert seen.troubles == []


@pytest.mark.parametrize("minutes", PLAN)
def test_a_phone_shows_every_slide_without_scrolling_sideways(
    browser: Browser, minutes: int
) -> None:
    with opened(browser, deck(minutes), Visit(""), viewport=PHONE) as page:
        page.wait_for_function(READY)
        assert faults(page, {"page": False, "word": 12, "mark": 9}) == []


@pytest.mark.parametrize("minutes", PLAN)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_slide(browser: Browser, minutes: int, scheme: str) -> None:
    options = {"viewport": PHONE, "color_scheme": scheme}  # where slides may lie below each other
    with opened(browser, deck(minutes), Visit(""), **options) as page:
        page.wait_for_function(READY)
        page.keyboard.press("n")
        page.eval_on_selector_all(
            "main > section", "all => all.forEach(e => { e.hidden = false; })"
        )
        page.add_script_tag(content=AXE.read_text("utf-8"))
        found = [(rule["id"], node["html"][:150]) for rule in page.evaluate(AXE_RUN)
                 for node in rule["nodes"]]  # fmt: skip
        assert found == []


def test_interactive_figures_answer_on_their_slides(browser: Browser) -> None:
    seen = Visit("180")
    with opened(browser, deck(180), seen, viewport=PROJECTOR) as page:
        page.wait_for_function(READY)
        kinds = []
        for number in range(1, page.locator("main > section").count() + 1):
            turn(page, number)
            figure = page.locator(f"{SHOWN} .vcq")
            if not figure.count():
                continue
            kinds.append(re.search(r"vcq-(\w+)", figure.get_attribute("class"))[1])
            before = figure.evaluate(STATE)
            slider = figure.locator("input[type=range]").last
            if slider.count():
                slider.focus()
                page.keyboard.press("ArrowLeft")
            elif figure.locator("select").count():
                choice = figure.locator("select").last
                choice.focus()
                choice.select_option(index=choice.locator("option").count() - 1)
            if kinds[-1] == "draw":
                page.click("[data-act=draw]")
                page.wait_for_selector(f"{SHOWN} .vcq-live[data-state=ready]")
                assert float(page.get_attribute(f"{SHOWN} output data.m", "value")) >= 0
            assert at(page) == number  # its keys are its own
            choices = figure.locator("option").count() > figure.locator("select").count()
            if slider.count() or choices:  # a study of one comparison leaves nothing to choose
                assert figure.evaluate(STATE) != before, kinds[-1]
        assert {"prefixes", "explorer", "draw", "decoder", "cells", "results"} <= set(kinds)
    assert seen.troubles == []


def test_keys_buttons_and_swipes_turn_the_page(browser: Browser) -> None:
    swipe = """([selector, from, to]) => {
      const e = document.querySelector(selector);
      const touch = x => [new Touch({identifier: 0, target: e, clientX: x, clientY: 9})];
      const send = (type, x) => e.dispatchEvent(new TouchEvent(type, {bubbles: true,
        touches: type === 'touchend' ? [] : touch(x), changedTouches: touch(x)}));
      send('touchstart', from);
      send('touchend', to);
    }"""
    options = {"viewport": PROJECTOR, "has_touch": True}
    with opened(browser, deck(45), Visit(""), **options) as page:
        page.wait_for_function(READY)
        last = page.locator("main > section").count()
        for key, number in (("ArrowRight", 2), (" ", 3), ("PageDown", 4), ("ArrowLeft", 3),
                            ("PageUp", 2), ("End", last), ("ArrowRight", last), ("Home", 1),
                            ("ArrowLeft", 1)):  # fmt: skip
            page.keyboard.press(key)
            assert at(page) == number, key
            assert page.locator(SHOWN).count() == 1
        page.click("[aria-label='one slide on']")
        assert at(page) == 2
        page.evaluate(swipe, ["main", 900, 300])
        assert at(page) == 3
        page.evaluate(swipe, ["main", 300, 900])
        assert at(page) == 2
        page.evaluate(swipe, ["main", 300, 330])  # a tap that slipped
        turn(page, 3)
        page.evaluate(swipe, [f"{SHOWN} .vcq-plot", 900, 300])  # within a figure
        assert at(page) == 3
        assert page.locator("aside:visible").count() == 0
        page.keyboard.press("n")
        assert page.locator(f"{SHOWN} aside").inner_text().strip()


def test_slides_print_one_a_page_with_static_figures(browser: Browser) -> None:
    with opened(browser, deck(45), Visit(""), viewport=PROJECTOR) as page:
        page.wait_for_function(READY)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert (
            page.locator("main > section:visible").count() == page.locator("main > section").count()
        )
        assert page.locator(".vcq-static:visible").count() == page.locator(".vcq").count() > 0
        assert page.locator("nav:visible").count() == 0


def test_a_bet_stands_alone_before_its_answer(browser: Browser) -> None:
    with opened(browser, deck(90), Visit(""), viewport=PROJECTOR) as page:
        page.wait_for_function(READY)
        for bet in page.locator("section.bet").all():
            assert bet.locator(".body > *").count() == 1 and bet.locator("aside").count() == 0


@pytest.mark.parametrize("name", ["exercises", "worksheet", "worksheet_solved"])
def test_sheets_fit_a_phone_and_axe_finds_nothing(browser: Browser, name: str) -> None:
    seen = Visit(name)
    with opened(browser, HTML / "handouts" / f"{name}.html", seen, viewport=PHONE) as page:
        page.add_script_tag(content=AXE.read_text("utf-8"))
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert [rule["id"] for rule in page.evaluate(AXE_RUN)] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert seen.troubles == []


def test_the_worksheet_keeps_its_verdicts_for_the_solved_one(browser: Browser) -> None:
    boxes = {}
    for name in ("worksheet", "worksheet_solved"):
        with opened(browser, HTML / "handouts" / f"{name}.html", Visit(name)) as page:
            boxes[name] = page.locator("td.box").all_inner_texts()
            text = page.inner_text("main")
    assert len(boxes["worksheet"]) == len(boxes["worksheet_solved"]) > 10
    assert not any(boxes["worksheet"]) and all(boxes["worksheet_solved"])
    assert "fewer than three seeds" in text  # the rule, as the scorecard has it
