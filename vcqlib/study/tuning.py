"""Guidance and temperature, chosen on validation images; a sweep goes on where it stopped.

sweep.json   what was compared with what, and each point of the grid that is finished
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import held, read_record, write_record
from ..progress import bar
from ..training import distributed
from ..training.checkpoints import differences

FILE = "sweep.json"


class Point(NamedTuple):
    """One setting of sampling."""

    cfg_scale: float
    temperature: float


def grid(cfg_scales: Sequence[float], temperatures: Sequence[float]) -> list[Point]:
    """Every pair, in order and once."""
    return [*dict.fromkeys(Point(*pair) for pair in product(cfg_scales, temperatures))]


def sweep(
    folder: Path,
    about: dict[str, Any],
    points: Sequence[Point],
    draw: Callable[[Point], np.ndarray],
    score: Callable[[np.ndarray], dict[str, float]],
) -> dict[Point, dict[str, float]]:
    """The scores of the points, of which those in the folder are not made again.

    Under torchrun every process draws; the first one scores and writes, and alone knows the result.

    Args:
        about: JSON that says what is compared; a folder with another is refused.
        draw: point → features [n, d] of its samples.
        score: features → numbers, `distance` among them.
    """
    path, first = folder / FILE, distributed.rank() == 0
    about = json.loads(json.dumps(about))
    with held(folder) if first else nullcontext():
        found = _read(path, about) if path.is_file() else {}
        distributed.barrier()  # all have read before the first one writes
        for point in bar([p for p in points if p not in found], "points", delay=2):
            features = draw(point)
            if first:
                found[point] = score(features)
                rows = [{**p._asdict(), **scores} for p, scores in sorted(found.items())]
                write_record(path, {"about": about, "points": rows})
    return {point: found[point] for point in points} if first else {}


def _read(path: Path, about: dict[str, Any]) -> dict[Point, dict[str, float]]:
    record = read_record(path)
    if wrong := differences(record["about"], about):
        raise ValueError(f"{path} holds another sweep ({'; '.join(wrong)}): give another --out, or "
                         "remove it")  # fmt: skip
    return {Point(row.pop("cfg_scale"), row.pop("temperature")): row for row in record["points"]}
