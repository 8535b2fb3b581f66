"""Who reads what of a set that lies in groups on disk: every group is read by one process alone."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WINDOW = 16  # groups that are shuffled together, and held in memory


@dataclass(frozen=True)
class Readers:
    """Who reads which part of a batch: `workers` of each process in turn."""

    batch: int
    accumulate: int = 1
    processes: int = 1
    workers: int = 1

    def dealt(self, groups: np.ndarray, seed: int, epoch: int) -> Tensor:
        """An order of an epoch, int64 [N], in which a group is read by one reader alone.

        Groups, int [N] of each row, are shuffled and dealt to the readers; each takes its rows from
        `WINDOW` of its groups at a time, shuffled, so that it reads every group once. The order
        depends on the seed, the epoch and the readers.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        lanes = self._lanes(groups, generator)
        size = self.batch // (self.processes * self.accumulate)
        steps, found, at = len(groups) // self.batch, [], [0] * len(lanes)
        for part in range(epoch * steps * self.accumulate, (epoch + 1) * steps * self.accumulate):
            for rank in range(self.processes):
                lane, missing = rank * self.workers + part % self.workers, size
                while missing:  # at the end of an epoch a reader helps out another one
                    if at[lane] == len(lanes[lane]):
                        lane = max(range(len(lanes)), key=lambda i: len(lanes[i]) - at[i])
                    some = lanes[lane][at[lane] : at[lane] + missing]
                    found.append(some)
                    at[lane] += len(some)
                    missing -= len(some)
        rest = [lane[start:] for lane, start in zip(lanes, at, strict=True)]
        return torch.from_numpy(np.concatenate([*found, *rest]))

    def _lanes(self, groups: np.ndarray, generator: torch.Generator) -> list[np.ndarray]:
        """The rows of each reader, int64, in its order; about as many for each."""
        order = np.argsort(groups, kind="stable")
        _, counts = np.unique(groups, return_counts=True)
        rows = np.split(order, np.cumsum(counts)[:-1])
        dealt: list[list[np.ndarray]] = [[] for _ in range(self.processes * self.workers)]
        loads = [(0, lane) for lane in range(len(dealt))]
        for group in torch.randperm(len(rows), generator=generator).tolist():
            load, lane = heapq.heappop(loads)
            dealt[lane].append(rows[group])
            heapq.heappush(loads, (load + len(rows[group]), lane))
        found = []
        for own in dealt:
            windows = [np.concatenate(own[i : i + WINDOW]) for i in range(0, len(own), WINDOW)]
            mixed = [w[torch.randperm(len(w), generator=generator).numpy()] for w in windows]
            found.append(np.concatenate(mixed) if mixed else order[:0])
        return found
