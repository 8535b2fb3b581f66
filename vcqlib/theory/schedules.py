"""Codebook-size schedules: how many codes, K_t, position t may use.

The paper says that K_t grows monotonically from K_min = 2 to K_max (claim C4); the forms below
are this project's choice. u = min(1, (t − 1)/(ramp − 1)) runs from 0 to 1 along the ramp.

    uniform     K_max
    doubling    min(K_min · 2^(t−1), K_max)
    loglinear   log2 K_t = log2 K_min + (log2 K_max − log2 K_min) · u^power
    linear      K_min + (K_max − K_min) · u
    quadratic   K_min + (K_max − K_min) · u²
    cosine      K_min + (K_max − K_min) · (1 − cos πu)/2
    reversed    the schedule `of`, last position first (control for order)
    matched     one constant K at the mean rate of `of` (control for the number of bits)
    shuffled    the sizes of `of` in a random order, another for each seed (control for order)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..checks import integer, must, one_of, real

GROWING = ("uniform", "doubling", "loglinear", "linear", "quadratic", "cosine")
CONTROLS = ("reversed", "matched", "shuffled")
LARGEST = 2**32  # up to here a size that went through log2 rounds back to itself
LONGEST = 2**24  # positions


def _round_half_up(x: np.ndarray) -> np.ndarray:
    return np.floor(x + 0.5).astype(np.int64)


def _growing(name: str, length: int, k_max: int, k_min: int, ramp: int, power: float) -> np.ndarray:
    t = np.arange(length, dtype=np.float64)
    u = np.minimum(1.0, t / (ramp - 1)) if ramp > 1 else np.zeros(length)
    if name == "uniform":
        return np.full(length, k_max, dtype=np.int64)
    if name == "doubling":
        return np.minimum(k_min * 2.0 ** np.minimum(t, 60), k_max).astype(np.int64)
    if name == "loglinear":
        low, high = np.log2(k_min), np.log2(k_max)
        return _round_half_up(2.0 ** (low + (high - low) * u**power))
    shape = {"linear": u, "quadratic": u**2, "cosine": (1 - np.cos(np.pi * u)) / 2}[name]
    return _round_half_up(k_min + (k_max - k_min) * shape)


def codebook_sizes(
    schedule: str | Sequence[int],
    length: int,
    k_max: int,
    k_min: int = 2,
    ramp: int | None = None,
    power: float = 1.0,
    of: str | Sequence[int] = "loglinear",
    seed: int = 0,
) -> np.ndarray:
    """Return K_1..K_T as int64 [length], each between 2 and k_max, rounded half up.

    Args:
        schedule: a name from the table above, or the sizes themselves.
        length: number of positions T.
        k_max: rows of the shared codebook.
        k_min: size of the first codebook (all growing schedules).
        ramp: position at which K_max is reached; None means `length`; 1 keeps u = 0. A ramp
            longer than `length` stops short of K_max.
        power: exponent of u in `loglinear`; below 1 grows early, above 1 late.
        of: the schedule that `reversed`, `matched` and `shuffled` refer to.
        seed: of the order of `shuffled`.

    Raises TypeError for what is no number, ValueError for an unknown name or a number out of
    range; the message names it.
    """
    length = integer(length, "length", 1, LONGEST)
    k_max = integer(k_max, "k_max", 2, LARGEST)
    k_min = integer(k_min, "k_min", 2)
    must(k_min <= k_max, "k_min", f"at most k_max = {k_max}", k_min)
    ramp = length if ramp is None else integer(ramp, "ramp", 1, LARGEST)
    must(real(power, "power") > 0, "power", "positive", power)

    if not isinstance(schedule, str):
        sizes = np.asarray(schedule)
        if sizes.shape != (length,) or not np.issubdtype(sizes.dtype, np.integer):
            raise ValueError(
                f"an explicit schedule needs {length} integers, got {sizes.dtype}{sizes.shape}"
            )
        wrong = np.flatnonzero((sizes < 2) | (sizes > k_max))
        if wrong.size:
            t = int(wrong[0])
            raise ValueError(f"K_{t + 1} = {sizes[t]} is outside 2..{k_max}")
        return sizes.astype(np.int64)
    if schedule in GROWING:
        return _growing(schedule, length, k_max, k_min, ramp, float(power)).astype(np.int64)
    one_of(GROWING + CONTROLS, "schedule", schedule)
    if isinstance(of, str) and of in CONTROLS:
        raise ValueError(f"of={of!r}: a control must refer to a growing or explicit schedule")
    reference = codebook_sizes(of, length, k_max, k_min, ramp, power)
    if schedule == "reversed":
        return reference[::-1].copy()
    if schedule == "shuffled":
        return np.random.default_rng(integer(seed, "seed", 0)).permutation(reference)
    constant = _round_half_up(2.0 ** np.mean(np.log2(reference)))
    return np.full(length, constant, dtype=np.int64)
