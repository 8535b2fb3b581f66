"""Coarse to fine (claim C8): what a linear probe reads from the first tokens of two arms.

Tokens of different codebook sizes are not equal amounts, so arms are compared twice: at equal
tokens, as the paper does, and at equal bits of capacity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..checks import must, one_of
from ..theory.cliff import cumulative_capacity
from . import records, scorecard
from .measures import prefix_lengths

READINGS = ("encoder outputs", "code vectors", "one-hot codes")  # of a token, by the probe
CONTROLS = ("uniform", "matched", "reversed")
TOKENS = (5, 10)  # the paper's probe reads 10
UNIFORM_TOKENS = (1, 3)  # whose bits are the equal bits: 8 and 24 at K = 256


def probed(found: Sequence[dict], arm: str = "loglinear") -> dict[tuple[str, int], list[dict]]:
    """Records with probes by (data set, T), of one group each, so that no tokenizer counts twice.

    Of several groups it is the one with the most seeds of both `arm` and uniform, then with the
    most images behind the probe. Sets without such a pair are left out.
    """
    groups: dict[tuple, list[dict]] = {}
    for r in found:
        if "probe" in r["measures"]:
            place = r["config"]["dataset"], len(r["sizes"])
            groups.setdefault((*place, r["study"], r["group"]), []).append(r)
    best: dict[tuple[str, int], tuple] = {}
    for (dataset, length, *_), some in groups.items():
        seeds = [{r["seed"] for r in some if r["arm"] == name} for name in (arm, "uniform")]
        rank = len(set.intersection(*seeds)), some[0]["config"]["n_images"]
        if rank[0] and rank > best.get((dataset, length), ((0, 0), []))[0]:
            best[dataset, length] = rank, some
    return {place: some for place, (_, some) in sorted(best.items())}


def accuracy(
    record: dict, reading: str, tokens: float | None = None, bits: float | None = None
) -> float:
    """Probe accuracy on the first `tokens`, or the first `bits` of capacity, of one record.

    Linear between the prefixes that were probed.

    Raises:
        ValueError: an unknown reading, not exactly one of tokens and bits, or a prefix shorter or
            longer than those that were probed.
    """
    probe = record["measures"]["probe"]
    one_of(probe, "reading", reading)
    if (tokens is None) == (bits is None):
        raise ValueError(f"give tokens or bits, got tokens={tokens}, bits={bits}")
    lengths = np.asarray(prefix_lengths(len(record["sizes"])))
    at = lengths if bits is None else cumulative_capacity(record["sizes"])[lengths - 1]
    asked, what = (tokens, "tokens") if bits is None else (bits, "bits")
    there = at[0] - 1e-9 <= asked <= at[-1] + 1e-9
    must(there, what, f"{at[0]:g} to {at[-1]:g} in {record['arm']}", asked)
    return float(np.interp(asked, at, probe[reading]))


def effects(
    group: Sequence[dict], reading: str, controls: Sequence[str], arm: str = "loglinear",
    tokens: float | None = None, bits: float | None = None,
) -> dict[str, scorecard.Effect]:  # fmt: skip
    """Accuracy of an arm over that of each control, paired by seed, corrected after Holm."""
    compared = {}
    for control in controls:
        both = records.pairs(list(group), arm, control, group[0]["group"])
        sides = zip(*both, strict=True)
        compared[control] = tuple([accuracy(r, reading, tokens, bits) for r in s] for s in sides)
    return scorecard.holm(compared)


def table(found: Sequence[dict], arm: str = "loglinear") -> pd.DataFrame:
    """All comparisons of `arm`: one row for each data set and T, prefix, reading and control.

    Columns: dataset, length, equal ("tokens" or "bits"), at (how many), reading, control, ratio,
    low, high (None with fewer than three seeds), seeds, effect (the `scorecard.Effect`). Encoder
    outputs have no row at equal bits: the codebook does not limit what they hold. Controls that
    were not probed have none at all.
    """
    rows = []
    for (dataset, length), group in probed(found, arm).items():
        names = {r["arm"] for r in group}
        controls = [c for c in CONTROLS if c in names and c != arm]
        uniform = next(r for r in group if r["arm"] == "uniform")["sizes"]
        places = [("tokens", m) for m in dict.fromkeys(min(m, length) for m in TOKENS)]
        least = min(cumulative_capacity(r["sizes"])[-1] for r in group)
        equal_bits = [m * float(np.log2(uniform[0])) for m in UNIFORM_TOKENS]
        places += [("bits", b) for b in equal_bits if b <= least]  # that every arm holds
        for (equal, at), reading in ((p, r) for p in places for r in READINGS):
            if equal == "bits" and reading == READINGS[0]:
                continue
            ratios = effects(group, reading, controls, arm, **{equal: at})
            rows += [
                {"dataset": dataset, "length": length, "equal": equal, "at": at,
                 "reading": reading, "control": c, "ratio": e.ratio, "low": e.low, "high": e.high,
                 "seeds": e.seeds, "effect": e}
                for c, e in ratios.items()
            ]  # fmt: skip
    return pd.DataFrame(rows)
