"""What the interactive figure `cells` shows: cells, samples and memorised points for several N.

Tokenizers of the lab have seen fresh points only, so one of each arm serves every N. The training
sets are nested: the first N of one set. An AR model an arm and N is trained for equally many steps.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..entropy.estimates import conditional_entropy
from ..lab import measure, trial
from ..lab.models import PointTokenizer
from . import figures

SIDE = 48  # places along an edge of the plane at which a cell is looked up
SHOWN = 250  # training points and samples that are drawn, at most
ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
FINE = 64**2  # steps of a coordinate, which takes two characters


def packed(values: np.ndarray) -> str:
    """Whole numbers from 0 to 63, a character each."""
    return "".join(ALPHABET[value] for value in np.asarray(values).ravel())


def packed_points(points: Tensor, extent: tuple[float, float]) -> str:
    """Points [n, 2], four characters each; those outside of the extent are put on its edge."""
    low, high = extent
    grid = ((points - low) / (high - low) * FINE).long().clamp(0, FINE - 1).numpy()
    return packed(np.stack([grid // 64, grid % 64], axis=-1))


def occupied(places: Tensor, training: Tensor, ns: Sequence[int]) -> np.ndarray:
    """When cells fill: for codes of places [P, T] and of training points [N, T], int [P, T, 2].

    The index of the first of `ns` (growing, N at most) at which the cell of a place by its first t
    codes holds one training point, and two; len(ns) if none does.
    """
    found = np.full((*places.shape, 2), len(ns))
    for t in range(places.shape[1]):
        rows = torch.cat([training, places])[:, : t + 1]
        _, cell = rows.unique(dim=0, return_inverse=True)
        mine, theirs = cell[: len(training)].numpy(), cell[len(training) :].numpy()
        order = np.argsort(mine, kind="stable")  # points of a cell side by side, early ones first
        for k in (0, 1):
            first = np.searchsorted(mine[order], theirs) + k
            there = first < len(order)
            there[there] = mine[order[first[there]]] == theirs[there]
            found[there, t, k] = np.searchsorted(ns, order[first[there]], side="right")
    return found


def scene(
    live: trial.Trial, tokenizers: Mapping[str, PointTokenizer], ns: Sequence[int], steps: int,
    extent: tuple[float, float] = (-2.0, 2.0), samples: int = 1000,
) -> dict:  # fmt: skip
    """What the script `cells` reads; see there.

    live: world, seeds and recipe; its N and passes do not matter. tokenizers: of its arms, trained
    on fresh points. ns: sizes of the training set, growing. steps: of each AR model. samples:
    points behind a share.
    """
    points, labels = live.points("training", ns[-1])
    test = live.points("test", samples)
    axis = torch.linspace(*extent, SIDE + 1).unfold(0, 2, 1).mean(1)  # middles
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).flatten(0, 1)
    codes = {name: model.encode(points) for name, model in tokenizers.items()}
    fresh = {name: model.encode(test.points) for name, model in tokenizers.items()}
    arms = {}
    for name, model in tokenizers.items():
        places = model.encode(grid)
        when = occupied(places, codes[name], ns)
        arms[name] = {
            "name": name, "sizes": list(model.quantizer.sizes), "cells": packed(places),
            "filled": packed(when[..., 0] * 8 + when[..., 1]), "at": [],
        }  # fmt: skip
    for n in ns:
        passes = steps * min(live.batch, n) / n
        some = replace(live, n=n, passes=(passes,))
        train = {name: rows[:n] for name, rows in codes.items()}
        ((_, (models,)),) = trial.train_ar([some], [train], [labels[:n]])
        for name, model in models.items():
            drawn = measure.sample(model, test.labels, some)
            known = measure.seen(drawn, train[name])
            arms[name]["at"].append({
                "passes": passes,
                "samples": packed_points(tokenizers[name].decode(drawn[:SHOWN]), extent),
                "known": packed(known[:SHOWN].long()),
                "share": float(known.double().mean()),
                "fresh": float(measure.seen(fresh[name], train[name]).double().mean()),
                "repeated": packed(measure.seen(train[name][:SHOWN], drawn).long()),
                "alone": conditional_entropy(train[name].numpy()).unique_share.tolist(),
            })  # fmt: skip
    return {
        "ns": list(ns), "steps": steps, "side": SIDE, "length": live.shape.length,
        "training": packed_points(points[:SHOWN], extent), "arms": [*arms.values()],
    }  # fmt: skip


def unpacked_points(text: str, extent: tuple[float, float]) -> np.ndarray:
    """Points [n, 2] of `packed_points`, in the middle of their steps."""
    digits = np.array([ALPHABET.index(c) for c in text], float).reshape(-1, 2, 2)
    low, high = extent
    return low + (high - low) * (64 * digits[..., 0] + digits[..., 1] + 0.5) / FINE


def static(scene: Mapping, extent: tuple[float, float] = (-2.0, 2.0)) -> Figure:
    """Samples of every arm for the smallest and the largest N; orange: with known codes."""
    panels = {}
    for arm in scene["arms"]:
        for k in (0, -1):
            at = arm["at"][k]
            known = np.array([ALPHABET.index(c) for c in at["known"]])
            title = f"{arm['name']}, N = {scene['ns'][k]:,}"
            panels[title] = (unpacked_points(at["samples"], extent), known)
    return figures.plane(panels, extent)[0]
