"""The model in the page computes what vcqlib computes, and is driven by keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page

from browser import Visit, launched, opened
from interactive import check_readable, interactive_page
from vcqlib import cliff_position, load_pretrained
from vcqlib.chapters import page_model
from vcqlib.study.pretrained import Pretrained

NAMES = ("uniform", "loglinear")  # one head over all codes, and one that grows
LOGITS = """async ([i, codes, label]) => {
  const arm = CONFIG.models[i], model = await vcq.drawing.load(arm);
  const reader = vcq.drawing.reader(model, label);
  return codes.map((code, t) => {
    const logits = reader.logits(arm.sizes[t]);
    reader.take(code);
    return [...logits];
  });
}"""


@pytest.fixture(scope="module")
def models() -> dict[str, Pretrained]:
    return {name: load_pretrained(name) for name in NAMES}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        text = page_model.script(name)
        assert len(text) <= 1.5e6
        (folder / f"model-{name}.js").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def config(models: dict[str, Pretrained], files: Path) -> dict[str, Any]:
    n = models["uniform"].card["configuration"]["n_images"]
    return {
        "models": [
            {"name": name, "label": f"{name} <b>", "sizes": m.card["sizes"],
             "file": (files / f"model-{name}.js").as_uri(),
             "cliff": cliff_position(n, m.card["sizes"])}
            for name, m in models.items()
        ],
        "classes": models["uniform"].card["classes"],
        "n": n, "megabytes": 0.8, "temperature": 1.0, "guidance": 1.0, "seed": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, config: dict[str, Any], tmp_path: Path) -> Iterator[Page]:
    file, seen = interactive_page(tmp_path, "draw", config), Visit("draw")
    with opened(browser, file, seen, reduced_motion="reduce", has_touch=True) as page:
        page.evaluate(f"() => {{ window.CONFIG = {json.dumps(config)}; }}")
        yield page
    assert seen.troubles == []


def ready(page: Page) -> None:
    page.wait_for_selector("[data-state=ready]")


def drawn(page: Page) -> list[int]:
    """The codes that are shown."""
    return [int(text) for text in page.locator(".vcq-codes li.kept").all_inner_texts()]


def data(page: Page, name: str) -> float:
    return float(page.get_attribute(f"output data.{name}", "value"))


@pytest.mark.parametrize("i", range(len(NAMES)))
def test_logits_are_those_of_the_library(i: int, page: Page, models: dict[str, Pretrained]) -> None:
    m = models[NAMES[i]]
    for label in (0, 7, m.ar.null_label):
        codes = m.ar.generate([min(label, 9)], generator=torch.Generator().manual_seed(label))
        with torch.no_grad():
            expected = m.ar.logits(codes, torch.tensor([label]))[0].numpy()
        found = page.evaluate(LOGITS, [i, codes[0].tolist(), label])
        for t, size in enumerate(m.card["sizes"]):
            assert len(found[t]) == size
            np.testing.assert_allclose(found[t], expected[t, :size], atol=1e-3)


@pytest.mark.parametrize("i", range(len(NAMES)))
def test_pictures_are_those_of_the_library(
    i: int, page: Page, models: dict[str, Pretrained]
) -> None:
    m = models[NAMES[i]]
    codes = m.ar.generate([3], generator=torch.Generator().manual_seed(1))
    for length in (0, 1, 5, 16):
        with torch.no_grad():
            expected = m.tokenizer.decode(codes[:, :length])[0].flatten().numpy()
        found = page.evaluate(
            """async ([i, codes]) =>
              [...vcq.drawing.decode(await vcq.drawing.load(CONFIG.models[i]), codes)]""",
            [i, codes[0, :length].tolist()],
        )
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_guidance_and_temperature_shape_the_distribution_as_in_the_library(
    page: Page, models: dict[str, Pretrained]
) -> None:
    m = models["loglinear"]
    found = page.evaluate(
        """async () => {
          const arm = CONFIG.models[1], model = await vcq.drawing.load(arm);
          const made = vcq.drawing.sample(model, arm.sizes,
            {label: 5, temperature: 0.7, guidance: 2, prefix: [1, 2], random: () => 0.4});
          return [made.codes, made.shares.map(share => [...share])];
        }"""
    )
    codes = torch.tensor([found[0]])
    assert found[0][:2] == [1, 2]
    with torch.no_grad():
        told, free = (m.ar.logits(codes, torch.tensor([y]))[0] for y in (5, m.ar.null_label))
    for t, size in enumerate(m.card["sizes"]):
        logits = (free + 2 * (told - free))[t, :size] / 0.7
        share = logits.softmax(-1).double()
        np.testing.assert_allclose(found[1][t], share.numpy(), atol=1e-3)
        if t >= 2:  # the inverse of the distribution's sums
            below = float(share[: found[0][t]].sum())
            assert below - 1e-3 <= 0.4 <= below + float(share[found[0][t]]) + 1e-3


def test_nothing_is_fetched_before_a_picture_is_asked_for(page: Page, config: dict) -> None:
    assert page.locator("script[src*=model-]").count() == 0
    assert "Nothing drawn yet" in page.inner_text("output")
    page.focus("[data-act=draw]")
    page.keyboard.press("Enter")
    ready(page)
    assert page.locator("script[src*=model-]").count() == 1
    assert len(drawn(page)) == 16 and data(page, "m") == 16


def test_a_kept_prefix_stays_and_the_rest_is_drawn_again(
    page: Page, models: dict[str, Pretrained], config: dict
) -> None:
    page.select_option("[name=model]", "1")
    page.select_option("[name=label]", "8")
    page.tap("[data-act=draw]")
    ready(page)
    assert page.get_attribute("[data-act=again]", "aria-disabled") == "true"  # all are kept
    whole = drawn(page)
    page.focus("[name=step]")
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    assert drawn(page) == whole[:4] and data(page, "m") == 4
    m = models["loglinear"]
    with torch.no_grad():
        logits = m.ar.logits(torch.tensor([whole]), torch.tensor([8]))[0, 3, :5]
    p = logits.softmax(-1).double()
    assert data(page, "bits") == pytest.approx(float(-(p * p.log2()).sum()), abs=2e-3)
    page.focus("[data-act=again]")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.vcq-draws li').length === 2")
    ready(page)
    after = drawn(page)
    assert after[:4] == whole[:4] and after != whole
    assert "4 codes kept" in page.inner_text(".vcq-draws li >> nth=0")
    assert (np.asarray(after) < np.asarray(m.card["sizes"])).all()


def test_the_nearest_training_image_is_the_nearest(
    page: Page, models: dict[str, Pretrained], files: Path
) -> None:
    page.click("[data-act=draw]")
    ready(page)
    m, codes = models["uniform"], torch.tensor([drawn(page)])
    stored = page.evaluate(
        """async () => {
          const model = await vcq.drawing.load(CONFIG.models[0]);
          return [[...model.codes.data], [...model.labels.data]];
        }"""
    )
    rows, labels = torch.tensor(stored[0]).view(-1, 16), torch.tensor(stored[1])
    rows = rows[labels == 0]
    with torch.no_grad():
        errors = (m.tokenizer.decode(rows) - m.tokenizer.decode(codes)).square().flatten(1).mean(1)
    assert data(page, "error") == pytest.approx(float(errors.min()), abs=1e-3)
    assert data(page, "equal") == int((rows[errors.argmin()] == codes[0]).sum())
    page.focus("[name=step]")
    page.keyboard.press("Home")
    assert data(page, "sharing") == len(labels)  # the empty prefix is everyone's


def test_a_setting_draws_anew_with_the_same_numbers(page: Page) -> None:
    page.click("[data-act=draw]")
    ready(page)
    first = drawn(page)
    for value in ("0.1", "1"):
        page.evaluate(
            """value => {
              const field = document.querySelector("[name=temperature]");
              field.value = value;
              field.dispatchEvent(new Event("input", { bubbles: true }));
              field.dispatchEvent(new Event("change", { bubbles: true }));
            }""",
            value,
        )
        page.wait_for_function("document.querySelector('[data-state=ready]')")
    assert drawn(page) == first
    page.click("[data-act=draw]")
    page.wait_for_function("document.querySelectorAll('.vcq-draws li').length === 4")
    assert drawn(page) != first


def test_a_missing_file_is_said_on_the_page(
    browser: Browser, config: dict[str, Any], tmp_path: Path
) -> None:
    gone = config | {"models": [config["models"][0] | {"file": "nowhere.js"}]}
    with opened(browser, interactive_page(tmp_path, "draw", gone), Visit("gone")) as page:
        page.click("[data-act=draw]")
        page.wait_for_selector("[data-state=failed]")
        assert "nowhere.js could not be loaded" in page.inner_text("output")


def test_it_is_accessible_and_fits_a_phone(page: Page) -> None:
    page.click("[data-act=draw]")
    ready(page)
    check_readable(page)
