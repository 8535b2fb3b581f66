"""Trained models on whole sets, a batch at a time: codes, images, errors, bits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..data.batches import ImageSource, Part, stream
from ..data.image_sets import to_float
from ..models.autoregressive import ARModel
from ..models.tokenizer import Tokenizer

PIXELS, LOGITS = 2**25, 2**28  # entries measured at once, whatever the size of an example


def _at_once(entries: int, each: int, at_most: int) -> int:
    """How many examples of so many entries are measured at once."""
    return max(1, min(at_most, entries // each))


@torch.no_grad()
def encode(
    model: Tokenizer, images: Tensor | ImageSource, batch: int = 1000, at_most: int | None = None
) -> Iterator[Tensor]:
    """Yield codes int64 [b, T] of uint8 images [N, C, H, W] or of a source's, in order."""
    device = next(model.parameters()).device
    model.eval()
    rows = torch.arange(min(len(images), at_most or len(images)))
    for part in stream(images, [Part(0, part) for part in rows.split(batch)]):
        few = _at_once(PIXELS, part[0].numel(), batch)
        yield torch.cat([encode_batch(model, some.to(device)) for some in part.split(few)])


@torch.no_grad()
def encode_batch(model: Tokenizer, images: Tensor) -> Tensor:
    """Codes int64 [b, T] of uint8 images [b, C, H, W] on the model's device."""
    return model.encode(to_float(images))


@torch.no_grad()
def decode(model: Tokenizer, codes: Tensor, batch: int = 1000) -> Tensor:
    """Images float [N, C, H, W] on the CPU from codes int64 [N, m ≤ T]."""
    device = next(model.parameters()).device
    model.eval()
    return torch.cat([model.decode(part.to(device)).cpu() for part in codes.split(batch)])


@torch.no_grad()
def reconstruction_error(model: Tokenizer, images: Tensor, batch: int = 1000) -> float:
    """Mean squared error of uint8 images [N, C, H, W], in units of [-1, 1] images."""
    device, total = next(model.parameters()).device, 0.0
    for part in images.split(_at_once(PIXELS, images[0].numel(), batch)):
        x = to_float(part.to(device))
        total += (model.decode(model.encode(x)) - x).square().mean().item() * len(x)
    return total / len(images)


@torch.no_grad()
def position_bits(
    model: ARModel, codes: Tensor, labels: Tensor, own: bool = False, batch: int = 512
) -> Tensor:
    """Mean cross-entropy at each position, bits, float64 [T]; `own` as in `position_losses`."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    total = torch.zeros(codes.shape[1], dtype=torch.float64)
    batch = _at_once(LOGITS, codes.shape[1] * model.config.vocabulary, batch)
    for c, y in zip(codes.split(batch), labels.split(batch), strict=True):
        losses = model.position_losses(c.to(device), y.to(device), own)
        total += losses.double().sum(0).cpu()
    model.train(was_training)
    return total / len(codes) / math.log(2)
