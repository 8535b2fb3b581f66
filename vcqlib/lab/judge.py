"""What the records come to: one table, and the claims judged by the rule of the lab file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from ..study import scorecard
from .plan import Lab
from .trial import SOURCES

SEEDS = 20  # fewer decide nothing here


def frame(found: Sequence[Mapping]) -> pd.DataFrame:
    """One row for each arm of a record and point of its curve; distances as they are.

    `last` marks the end of a curve, `chosen` the point with the best validation likelihood.
    """
    return pd.DataFrame(_rows(found))


def _rows(found: Sequence[Mapping]) -> Iterator[dict]:
    for r in found:
        shared = {"group": r["group"]} | {k: r["trial"][k] for k in ("world", "n", *SOURCES)}
        for arm, m in r["arms"].items():
            best = min(m["curve"], key=lambda point: point["validation"])
            for point in m["curve"]:
                yield {
                    **shared, "arm": arm, "rate": sum(map(math.log2, r["trial"]["arms"][arm])),
                    "floor": m["floor"], "tokenizer": m["to_truth"], "mse": m["mse"],
                    "fresh_seen": m["seen"], "cliff": m["cliff"], "cells": m["cells"], **point,
                    "last": point is m["curve"][-1], "chosen": point is best,
                }  # fmt: skip


def resolution(table: pd.DataFrame) -> float:
    """Twice the root mean square of the floors: what the distances of a table can resolve."""
    once = table.drop_duplicates(["group", "world", "n", "arm", "tokenizer_seed", "set_seed"])
    return 2 * float((once["floor"] ** 2).mean() ** 0.5)


def pairs(
    table: pd.DataFrame, a: str, b: str, least: float, measure: str = "to_reconstructions"
) -> tuple[list[float], list[float]]:
    """Distances of two arms by trial, those below `least` raised to it; one point of a curve."""
    wide = table.pivot_table(index=["world", "n", *SOURCES], columns="arm", values=measure)
    if missing := {a, b} - set(wide.columns):
        raise ValueError(f"no records of arm {sorted(missing)[0]!r} (there are {list(wide)})")
    both = wide[[a, b]].dropna().clip(lower=least)
    return both[a].tolist(), both[b].tolist()


def verdicts(
    lab: Lab, table: pd.DataFrame, at: str = "last", measure: str = "to_reconstructions"
) -> pd.DataFrame:
    """Every claim at every N of the group `rows`, judged by the rule of the lab file.

    at: the point of each curve, `last` or `chosen`.
    """
    table = table[(table["group"] == "rows") & table[at]]
    family, low = {}, {}
    for n, part in table.groupby("n"):
        least = resolution(part)
        for claim in lab.claims:
            key = (n, claim.treatment, claim.control)
            family[key] = pairs(part, claim.treatment, claim.control, least, measure)
            low[key] = sum(value <= least for side in family[key] for value in side)
    enough = {key: len(family[key][0]) >= SEEDS and low[key] <= len(family[key][0])
              for key in family}  # fmt: skip
    judged = scorecard.judge_family(family, enough)
    rows = [dict(zip(("n", "treatment", "control"), key, strict=True)) | found
            for key, found in judged.items()]  # fmt: skip
    return pd.DataFrame(rows)


def ratios(table: pd.DataFrame, controls: Sequence[str]) -> pd.DataFrame:
    """`loglinear` over each control at every N and number of passes, with plain 95 % intervals.

    Distances below the resolution at their N count as the resolution; `resolved` is the share of
    seeds where either lies above it.
    """
    rows = []
    for (world, n), part in table.groupby(["world", "n"]):
        least = resolution(part)
        for passes, point in part.groupby("passes"):
            for control in controls:
                both = pairs(point, "loglinear", control, least)
                effect = scorecard.paired_effect(*both)
                above = sum(max(pair) > least for pair in zip(*both, strict=True))
                rows.append({
                    "world": world, "n": n, "passes": passes, "control": control,
                    "ratio": effect.ratio, "low": effect.low, "high": effect.high,
                    "detectable": effect.detectable, "seeds": effect.seeds,
                    "resolved": above / effect.seeds,
                })  # fmt: skip
    return pd.DataFrame(rows)


def one_size(point: pd.DataFrame) -> pd.DataFrame:
    """Codebooks with one size at every position: mean rate in bits and distance, by rate."""
    means = point.groupby("arm")[["rate", "to_reconstructions"]].mean()
    return means[means.index.str.startswith(("uniform", "matched"))].sort_values("rate")


def residual(point: pd.DataFrame, arm: str = "loglinear") -> scorecard.Effect | None:
    """An arm over the curve of codebooks of one size at its own rate, paired by seed.

    Between two sizes the logarithm of the distance is linear in the rate. Below 1 the arm gains
    from how its bits are distributed, not only from their number.

    Args:
        point: rows of one world and N, at one point of the curve.

    Returns:
        None where no seed has codebooks of one size on both sides of the arm's rate.
    """
    wide = point.pivot_table(index=SOURCES, columns="arm", values="to_reconstructions")
    rates, own = one_size(point)["rate"], point.loc[point["arm"] == arm, "rate"].mean()
    wide = wide[[arm, *rates.index]].dropna().clip(lower=resolution(point))
    curve = [scorecard.on_curve(own, zip(rates, line, strict=True))
             for line in wide[rates.index].values]  # fmt: skip
    return None if None in (curve or [None]) else scorecard.paired_effect(wide[arm].tolist(), curve)


def residuals(table: pd.DataFrame, arm: str = "loglinear") -> dict[int, scorecard.Effect]:
    """`residual` by N: pinwheel, end of training, where codebooks of several sizes were trained."""
    ends = table[(table["world"] == "pinwheel") & table["group"].isin(["rows", "rate"])]
    found = {int(n): residual(point, arm) for n, point in ends[ends["last"]].groupby("n")}
    return {n: effect for n, effect in found.items() if effect}


def scatter(logs: pd.Series) -> dict[str, float]:
    """What moves a ratio: standard deviations of its logarithm by source.

    logs: indexed by `set_seed`, `tokenizer_seed`, `ar_seed`, all crossed, at least two of each.
    Two-way analysis of variance with random effects; the AR seeds are repeats within a pair of
    training set and tokenizer. A component that comes out negative is 0.
    """
    cube = logs.sort_index()
    s, t, a = (cube.index.get_level_values(name).nunique() for name in SOURCES)
    if min(s, t, a) < 2 or len(cube) != s * t * a:
        raise ValueError(f"need all of at least 2 × 2 × 2 crossed seeds, got {s} × {t} × {a}")
    x = cube.to_numpy().reshape(s, t, a)
    mean, cell = x.mean(), x.mean(2)
    sets, tokenizers = cell.mean(1) - mean, cell.mean(0) - mean
    between = cell - mean - sets[:, None] - tokenizers[None]
    repeats = ((x - cell[..., None]) ** 2).sum() / (s * t * (a - 1))
    both = a * (between**2).sum() / ((s - 1) * (t - 1))
    parts = {
        "training set": (t * a * (sets**2).sum() / (s - 1) - both) / (t * a),
        "tokenizer": (s * a * (tokenizers**2).sum() / (t - 1) - both) / (s * a),
        "set × tokenizer": (both - repeats) / a,
        "AR seed": repeats,
    }
    return {name: math.sqrt(max(0.0, value)) for name, value in parts.items()}
