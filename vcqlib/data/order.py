"""In which order a run reads its data: epochs of a seeded shuffle, in batches, shared and cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Order = Callable[[int, int], Tensor]  # seed, epoch → int64 [N], a permutation


def shuffled(n: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch, int64 [n]."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


@lru_cache(maxsize=2)  # the shuffle of 12.8 million rows takes longer than a step
def _epoch(n: int, seed: int, epoch: int, order: Order | None) -> Tensor:
    return order(seed, epoch) if order else shuffled(n, seed, epoch)


def batch_indices(n: int, batch: int, step: int, seed: int, order: Order | None = None) -> Tensor:
    """Rows of step `step`, int64 [min(batch, n)]: epochs of a seeded shuffle, last part dropped."""
    per_epoch = max(1, n // batch)
    epoch, place = divmod(step, per_epoch)
    return _epoch(n, seed, epoch, order)[place * batch : (place + 1) * batch]


class Part(NamedTuple):
    """What goes through the model at once."""

    step: int
    rows: Tensor  # int64 [b]


@dataclass(frozen=True)
class Schedule:
    """One process's parts of the batches of steps start..steps − 1, `accumulate` a step."""

    n: int
    batch: int
    seed: int
    start: int
    steps: int
    accumulate: int = 1
    rank: int = 0
    processes: int = 1
    order: Order | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("there are no images to train on")
        size, pieces = min(self.n, self.batch), self.processes * self.accumulate
        if size % pieces:
            raise ValueError(
                f"a batch of {size} does not divide into {self.processes} processes x "
                f"{self.accumulate} accumulated parts: change batch or accumulate"
            )

    def __iter__(self) -> Iterator[Part]:
        for step in range(self.start, self.steps):
            rows = batch_indices(self.n, self.batch, step, self.seed, self.order)
            pieces = rows.chunk(self.processes * self.accumulate)
            yield from (Part(step, piece) for piece in pieces[self.rank :: self.processes])
