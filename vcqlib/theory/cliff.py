"""The cliff in closed form: position, capacity and expected entropy of ideal codes.

Nothing here looks at data. A code sequence has T positions; position t takes one of K_t values.
Positions are one-based in prose and zero-based in arrays. Entropies are in bits. Every function
raises TypeError for what is no number, ValueError for n < 1, a size < 2 or no sizes at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat

import numpy as np

from ..checks import integer, must, real

LARGEST_N = 1 << 128  # sequences whose expectations are computed: the series below stays in range


def _sizes(sizes: Sequence[int]) -> list[int]:
    """Return K_1..K_T as Python integers, each at least 2."""
    checked = [integer(k, f"K_{t}", 2) for t, k in enumerate(sizes, start=1)]
    if not checked:
        raise ValueError("sizes is empty: give at least one codebook size")
    return checked


def cliff_position(n: int, k: int | Sequence[int]) -> int | None:
    """Smallest t with K_1 · … · K_t ≥ n: the position at which n sequences can all differ.

    For one size K this is ⌈log2 n / log2 K⌉ (VCQ, arXiv 2605.06207, claim C1). The product is
    taken in exact integers, because logarithms in floating point fail at n = K^m.

    Args:
        n: number of sequences, at least 1 (one sequence needs no position: 0).
        k: one size for every position, or the sizes K_1..K_T.

    Returns:
        The number of positions needed, or None if a finite sequence never reaches n.
    """
    n = integer(n, "n", 1)
    several = isinstance(k, list | tuple) or np.ndim(k) > 0
    steps = iter(_sizes(k)) if several else repeat(integer(k, "k", 2))  # type: ignore
    cells, t = 1, 0
    while cells < n:
        size = next(steps, None)
        if size is None:
            return None
        cells, t = cells * size, t + 1
    return t


def cumulative_capacity(sizes: Sequence[int]) -> np.ndarray:
    """C_t = log2 K_1 + … + log2 K_t, float64 [T], bits: the most that t positions can hold."""
    return np.cumsum([math.log2(size) for size in _sizes(sizes)])


def steepest_entropy(n: int, sizes: Sequence[int]) -> np.ndarray:
    """Bits per position when each is filled in turn until log2 n is spent, float64 [T].

    Its running sum min(C_t, log2 n) is the most that the first t positions of any n sequences can
    hold. A single entry bounds nothing: a code that wastes bits early may have more of them later.
    """
    n = integer(n, "n", 1)
    return np.diff(np.minimum(cumulative_capacity(sizes), math.log2(n)), prepend=0.0)


def _cells(sizes: Sequence[int]) -> Iterator[float]:
    """Yield M_t = K_1 · … · K_t as floats (inf once beyond the range of a float)."""
    cells = 1
    for size in _sizes(sizes):
        if cells.bit_length() < 1024:  # exact until then; longer products would only cost time
            cells *= size
        yield float(cells) if cells.bit_length() < 1024 else math.inf


def _expected_log2_companions(n: int, cells: float) -> float:
    """E[log2(1 + B)], B ~ Binomial(n − 1, 1/cells): the bits one sequence still shares.

    B counts the other sequences in the same cell. Sparse cells: the sum itself, in logarithms.
    Crowded cells (mean above 10^4): a series in central moments. Both are good to 1e-13.
    """
    trials, p = n - 1, 1.0 / cells
    mean = trials * p
    if mean == 0.0:
        return 0.0
    if mean > 1e4:
        variance, m = mean * (1 - p), 1 + mean
        third = variance * (1 - 2 * p)
        fourth = variance * (1 - 6 * p * (1 - p))  # fourth cumulant
        series = (
            -variance / (2 * m**2)
            + third / (3 * m**3)
            - (fourth + 3 * variance**2) / (4 * m**4)
            + 2 * variance * third / m**5
            - 2.5 * variance**3 / m**6
        )
        return math.log2(m) + series / math.log(2)
    top = min(trials, int(mean + 12 * math.sqrt(mean) + 60))
    k = np.arange(top + 1, dtype=np.float64)
    steps = np.log((trials - k[1:] + 1) / k[1:]) + math.log(p) - math.log1p(-p)
    log_pmf = np.concatenate([[0.0], np.cumsum(steps)])  # up to a constant
    pmf = np.exp(log_pmf - log_pmf.max())  # dividing by its sum takes out the rounding of cumsum
    return float(np.sum(pmf * np.log2(1 + k)) / np.sum(pmf))


def expected_conditional_entropy(n: int, sizes: Sequence[int]) -> np.ndarray:
    """Expected plug-in H(X_t | X_<t) of n ideal codes, float64 [T], bits.

    Ideal: every position independent and uniform over its K_t values. With M_t = K_1 · … · K_t
    cells, E[Ĥ(X_1:t)] = log2 n − (M_t / n) E[c log2 c] with c ~ Binomial(n, 1/M_t), which equals
    log2 n − E[log2(1 + B)] with B ~ Binomial(n − 1, 1/M_t). The entries are its differences.
    Stable for M_t far above n and n far above M_t.
    """
    n = integer(n, "n", 1, LARGEST_N)
    shared = np.asarray([math.log2(n)] + [_expected_log2_companions(n, m) for m in _cells(sizes)])
    return shared[:-1] - shared[1:]


def spent_after(bits: Sequence[float], epsilon: float = 0.01, within: bool = False) -> float:
    """Positions after which 1 − epsilon of all bits of a curve [T] has been spent; 0 of no bits.

    within: a place within the position, as if its bits came evenly; else a whole number.
    """
    must(0 <= real(epsilon, "epsilon") < 1, "epsilon", "at least 0 and below 1", epsilon)
    spent = np.cumsum(bits)
    must(spent.size and np.isfinite(spent[-1]), "bits", "a curve [T] of finite numbers", bits)
    if spent[-1] <= 0:
        return 0
    if within:
        places = np.arange(len(spent) + 1)
        return float(np.interp((1 - epsilon) * spent[-1], [0.0, *spent], places))
    return int(np.searchsorted(spent, (1 - epsilon) * spent[-1])) + 1


def expected_distinct_prefixes(n: int, sizes: Sequence[int]) -> np.ndarray:
    """Expected number of different prefixes of length t among n ideal codes, float64 [T].

    M (1 − (1 − 1/M)^n) for M = K_1 · … · K_t cells, computed without cancellation.
    """
    n = integer(n, "n", 1, LARGEST_N)
    seen = (-m * math.expm1(n * math.log1p(-1 / m)) if m < math.inf else n for m in _cells(sizes))
    return np.array([*seen], np.float64)
