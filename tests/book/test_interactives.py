"""The interactive figures, driven by keyboard, say what vcqlib says; paper has its own version."""

from __future__ import annotations

import io
import json
import math
import shlex
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page

import vcqlib
from browser import Visit, launched, opened
from interactive import check_readable, interactive_page
from runner.chapters import Book
from throwaway import ROOT
from vcqlib.chapters import figures, interactives, scenes
from vcqlib.theory.schedules import CONTROLS, GROWING

GENERATOR = np.random.default_rng(0)
# Rows 3 and 11 are equal throughout; the others part sooner or later.
CODES = GENERATOR.integers(0, [[2, 3, 4, 6, 9]], (16, 5))
CODES[11] = CODES[3]
TREE = {
    "arms": [{"name": "uniform", "sizes": [9] * 5, "codes": GENERATOR.integers(0, 9, (16, 5))},
             {"name": "growing <b>", "sizes": [2, 3, 4, 6, 9], "codes": CODES}],
    "labels": [f"row {i}" for i in range(16)],
    "pictures": None,
}  # fmt: skip
DESIGN = {
    "n": "3000", "length": 16, "kMin": 2, "kMax": 256, "ramp": 16, "power": 1.0, "sets": [],
    "schedule": "loglinear", "chapter": "01_cliff",
}  # fmt: skip
SIZES = {"uniform": [16] * 4, "growing": [2, 4, 8, 16]}
BITS = {arm: [0.0, *np.cumsum(np.log2(k)).tolist()] for arm, k in SIZES.items()}


def flat(rows: int, columns: int, first: int) -> tuple[np.ndarray, str]:
    """A sprite of plain grey pictures, each of another grey, and these greys [rows, columns]."""
    greys = (first + 5 * np.arange(rows * columns)).reshape(rows, columns).astype(np.uint8)
    return greys, interactives.sprite(np.tile(greys[..., None, None, None], (1, 1, 1, 8, 8)))


GREYS = {"uniform": flat(2, 5, 20), "growing": flat(2, 5, 130)}
DECODER = {
    "length": 4, "steps": [0, 1, 2, 3, 4], "images": ["shoe", "bag"],
    "original": flat(2, 1, 240)[1],
    "arms": [{"name": arm, "sprite": GREYS[arm][1], "bits": BITS[arm],
              "mse": [0.5 / (m + 1 + i) for m in range(5)]} for i, arm in enumerate(SIZES)],
}  # fmt: skip
DRAWS = {"uniform": flat(6, 5, 10), "growing": flat(6, 5, 100)}
SAMPLER = {
    "length": 4, "steps": [0, 2, 4], "images": ["shoe", "bag"], "draws": 3,
    "arms": [{"name": arm, "sprite": DRAWS[arm][1], "codes": [[1, 3, 5, 7], [0, 2, 4, 6]],
              "bits": BITS[arm][::2], "spread": [[0.3, 0.2, 0.0], [0.4, 0.1, 0.0]]}
             for arm in SIZES],
}  # fmt: skip
ROW = {"method": "loglinear", "regime": "set <a>", "measure": "gFD", "interval": "0.50 to 0.72",
       "corrected": "0.45 to 0.80", "detectable": 1.2, "verdict": "reproduced", "low": 0.5,
       "high": 0.72, "ratio": 0.6, "control": "uniform",
       "pairs": [[0.6, 1.0], [1.3, 2.0]]}  # fmt: skip
RESULTS = {
    "rows": [ROW, ROW | {"control": "matched", "ratio": 1.05, "low": None, "high": None,
                         "interval": "one seed", "pairs": [[1.05, 1.0]],
                         "verdict": "not to be told apart"},
             ROW | {"regime": "other", "ratio": 2.5}],
    "rates": {"set <a>": {"gFD": [["uniform", 32.0, 1.0, True], ["uniform-4", 16.0, 0.8, True],
                                  ["loglinear", 20.0, 0.6, False]]}},
}  # fmt: skip
PLANE = (-2.0, 2.0)
CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
SEEN = {  # arm → for each N: samples with a known code, training points that a sample repeats
    "uniform": [([1, 1, 0], [1, 0]), ([1, 0, 0], [0, 0, 1, 0])],
    "growing": [([0, 0, 0], [0, 0]), ([1, 1, 1], [1, 1, 1, 1])],
}  # fmt: skip
FILLED = np.array([[[0, 1], [2, 2]], [[0, 1], [0, 2]], [[1, 2], [1, 2]], [[2, 2], [1, 2]]])
CELLS = {
    "ns": [2, 4], "steps": 10, "side": 2, "length": 2,
    "training": scenes.packed_points(CORNERS, PLANE),
    "arms": [{"name": arm, "sizes": [2, 4], "cells": scenes.packed([0, 1, 0, 2, 1, 1, 1, 3]),
              "filled": scenes.packed(FILLED[..., 0] * 8 + FILLED[..., 1]),
              "at": [{"passes": 80 / n, "samples": scenes.packed_points(CORNERS[:3] / 2, PLANE),
                      "known": scenes.packed(known), "share": sum(known) / 3, "fresh": 0.125,
                      "repeated": scenes.packed(again), "alone": [0.25, 0.5]}
                     for n, (known, again) in zip((2, 4), both, strict=True)]}
             for arm, both in SEEN.items()],
}  # fmt: skip
PAGES = {"cells": CELLS, "prefixes": TREE, "explorer": DESIGN, "decoder": DECODER,
         "sampler": SAMPLER, "results": RESULTS}  # fmt: skip
DATA = """name => [...document.querySelectorAll(`output data.${name}`)].map(d => Number(d.value))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    kind = request.node.get_closest_marker("parametrize")
    kind = request.node.callspec.params["kind"] if kind else request.function.kind
    seen = Visit(kind)
    with opened(browser, interactive_page(tmp_path, kind, PAGES[kind]), seen) as page:
        yield page
    assert seen.troubles == []


def of(kind: str) -> Any:
    """Give a test the page of this figure."""

    def mark(test: Any) -> Any:
        test.kind = kind
        return test

    return mark


def data(page: Page, name: str) -> list[float]:
    return page.evaluate(DATA, name)


def press(page: Page, *keys: str) -> None:
    page.focus("[name=step]")
    for key in keys:
        page.keyboard.press(key)


def greys(page: Page) -> dict[str, int]:
    """Label of every picture -> grey of its middle, as it is seen."""
    centres = page.eval_on_selector_all(
        ".vcq-tile",
        """all => all.map(e => {
          const { x, y, width, height } = e.getBoundingClientRect();
          return [e.ariaLabel, scrollX + x + width / 2, scrollY + y + height / 2];
        })""",
    )
    pixels = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L")
    return {label: pixels.getpixel((int(x), int(y))) for label, x, y in centres}


# ------------------------------------------------------------------------------ what is handed over


def test_a_figure_is_refused_that_no_script_could_draw() -> None:
    static, _ = figures.axes()
    with pytest.raises(ValueError, match="unknown kind 'pie'"):
        interactives.show("pie", {}, static, "alt", "caption")
    with pytest.raises(ValueError, match="JSON"):
        interactives.show("sampler", {"x": math.nan}, static, "alt", "caption")


def test_the_same_figure_is_the_same_to_the_byte_and_escaped() -> None:
    twice = [
        interactives.show(
            "sampler", {"name": '<b>"&'}, figures.axes()[0], 'a "quoted" alt', "a < b"
        )
        for _ in range(2)
    ]
    assert twice[0].html == twice[1].html == twice[0]._repr_html_()
    assert "<b>" not in twice[0].html and 'alt="a &quot;quoted&quot; alt"' in twice[0].html
    assert repr(twice[0]) == "<interactive figure: sampler>"


@pytest.mark.parametrize("channels", [1, 3])
def test_sprites_keep_their_pictures_and_make_large_ones_small(channels: int) -> None:
    images = np.zeros((2, 3, channels, 128, 128), np.uint8)
    images += (40 * np.arange(6).reshape(2, 3, 1, 1, 1)).astype(np.uint8)
    address = interactives.sprite(images)
    sheet = Image.open(io.BytesIO(b64decode(address.removeprefix("data:image/webp;base64,"))))
    assert sheet.size == (3 * 64, 2 * 64)
    pixels = np.asarray(sheet.convert("L"), float).reshape(2, 64, 3, 64)
    middle = pixels[:, 16:48, :, 16:48].mean((1, 3))  # away from the neighbours
    assert np.abs(middle - 40 * np.arange(6).reshape(2, 3)).max() < 4
    with pytest.raises(ValueError, match="uint8"):
        interactives.sprite(images.astype(float))


# ------------------------------------------------------------------------------------ what is shown


@of("explorer")
def test_sizes_and_cliff_are_those_of_the_library(page: Page) -> None:
    rng, cases = np.random.default_rng(1), []
    for i in range(400):
        low, high = sorted(int(2**x) for x in rng.uniform(1, 16, 2))
        length = int(rng.integers(1, 65))
        cases.append({
            "schedule": (GROWING + CONTROLS)[i % 8], "length": length, "kMin": low, "kMax": high,
            "ramp": int(rng.integers(1, 2 * length + 1)), "power": float(rng.uniform(0.2, 4)),
            "n": str(low ** int(rng.integers(1, 4)) + int(rng.integers(-1, 2))),
        })  # fmt: skip
    found = page.evaluate(
        """cases => cases.map(c => {
          const sizes = vcq.codebookSizes(c);
          return [sizes, vcq.cliffPosition(BigInt(c.n), sizes)];
        })""",
        cases,
    )
    for case, (sizes, cliff) in zip(cases, found, strict=True):
        names = ("schedule", "length", "kMax", "kMin", "ramp", "power")
        expected = vcqlib.codebook_sizes(*(case[name] for name in names))
        assert sizes == expected.tolist(), case
        assert cliff == vcqlib.cliff_position(int(case["n"]), sizes), case


@of("results")
def test_the_explorer_shows_the_comparison_that_was_chosen(page: Page) -> None:
    assert data(page, "ratio") == [0.6]
    choices = "all => all.map(e => e.name)"
    assert page.eval_on_selector_all("select", choices) == ["regime", "control"]
    assert "method" not in page.inner_text("form")  # one option is no choice
    said = page.inner_text("output")
    assert said.startswith("loglinear over uniform 0.60")
    assert "0.50 to 0.72" in said and "2 seeds" in said and "0.45 to 0.80" in said
    assert page.locator("svg .dot").count() == 2 + 1  # a dot a seed, and the method by rate
    assert page.locator("svg .spent").count() == 1  # the line of uniform codebooks
    page.focus("[name=control]")
    page.select_option("[name=control]", "matched")
    assert data(page, "ratio") == [1.05]
    said = page.inner_text("output")
    assert "one seed" in said and "shown a difference of 20 %" in said
    assert page.evaluate("document.activeElement.name") == "control"
    page.select_option("[name=regime]", "other")  # has no matched arm: its control is taken
    assert data(page, "ratio") == [2.5]
    assert page.eval_on_selector_all("select", choices) == ["regime"]
    assert "loglinear over uniform" in page.inner_text("output")
    assert page.locator("svg .spent").count() == 0


def test_a_study_of_one_comparison_offers_no_choice(browser: Browser, tmp_path: Path) -> None:
    file = interactive_page(tmp_path, "results", RESULTS | {"rows": [ROW]})
    with opened(browser, file, Visit("one")) as page:
        assert page.locator("form:visible, select").count() == 0
        assert data(page, "ratio") == [0.6]


@of("explorer")
def test_the_explorer_writes_the_command_of_the_schedule_it_shows(page: Page) -> None:
    declared = Book(ROOT / "book").select(["01"])[0].declared()
    page.check("[name=all]")
    page.click("summary")

    def check() -> dict[str, Any]:
        words = shlex.split(page.inner_text("code"))
        assert words[:3] == ["papermill", "book/01_cliff.ipynb", "out.ipynb"]
        given = {name: json.loads(value) if value[0].isdigit() else value
                 for name, value in zip(words[4::3], words[5::3], strict=True)}  # fmt: skip
        assert set(words[3::3]) == {"-p"} and set(given) <= set(declared)
        n = given.pop("n_images")
        sizes = vcqlib.codebook_sizes(**given)
        column = "all => all.map(row => Number(row.querySelector('data').value))"
        assert page.eval_on_selector_all("tbody tr", column) == sizes.tolist()
        assert data(page, "held") == pytest.approx([vcqlib.cumulative_capacity(sizes)[-1]])
        assert data(page, "search") == [sizes.sum()]
        cliff = vcqlib.cliff_position(n, sizes)
        shown = page.get_attribute("output data.cliff", "value")
        assert shown == ("none" if cliff is None else str(cliff))
        return given | {"n_images": n}

    assert check() == {"schedule": "loglinear", "length": 16, "k_max": 256, "k_min": 2,
                       "n_images": 3000}  # fmt: skip
    for name, key, parameter, expected in (
        ("kMax", "ArrowRight", "k_max", 512), ("kMin", "ArrowRight", "k_min", 4),
        ("length", "ArrowLeft", "length", 15), ("ramp", "ArrowLeft", "ramp", 14),
        ("power", "ArrowRight", "power", 1.25), ("n", "End", "n_images", 10**12),
    ):  # fmt: skip
        page.focus(f"[name={name}][type=range]")
        page.keyboard.press(key)
        assert check()[parameter] == pytest.approx(expected)
    page.fill("[name=power-exact]", "0.3")
    assert check()["power"] == 0.3
    for schedule in GROWING:
        page.select_option("[name=schedule]", schedule)
        assert check()["schedule"] == schedule
    assert page.is_disabled("[name=power]")  # only the log-linear ramp has one
    page.fill("[name=length-exact]", "2")
    page.fill("[name=kMax-exact]", "4")
    check()
    assert "No cliff" in page.inner_text("output")
    page.select_option("[name=schedule]", "loglinear")
    page.focus("[name=power-exact]")
    page.fill("[name=power-exact]", "0")
    assert "power must be a number from 0.01" in page.inner_text("output")


@of("explorer")
def test_the_command_can_be_copied_with_the_keyboard(page: Page) -> None:
    page.focus("button:has-text('Copy')")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('[role=status]').textContent")
    assert page.inner_text("[role=status]") in ("Copied.", "Marked: press Ctrl+C.")


@of("prefixes")
def test_the_prefix_tree_counts_like_the_library(page: Page) -> None:
    page.click("summary")
    for i, arm in enumerate(TREE["arms"]):
        page.select_option("[name=arm]", str(i))
        press(page, "Home")
        assert "log₂ 16 = 4.00 bits" in page.inner_text("output")
        expected = vcqlib.conditional_entropy(arm["codes"])
        for t in range(1, 6):
            press(page, "ArrowRight")
            assert data(page, "t") == [t]
            assert data(page, "bits") == pytest.approx([expected.bits[t - 1]], abs=1e-12)
            assert data(page, "spent") == pytest.approx([expected.bits[:t].sum()], abs=1e-12)
            assert data(page, "prefixes") == [expected.distinct_prefixes[t - 1]]
            assert data(page, "alone") == pytest.approx([16 * expected.unique_share[t - 1]])
        table = page.eval_on_selector_all(
            "tbody tr", "all => all.map(r => [...r.querySelectorAll('data')].map(d => +d.value))"
        )
        columns = [arm["sizes"], expected.distinct_prefixes, 16 * expected.unique_share]
        columns += [expected.bits, expected.bits.cumsum()]
        np.testing.assert_allclose(np.asarray(table).T, columns, atol=1e-12)
    groups = page.get_attribute("svg[role=img]", "aria-label")
    assert "row 3, row 11" in groups and page.locator("svg circle.alone").count() == 14


@of("decoder")
def test_the_decoder_shows_the_picture_of_the_prefix_it_names(page: Page) -> None:
    for m in range(5):
        press(page, "ArrowRight" if m else "Home")
        assert data(page, "m") == [m, m]
        assert data(page, "bits") == [BITS[arm][m] for arm in SIZES]
        assert data(page, "mse") == [arm["mse"][m] for arm in DECODER["arms"]]
        expected = {
            f"{image}, {arm}, first {m} codes": int(GREYS[arm][0][row, m])
            for row, image in enumerate(DECODER["images"])
            for arm in SIZES
        } | {"shoe, original": 240, "bag, original": 245}
        assert greys(page) == pytest.approx(expected, abs=2)


@of("decoder")
def test_at_equal_bits_each_arm_shows_the_longest_prefix_it_can_afford(page: Page) -> None:
    press(page, "Home", "ArrowRight")
    page.select_option("[name=by]", "bits")
    assert data(page, "m") == [1, 2]  # the first arm stays where it was: 4 bits
    for budget in range(17):
        press(page, "ArrowRight" if budget else "Home")
        assert f"at most {budget} bits" in page.inner_text("output")
        fits = [max(m for m in range(5) if BITS[arm][m] <= budget) for arm in SIZES]
        assert data(page, "m") == fits
    page.select_option("[name=by]", "codes")
    assert data(page, "m") == [4, 4]


@of("sampler")
def test_the_board_keeps_a_prefix_and_shows_the_draws_that_share_it(page: Page) -> None:
    for image in range(2):
        page.select_option("[name=image]", str(image))
        for step, m in enumerate(SAMPLER["steps"]):
            press(page, "ArrowRight" if step else "Home")
            assert data(page, "m") == [m]
            assert data(page, "bits") == [BITS[arm][m] for arm in SIZES]
            assert data(page, "spread") == [arm["spread"][image][step] for arm in SAMPLER["arms"]]
            codes = page.locator(".vcq-codes").first.locator("li").all_inner_texts()
            kept = [str(c) for c in SAMPLER["arms"][0]["codes"][image][:m]]
            assert codes == kept + ["?"] * (4 - m)
            names = ["decoded from all its codes", "mean of the draws"]
            names += [f"draw {i}" for i in (1, 2, 3)]
            expected = {
                f"{SAMPLER['images'][image]}, {arm}: {name}": int(
                    DRAWS[arm][0][3 * image + step, i]
                )
                for arm in SIZES
                for i, name in enumerate(names)
            }
            assert greys(page) == pytest.approx(expected, abs=2)


@of("cells")
def test_the_plane_shows_cells_samples_and_memorised_points(page: Page) -> None:
    for i, both in enumerate(SEEN.values()):
        page.select_option("[name=arm]", str(i))
        for k, (known, again) in enumerate(both):
            press(page, "Home", *["ArrowRight"] * k)
            n = CELLS["ns"][k]
            assert data(page, "n") == [n] and data(page, "fresh") == [0.125]
            assert data(page, "share") == pytest.approx([sum(known) / 3])
            circles = {name: page.locator(f"svg circle{name}").count()
                       for name in (".new", ".copy", ".training", ".full")}  # fmt: skip
            assert circles == {".new": 3 - sum(known), ".copy": sum(known), ".training": n,
                               ".full": sum(again)}  # fmt: skip
            for m in range(3):
                page.fill("[name=m]", str(m))
                assert data(page, "m") == [m]
                assert data(page, "alone") == [[0, 0.25, 0.5][m]]
                cells = [page.get_attribute(f"svg .cell-{kind}", "d").count("M")
                         for kind in ("one", "several")]  # fmt: skip
                first, second = (FILLED[:, m - 1, j] <= k for j in (0, 1))
                assert cells == ([(first & ~second).sum(), second.sum()] if m else [0, 4])
                edges = page.get_attribute("svg .edge", "d").count("M")
                assert edges == [0, 2, 4][m]  # two halves, then four quarters
        assert "growing" in page.inner_text("output") or not i


# ------------------------------------------------------------------------------------- every figure


@pytest.mark.parametrize("kind", [kind for kind in PAGES if kind not in ("explorer", "results")])
def test_buttons_step_as_the_slider_does_and_stop_at_the_ends(page: Page, kind: str) -> None:
    press(page, "Home")
    at = "() => Number(document.querySelector('[name=step]').value)"
    first, spoken = page.evaluate(at), page.get_attribute("[name=step]", "aria-valuetext")
    assert page.get_attribute("[data-by='-1']", "aria-disabled") == "true"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(at) == first + 1
    assert page.get_attribute("[name=step]", "aria-valuetext") != spoken
    for _ in range(2):  # the second time it says that it is disabled, and does nothing
        page.click("[data-by='-1']", force=True)
        assert page.evaluate(at) == first


@pytest.mark.parametrize("kind", PAGES)
def test_figures_are_accessible_fit_a_phone_and_have_a_static_version(
    browser: Browser, tmp_path: Path, kind: str
) -> None:
    file, seen = interactive_page(tmp_path, kind, PAGES[kind]), Visit(kind)
    twin = file.read_text("utf-8")
    start, end = twin.index('<div class="vcq '), twin.index("<script ")
    file.write_text(twin[:start] + 2 * twin[start:end] + twin[end:], "utf-8")  # two on a page
    with opened(browser, file, seen) as page:
        ids = page.eval_on_selector_all("[id]", "all => all.map(e => e.id)")
        assert len(ids) == len(set(ids))
        assert page.locator("output[aria-live=polite]").count() == 2
        assert page.locator(".vcq-static:visible").count() == 0
        page.emulate_media(media="print")
        assert page.locator(".vcq-static:visible").count() == 2
        assert page.locator(".vcq-live:visible").count() == 0
        page.emulate_media(media="screen")
        page.evaluate("() => document.querySelector('.vcq').remove()")
        check_readable(page)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".vcq-static:visible img").count() == 2
    context.close()
    assert seen.troubles == []


@pytest.mark.book
@pytest.mark.parametrize(
    ("chapter", "kinds"),
    [("01_cliff", {"explorer", "prefixes"}), ("05_tokenizer", {"decoder"}),
     ("06b_known_world", {"cells"}), ("08_coarse_to_fine", {"sampler"})],
)  # fmt: skip
def test_the_books_own_figures_come_to_life(
    browser: Browser, chapter: str, kinds: set[str]
) -> None:
    file, seen = ROOT / "build" / "smoke" / "html" / f"{chapter}.html", Visit(chapter)
    with opened(browser, file, seen) as page:
        for kind in kinds:
            assert page.locator(f".vcq-{kind}[data-ready] .vcq-live").count() == 1
            assert page.locator(f".vcq-{kind} output").inner_text()
    assert seen.troubles == []
