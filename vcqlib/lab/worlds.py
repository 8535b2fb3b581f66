"""Densities in the plane from which as many points can be drawn as one likes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import one_of


class Points(NamedTuple):
    """A sample of a world."""

    points: Tensor  # fp32 [n, 2]
    labels: Tensor  # int64 [n], 0..classes − 1


class World(NamedTuple):
    """A density with classes of equal weight."""

    classes: int
    place: Callable[[Tensor, torch.Generator], Tensor]  # labels [n] → points [n, 2]


def _pinwheel(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Five bent blades: a Gaussian bar for each class, turned the more the farther out it lies."""
    noise = torch.randn(len(labels), 2, generator=generator)
    along, across = 0.3 * noise[:, 0] + 1.0, 0.1 * noise[:, 1]
    angle = 2 * math.pi / 5 * labels + 0.25 * along.exp()
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([along * cos - across * sin, along * sin + across * cos], dim=1)


def _checkerboard(labels: Tensor, generator: torch.Generator) -> Tensor:
    """The dark squares of a 4 × 4 board on [−1.5, 1.5]²; a class is a row of two of them."""
    draw = torch.rand(len(labels), 3, generator=generator)
    column = 2 * (draw[:, 0] < 0.5) + labels % 2
    corner = torch.stack([column.float(), labels.float()], dim=1)
    return 0.75 * (corner + draw[:, 1:]) - 1.5


WORLDS = {"pinwheel": World(5, _pinwheel), "checkerboard": World(4, _checkerboard)}


def world(name: str) -> World:
    """A world by name; ValueError if there is none."""
    one_of(WORLDS, "world", name)
    return WORLDS[name]


def stream(*names: object) -> torch.Generator:
    """A generator of its own for each tuple of names, so that no two uses share numbers."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw(name: str, n: int, generator: torch.Generator) -> Points:
    """`n` points of a world, classes drawn uniformly."""
    chosen = world(name)
    labels = torch.randint(chosen.classes, (n,), generator=generator)
    return Points(chosen.place(labels, generator), labels)
