"""What each parameter of the chapters may be: one table, one check, one line for what is wrong.

    from vcqlib import parameters
    parameters.check(globals())  # first of all, after a chapter's parameters cell

`Experiment.of_parameters(globals())` does the same check. Nothing is loaded by it: no model, no
data, and torch only for the names of model sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from ..checks import unknown_name
from ..files import user_path
from ..theory.schedules import codebook_sizes

IMAGES = {"fashion-mnist": 60_000, "mnist": 60_000, "cifar10": 50_000, "digits": 1437}  # train
LONGEST, MANY = 65_536, 10**9


class Rule(NamedTuple):
    """`allowed` in words, as in "seed must be …"; `accepts` says whether a value is that."""

    allowed: str
    accepts: Callable[[Any], bool]


def _whole(low: int, high: int = MANY, none: bool = False) -> Rule:
    def accepts(value: Any) -> bool:
        if value is None:
            return none
        return isinstance(value, Integral) and not isinstance(value, bool) and low <= value <= high

    words = f"a whole number of at least {low} and at most {high:,}"
    return Rule(words + (", or None" if none else ""), accepts)


def _number(allowed: str, fits: Callable[[float], bool]) -> Rule:
    def accepts(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        return abs(value) < 1e300 and fits(value)

    return Rule(allowed, accepts)


def _dataset(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    drawn = re.fullmatch(r"synthetic:([1-9]\d{0,3})x[134]", value)
    return value in IMAGES or bool(drawn) or value.removeprefix("folder:") not in ("", value)


def _schedule(value: Any) -> bool:
    """A name, looked up later, or whole numbers, held against the length and k_max later."""
    if isinstance(value, str):
        return True
    return isinstance(value, list | tuple) and all(type(k) is int for k in value)


def _text(value: Any) -> bool:
    from ..data.texts import TEXTS

    known = {*TEXTS, "python"}
    return isinstance(value, str) and (value in known or value.startswith("file:"))


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_text, value))


POSITIVE = _number("a finite number above 0", lambda x: x > 0)
DATASET = Rule("fashion-mnist, mnist, digits, cifar10, folder:PATH or synthetic:SIZExCHANNELS "
               "(1, 3 or 4 of these)", _dataset)  # fmt: skip
SCHEDULE = Rule("a name or a list of whole numbers", _schedule)


def _name(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[\w-]+", value))


NAME = Rule("the name of a record or study in data/results", _name)
TEXT = "shakespeare, kjv, handbook-en (-de, -fr, -ja), python or file:PATH"
RULES = {
    "dataset": DATASET,
    "n_images": _whole(2, 10**15),
    "image_size": _whole(1, 4096, none=True),
    "schedule": SCHEDULE,
    "of": SCHEDULE,
    "length": _whole(1, LONGEST),
    "k_max": _whole(2, 2**32),
    "k_min": _whole(2, 2**32),
    "ramp": _whole(1, none=True),
    "power": POSITIVE,
    "seed": _whole(0, 2**31 - 1),
    "code_dim": _whole(1, LONGEST),
    "balance": Rule("True or False", lambda value: isinstance(value, bool)),
    "tokenizer_steps": _whole(1),
    "tokenizer_batch": _whole(1),
    "tokenizer_images": _whole(2, 10**15, none=True),
    "ar_steps": _whole(1),
    "ar_batch": _whole(1),
    "dropout": _number("in [0, 1)", lambda x: 0 <= x < 1),
    "n_samples": _whole(1),
    "codes": Rule("None or the path of a file of tokens",
                  lambda value: value is None or (isinstance(value, str) and value != "")),
    "n_simulated": _whole(64, 2**31 - 1),
    "n_windows": _whole(2),
    "texts": Rule(f"a list of {TEXT}", _texts),
    "modelled": Rule(f"a list of {TEXT}", _texts),
    "text": Rule(TEXT, _text),
    "text_chars": _whole(1000, 10**10),
    "long_length": _whole(1, LONGEST),
    "collapse_steps": _whole(1),
    "collapse_seeds": _whole(1, 1000),
    "n_probe": _whole(1),
    "n_seeds": _whole(1, 1000),
    "full_images": _whole(1, 10**15),
    "full_length": _whole(2, LONGEST),
    "full_k_max": _whole(2, 2**32),
    "ar_steps_full": _whole(1),
    "ar_batch_full": _whole(1),
    "tokenizer_epochs": _whole(1),
    "crops": _whole(1),
    "sustained_tflops": POSITIVE,
    "bandwidth_tb": POSITIVE,
    "gpus": _whole(1),
    "n_live": _whole(2),
    "record": NAME,
    "study": NAME,
    "variable": Rule("the name of an arm", NAME.accepts),
}  # fmt: skip


def check(values: Mapping[str, Any]) -> None:
    """Refuse the first parameter among `values` that is impossible; other names are left alone.

    Ranges first, then combinations: the schedule with length and k_max, the number of images with
    the data set, and files of the user's own that have to exist.

    Raises:
        ValueError: one line with the name, what is allowed, and the value.
        FileNotFoundError: a folder or file that a parameter names does not exist.
    """
    check_ranges(values)
    held = IMAGES.get(values.get("dataset"), math.inf)
    for name in ("n_images", "tokenizer_images"):
        if (values.get(name) or 0) > held:
            where = values["dataset"]
            raise ValueError(f"{name} must be at most {held}, as {where} has, got {values[name]}")
    for name in ("dataset", "codes", "text", "texts", "modelled"):
        given = values.get(name)
        for value in given if isinstance(given, list | tuple) else [given]:
            kind, _, path = str(value).partition(":")
            own = kind in ("folder", "file") or (name == "codes" and value is not None)
            path = str(value) if name == "codes" else path
            if own and not _exists(path):
                raise FileNotFoundError(
                    f"{name} = {_shown(value)}: there is no such file or folder"
                )


def check_ranges(values: Mapping[str, Any]) -> None:
    """The part of `check` that looks at no file; `Experiment` calls it with its fields."""
    for name, rule in RULES.items():
        if name in values and not rule.accepts(values[name]):
            raise ValueError(f"{name} must be {rule.allowed}, got {_shown(values[name])}")
    for name in ("tokenizer", "ar", "device"):
        if name in values:
            _check_choice(name, values[name])
    if {"schedule", "length", "k_max"} <= values.keys():
        more = {name: values[name] for name in ("k_min", "ramp", "power", "of") if name in values}
        codebook_sizes(values["schedule"], values["length"], values["k_max"], **more)
    n, trained = values.get("n_images"), values.get("tokenizer_images")
    if trained is not None and n is not None and trained < n:
        raise ValueError(f"tokenizer_images {trained} must be at least n_images {n}, or None")
    if values.get("balance") and values.get("tokenizer_batch") == 1:
        raise ValueError("tokenizer_batch must be at least 2 where balance is True, got 1")


def _check_choice(name: str, value: Any) -> None:
    known = ("auto", "cpu", "cuda")
    if name == "tokenizer":
        from ..models.tokenizer import PRESETS as known
    elif name == "ar":
        from ..models.autoregressive import PRESETS as known
    if not isinstance(value, str) or value not in known:
        raise unknown_name(name, value, known)


def _exists(path: str) -> bool:
    try:
        return user_path(path).exists()
    except (OSError, ValueError):  # too long, a NUL byte, no such user
        return False


def _shown(value: Any) -> str:
    """repr on one line, of a length that fits one."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 120 else f"{text[:100]}… ({type(value).__name__})"
