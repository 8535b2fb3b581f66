"""One table says what every chapter's parameters may be, and one line what is wrong."""

from __future__ import annotations

import math

import pytest

from rerun import BOOK
from runner import profiles
from vcqlib.chapters.parameters import check, known

CHAPTERS = {chapter.name: chapter.declared() for chapter in BOOK.chapters()}


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_parameter_is_known_and_has_a_fitting_default(name: str) -> None:
    assert CHAPTERS[name].keys() <= known().keys()
    check(dict(CHAPTERS[name]))


@pytest.mark.parametrize("name", ["smoke", "cpu", "gpu", "paper"])
def test_what_the_profiles_set_is_allowed(name: str) -> None:
    profile = profiles.load(name, BOOK.folder / "profiles")
    for chapter in BOOK.chapters():
        values = chapter.declared() | profile.for_chapter(chapter, {})
        if str(values.get("dataset")).startswith("folder:"):  # the user's own
            values["dataset"] = "folder:/"
        check(values)


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_chapter_checks_before_it_does_anything(name: str) -> None:
    from torture.fuzz import validation

    (chapter,) = BOOK.select([name])
    statements = validation(chapter.read()).body
    head = compile(validation(chapter.read()), name, "exec")
    wrong = dict.fromkeys(CHAPTERS[name], "x" * 300) | {
        "schedule": 3.5,
        "dataset": 1,
        "record": 5,
        "study": 5,
    }
    with pytest.raises(ValueError, match="must be|unknown"):
        exec(head, {k: v for k, v in wrong.items() if k in CHAPTERS[name]})
    assert len(statements) >= 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_images": 1}, "n_images must be at least 2, got 1$"),
        ({"n_images": None}, "n_images must be a whole number, got None$"),
        ({"n_images": True}, "n_images must be .* got True$"),
        ({"length": 10**9}, "length must be at most 65536, got 1000000000$"),
        ({"seed": -1}, "seed must be at least 0, got -1$"),
        ({"seed": 10**5000}, "seed must be .* got a number of 16610 bits$"),
        ({"image_size": 0}, "image_size must be at least 1, got 0$"),
        ({"power": math.inf}, "power must be a finite number, got inf$"),
        ({"power": math.nan}, "got nan$"),
        ({"dropout": 1}, r"dropout must be below 1, got 1$"),
        ({"balance": 1}, "balance must be a valid boolean, got 1$"),
        ({"dataset": "cifar"}, "dataset must be fashion-mnist, .* got 'cifar'$"),
        ({"dataset": "folder:"}, "got 'folder:'$"),
        ({"dataset": "synthetic:0x3"}, "got 'synthetic:0x3'$"),
        ({"dataset": "digits", "n_images": 1438}, "n_images must be at most 1437, as digits has"),
        ({"dataset": "folder:/no/such"}, "dataset = 'folder:/no/such': there is no such"),
        ({"codes": "/no/such.npy"}, "codes = '/no/such.npy': there is no such"),
        ({"texts": []}, "texts must have at least 1 item, got .."),
        ({"modelled": ["kjv", "latin"]}, "modelled must be .* got 'latin'$"),
        ({"text": "file:/no/such"}, "text = 'file:/no/such': there is no such"),
        ({"schedule": [2, 2.5]}, "schedule must be a name or a list of whole numbers"),
        ({"schedule": "x", "length": 2, "k_max": 4}, "unknown schedule 'x'"),
        ({"schedule": [2, 9], "length": 2, "k_max": 4}, "K_2 = 9 is outside 2..4"),
        (
            {"schedule": "linear", "length": 2, "k_max": 4, "k_min": 5},
            "k_min must be at most k_max = 4, got 5",
        ),
        ({"tokenizer": "mpl"}, "unknown tokenizer 'mpl': did you mean 'mlp'"),
        ({"ar": None}, "ar must be a valid string, got None"),
        ({"device": "tpu"}, "device must be 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ({"tokenizer_images": 5, "n_images": 6}, "tokenizer_images 5 must be at least n_images 6"),
        ({"balance": True, "tokenizer_batch": 1}, "tokenizer_batch must be at least 2"),
        ({"n_images": {"a": 1}}, "n_images must be a whole number, got {'a': 1}$"),
        ({"seed": print}, "seed must be a whole number, got <built-in function print>$"),
        ({"record": "../x"}, "record must match pattern .* got '../x'$"),
        ({"seed": "a" * 500}, r"got '.{99}… \(str\)$"),
    ],
)
def test_what_is_wrong_is_said_with_name_range_and_value(values: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refused:
        check(values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [("k_maxx", "'k_max'"), ("n_imags", "'n_images'"), ("schedul", "'schedule'")],
)
def test_a_misspelled_parameter_is_refused_by_name(name: str, near: str) -> None:
    """As plain papermill injects it, which declares whatever it is told."""
    with pytest.raises(ValueError, match=f"unknown parameter '{name}': did you mean {near}"):
        check({"np": math, name: 3})


def test_a_cell_may_be_run_again_after_the_others() -> None:
    notebook = {"n_images": 500, "seed": 1, "math": math}
    check(notebook)
    notebook |= {"t_star": 3, "sizes": [2, 4], "codes": object()}  # what other cells leave
    check(notebook)
    with pytest.raises(ValueError, match="n_images must be at least 2, got 1"):
        check(notebook | {"n_images": 1})


def test_what_is_right_is_taken_and_what_is_no_parameter_is_left() -> None:
    check({"dataset": "synthetic:32x3", "n_images": 10**6, "np": math, "ROWS": 3, "ramp": None,
           "_x": 1})  # fmt: skip
    check({"dataset": "folder:/", "schedule": (2, 4), "length": 2, "k_max": 4, "power": 2})
    check({"schedule": "[2, 4]", "length": 2, "k_max": 4})  # as papermill's -p gives it
