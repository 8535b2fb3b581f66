"""Trained models on whole sets, a batch at a time: codes, images, errors, bits.

Each function measures in eval mode and gives the model back in the mode that it had.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..checks import must
from ..data.batches import ImageSource, Part, stream
from ..data.image_sets import to_float
from ..models.autoregressive import ARModel
from ..models.guards import Codes, evaluating, integers
from ..models.tokenizer import Tokenizer
from . import distributed
from .recipe import Precision, halves

PIXELS, LOGITS = 2**25, 2**28  # entries measured at once, whatever the size of an example
ROWS = 2**16  # of codes that are checked at once


def _at_once(entries: int, each: int, at_most: int) -> int:
    """How many examples of so many entries are measured at once."""
    return max(1, min(at_most, entries // each))


@contextmanager
def measuring(model: nn.Module, precision: Precision = "auto") -> Iterator[None]:
    """Eval mode, in bf16 on a GPU or where it is on already; the search for codes stays in fp32."""
    kind = next(model.parameters()).device.type
    half = halves(precision, kind) or (precision == "auto" and torch.is_autocast_enabled(kind))
    with evaluating(model), torch.autocast(kind, torch.bfloat16, enabled=half):
        yield


def in_precision(model: nn.Module, precision: Precision = "auto") -> nn.Module:
    """The model with its weights cast once, where `precision` says bf16; else the model itself."""
    if not halves(precision, next(model.parameters()).device.type):
        return model
    return copy.deepcopy(model).to(torch.bfloat16)


@torch.no_grad()
def changed_codes(model: Tokenizer, images: Tensor) -> float:
    """Share of the codes of uint8 images [b, C, H, W] that bf16 changes."""
    found = []
    for precision in ("fp32", "bf16"):
        with measuring(model, precision):
            found.append(model.encode(to_float(images)))
    return (found[0] != found[1]).double().mean().item()


def check_rows(model: ARModel, codes: Codes, labels: Tensor) -> None:
    """Refuse codes or labels int64 that are out of range, or not integers, a part at a time."""
    must(labels.shape == (len(codes),), "labels", f"[{len(codes)}]", tuple(labels.shape))
    for first in range(0, max(1, len(codes)), ROWS):
        model.check(codes[first : first + ROWS], labels[first : first + ROWS], first)


@torch.no_grad()
def encode(
    model: Tokenizer, images: Tensor | ImageSource, batch: int = 1000, at_most: int | None = None
) -> Iterator[Tensor]:
    """Yield codes int64 [b, T] of uint8 images [N, C, H, W] or of a source's, in order."""
    device = next(model.parameters()).device
    rows = torch.arange(min(len(images), at_most or len(images)))
    for part in stream(images, [Part(0, part) for part in rows.split(batch)]):
        few = _at_once(PIXELS, part[0].numel(), batch)
        yield torch.cat([encode_batch(model, some.to(device)) for some in part.split(few)])


@torch.no_grad()
def encode_batch(model: Tokenizer, images: Tensor) -> Tensor:
    """Codes int64 [b, T] of uint8 images [b, C, H, W] on the model's device."""
    with measuring(model):
        return model.encode(to_float(images))


@torch.no_grad()
def decode(model: Tokenizer, codes: Codes, batch: int = 1000) -> Tensor:
    """Images float [N, C, H, W] on the CPU from codes, integers [N, m ≤ T].

    Raises:
        ValueError: codes out of range; images that are not finite.
    """
    device = next(model.parameters()).device
    codes = integers(codes, "codes", device)
    with measuring(model):
        parts = [model.decode(part.to(device)).float().cpu() for part in codes.split(batch)]
    images = torch.cat(parts)
    if not images.isfinite().all():
        raise ValueError("the decoded images have NaN: the decoder's weights are damaged")
    return images


def _rows(n: int, batch: int, shared: bool) -> list[slice]:
    """n rows in batches: all of them, or this process's share in as many as the others have."""
    if shared and 1 < distributed.world() <= n:
        return [slice(part.start, part.stop) for part in distributed.parts(n, batch)]
    return [slice(i, min(i + batch, n)) for i in range(0, n, batch)]


def _sum(total: Tensor, n: int, device: torch.device, shared: bool) -> Tensor:
    """What the processes' shares of n rows add up to, on the CPU."""
    if shared and 1 < distributed.world() <= n:
        total = distributed.mean(total.to(device)).cpu() * distributed.world()
    return total


@torch.no_grad()
def reconstruction_error(
    model: Tokenizer, images: Tensor, batch: int = 1000, shared: bool = False
) -> float:
    """Mean squared error of uint8 images [N, C, H, W], in units of [-1, 1] images.

    shared: every process calls, measures its share and gets the whole.
    """
    device, total, n = next(model.parameters()).device, 0.0, len(images)
    with measuring(model):
        for some in _rows(n, _at_once(PIXELS, images[0].numel(), batch), shared):
            x = to_float(images[some].to(device))
            total += (model.decode(model.encode(x)) - x).square().mean().item() * len(x)
    return _sum(torch.tensor(total, dtype=torch.float64), n, device, shared).item() / n


@torch.no_grad()
def both_bits(
    model: ARModel, codes: Codes, labels: Codes, batch: int = 128, shared: bool = False
) -> Tensor:
    """Mean cross-entropy at each position over all entries and over the first K_t, from one pass.

    Bits, float64 [2, T]; `shared` as in `reconstruction_error`.

    Raises:
        ValueError: codes or labels out of range, named.
    """
    device, (codes, labels) = next(model.parameters()).device, model.check(codes, labels)
    total = torch.zeros(2, codes.shape[1], dtype=torch.float64)
    batch = _at_once(LOGITS, codes.shape[1] * model.config.vocabulary, batch)
    with measuring(model):
        for some in _rows(len(codes), batch, shared):
            c, y = codes[some].to(device), labels[some].to(device)
            total += torch.stack(model.both_losses(c, y)).double().sum(1).cpu()  # of [2, b, T]
    return _sum(total, len(codes), device, shared) / len(codes) / math.log(2)


def position_bits(
    model: ARModel, codes: Codes, labels: Codes, own: bool = False, batch: int = 128,
    shared: bool = False,
) -> Tensor:  # fmt: skip
    """Mean cross-entropy at each position, bits, float64 [T]; `own` as in `position_losses`."""
    return both_bits(model, codes, labels, batch, shared)[int(own)]
