"""The parameters of the chapters: checked before anything runs, with one line for what is wrong.

    from vcqlib.chapters import parameters
    parameters.check(globals())                  # first of all, after the parameters cell
    base = parameters.experiment(globals())      # the same, and the experiment they describe

A parameter is a setting of a run (`study.configuration`) under its flat name, or one of `Own`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ..checks import one_of, shown
from ..data.image_sets import own_files
from ..data.texts import TEXTS
from ..files import existing_path
from ..settings import Real, Setting, Whole, flat, setting, settings
from ..settings import check as check_one
from ..study.configuration import Configuration

if TYPE_CHECKING:
    from ..study.experiment import Experiment

TEXT_NAMES = "shakespeare, kjv, handbook-en (-de, -fr, -ja), python or file:PATH"


def _text(value: str) -> str:
    if value not in {*TEXTS, "python"} and not value.startswith("file:"):
        raise ValueError(f"should be {TEXT_NAMES}")
    return value


Text = Annotated[str, AfterValidator(_text)]
Texts = Annotated[list[Text], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[\w-]+$")]


@settings
class Own:
    """What only a chapter has, or has of its own kind."""

    n_images: Whole = setting(3000, "images, which a chapter counts", ge=2, le=10**15)
    codes: Annotated[str, Field(min_length=1)] | None = setting(None, "a file of tokens, or None")
    n_simulated: Whole = setting(200_000, "sequences of the simulation", ge=64, lt=2**31)
    n_windows: Whole = setting(2000, "windows of each text", ge=2)
    texts: Texts = setting(None, f"texts, of {TEXT_NAMES}")
    modelled: Texts = setting(None, f"texts that a model learns, of {TEXT_NAMES}")
    text: Text = setting("shakespeare", TEXT_NAMES)
    text_chars: Whole = setting(10**6, "characters read of a text", ge=1000, le=10**10)
    collapse_steps: Whole = setting(300, "steps of the runs that collapse", ge=1)
    collapse_seeds: Whole = setting(3, "runs of each kind", ge=1, le=1000)
    n_probe: Whole = setting(3000, "images behind a probe", ge=1)
    n_seeds: Whole = setting(3, "seeds", ge=1, le=1000)
    full_images: Whole = setting(1_281_167, "images of the full size", ge=1, le=10**15)
    full_length: Whole = setting(256, "its positions", ge=2, le=65_536)
    full_k_max: Whole = setting(16_384, "its codebook", ge=2, le=2**32)
    ar_steps_full: Whole = setting(500_000, "its AR steps", ge=1)
    ar_batch_full: Whole = setting(2048, "its AR batch", ge=1)
    tokenizer_epochs: Whole = setting(150, "its tokenizer's passes over the images", ge=1)
    crops: Whole = setting(10, "crops of an image that are encoded", ge=1)
    sustained_tflops: Real = setting(400.0, "assumed rate of a GPU", gt=0)
    bandwidth_tb: Real = setting(3.35, "assumed bandwidth of a GPU, TB/s", gt=0)
    gpus: Whole = setting(8, "GPUs", ge=1)
    n_live: Whole = setting(10**6, "rows measured while you wait", ge=2)
    world: Literal["pinwheel", "checkerboard"] = setting("pinwheel", "density in the plane")
    n_points: Whole = setting(300, "training points in the plane", ge=16, le=10**6)
    ar_passes: Whole = setting(60, "passes of the AR model over them", ge=8, le=10**4)
    lab_steps: Whole = setting(1500, "steps of the tokenizers of points", ge=1)
    record: Name = setting("", "a record in data/results")
    studies: Annotated[list[Name], Field(min_length=1)] = setting(None, "studies in data/results")
    variable: Name = setting("loglinear", "the arm that stands for the method")


@cache
def known() -> Mapping[str, Setting]:
    """Every parameter that a chapter may have, by name."""
    return {**flat(Configuration), **flat(Own)}


def check(values: dict[str, Any]) -> None:
    """Refuse the first parameter among a notebook's globals that is impossible or unknown.

    What is called so in the first call is looked at, in later ones too: whatever the notebook has
    in lower case by then, but for modules, functions and the like under names that are unknown.
    Ranges first, then combinations, then files of the user's own, which have to exist. ValueError
    in one line with the name, what is allowed, and the value.
    """
    names = values.setdefault("__parameters__", [n for n, v in values.items() if _is_one(n, v)])
    given = {name: values[name] for name in names}
    for name, value in given.items():
        one_of(known(), "parameter", name)
        entry = known()[name]
        check_one(Annotated[entry.type, entry.info], value, name)
    numbers_alone = {} if "dataset" in given else {"dataset": "synthetic:4x1"}  # without an end
    Configuration.of(numbers_alone | given)
    for name, value in given.items():
        for path in _paths(name, value):
            try:
                existing_path(path)
            except (OSError, ValueError):  # too long, a NUL byte
                text = f"{name} = {shown(value)}: there is no such file or folder"
                raise FileNotFoundError(text) from None


def experiment(values: dict[str, Any], **changes: Any) -> Experiment:
    """The experiment that a notebook's globals describe, all of whose parameters are checked."""
    from ..study.experiment import Experiment

    check(values)
    return Experiment(Configuration.of({**values, **changes}))


def _is_one(name: str, value: Any) -> bool:
    plain = value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
    return name == name.lower() and not name.startswith("_") and (plain or name in known())


def _paths(name: str, value: Any) -> list[str]:
    """Files and folders that a parameter names."""
    if name == "codes":
        return [] if value is None else [value]
    if name == "dataset":
        return [path] if (path := own_files(value)) else []
    if name not in ("text", "texts", "modelled"):
        return []
    given = map(str, value if isinstance(value, list) else [value])
    return [text.removeprefix("file:") for text in given if text.startswith("file:")]
