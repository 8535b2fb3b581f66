"""The rule that turns measurements into verdicts; the book's scorecard states it.

An effect is a ratio "treatment over control" for one seed, for instance the Fréchet distance of the
variable codebook over that of the uniform one. A claim says on which side of 1 the ratio lies, and
sometimes how far. Seeds are paired: the same seed gives one treatment and one control.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

REPRODUCED, DIRECTION, UNDECIDED, CONTRADICTED, UNTESTABLE = VERDICTS = (
    "reproduced",
    "direction only",
    "not to be told apart",
    "contradicted",
    "not testable here",
)
RUNGS = ("exact", "measured small", "measured GPU", "configuration ready")
MIN_SEEDS = 3  # fewer give no interval worth the name
LEVEL, POWER = 0.05, 0.8  # of the tests, two-sided


@dataclass(frozen=True)
class Effect:
    """A ratio over paired seeds, with its interval."""

    ratio: float  # geometric mean
    low: float | None  # None with fewer than MIN_SEEDS seeds
    high: float | None
    seeds: int
    p: float | None = None  # two-sided, of a ratio of 1
    detectable: float | None = None  # ratio above 1 that so many seeds show 4 times of 5

    def interval(self) -> str:
        """`0.71 to 0.83`, or why there is none; an end that is not 1 is not written 1.00."""
        if self.low is None or self.high is None:
            return "one seed" if self.seeds == 1 else f"{self.seeds} seeds: too few"
        ends = f"{self.low:.2f} to {self.high:.2f}"
        excludes = not self.low <= 1 <= self.high
        return f"{self.low:.3f} to {self.high:.3f}" if excludes and "1.00" in ends else ends


def paired_effect(
    treatment: Sequence[float], control: Sequence[float], level: float = LEVEL
) -> Effect:
    """Geometric mean of treatment/control over seeds and its interval, from t on the logarithms.

    level: one minus the interval's coverage; Holm's correction lowers it.

    Raises:
        ValueError: unequal numbers of seeds, none at all, or a value that is not positive.
    """
    if len(treatment) != len(control) or not len(treatment):
        raise ValueError(f"seeds must pair up, got {len(treatment)} and {len(control)} values")
    for value in (*treatment, *control):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"a ratio needs positive finite values, got {value!r}")
    logs = [math.log(a / b) for a, b in zip(treatment, control, strict=True)]
    n, mean = len(logs), math.fsum(logs) / len(logs)
    if n < MIN_SEEDS:
        return Effect(math.exp(mean), None, None, n)
    from scipy.stats import t  # slow to import

    error = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (n - 1) / n)
    half = float(t.ppf(1 - level / 2, n - 1)) * error
    p = 2 * float(t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    seen = math.exp(half + float(t.ppf(POWER, n - 1)) * error)
    return Effect(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n, p, seen)


def on_curve(bits: float, curve: Iterable[tuple[float, float]]) -> float | None:
    """A positive measure at a number of bits, from (bits, measure) of several codebooks.

    Between two of them its logarithm is linear in the bits; None outside of them.
    """
    known = sorted(curve)
    if not known or not known[0][0] <= bits <= known[-1][0]:
        return None
    rates, values = zip(*known, strict=True)
    return math.exp(np.interp(bits, rates, np.log(values)))


def holm(pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> dict[str, Effect]:
    """`paired_effect` of several arms at once, with Holm's correction (doi:10.2307/4615733).

    In the order of their p the j-th of m arms has an interval of coverage 1 − 0.05/(m − j + 1);
    once an interval holds 1, so do all after it.
    """
    plain = {name: paired_effect(*pair) for name, pair in pairs.items()}
    order = sorted(plain, key=lambda name: 2.0 if plain[name].p is None else plain[name].p)
    found, stopped, widest = {}, False, LEVEL
    for j, name in enumerate(order):
        level = min(widest, LEVEL / (len(order) - j)) if not stopped else widest
        effect = paired_effect(*pairs[name], level=level)
        if effect.low is not None and (stopped or effect.low <= 1 <= effect.high):
            stopped, widest = True, level
            effect = replace(effect, low=min(effect.low, 1.0), high=max(effect.high, 1.0))
        found[name] = effect
    return {name: found[name] for name in pairs}


def judge_identity(holds: bool | None) -> str:
    """Verdict on a claim that is arithmetic or a property of code: it holds or it does not."""
    return UNTESTABLE if holds is None else REPRODUCED if holds else CONTRADICTED


def judge_effect(
    effect: Effect | None, smaller: bool, paper: float | None = None, floors: bool = True
) -> str:
    """Verdict on a claim about an effect.

    1. No measurement, a run below a floor of the protocol, or fewer than MIN_SEEDS seeds: not
       testable here.
    2. An interval that holds 1: not to be told apart; one on the other side: contradicted.
    3. An interval on the claim's side that falls short of the paper's ratio, where the paper gives
       one: direction only. Else reproduced.

    Args:
        effect: the measured ratio; None if nothing was measured.
        smaller: True if the claim says "below 1".
        paper: the paper's ratio, if it gives one.
        floors: whether every run behind the effect cleared its floors.

    Raises:
        ValueError: a paper's ratio that contradicts `smaller`.
    """
    if paper is not None and (paper < 1) != smaller:
        raise ValueError(f"the paper's ratio {paper} is not on the claim's side of 1")
    if effect is None or effect.low is None or effect.high is None or not floors:
        return UNTESTABLE
    sign = -1 if smaller else 1  # in logarithms, the claim's side is then positive
    least, most = sorted(sign * math.log(end) for end in (effect.low, effect.high))
    if least <= 0 <= most:
        return UNDECIDED
    if most < 0:
        return CONTRADICTED
    return REPRODUCED if paper is None or most >= sign * math.log(paper) else DIRECTION


def judge_family(
    pairs: Mapping[Hashable, tuple[Sequence[float], Sequence[float]]],
    enough: Mapping[Hashable, bool] | None = None,
) -> dict[Hashable, dict[str, Any]]:
    """Verdicts on several effects that are looked at together and that a claim says lie below 1.

    Judged by the interval after Holm's correction; where that one holds 1 and the plain interval
    lies on the claim's side, the verdict is direction only.

    Args:
        pairs: name → values of the treatment and of the control, paired by seed.
        enough: whether the runs behind an effect cleared their floors; all did, if None.

    Returns:
        name → `ratio`, `low`, `high`, `interval` (plain), `corrected` (interval), `p`,
        `detectable`, `seeds`, `verdict`, `floors` (cleared).
    """
    found = {}
    for name, effect in holm(pairs).items():
        plain = paired_effect(*pairs[name])
        cleared = enough is None or enough[name]
        verdict = judge_effect(effect, True, floors=cleared)
        if verdict == UNDECIDED and plain.high is not None and plain.high < 1:
            verdict = DIRECTION
        found[name] = {
            "ratio": plain.ratio, "low": plain.low, "high": plain.high,
            "interval": plain.interval(), "corrected": effect.interval(), "p": plain.p,
            "detectable": plain.detectable, "seeds": plain.seeds, "verdict": verdict,
            "floors": cleared,
        }  # fmt: skip
    return found


def judge_share(share: float | None, whole: float, part: float, seeds: int) -> str:
    """Verdict on a measured share: `whole` of it, `part`, or less; few seeds decide nothing."""
    if share is None or seeds < MIN_SEEDS:
        return UNTESTABLE
    if share >= whole:
        return REPRODUCED
    return DIRECTION if share >= part else CONTRADICTED


def worst(*verdicts: str) -> str:
    """Verdict on a claim of several parts: the most cautious of theirs.

    One part that is contradicted contradicts the claim; one that was not tested leaves it untested.
    """
    for verdict in verdicts:
        if verdict not in VERDICTS:
            raise ValueError(f"unknown verdict {verdict!r} (known: {', '.join(VERDICTS)})")
    cautious = (REPRODUCED, DIRECTION, UNDECIDED, UNTESTABLE, CONTRADICTED)
    return max(verdicts, key=cautious.index)


def across(*verdicts: str) -> str:
    """Verdict on a claim looked at in several regimes: the most cautious of theirs.

    A regime that is not testable counts as not run, if there are others.
    """
    run = [verdict for verdict in verdicts if verdict != UNTESTABLE]
    return worst(*(run or verdicts))
