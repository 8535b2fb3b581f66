"""The two training loops, readable on one screen each.

Order of the data, dropout and label dropout depend only on the seed and the step, so a run that
was stopped and resumed equals one that was not (bit for bit on a CPU). What surrounds the loss is
in `run.py`; several processes are in `distributed.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import Source, stream
from ..data.code_store import take
from ..data.image_sets import to_float, to_uint8
from ..data.order import Part, batch_indices
from ..models.autoregressive import ARModel
from ..models.tokenizer import Tokenizer
from . import distributed
from .losses import ImageLosses
from .recipe import Losses, Recipe
from .run import Run, own_randomness

__all__ = [
    "Losses", "Recipe", "batch_indices", "decode", "encode", "own_randomness", "position_bits",
    "train_ar", "train_tokenizer",
]  # fmt: skip

PIXELS, LOGITS = 2**25, 2**28  # entries measured at once, whatever the size of an example

# Modules on which trained weights depend, for the keys of cached stages.
SOURCES = (
    "training.loops", "training.run", "training.recipe", "data.order", "training.average",
    "training.losses", "training.checkpoints", "training.distributed",
)  # fmt: skip


def train_tokenizer(
    model: Tokenizer,
    images: Tensor | Source,
    recipe: Recipe,
    folder: Path | None = None,
    held_out: Tensor | None = None,
    features: nn.Module | None = None,
    workers: int = 0,
    origin: dict | None = None,
) -> Tokenizer:
    """Train on images: uint8 [N, C, H, W], or a source that is read as it goes.

    Loss: the recipe's image losses (default: mean squared error) + the quantizer's. Afterwards the
    usage counts hold one pass over at most 10,000 training images.

    Args:
        held_out: uint8 [M, C, H, W] whose error is measured and logged as `held_out_mse`.
        features: network of the perceptual loss, see `losses.Perceptual`.
        workers: processes that decode the images of a source.
        origin: JSON that says which images; checkpoints of other ones are refused.

    Raises:
        ValueError: images of another size or type; a checkpoint of another configuration.
        FloatingPointError: loss or gradient not finite; says at which step.
        MemoryError: says which batch size to try.
    """
    r, c, device = recipe, model.config, next(model.parameters()).device
    if r.shard and (c.codebook_ema or c.revive):  # what they write into a gathered copy is lost
        raise ValueError("shard trains the codebook by gradients only: no codebook_ema, no revive")
    losses = ImageLosses(r.losses, c.channels, c.image_size, features).to(device)
    about = {"tokenizer": c.to_dict(), "images": len(images), "origin": origin}
    shown = images[:8] if isinstance(images, Tensor) else images.read(range(min(8, len(images))))
    with Run("tokenizer", model, model, r, folder, about, losses.critic) as run:
        order = None if isinstance(images, Tensor) else images.order
        batches = stream(images, run.schedule(len(images), order), r.seed, workers)
        for _ in run.steps():
            for pictures in run.parts(batches):
                x = to_float(pictures.to(device))
                with run.autocast():
                    output = run.network(x)
                    loss = losses(output.images, x, model.decoder.out.weight)
                run.backward(loss.total + output.loss, quantizer=output.loss, **loss.terms)
            run.update()
            if run.due(r.log_every):
                run.note(**run.means())
            if held_out is not None and run.due(r.validate_every):
                with run.evaluation():
                    run.note(held_out_mse=reconstruction_error(model, held_out))
            if run.due(r.sample_every):
                with run.evaluation():
                    rebuilt = to_uint8(decode(model, torch.cat(list(encode(model, shown)))))
                run.picture(torch.cat([shown, rebuilt]))
            run.finish()
    model.quantizer.reset_usage()
    with distributed.gathered(run.network):
        for codes in encode(model, images, at_most=10_000):
            model.quantizer.count(codes)
    return model


class NextCode(nn.Module):
    """The AR model's loss as a forward pass, which is what compiling and several GPUs need."""

    def __init__(self, model: ARModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        return self.model.loss(codes, labels)


def train_ar(
    model: ARModel,
    codes: Tensor | np.ndarray,
    labels: Tensor,
    recipe: Recipe,
    folder: Path | None = None,
    evaluate_at: tuple[int, ...] = (),
    evaluate: Callable[[ARModel, int], None] | None = None,
    held_out: tuple[Tensor, Tensor] | None = None,
    draw: Callable[[ARModel], Tensor] | None = None,
    origin: dict | None = None,
) -> ARModel:
    """Train on codes [N, T] and labels int64 [N]: next-code cross-entropy, nothing else.

    A resumed run does not repeat the evaluations before its checkpoint. With several processes,
    every one of them evaluates and draws (sharded weights need all), and the first one writes.

    Args:
        codes: int64, or what `codes.resident` gives for a store: on the device, or memory-mapped.
        evaluate: called as `evaluate(model, step)` after each step named in `evaluate_at`.
        held_out: codes int64 [M, T] and labels [M], whose bits at each position are logged.
        draw: model → uint8 images [n, C, H, W], written as a PNG every `sample_every` steps.
        origin: JSON that says which codes; checkpoints of other ones are refused.

    Raises:
        ValueError: codes or labels out of range, named; a checkpoint of another configuration.
        FloatingPointError: loss or gradient not finite; says at which step.
        MemoryError: says which batch size to try.
    """
    device, r = next(model.parameters()).device, recipe
    if isinstance(codes, Tensor):
        codes = codes.to(device)  # a few bytes a code
    labels = labels.to(device)
    if isinstance(codes, Tensor) and codes.dtype not in (torch.int16, torch.int32):
        model.check(codes, labels)  # those of a store were checked when it was written
    about = {"ar": model.config.to_dict(), "images": len(codes), "origin": origin}
    with Run("AR model", model, NextCode(model), r, folder, about) as run:
        parts = iter(run.schedule(len(codes)))
        for step in run.steps():
            for _, rows in run.parts(parts):
                batch, classes = take(codes, rows, device), labels[rows.to(device)]
                with run.autocast():
                    loss = run.network(batch, classes)
                run.backward(loss)
            run.update()
            if run.due(r.log_every):
                run.note(bits=run.loss / math.log(2))
            if held_out is not None and run.due(r.validate_every):
                with run.evaluation(), run.autocast():
                    run.note(held_out_bits=position_bits(model, *held_out).tolist())
            if draw is not None and run.due(r.sample_every):
                with run.evaluation():
                    run.picture(draw(model))
            if step + 1 in evaluate_at and evaluate is not None:
                with run.evaluation():
                    evaluate(model, step + 1)
            run.finish()
    return model


def _at_once(entries: int, each: int, at_most: int) -> int:
    """How many examples of so many entries are measured at once."""
    return max(1, min(at_most, entries // each))


@torch.no_grad()
def encode(
    model: Tokenizer, images: Tensor | Source, batch: int = 1000, at_most: int | None = None
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
