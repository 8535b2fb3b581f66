"""How an AR model is trained, on one screen; what surrounds the loss is in `run.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..data.code_store import take
from ..models.autoregressive import ARModel
from ..models.guards import Codes, integers
from . import memory
from .inference import check_rows, position_bits
from .recipe import Recipe
from .run import Run


def train_ar(
    model: ARModel,
    codes: Codes,
    labels: Codes,
    recipe: Recipe,
    folder: Path | None = None,
    evaluate_at: tuple[int, ...] = (),
    evaluate: Callable[[ARModel, int], None] | None = None,
    held_out: tuple[Tensor, Tensor] | None = None,
    draw: Callable[[ARModel], Tensor] | None = None,
    origin: dict | None = None,
    score: Callable[[ARModel], float | None] | None = None,
    score_every: int = 0,
) -> ARModel:
    """Train on codes [N, T] and labels [N], integers: next-code cross-entropy, nothing else.

    A resumed run does not repeat the evaluations before its checkpoint. With several processes,
    every one of them evaluates and draws (sharded weights need all), and the first one writes.

    Args:
        codes: in memory, or what `code_store.resident` gives: on the device, or memory-mapped.
        evaluate: called as `evaluate(model, step)` after each step named in `evaluate_at`.
        held_out: codes int64 [M, T] and labels [M], whose bits at each position are logged.
        draw: model → uint8 images [n, C, H, W], written as a PNG every `sample_every` steps.
        origin: JSON that says which codes; checkpoints of other ones are refused.
        score: model → how far its samples are from real images, which the log calls `gfd`, every
            `score_every` steps; the first process's counts.

    Raises:
        ValueError: codes or labels out of range, named; a checkpoint of another configuration.
        FloatingPointError: loss or gradient not finite; says at which step.
        MemoryError: says which batch size to try.
    """
    device, r = next(model.parameters()).device, recipe
    if isinstance(codes, Tensor):
        codes = codes.to(device)  # a few bytes a code
    labels = integers(labels, "labels", device).to(device)
    check_rows(model, codes, labels)
    about = {"ar": model.config.to_dict(), "images": len(codes), "origin": origin}

    def trial(n: int) -> Callable[[], Tensor]:
        hollow, rows = memory.hollow(model), torch.zeros(n, model.config.length, dtype=torch.int64)
        return lambda: hollow._loss(rows, rows[:, 0])

    with Run("AR model", model, r, folder, about, trial=trial) as run:
        parts = iter(run.batches(len(codes)))
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
                    bits = position_bits(model, *held_out, shared=True)
                run.note(held_out_bits=bits.tolist())
            if draw is not None and run.due(r.sample_every):
                with run.evaluation(), run.autocast():
                    run.picture(draw(model))
            if score is not None and run.due(score_every):
                with run.evaluation(), run.autocast():
                    found = score(model)
                run.note(**{} if found is None else {"gfd": found})
            if step + 1 in evaluate_at and evaluate is not None:
                with run.evaluation(), run.autocast():
                    evaluate(model, step + 1)
            run.finish()
    return model
