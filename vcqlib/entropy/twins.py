"""Sequences that occur more than once, and whether the pictures behind them are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.pictures import open_image
from ..progress import bar

AT_ONCE = 1 << 22  # tokens hashed at once
LOOKED_AT = 500  # groups whose pictures are opened


@dataclass(frozen=True)
class Twins:
    """Groups of equal sequences, the largest first; only those of different files.

    Attributes:
        groups: files of each group that was looked at.
        equal: for each group, whether all its pictures are equal to the pixel.
        total: groups in all.
    """

    groups: tuple[tuple[Path, ...], ...]
    equal: tuple[bool, ...]
    total: int


def equal_rows(codes: np.ndarray) -> list[np.ndarray]:
    """Row numbers (ascending) of each group of two or more equal rows of integers [N, T]."""
    n, length = codes.shape
    weights = np.random.default_rng(0).integers(1, 1 << 63, length, dtype=np.uint64) | 1
    hashes = np.empty(n, np.uint64)
    step = max(AT_ONCE // length, 1)
    for lo in range(0, n, step):
        block = np.asarray(codes[lo : lo + step]).astype(np.uint64)
        hashes[lo : lo + step] = (_mixed(block) * weights).sum(axis=1, dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    opens = np.flatnonzero(np.diff(hashes[order], prepend=hashes[order[0]] ^ np.uint64(1)))
    groups = (rows for rows in np.split(order, opens[1:]) if len(rows) > 1)
    return [same for rows in groups for same in _parted(codes, rows)]


def _mixed(tokens: np.ndarray) -> np.ndarray:
    """Spread small integers over 64 bits: a sum of plain tokens would collide too often."""
    tokens = (tokens ^ (tokens >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return tokens ^ (tokens >> np.uint64(27))


def _parted(codes: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Groups of rows that are equal indeed, out of rows of the same hash."""
    _, which = np.unique(codes[rows], axis=0, return_inverse=True)
    parts = (rows[which.reshape(-1) == i] for i in range(int(which.max()) + 1))
    return [part for part in parts if len(part) > 1]


def twins(codes: np.ndarray, paths: Sequence[Path]) -> Twins:
    """Compare the pictures of equal sequences.

    Args:
        codes: integers [N, T].
        paths: the image files; N may be a multiple of their number (several crops of each, one
            after the other).

    Raises:
        ValueError: N is no multiple of the number of files, or a picture is damaged.
    """
    if not paths or len(codes) % len(paths):
        raise ValueError(f"{len(paths):,} images do not go with {len(codes):,} sequences")
    crops = len(codes) // len(paths)
    by_file = [np.unique(rows // crops) for rows in equal_rows(codes)]
    groups = sorted((files for files in by_file if len(files) > 1), key=lambda f: (-len(f), f[0]))
    chosen = [tuple(paths[i] for i in files) for files in groups[:LOOKED_AT]]
    equal = tuple(len({_pixels(p) for p in group}) == 1 for group in bar(chosen, "pictures"))
    return Twins(tuple(chosen), equal, len(groups))


def _pixels(path: Path) -> str:
    image = open_image(path).convert("RGB")
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
