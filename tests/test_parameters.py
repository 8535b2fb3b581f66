"""One table says what every chapter's parameters may be, and one line what is wrong."""

from __future__ import annotations

import math

import pytest

from rerun import BOOK
from runner import profiles
from vcqlib.chapters.parameters import RULES, check, check_ranges

CHAPTERS = {chapter.name: chapter.declared() for chapter in BOOK.chapters()}
CHOICES = {"tokenizer", "ar", "device"}  # looked up among the presets


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_parameter_has_a_rule_and_a_fitting_default(name: str) -> None:
    assert CHAPTERS[name].keys() <= RULES.keys() | CHOICES
    check(CHAPTERS[name])


@pytest.mark.parametrize("name", ["smoke", "cpu", "gpu", "paper"])
def test_what_the_profiles_set_is_allowed(name: str) -> None:
    profile = profiles.load(name, BOOK.folder / "profiles")
    for chapter in BOOK.chapters():
        check_ranges(chapter.declared() | profile.for_chapter(chapter, {}))


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
        ({"n_images": 1}, "n_images must be a whole number of at least 2 .*, got 1$"),
        ({"n_images": True}, "n_images must be .* got True$"),
        ({"length": 10**9}, "length must be .* at most 65,536, got 1000000000$"),
        ({"seed": -1}, "seed must be a whole number of at least 0 .* got -1$"),
        ({"seed": 10**5000}, "seed must be .* got a number of 16610 bits$"),
        ({"image_size": 0}, "image_size must be .*, or None, got 0$"),
        ({"power": math.inf}, "power must be a finite number above 0, got inf$"),
        ({"power": math.nan}, "got nan$"),
        ({"dropout": 1}, r"dropout must be in \[0, 1\), got 1$"),
        ({"balance": 1}, "balance must be True or False, got 1$"),
        ({"dataset": "cifar"}, "dataset must be fashion-mnist, .* got 'cifar'$"),
        ({"dataset": "folder:"}, "got 'folder:'$"),
        ({"dataset": "synthetic:0x3"}, "got 'synthetic:0x3'$"),
        ({"dataset": "digits", "n_images": 1438}, "n_images must be at most 1437, as digits has"),
        ({"dataset": "folder:/no/such"}, "dataset = 'folder:/no/such': there is no such"),
        ({"codes": "/no/such.npy"}, "codes = '/no/such.npy': there is no such"),
        ({"texts": []}, "texts must be a list of .* got"),
        ({"modelled": ["kjv", "latin"]}, "modelled must be .* got .'kjv', 'latin'.$"),
        ({"text": "file:/no/such"}, "text = 'file:/no/such': there is no such"),
        ({"schedule": [2, 2.5]}, "schedule must be a name or a list of whole numbers"),
        ({"schedule": "x", "length": 2, "k_max": 4}, "unknown schedule 'x'"),
        ({"schedule": [2, 9], "length": 2, "k_max": 4}, "K_2 = 9 is outside 2..4"),
        ({"schedule": "linear", "length": 2, "k_max": 4, "k_min": 5}, "k_min=5, k_max=4"),
        ({"tokenizer": "mpl"}, "unknown tokenizer 'mpl': did you mean 'mlp'"),
        ({"ar": None}, "unknown ar None"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"tokenizer_images": 5, "n_images": 6}, "tokenizer_images 5 must be at least n_images 6"),
        ({"balance": True, "tokenizer_batch": 1}, "tokenizer_batch must be at least 2"),
        ({"record": "../x"}, "record must be the name .* got '../x'$"),
        ({"seed": "a" * 500}, r"got '.{99}… \(str\)$"),
    ],
)
def test_what_is_wrong_is_said_with_name_range_and_value(values: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refused:
        check(values)
    assert "\n" not in str(refused.value)


def test_what_is_right_is_taken_and_other_names_are_left() -> None:
    check({"dataset": "synthetic:32x3", "n_images": 10**6, "np": math, "title": 3, "ramp": None})
    check({"dataset": "folder:/", "schedule": (2, 4), "length": 2, "k_max": 4, "power": 2})
