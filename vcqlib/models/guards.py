"""What keeps the models whole: what they may be given, and the mode that they are given back in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ..checks import holds_integers, must
from ..settings import Real, Whole, settings

Codes = Tensor | np.ndarray  # integers of any width
Count = Annotated[Whole, Field(ge=1)]
Share = Annotated[Real, Field(ge=0, lt=1)]


@settings
class ModelConfig:
    """What fixes a model's shape, saved beside its weights; impossible values are refused."""

    codebook_sizes: Annotated[tuple[Whole, ...], Field(min_length=1)]  # K_1 … K_T

    @property
    def length(self) -> int:
        """Number of positions T."""
        return len(self.codebook_sizes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**values)


def integers(values: Any, name: str, device: torch.device) -> Tensor:
    """Integers of any width as int64: a tensor stays on its device, an array goes to `device`.

    Raises:
        ValueError: floats, truth values or anything else; masked entries; a value beyond int64.
    """
    if not isinstance(values, Tensor):
        must(not np.ma.is_masked(values), name, "integers", "masked entries")
        values = np.asarray(values)
        must(holds_integers(values), name, "integers", values.dtype)
        values = torch.from_numpy(values.astype(values.dtype.newbyteorder("="))).to(device)
    must(holds_integers(values), name, "integers", values.dtype)
    whole = values.to(torch.int64)
    if values.dtype == torch.uint64 and (whole < 0).any():
        raise ValueError(f"{name} must be below 2^63, got {int(whole.min()) + 2**64}")
    return whole


def check_codes(codes: Tensor, sizes: Sequence[int], first: int = 0) -> None:
    """Raise ValueError unless codes int64 [B, m ≤ T] lie below their position's size.

    The message names the first that does not, its image from 0 and its position from 1. `first`:
    the number of the first image.
    """
    good = codes.ndim == 2 and codes.shape[1] <= len(sizes)
    must(good, "codes", f"[B, m] with m <= {len(sizes)}", tuple(codes.shape))
    limits = torch.as_tensor(sizes[: codes.shape[1]], device=codes.device)
    wrong = ((codes < 0) | (codes >= limits)).nonzero()
    if len(wrong):
        b, t = wrong[0].tolist()
        raise ValueError(
            f"code {int(codes[b, t])} at image {first + b}, position {t + 1} is outside "
            f"0..{sizes[t] - 1}"
        )


def check_labels(labels: Tensor, largest: int, first: int = 0) -> None:
    """Raise ValueError unless labels int64 [B] lie in 0..largest; names the first that does not."""
    must(labels.ndim == 1, "labels", "[B]", tuple(labels.shape))
    wrong = ((labels < 0) | (labels > largest)).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(f"label {int(labels[i])} at row {first + i} is outside 0..{largest}")


def check_vectors(z: Tensor, positions: int, dim: int) -> None:
    """Raise ValueError unless z holds floats [B, positions, dim]."""
    good = z.ndim == 3 and z.shape[1:] == (positions, dim) and z.is_floating_point()
    must(good, "z", f"floats [B, {positions}, {dim}]", f"{z.dtype} {tuple(z.shape)}")


def short(x: Tensor) -> Tensor:
    """Whether every vector along the last axis has a finite length in fp32, bool []."""
    return x.norm(dim=-1).isfinite().all()


def steady(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """`norm(x)`, whose running statistics a batch that is not finite does not move: x becomes NaN.

    Raises:
        ValueError: the statistics are not finite, in eval.
    """
    if not norm.training:
        if not (norm.running_mean.isfinite() & norm.running_var.sqrt().isfinite()).all():
            raise ValueError("the running statistics have NaN or infinite entries: train them anew")
        return norm(x)
    kept = dict(norm.named_buffers())
    for name, statistic in kept.items():  # the backward pass may read what the forward pass wrote
        norm._buffers[name] = statistic.clone()
    y = norm(x)
    sane = (norm.running_mean + norm.running_var).sum().isfinite()
    for name, statistic in kept.items():
        statistic.copy_(torch.where(sane, norm._buffers[name], statistic))
        norm._buffers[name] = statistic
    return torch.where(sane, y, torch.nan)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards, and after an error, each part's own mode again."""
    training = [part for model in models for part in model.modules() if part.training]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
