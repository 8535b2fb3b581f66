"""The rule that turns measurements into verdicts; chapter 10 states it before its table.

An effect is a ratio "treatment over control" for one seed, for instance gFD of the variable
codebook over gFD of the uniform one. A claim says on which side of 1 the ratio lies, and sometimes
how far. Seeds are paired: the same seed gives one treatment and one control.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

REPRODUCED, DIRECTION, NOT, UNTESTABLE = VERDICTS = (
    "reproduced",
    "direction only",
    "not reproduced",
    "not testable here",
)
RUNGS = ("exact", "measured small", "measured GPU", "configuration ready")
MIN_SEEDS = 3  # fewer give no interval worth the name


@dataclass(frozen=True)
class Effect:
    """A ratio over paired seeds, with its 95 % t-interval."""

    ratio: float  # geometric mean
    low: float | None  # None with fewer than MIN_SEEDS seeds
    high: float | None
    seeds: int

    def interval(self) -> str:
        """`0.71 to 0.83`, or why there is none."""
        if self.low is None or self.high is None:
            return "one seed" if self.seeds == 1 else f"{self.seeds} seeds: too few"
        return f"{self.low:.2f} to {self.high:.2f}"


def paired_effect(treatment: Sequence[float], control: Sequence[float]) -> Effect:
    """Geometric mean of treatment/control over seeds and its interval, from t on the logarithms.

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

    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return Effect(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def judge_identity(holds: bool | None) -> str:
    """Verdict on a claim that is arithmetic or a property of code: it holds or it does not."""
    return UNTESTABLE if holds is None else REPRODUCED if holds else NOT


def judge_effect(
    effect: Effect | None, smaller: bool, paper: float | None = None, floors: bool = True
) -> str:
    """Verdict on a claim about an effect.

    1. No measurement, or a run below a floor of the protocol: not testable here.
    2. The mean ratio lies at 1 or on the other side: not reproduced.
    3. Fewer than MIN_SEEDS seeds, or an interval that holds 1, or one that falls short of the
       paper's ratio where the paper gives one: direction only.
    4. Else reproduced.

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
    if effect is None or not floors:
        return UNTESTABLE
    sign = -1 if smaller else 1  # in logarithms, the claim's side is then positive
    if sign * math.log(effect.ratio) <= 0:
        return NOT
    if effect.low is None or effect.high is None:
        return DIRECTION
    ends = sorted(sign * math.log(end) for end in (effect.low, effect.high))
    needed = 0.0 if paper is None else sign * math.log(paper)
    return REPRODUCED if ends[0] > 0 and ends[1] >= needed else DIRECTION


def judge_share(share: float | None, whole: float, part: float, seeds: int) -> str:
    """Verdict on a measured share: `whole` of it with enough seeds, `part` of it, or less."""
    if share is None:
        return UNTESTABLE
    if share >= whole and seeds >= MIN_SEEDS:
        return REPRODUCED
    return DIRECTION if share >= part else NOT


def worst(*verdicts: str) -> str:
    """Verdict on a claim of several parts: the most cautious of theirs.

    One part that failed fails the claim; one that was not tested leaves it untested.
    """
    for verdict in verdicts:
        if verdict not in VERDICTS:
            raise ValueError(f"unknown verdict {verdict!r} (known: {', '.join(VERDICTS)})")
    return max(verdicts, key=(REPRODUCED, DIRECTION, UNTESTABLE, NOT).index)
