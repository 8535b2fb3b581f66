"""Sequences that occur more than once, and whether the pictures behind them are the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.pictures import open_image
from ..progress import bar

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
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, row in enumerate(codes):
        groups[hashlib.blake2b(row.tobytes(), digest_size=16).digest()].append(i)
    return [np.array(rows) for rows in groups.values() if len(rows) > 1]


def twins(codes: np.ndarray, paths: Sequence[Path]) -> Twins:
    """Compare the pictures behind equal sequences of integers [N, T].

    N may be a multiple of the number of files (several crops of each, one after the other), else it
    is a ValueError, as a damaged picture is.
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
