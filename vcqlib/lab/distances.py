"""How far two samples of points are from each other, without bias."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 2**18  # pairs measured at once: they stay in the cache


@dataclass(frozen=True)
class Cloud:
    """A sample of points. Equal ones are kept once: a tokenizer has only so many cells."""

    points: Tensor  # fp32 [k, 2], different
    counts: Tensor  # int64 [k]

    @classmethod
    def of(cls, points: Tensor) -> Cloud:
        """The cloud of a sample [n >= 2, 2] of finite points."""
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
            raise ValueError(f"points must be [n >= 2, 2], got {list(points.shape)}")
        if not torch.isfinite(points).all():
            raise ValueError("points must be finite")
        return cls(*points.unique(dim=0, return_counts=True))

    @cached_property
    def size(self) -> int:
        """Number of points n, equal ones counted."""
        return int(self.counts.sum())

    @cached_property
    def within(self) -> float:
        """Mean distance over all pairs of different members."""
        return _total(self, self) / (self.size * (self.size - 1))

    def to(self, other: Cloud) -> float:
        """Mean distance over all pairs of a member and one of the other cloud."""
        return _total(self, other) / (self.size * other.size)


def _total(x: Cloud, y: Cloud) -> float:
    """Sum of the distances over all pairs.

    Differences are taken before squares, so that near pairs lose no digits; sums are in fp64.
    """
    a, b = y.points.T.contiguous()
    weights, total = y.counts.float(), 0.0
    step = max(1, BLOCK // len(y.points))
    for rows, counts in zip(x.points.split(step), x.counts.split(step), strict=True):
        distance = (rows[:, :1] - a).square_()
        distance.addcmul_(gap := rows[:, 1:] - b, gap).sqrt_()
        total += ((distance @ weights).double() @ counts.double()).item()
    return total


def energy_distance(x: Cloud, y: Cloud) -> float:
    """2 E|X − Y| − E|X − X'| − E|Y − Y'| (Székely and Rizzo 2013, 10.1016/j.jspi.2013.03.018).

    A U-statistic: unbiased at any number of points, zero on average, and so at times negative, for
    two samples of one distribution.
    """
    return 2 * x.to(y) - x.within - y.within
