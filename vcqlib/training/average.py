"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """average ← decay · average + (1 − decay) · weights after each update; buffers stay out.

    Works on sharded weights too: each process averages its own part. (`swa_utils.AveragedModel`
    copies the whole module, which sharded and compiled ones do not allow.)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self._live = decay, dict(model.named_parameters())
        self.weights = _copies(self._live)

    @torch.no_grad()
    def update(self) -> None:
        weights, live = list(self.weights.values()), list(self._live.values())
        torch._foreach_lerp_(weights, live, 1 - self.decay)

    def copy_to_model(self) -> None:
        """Put the average into the model for good."""
        _put(self._live, self.weights)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        raw = _copies(self._live)
        try:
            self.copy_to_model()
            yield
        finally:
            _put(self._live, raw)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.weights)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        _put(self.weights, state)


def _copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


@torch.no_grad()
def _put(weights: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])
