"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """average ← decay · average + (1 − decay) · weights after each update; buffers stay out.

    Works on sharded weights too: each process averages its own part.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = dict(model.named_parameters())
        self.weights = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        weights, live = list(self.weights.values()), list(self._live.values())
        torch._foreach_lerp_(weights, live, 1 - self.decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Put the average into the model for good."""
        self._put(self.weights)

    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, live in self._live.items():
            live.copy_(weights[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        raw = {name: p.detach().clone() for name, p in self._live.items()}
        try:
            self.copy_to_model()
            yield
        finally:
            with torch.no_grad():
                self._put(raw)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.weights)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(state[name])
