"""A trained model in a folder, under the call names of the Hugging Face hub.

config.json          the kind of model, its shape, and what else is known of it
weights.safetensors  its weights

A run of `vcq train` is such a folder. Nothing is downloaded: what lies elsewhere has to be fetched
first. The hub's own `PyTorchModelHubMixin` would write a second format, without a checksum.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, get_type_hints

import torch

from ..files import load_tensors, read_record, save_tensors, user_path, write_record

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
RUN = ("run.json", "run.lock", "log.jsonl")  # what only a training leaves in its folder


class Saved:
    """`save_pretrained` and `from_pretrained` of a module that is built from its `config`."""

    about: Mapping[str, Any] = MappingProxyType({})  # what config.json holds beside kind and shape

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write config.json and weights.safetensors into a folder, made if need be.

        about: JSON to be kept in config.json; what the model's own folder held comes along.

        Raises:
            ValueError: the folder is that of a training run, or `about` has no JSON.
            OSError: it cannot be written; says what was kept.
        """
        place = user_path(folder)
        if any((place / name).exists() for name in RUN):
            raise ValueError(f"{folder} is the folder of a training run: give another one")
        shape = {"kind": type(self).__name__, "model": self.config.to_dict()}
        json.dumps(about, allow_nan=False)  # refused before anything is written
        (place / CONFIG).unlink(missing_ok=True)  # no model while its files are of two
        save_tensors(place / WEIGHTS, self.state_dict())
        write_record(place / CONFIG, {**self.about, **about, **shape})

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device = "cpu", weights: str = WEIGHTS
    ) -> Self:
        """The model of a folder, in eval mode: of a run, or what `save_pretrained` wrote.

        weights: another file of the folder, for instance of an earlier step.

        Raises:
            FileNotFoundError: no such folder, or one without a finished model.
            ValueError: another kind of model, a damaged file, weights of another shape.
        """
        place = user_path(folder)
        about = read_config(place, cls, ("model",))
        shape = get_type_hints(cls.__init__)["config"]
        model = cls(shape.from_dict(about.pop("model")))
        tensors = load_tensors(place / weights)[0]
        if wrong := _misfits(model.state_dict(), tensors):
            raise ValueError(f"{place / weights} does not fit {CONFIG} beside it: {wrong}")
        model.load_state_dict(tensors)
        model.about = {k: v for k, v in about.items() if k != "kind"}
        return model.to(device).eval()


def _misfits(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> str:
    """The first tensor that is missing, one too many, or of another shape; "" if there is none."""
    for name in sorted(ours.keys() | theirs.keys()):
        shapes = [tuple(some[name].shape) if name in some else "none" for some in (theirs, ours)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]}, should be {shapes[1]}"
    return ""


def read_config(folder: Path, network: type, wanted: Iterable[str] = ()) -> dict[str, Any]:
    """The config.json of a finished model of this kind.

    Raises FileNotFoundError if there is none, or it has not finished; ValueError if it holds
    another kind of model, lacks an entry of `wanted`, or a byte of it has changed.
    """
    if not (folder / CONFIG).is_file():
        there = "it has no config.json" if folder.is_dir() else "nothing is here (or downloaded)"
        raise FileNotFoundError(f"{folder} is no run folder: {there}")
    config = read_record(folder / CONFIG)
    if config.get("kind") != network.__name__:
        raise ValueError(f"{folder} holds {config.get('kind')!r}, expected {network.__name__!r}")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}: its training has not finished")
    if lacking := [name for name in wanted if name not in config]:
        raise ValueError(f"{folder / CONFIG} does not say its {' and '.join(lacking)}, which a run "
                         "of vcq train does: save_pretrained takes them too")  # fmt: skip
    return config
