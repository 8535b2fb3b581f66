"""Codebooks of one size at every rate, and where a growing one stands beside them.

If only the number of bits counted, every codebook would lie on the curve that those of one size
draw as K varies. Claim C9 is judged by the distance from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..study import records, scorecard
from ..theory.cliff import cumulative_capacity
from . import findings

if TYPE_CHECKING:
    import pandas as pd

    from ..study.scorecard import Effect


def residual(found: list[dict], arm: str, group: str,
             measure: str = "FD to reconstructions") -> Effect | None:  # fmt: skip
    """An arm over the curve of uniform codebooks at its own rate, paired by seed.

    The curve joins, seed by seed, the uniform codebooks of all sizes that were trained like the
    arm; between two of them the logarithm of the measure is linear in the total bits C_T. Below 1
    the arm gains from how its bits are distributed, not only from their number.

    Returns:
        None where no seed has uniform codebooks on both sides of the arm's rate.
    """
    mine = [r for r in found if (r["group"], r["arm"]) == (group, arm)]
    ours, curve = [], []
    for r in mine:
        bits, alike = cumulative_capacity(r["sizes"])[-1], _trained_alike(r)
        line = [
            (cumulative_capacity(x["sizes"])[-1], _value(x, measure))
            for x in found
            if len(set(x["sizes"])) == 1 and _trained_alike(x) == alike
        ]
        if (there := scorecard.on_curve(bits, line)) is not None:
            ours.append(_value(r, measure))
            curve.append(there)
    return scorecard.paired_effect(ours, curve) if ours else None


def curves(found: list[dict], arm: str = "loglinear",
           measure: str = "FD to reconstructions") -> pd.DataFrame:  # fmt: skip
    """One row for each regime in which `residual` is known, with its verdict: it decides C9."""
    import pandas as pd

    rows = []
    regimes = findings.images(found, measure, arm).drop_duplicates(["study", "group"])
    for r in regimes.to_dict("records"):
        own = [x for x in found if x["study"] == r["study"]]
        if effect := residual(own, arm, r["group"], measure):
            mine = [x for x in own if (x["group"], x["arm"]) == (r["group"], arm)]
            like = [_trained_alike(x) for x in mine]
            line = [x for x in own if len(set(x["sizes"])) == 1 and _trained_alike(x) in like]
            clear = all(all(records.floors(x).values()) for x in mine + line)
            regime = {k: r[k] for k in ("study", "group", "set", "n", "passes", "T")}
            rows.append(regime | _judged(effect, clear))
    return pd.DataFrame(rows)


def point_curves(arm: str = "loglinear") -> pd.DataFrame:
    """The same rows for the known world, at the end of training; by the lab's own rule."""
    import pandas as pd

    from ..lab import judge
    from ..lab import records as lab_records

    found = judge.residuals(judge.frame(lab_records.load()), arm)
    about = {"study": "lab", "group": "rows", "set": "points in the plane", "T": 8}
    return pd.DataFrame([about | {"n": n} | _judged(effect, effect.seeds >= judge.SEEDS)
                         for n, effect in found.items()])  # fmt: skip


def _judged(effect: Effect, clear: bool = True) -> dict:
    return {"control": "curve", "ratio": effect.ratio, "low": effect.low, "high": effect.high,
            "interval": effect.interval(), "seeds": effect.seeds, "detectable": effect.detectable,
            "verdict": scorecard.judge_effect(effect, smaller=True, floors=clear)}  # fmt: skip


def smaller(found: list[dict], group: str,
            measure: str = "FD to reconstructions") -> dict[int, Effect]:  # fmt: skip
    """K → a codebook of that one size over the uniform arm of a group, paired by seed."""
    uniform = {r["seed"]: r for r in found if (r["group"], r["arm"]) == (group, "uniform")}
    pairs: dict[int, list[tuple[float, float]]] = {}
    for r in found:
        large = uniform.get(r["seed"])
        plain = large and len(set(r["sizes"])) == 1 and r["sizes"] != large["sizes"]
        if plain and _trained_alike(r) == _trained_alike(large):
            pairs.setdefault(r["sizes"][0], []).append((_value(r, measure), _value(large, measure)))
    return {k: scorecard.paired_effect(*zip(*pairs[k], strict=True)) for k in sorted(pairs)}


def by_rate(found: list[dict], group: str,
            measure: str = "FD to reconstructions") -> list[list]:  # fmt: skip
    """Arms trained like a group of one study: name, bits, geometric mean, sizes all equal."""
    like = next(r for r in found if r["group"] == group)
    alike = _trained_alike(like, "seed")
    arms: dict[str, list[dict]] = {}
    for r in found:
        if _trained_alike(r, "seed") == alike and findings.has(r, measure):
            arms.setdefault(r["arm"], []).append(r)
    return [
        [arm, float(cumulative_capacity(mine[0]["sizes"])[-1]),
         math.exp(np.mean([math.log(_value(r, measure)) for r in mine])),
         len(set(mine[0]["sizes"])) == 1]
        for arm, mine in arms.items()
    ]  # fmt: skip


def explorer(found: list[dict], methods: Sequence[str] = ("loglinear", "doubling")) -> dict:
    """What the interactive figure `results` reads: every comparison, and the points by rate."""
    rows, rates = [], {}
    for measure in findings.MEASURES:
        for method in methods:
            for _, r in findings.images(found, measure, method).iterrows():
                kept = ("control", "interval", "corrected", "verdict", "ratio", "low", "high",
                        "detectable")  # fmt: skip
                plain = {k: None if r[k] != r[k] else r[k] for k in kept}  # NaN: no interval
                regime, own = findings.regime(r), [x for x in found if x["study"] == r["study"]]
                rows.append(plain | {"method": method, "regime": regime, "measure": measure,
                                     "pairs": list(zip(*r["values"], strict=True))})  # fmt: skip
                rates.setdefault(regime, {})[measure] = by_rate(own, r["group"], measure)
    return {"rows": rows, "rates": rates}


def _value(record: Mapping, measure: str) -> float:
    return findings.MEASURES[measure](record["measures"])


def _trained_alike(record: Mapping, *but: str) -> dict:
    names = {"dataset", "n_images", "length", "ar_steps", "ar_precision", "tokenizer_steps", "seed",
             "ar_seed"}  # fmt: skip
    return {name: record["config"][name] for name in names.difference(but)}
