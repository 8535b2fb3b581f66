"""The cliff explorer of chapter 01, driven by keyboard, says what vcqlib says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from browser import AXE, PHONE, WIDE, Visit, launched, opened
from interactive import interactive_page
from vcqlib import (
    cliff_position,
    codebook_sizes,
    cumulative_capacity,
    expected_conditional_entropy,
)
from vcqlib.theory.schedules import GROWING

SETS = [["CIFAR-10", "50000"], ["ImageNet", "1281167"], ["ten digits", "1234567890"]]
START = {
    "n": "1281167", "length": 256, "kMin": 2, "kMax": 16384, "ramp": 256, "schedule": "uniform",
    "chapter": "01_cliff",
}  # fmt: skip
FIELDS = ("n", "kMin", "kMax", "length", "ramp")
READ = """() => ({
  rows: [...document.querySelectorAll('.vcq-table tbody tr')].map(
    row => [...row.querySelectorAll('data')].map(d => Number(d.value))),
  cliff: document.querySelector('data.cliff').value,
  total: Number(document.querySelector('data.log2n').value),
  held: Number(document.querySelector('data.held').value),
  settings: Object.fromEntries(['n', 'kMin', 'kMax', 'length', 'ramp'].map(
    name => [name, document.querySelector(`[name=${name}-exact]`).value])),
  schedule: document.querySelector('[name=schedule]').value,
})"""


def harness(folder: Path, **changes: object) -> Path:
    """A page with nothing but the explorer."""
    return interactive_page(folder, "explorer", {**START, "sets": SETS, **changes})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    seen = Visit("explorer")
    with opened(browser, harness(tmp_path), seen) as page:
        page.check("[name=all]")
        page.click("summary")
        yield page
    assert seen.troubles == []


def compare(page: Page) -> dict:
    """Hold everything that the page shows against vcqlib; return what it shows."""
    shown = page.evaluate(READ)
    n, k_min, k_max, length, ramp = (int(shown["settings"][name]) for name in FIELDS)
    sizes = codebook_sizes(shown["schedule"], length, k_max, k_min, ramp)
    rows = np.asarray(shown["rows"])
    assert rows[:, 0].astype(int).tolist() == sizes.tolist()
    np.testing.assert_allclose(rows[:, 1], cumulative_capacity(sizes), rtol=1e-12)
    np.testing.assert_allclose(rows[:, 2], expected_conditional_entropy(n, sizes), atol=1e-9)
    cliff = cliff_position(n, sizes)
    assert shown["cliff"] == ("none" if cliff is None else str(cliff))
    assert shown["total"] == pytest.approx(math.log2(n))
    assert shown["held"] == pytest.approx(cumulative_capacity(sizes)[-1])
    text = page.inner_text("output")
    assert ("No cliff" in text) if cliff is None else (f"t* = {cliff} of" in text.replace(" ", " "))
    return shown


def enter(page: Page, name: str, number: int) -> None:
    page.fill(f"[name={name}-exact]", str(number))


def test_it_starts_with_the_settings_of_the_page(page: Page) -> None:
    shown = compare(page)
    assert shown["cliff"] == "2" and len(shown["rows"]) == 256
    assert shown["settings"]["n"] == "1281167"
    assert page.input_value("[name=set]") == "1281167"
    assert not page.is_visible(".vcq-static")


def test_every_slider_answers_to_the_arrow_keys(page: Page) -> None:
    before = compare(page)["settings"]
    page.select_option("[name=schedule]", "loglinear")
    for name, key, expected in (
        ("kMax", "ArrowLeft", "8192"),
        ("kMin", "ArrowRight", "4"),
        ("length", "ArrowLeft", "255"),
        ("ramp", "Home", "1"),
        ("ramp", "ArrowUp", "2"),
        ("n", "ArrowRight", None),
    ):
        page.focus(f"[name={name}][type=range]")
        page.keyboard.press(key)
        now = compare(page)["settings"]
        if expected:
            assert now[name] == expected
        else:
            assert int(now[name]) > int(before[name])


@pytest.mark.parametrize("schedule", (*GROWING, "reversed", "matched"))
def test_every_schedule_agrees_with_the_library(page: Page, schedule: str) -> None:
    page.select_option("[name=schedule]", schedule)
    for n, length, k_min, k_max, ramp in (
        ("1281167", 256, 2, 16384, 64),
        ("60000", 16, 2, 256, 16),
        ("1000003", 37, 3, 1001, 20),
        ("999999999999999999", 12, 2, 2**18, 30),
    ):
        enter(page, "length", length)
        for name, value in (("kMax", k_max), ("kMin", k_min), ("ramp", ramp), ("n", n)):
            enter(page, name, value)
        settings = compare(page)["settings"]
        assert settings == {
            "n": n, "kMin": str(k_min), "kMax": str(k_max), "length": str(length), "ramp": str(ramp)
        }  # fmt: skip


def test_the_cliff_is_exact_where_floating_point_is_not(page: Page) -> None:
    for k, m in ((10, 18), (1000, 6), (3, 37), (2, 59)):
        enter(page, "kMin", 2)
        enter(page, "kMax", k)
        for n, expected in ((k**m - 1, m), (k**m, m), (k**m + 1, m + 1)):
            if n <= 10**18:
                enter(page, "n", n)
                assert compare(page)["cliff"] == str(expected)


def test_without_a_cliff_it_says_so(page: Page) -> None:
    enter(page, "length", 2)
    enter(page, "kMax", 64)
    shown = compare(page)
    assert shown["cliff"] == "none"
    enter(page, "n", 1)
    assert compare(page)["cliff"] == "0"


def test_settings_that_depend_on_each_other_follow(page: Page) -> None:
    page.select_option("[name=schedule]", "loglinear")
    enter(page, "length", 40)
    assert compare(page)["settings"]["ramp"] == "40"  # a ramp over all positions stays one
    enter(page, "kMax", 8)
    enter(page, "kMin", 32)
    assert compare(page)["settings"]["kMax"] == "32"
    enter(page, "kMax", 16)
    assert compare(page)["settings"]["kMin"] == "16"
    page.select_option("[name=set]", "1234567890")
    assert compare(page)["settings"]["n"] == "1234567890"
    page.focus("[name=n][type=range]")
    page.keyboard.press("ArrowLeft")
    assert page.input_value("[name=set]") == ""


@pytest.mark.parametrize(("name", "text"), [("n", "0"), ("n", "-5"), ("kMin", "1"), ("n", "1e6")])
def test_an_impossible_number_is_refused_in_words(page: Page, name: str, text: str) -> None:
    before = compare(page)
    page.focus(f"[name={name}-exact]")
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
    assert "must be a whole number from" in page.inner_text("output")
    assert page.get_attribute(f"[name={name}-exact]", "aria-invalid") == "true"
    page.keyboard.press("Tab")
    page.wait_for_selector("[aria-invalid]", state="detached")  # what is in force comes back
    after = compare(page)
    assert after["settings"][name] in (before["settings"][name], "1")
    assert page.get_attribute(f"[name={name}-exact]", "aria-invalid") is None


def test_it_is_accessible_in_both_modes_and_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    file = harness(tmp_path, schedule="loglinear")
    seen = Visit("explorer")
    for theme in ("light", "dark"):
        with opened(browser, file, seen) as page:
            paint = {"light": "#fff; color: #222", "dark": "#14181e; color: #ced6dd"}[theme]
            page.add_style_tag(content=f"body {{ background: {paint} }}")
            page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
            page.click("summary")
            page.add_script_tag(content=AXE.read_text("utf-8"))
            found = page.evaluate(
                "() => axe.run({preload: false}).then(result => result.violations)"
            )
            assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []
    size = {"width": PHONE, "height": 844}
    with opened(browser, file, seen, viewport=size, is_mobile=True, has_touch=True) as page:
        page.tap("summary")
        assert page.evaluate(WIDE, PHONE) == []
        heights = page.eval_on_selector_all(
            ".vcq-controls input:not([type=checkbox]), .vcq-controls select",
            "all => all.map(e => e.getBoundingClientRect().height)",
        )
        assert min(heights) >= 36
    assert seen.troubles == []


def test_paper_and_pages_without_scripts_show_the_static_picture(
    browser: Browser, tmp_path: Path
) -> None:
    file = harness(tmp_path)
    seen = Visit("explorer")
    with opened(browser, file, seen) as page:
        page.emulate_media(media="print")
        assert page.is_visible(".vcq-static") and not page.is_visible(".vcq-live")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".vcq-static").is_visible()
    context.close()
    assert seen.troubles == []
