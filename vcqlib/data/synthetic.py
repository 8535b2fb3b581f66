"""Drawn pictures, as many as one likes: ten shapes with random place, size, angle and colour.

They stand in where real data would be too large for a check, and every image is different.
"""

from __future__ import annotations

import numpy as np

SHAPES = (
    "disc", "ring", "square", "frame", "diamond", "triangle", "cross", "bar", "checks", "half-disc",
)  # fmt: skip


def draw(n: int, size: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`n` images uint8 [n, channels, size, size] and labels int64 [n]; label = index mod 10.

    A smaller n with the same seed gives the first images of a larger one.
    """
    # one row of random numbers an image, so that n does not shift the numbers of the others
    random = np.random.default_rng(seed).random((n, 4 + 2 * channels))
    labels = np.arange(n) % len(SHAPES)
    images = np.empty((n, channels, size, size), dtype=np.uint8)
    for start in range(0, n, 1024):  # in blocks, to bound the memory for float masks
        rows = slice(start, start + 1024)
        mask = _masks(random[rows, :4], labels[rows], size)[:, None]  # [B, 1, H, W]
        paper = 0.4 * random[rows, 4 : 4 + channels, None, None]
        ink = 0.6 + 0.4 * random[rows, 4 + channels :, None, None]
        images[rows] = np.rint(255 * (paper + mask * (ink - paper)))
    return images, labels


def _masks(placing: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """Soft-edged shapes, float [B, H, W] in [0, 1]; `placing` [B, 4]: x, y, radius, angle."""
    grid = (np.arange(size) + 0.5) / size * 2 - 1  # pixel centres in [-1, 1]
    x0, y0, radius, angle = (column[:, None, None] for column in placing.T)
    radius = 0.4 + 0.25 * radius
    dx, dy = grid[None, None, :] - 0.6 * (x0 - 0.5), grid[None, :, None] - 0.6 * (y0 - 0.5)
    angle = 0.5 * (angle - 0.5)  # a quarter radian each way: shapes stay recognisable
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / radius
    round_, square, diamond = np.hypot(u, v), np.maximum(abs(u), abs(v)), abs(u) + abs(v)
    # each shape is where its function is positive, one for each name of SHAPES
    inside = (
        lambda i: 1 - round_[i],
        lambda i: np.minimum(1 - round_[i], round_[i] - 0.6),
        lambda i: 0.8 - square[i],
        lambda i: np.minimum(0.9 - square[i], square[i] - 0.6),
        lambda i: 1.1 - diamond[i],
        lambda i: np.minimum(0.8 - v[i], (v[i] + 1 - 2 * abs(u[i])) / 2),
        lambda i: np.minimum(1 - square[i], 0.3 - np.minimum(abs(u[i]), abs(v[i]))),
        lambda i: np.minimum(1 - abs(u[i]), 0.3 - abs(v[i])),
        lambda i: np.minimum(1 - square[i], 0.3 * np.sin(np.pi * u[i]) * np.sin(np.pi * v[i])),
        lambda i: np.minimum(1 - round_[i], v[i]),
    )
    masks = np.empty((len(labels), size, size))
    for label, function in enumerate(inside):
        rows = np.flatnonzero(labels == label)
        edge = radius[rows] * size  # half a pixel of soft edge on each side
        masks[rows] = np.clip(function(rows) * edge / 2 + 0.5, 0, 1)
    return masks
