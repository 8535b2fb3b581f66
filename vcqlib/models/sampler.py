"""How codes are sampled: guidance, top-k, top-p, and one uniform number for each draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import must
from .transformer import Cache, Here, project

if TYPE_CHECKING:
    from .autoregressive import ARModel


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


def sample(
    model: ARModel, labels: Tensor, scales: Sequence[float], how: tuple[float, int, float],
    chances: Tensor, prefix: Tensor, fixed: bool, compiled: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Codes int64 [B, T], and whether the logits of each position were finite, bool [T].

    fixed: the work is the same at every position, over all T keys and V logits; else over
        those that count, which a CPU does in half the time.
    """
    c, kept, guided = model.config, prefix.shape[1], any(scale != 1 for scale in scales)
    codes = F.pad(prefix, (0, c.length - kept))
    sane = torch.ones(c.length, dtype=torch.bool, device=labels.device)
    if guided:
        labels = torch.cat([labels, torch.full_like(labels, model.null_label)])
    x = model.class_embedding(labels)[:, None]
    seen = prefix.repeat(2 if guided else 1, 1)[:, : c.length - 1]
    x = torch.cat([x, model.code_embedding(seen)], dim=1)  # [B or 2B, 1 + kept, width]
    shape = (len(labels), c.heads, c.length, c.width // c.heads)
    caches = [Cache(shape, x, empty=not fixed) for _ in model.blocks]
    if fixed and kept < c.length:
        if kept:  # all but the last of what is known, at once
            model._trunk(x[:, :-1], 0, caches)
        step = torch.compile(_step, fullgraph=True) if compiled else _step
        along = torch.arange(c.length, device=labels.device)
        sizes = torch.tensor(c.codebook_sizes, device=labels.device)
        strengths = torch.tensor(scales, device=labels.device) if guided else None
        x = x[:, -1:]
        for t in range(kept, c.length):
            here = Here(along[t : t + 1], along <= along[t])
            scale = strengths[t] if guided else None
            x, codes[:, t], sane[t] = step(
                model, x, here, caches, sizes[t], scale, chances[:, t], *how
            )
        return codes, sane
    for t in range(kept, c.length):
        x = model._trunk(x, 0 if t == kept else t, caches)[:, -1]
        # the first K_t logits only: the others would be masked
        logits = project(x, model.head.weight[: c.codebook_sizes[t]]).float()
        scale = scales[t] if guided else None
        codes[:, t], sane[t] = _choose(logits, scale, chances[:, t], *how)
        x = model.code_embedding(codes[:, t].repeat(2 if guided else 1))[:, None]
    return codes, sane


def _step(
    model: ARModel, x: Tensor, here: Here, caches: Sequence[Cache], size: Tensor,
    scale: Tensor | None, chance: Tensor, temperature: float, top_k: int, top_p: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One position from x [B or 2B, 1, width]: the next x, its codes [B], sane or not []."""
    table = model.table[:, here.position]
    for block, cache in zip(model.blocks, caches, strict=True):
        x = block(x, table, True, cache, here)
    logits = model.head(model.norm(x)[:, 0]).float()
    beyond = torch.arange(model.config.vocabulary, device=x.device) >= size
    code, sane = _choose(logits, scale, chance, temperature, top_k, top_p, beyond)
    again = code if scale is None else code.repeat(2)
    return model.code_embedding(again)[:, None], code, sane


def _choose(
    logits: Tensor, scale: float | Tensor | None, chance: Tensor, temperature: float, top_k: int,
    top_p: float, beyond: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Codes int64 [B] from logits [B or 2B, K], and whether all of them were finite, bool []."""
    if scale is not None:
        conditional, free = logits.chunk(2)
        logits = free + scale * (conditional - free)
    logits = logits / temperature if temperature else logits
    sane = logits.isfinite().all()
    if beyond is not None:
        logits = logits.masked_fill(beyond, -math.inf)
    if temperature == 0:
        return logits.argmax(-1), sane
    return draw(filter_logits(logits, top_k, top_p), chance), sane
