"""Trained models that come with the library: one arm's tokenizer and AR model, ready to draw.

`data/models/make.py` makes them from the stages of a study. A weight matrix is stored as int8 with
one scale a row, everything else in half precision; the card beside it says what that changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from ..checks import one_of
from ..data.vendored import PACKAGED, data_root, manifest, read_vendored
from ..models.autoregressive import ARConfig, ARModel
from ..models.tokenizer import Tokenizer, TokenizerConfig

SCALE = ".scale"  # behind the name of a tensor of int8: what its rows are multiplied with


@dataclass(frozen=True)
class Pretrained:
    """A tokenizer and the AR model of its codes, in eval mode."""

    tokenizer: Tokenizer
    ar: ARModel
    card: dict[str, Any]  # data, recipe, seed, measures, SHA-256, licence


def pretrained_names() -> list[str]:
    """The models that are there, in a clone or in an installed package."""
    listed = {*manifest(data_root()), *manifest(PACKAGED)}
    cards = (name.removeprefix("models/") for name in listed if name.startswith("models/"))
    return sorted(name.removesuffix(".json") for name in cards if name.endswith(".json"))


def read_card(name: str) -> dict[str, Any]:
    """What is known of a pretrained model, shapes included; raises as `load_pretrained`."""
    one_of(pretrained_names(), "pretrained model", name)
    return json.loads(read_vendored(f"models/{name}.json"))


def stored_tensors(name: str) -> dict[str, Tensor]:
    """A pretrained model's tensors as they are stored, `tokenizer.…` and `ar.…`."""
    return load(read_vendored(f"models/{name}.safetensors.xz"))


def unpack(stored: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The state dict of one part, "tokenizer" or "ar": rows of int8 times their scale, in fp32."""
    found = {}
    for name, tensor in stored.items():
        if name.startswith(f"{part}.") and not name.endswith(SCALE):
            scale = stored.get(name + SCALE)
            plain = tensor if scale is None else tensor.float() * scale.float()
            found[name.removeprefix(f"{part}.")] = plain
    return found


def load_pretrained(name: str, device: str | torch.device = "cpu") -> Pretrained:
    """A small model of Fashion-MNIST: "uniform", "loglinear" or "matched".

    `.ar.generate(labels)` draws codes int64 [B, T], `.tokenizer.decode(codes)` makes images
    [B, 1, 28, 28] in [-1, 1] of them. Nothing is downloaded.

    Raises:
        ValueError: unknown name, the nearest is given; or a byte of a file has changed.
        FileNotFoundError: a file is missing. Both say what to do.
    """
    card = read_card(name)
    stored = stored_tensors(name)
    shapes = TokenizerConfig.from_dict(card["tokenizer"]), ARConfig.from_dict(card["ar"])
    parts = Tokenizer(shapes[0]), ARModel(shapes[1])
    for part, model in zip(("tokenizer", "ar"), parts, strict=True):
        model.load_state_dict(unpack(stored, part))
        model.to(device).eval()
    return Pretrained(*parts, card)
