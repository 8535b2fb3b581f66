"""From a trained AR model and its tokenizer to pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.image_sets import to_uint8
from ..models.autoregressive import ARModel
from ..models.tokenizer import Tokenizer
from ..training.inference import decode


class Drawn(NamedTuple):
    """Samples in the order of their labels."""

    images: Tensor  # uint8 [n, C, H, W]
    codes: Tensor  # int64 [n, T], in the AR model's order
    labels: Tensor  # int64 [n]


def draw(
    model: ARModel,
    decoder: Tokenizer,
    labels: Tensor,
    seed: int = 0,
    first: int = 0,
    reverse: bool = False,
    **sampling: Any,
) -> Drawn:
    """One sample for each label int64 [n]; `sampling` goes to `ARModel.generate`.

    Sample i has a generator of its own, seeded by `seed` and `first + i`, so that it is the same
    whatever the batch (up to rounding).
    """
    device = model.head.weight.device
    generators = [
        torch.Generator(device).manual_seed(seed * 1_000_003 + first + i)
        for i in range(len(labels))
    ]
    codes = model.generate(labels.to(device), generator=generators, **sampling).cpu()
    images = to_uint8(decode(decoder, codes.flip(1) if reverse else codes))
    return Drawn(images, codes, labels)


def batches(first: int, n: int, classes: int, batch: int) -> Iterator[tuple[int, Tensor]]:
    """(number of its first one, labels int64 [b]) of samples first..first + n, classes in turn."""
    for start in range(first, first + n, batch):
        yield start, torch.arange(start, min(start + batch, first + n)) % classes
