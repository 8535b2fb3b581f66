"""A classifier two-sample test on codes: can a small network tell two sets of sequences apart?

Lopez-Paz and Oquab, arXiv 1610.06545: its accuracy on unseen sequences is 1/2 if both
sets come from one distribution, and the further above, the more they differ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TwoSample(NamedTuple):
    """How well two sets of codes are told apart."""

    accuracy: float  # on held-out sequences, as many of either set; 1/2: not at all
    error: float  # its standard error if the sets were equal, 1/(2 √n)


class _Bag(nn.Module):
    """A sequence as the sum of one vector for each (position, code), read by two layers."""

    def __init__(self, length: int, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.EmbeddingBag(length * vocabulary, width, mode="sum")
        self.layers = nn.Sequential(
            nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )
        self.register_buffer("shift", torch.arange(length) * vocabulary)

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(self.vectors(codes + self.shift)).squeeze(-1)


def two_sample_test(
    a: np.ndarray, b: np.ndarray, seed: int = 0, epochs: int = 12, width: int = 64
) -> TwoSample:
    """Accuracy of a network that learned to tell codes a [N, m] from codes b [M, m].

    Half of the sequences train it, a quarter says after which pass to stop, the last quarter is
    judged. The larger set is cut, so that guessing is right half of the time.
    """
    n = min(len(a), len(b))
    if n < 40 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"need two sets [40 or more, m] of equal m, got {a.shape} and {b.shape}")
    rng = np.random.default_rng(seed)
    codes = np.stack([some[rng.permutation(len(some))[:n]] for some in (a, b)], 1)  # [n, 2, m]
    codes = torch.from_numpy(codes.astype(np.int64)).flatten(0, 1)  # a row of a, one of b, …
    answers = torch.arange(2 * n) % 2
    train, stop, judged = (slice(*ends) for ends in ((0, n), (n, n + n // 2), (n + n // 2, None)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _Bag(codes.shape[1], int(codes.max()) + 1, width)
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
        best = (-1.0, 0.5)
        for _ in range(epochs):
            for rows in torch.randperm(n).split(100):
                optimiser.zero_grad()
                logits = model(codes[train][rows])
                loss = F.binary_cross_entropy_with_logits(logits, answers[train][rows].float())
                loss.backward()
                optimiser.step()
            best = max(best, (_accuracy(model, codes[stop], answers[stop]),
                              _accuracy(model, codes[judged], answers[judged])),
                       key=lambda pair: pair[0])  # fmt: skip
    return TwoSample(best[1], 0.5 / len(answers[judged]) ** 0.5)


@torch.no_grad()
def _accuracy(model: nn.Module, codes: Tensor, answers: Tensor) -> float:
    return float(((model(codes) > 0) == answers.bool()).float().mean())
