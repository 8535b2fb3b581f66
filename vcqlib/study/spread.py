"""Which seed scatters a ratio: the tokenizer's, or that of AR model and samples.

A small nested design: several AR models on each tokenizer, for both arms. The logarithm of the
ratio of two arms is the sum of a part of the tokenizer seed and a part of the AR seed; their
variances come from the mean squares between and within tokenizers (one-way analysis of variance
with random effects, unequal counts; Searle, Casella and McCulloch, doi:10.1002/9780470316856).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..checks import must
from . import records
from .scorecard import LEVEL, POWER


@dataclass(frozen=True)
class Spread:
    """Variances of the logarithm of a ratio; an AR seed's holds that of its samples."""

    tokenizer: float
    ar: float
    tokenizers: int  # seeds
    ratios: int  # in all, one for each AR model and arm


def ratios(
    found: list[dict], value: Callable[[Mapping], float], arm: str, control: str,
    group: str = "spread",
) -> dict[int, list[float]]:  # fmt: skip
    """By tokenizer seed the logarithms of arm over control, one for each AR seed of both.

    Raises:
        ValueError: AR models of one arm and seed that do not share their tokenizer: trained on
            different processors, tokenizers of one seed are different ones.
    """
    logs: dict[int, list[float]] = {}
    tokenizers: dict[tuple, float] = {}
    for pair in records.pairs(found, arm, control, group):
        for r in pair:
            blur = tokenizers.setdefault((r["arm"], r["seed"]), r["measures"]["rfd"])
            must(blur == r["measures"]["rfd"], f"rFD of {r['arm']}, seed {r['seed']}",
                 f"{blur} as for its other AR seed", r["measures"]["rfd"])  # fmt: skip
        a, b = (value(r["measures"]) for r in pair)
        logs.setdefault(pair[0]["seed"], []).append(math.log(a / b))
    return logs


def spread(logs: Mapping[int, Sequence[float]]) -> Spread:
    """Variances between and within groups of logarithms.

    Raises:
        ValueError: a single group, or no group with two values.
    """
    parts = [np.asarray(part, float) for part in logs.values()]
    counts = np.array([len(part) for part in parts])
    k, n = len(parts), int(counts.sum())
    must(k > 1, "tokenizer seeds", "2 or more", k)
    must(n > k, "AR seeds a tokenizer", "2 or more for one of them", 1)
    means, mean = np.array([part.mean() for part in parts]), np.concatenate(parts).mean()
    within = sum(((part - part.mean()) ** 2).sum() for part in parts) / (n - k)
    between = (counts * (means - mean) ** 2).sum() / (k - 1)
    size = (n - (counts**2).sum() / n) / (k - 1)  # of a group, as the mean square weighs it
    return Spread(max(0.0, float((between - within) / size)), float(within), k, n)


def interval(variance: float, n: int) -> tuple[float, float]:
    """95 % interval of a variance that was estimated from n values, if these are normal.

    Rough for a sum of variances between and within groups, which has fewer degrees of freedom.
    """
    from scipy.stats import chi2  # slow to import

    must(n > 1, "values", "2 or more", n)
    low, high = chi2.ppf([1 - LEVEL / 2, LEVEL / 2], n - 1)
    return float((n - 1) * variance / low), float((n - 1) * variance / high)


def seeds_needed(variance: float, ratio: float = 0.9, most: int = 10_000) -> int:
    """Fewest paired seeds whose interval excludes 1 four times of five, if that is the ratio.

    variance: of the logarithm of the ratio of one seed.

    Raises:
        ValueError: a variance that is negative, a ratio of 1 or none, or more than `most` seeds.
    """
    from scipy.stats import t  # slow to import

    must(variance >= 0, "variance", "0 or more", variance)
    must(ratio > 0 and ratio != 1, "ratio", "positive and not 1", ratio)
    n = np.arange(2, most + 1)
    error = np.sqrt(variance / n)
    seen = (t.ppf(1 - LEVEL / 2, n - 1) + t.ppf(POWER, n - 1)) * error <= abs(math.log(ratio))
    must(seen.any(), "seeds", f"{most} or fewer", f"more, at a variance of {variance:.3g}")
    return int(n[seen.argmax()])
