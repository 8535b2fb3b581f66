"""A trained AR model with the curve of its training and the snapshots along it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from ..models.autoregressive import ARModel


@dataclass(frozen=True)
class ARRun:
    """A trained AR model with what was measured on the way."""

    model: ARModel  # after the last step, eval mode
    curve: list[dict]  # step, and bits per position: train, held_out, held_out_own
    folder: Path

    def bits(self, which: str = "held_out") -> np.ndarray:
        """Cross-entropy [evaluations, T] in bits; which: train, held_out, held_out_own."""
        return np.asarray([point[which] for point in self.curve])

    @property
    def steps(self) -> list[int]:
        return [point["step"] for point in self.curve]

    @property
    def best_step(self) -> int:
        """Step with the lowest held-out cross-entropy."""
        return self.steps[int(self.bits().sum(1).argmin())]

    def at(self, step: int) -> ARModel:
        """The model as it was after an evaluated step."""
        if step not in self.steps:
            raise ValueError(f"no snapshot at step {step} (there are {self.steps})")
        model = ARModel(self.model.config)
        model.load_state_dict(load_file(self.folder / f"snapshot-{step:06d}.safetensors"))
        return model.to(self.model.head.weight.device).eval()


def evaluation_steps(steps: int, points: int = 6) -> tuple[int, ...]:
    """Steps at which an AR run is evaluated: a geometric grid that ends at the last step."""
    grid = np.geomspace(max(1, steps / 32), steps, points)
    return tuple(sorted({int(round(s)) for s in grid}))
