"""How the next code is chosen: guidance, top-k, top-p, and one uniform number for each draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import must


def guidance_scales(
    scale: float, length: int, kind: str = "constant", power: float = 1.75
) -> list[float]:
    """Guidance scale at each position: constant, or 1 + (scale − 1) ½(1 − cos π(t/T)^power)."""
    must(0 < power < math.inf, "guidance_power", "positive and finite", power)
    must(kind in ("constant", "cosine"), "guidance", "constant or cosine", repr(kind))
    if kind == "constant":
        return [scale] * length
    ramp = [0.5 * (1 - math.cos(math.pi * (t / length) ** power)) for t in range(length)]
    return [1 + (scale - 1) * r for r in ramp]


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Keep the `top_k` largest logits (0: all) and the smallest set of mass `top_p`; [B, V]."""
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p < 1:
        ordered, order = logits.sort(descending=True, dim=-1)
        mass = ordered.softmax(-1)
        before = mass.cumsum(-1) - mass  # mass of the strictly better ones
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(drop, -math.inf)
    return logits


def draw(logits: Tensor, u: Tensor) -> Tensor:
    """Codes int64 [B] from logits [B, K] by numbers u [B], uniform in [0, 1): inverse CDF."""
    mass = logits.softmax(-1).cumsum(-1)
    # a little below 1, so that rounding cannot reach past the last code with a chance above 0
    aim = u[:, None] * (1 - 2**-22) * mass[:, -1:]
    return torch.searchsorted(mass, aim, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def uniform(
    batch: int, length: int, generator: torch.Generator | Sequence | None, device: torch.device
) -> Tensor:
    """The numbers that choose the codes, uniform in [0, 1), fp32 [B, T]."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.rand(batch, length, generator=generator, device=device)
    if len(generator) != batch:
        raise ValueError(f"one generator a row is {batch}, got {len(generator)}")
    return torch.stack([torch.rand(length, generator=g, device=device) for g in generator])
