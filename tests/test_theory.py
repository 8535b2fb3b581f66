"""The closed forms: exact integers, the numbers of the literature, exact sums and simulation."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vcqlib import (
    cliff_position,
    codebook_sizes,
    cumulative_capacity,
    expected_conditional_entropy,
    expected_distinct_prefixes,
    steepest_entropy,
)
from vcqlib.theory.cliff import spent_after

IMAGENET = 1_281_167
SCHEDULES = ("uniform", "doubling", "loglinear", "quadratic", "matched", "shuffled")
sizes_lists = st.lists(st.integers(2, 300), min_size=1, max_size=24)
counts = st.integers(1, 10**18)


# ------------------------------------------------------------------------- cliff position


@given(k=st.integers(2, 10**6), m=st.integers(0, 59))
def test_cliff_is_exact_around_powers(k: int, m: int) -> None:
    assume(k**m <= 10**18)
    assert cliff_position(k**m, k) == m
    assert cliff_position(k**m + 1, k) == m + 1
    if k**m > 2:
        assert cliff_position(k**m - 1, k) == (1 if m == 1 else m)


def test_powers_at_which_floating_point_fails() -> None:
    """The reason for exact integers: the quotient of logarithms is wrong here, both ways."""
    assert math.ceil(math.log(125) / math.log(5)) == 4
    assert cliff_position(125, 5) == 3
    assert math.ceil(math.log2(2**54 + 1) / math.log2(2)) == 54
    assert cliff_position(2**54 + 1, 2) == 55


@given(n=counts, sizes=sizes_lists)
def test_cliff_is_the_smallest_sufficient_position(n: int, sizes: list[int]) -> None:
    t = cliff_position(n, sizes)
    if t is None:
        assert math.prod(sizes) < n
    else:
        assert math.prod(sizes[:t]) >= n
        assert t == 0 or math.prod(sizes[: t - 1]) < n


@given(n=st.integers(2, 10**18), sizes=sizes_lists)
def test_cliff_around_products_of_mixed_sizes(n: int, sizes: list[int]) -> None:
    t = 1 + n % len(sizes)
    cells = math.prod(sizes[:t])
    assert cliff_position(cells, sizes) == t
    assert cliff_position(cells + 1, sizes) == (t + 1 if t < len(sizes) else None)


@given(n=counts, extra=st.integers(0, 10**18), k=st.integers(2, 10**6), wider=st.integers(0, 99))
def test_cliff_grows_with_n_and_falls_with_k(n: int, extra: int, k: int, wider: int) -> None:
    assert cliff_position(n, k) <= cliff_position(n + extra, k)
    assert cliff_position(n, k + wider) <= cliff_position(n, k)


@given(n=st.integers(1, 10**18), k=st.integers(2, 2**20))
def test_a_constant_sequence_agrees_with_its_size(n: int, k: int) -> None:
    t = cliff_position(n, k)
    assert cliff_position(n, [k] * max(t, 1)) == t
    assert cliff_position(n, np.full(max(t, 1), k)) == t


def test_cliff_of_one_sequence_is_zero() -> None:
    assert cliff_position(1, 2) == cliff_position(1, [2]) == 0
    assert cliff_position(np.int64(2), np.int64(2)) == 1


def test_imagenet_spends_its_entropy_in_2_of_256_positions() -> None:
    """Claim C2 of arXiv 2605.06207."""
    assert cliff_position(IMAGENET, 16384) == 2
    assert 256 - cliff_position(IMAGENET, [16384] * 256) == 254


@pytest.mark.parametrize(
    ("n", "k", "error", "words"),
    [
        (0, 2, ValueError, "n must be at least 1, got 0"),
        (-3, [2], ValueError, "n must be at least 1, got -3"),
        (5, 1, ValueError, "k must be at least 2, got 1"),
        (5, [4, 1, 4], ValueError, "K_2 must be at least 2, got 1"),
        (1, [4, 0], ValueError, "K_2 must be at least 2, got 0"),
        (5, [], ValueError, "sizes is empty"),
        (5.0, 2, TypeError, "n must be an integer, got 5.0"),
        (True, 2, TypeError, "n must be an integer, got True"),
        (5, 2.5, TypeError, "k must be an integer, got 2.5"),
        (5, [2, 2.5], TypeError, "K_2 must be an integer, got 2.5"),
        (5, "4", TypeError, "k must be an integer, got '4'"),
        (5, [[2, 3], [2, 3]], TypeError, "K_1 must be an integer"),
    ],
)
def test_impossible_arguments_are_named(n, k, error, words) -> None:
    with pytest.raises(error, match="^" + words.replace("[", r"\[")):
        cliff_position(n, k)


@pytest.mark.parametrize(
    "function", [steepest_entropy, expected_conditional_entropy, expected_distinct_prefixes]
)
def test_curves_refuse_what_the_cliff_refuses(function) -> None:
    with pytest.raises(ValueError, match="n must be at least 1"):
        function(0, [2])
    with pytest.raises(ValueError, match="K_1 must be at least 2"):
        function(5, [1])
    with pytest.raises(TypeError, match="K_1 must be an integer"):
        function(5, [2.0])


# -------------------------------------------------------------------- capacity and bounds


@given(sizes=sizes_lists)
def test_capacity_is_the_logarithm_of_the_number_of_cells(sizes: list[int]) -> None:
    capacity = cumulative_capacity(sizes)
    cells = [math.prod(sizes[: t + 1]) for t in range(len(sizes))]
    np.testing.assert_allclose(capacity, [math.log2(m) for m in cells], rtol=1e-13)
    assert capacity.dtype == np.float64


@given(n=counts, sizes=sizes_lists)
def test_no_running_sum_exceeds_the_steepest_one(n: int, sizes: list[int]) -> None:
    steepest, ideal = steepest_entropy(n, sizes), expected_conditional_entropy(n, sizes)
    limit = np.minimum(cumulative_capacity(sizes), math.log2(n))
    np.testing.assert_allclose(np.cumsum(steepest), limit, atol=1e-12)
    assert (np.cumsum(ideal) <= limit + 1e-9).all()
    assert (ideal >= -1e-12).all()
    assert (ideal <= np.log2(sizes) + 1e-9).all()


def test_a_single_position_may_exceed_the_steepest_curve() -> None:
    """What early positions waste comes later: no bound holds position by position."""
    ideal = expected_conditional_entropy(IMAGENET, [16384] * 3)
    steepest = steepest_entropy(IMAGENET, [16384] * 3)
    assert ideal[1] > steepest[1] + 0.003
    assert steepest[2] == 0 < ideal[2]


@given(n=st.integers(2, 10**12), sizes=sizes_lists)
def test_what_is_left_is_at_most_a_bit_at_the_cliff(n: int, sizes: list[int]) -> None:
    """Theorem of chapter 01: what is left after t is at most log2(1 + (n − 1)/M_t)."""
    left = math.log2(n) - np.cumsum(expected_conditional_entropy(n, sizes))
    cells = np.cumprod(np.asarray(sizes, dtype=np.float64))
    assert (left <= np.log2(1 + (n - 1) / cells) + 1e-9).all()
    t = cliff_position(n, sizes)
    if t is not None:
        assert left[t - 1] <= 1 + 1e-9


# ----------------------------------------------------------------------------- ideal codes


def exact_moments(n: int, m: int) -> tuple[float, float]:
    """(E[Ĥ(X_1:t)] in bits, E[distinct]) by the definition: a sum over the binomial law."""
    p = Fraction(1, m)
    law = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    spent = [m * float(w) * -(c / n) * math.log2(c / n) for c, w in enumerate(law) if c]
    return math.fsum(spent), float(m * (1 - law[0]))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 30, 90])
@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 5, 2), (64, 1000)])
def test_expectations_equal_the_exact_binomial_sums(n: int, sizes: tuple[int, ...]) -> None:
    spent = np.cumsum(expected_conditional_entropy(n, sizes))
    distinct = expected_distinct_prefixes(n, sizes)
    for t in range(len(sizes)):
        exact = exact_moments(n, math.prod(sizes[: t + 1]))
        assert spent[t] == pytest.approx(exact[0], abs=1e-12)
        assert distinct[t] == pytest.approx(exact[1], rel=1e-12)


@pytest.mark.parametrize(("n", "sizes"), [(3, (2, 2)), (2, (3, 2)), (4, (2, 3))])
def test_expectations_equal_the_mean_over_all_code_books(n: int, sizes: tuple[int, ...]) -> None:
    """Every one of the equally likely code matrices, counted: no probability theory at all."""
    cells = list(product(*map(range, sizes)))
    entropy = np.zeros(len(sizes))
    distinct = np.zeros(len(sizes))
    for rows in product(cells, repeat=n):
        for t in range(len(sizes)):
            groups = Counter(row[: t + 1] for row in rows).values()
            entropy[t] -= sum(c / n * math.log2(c / n) for c in groups)
            distinct[t] += len(groups)
    matrices = len(cells) ** n
    ours = np.cumsum(expected_conditional_entropy(n, sizes))
    np.testing.assert_allclose(ours, entropy / matrices, atol=1e-12)
    np.testing.assert_allclose(
        expected_distinct_prefixes(n, sizes), distinct / matrices, rtol=1e-12
    )


def test_expectations_equal_the_mean_of_simulations() -> None:
    n, sizes, runs = 3000, (4, 8, 16, 16, 16), 40
    rng = np.random.default_rng(0)
    entropy, distinct = np.zeros((runs, len(sizes))), np.zeros((runs, len(sizes)))
    for run in range(runs):
        prefix, before = np.zeros(n, dtype=np.int64), 0.0
        for t, size in enumerate(sizes):
            prefix = prefix * size + rng.integers(size, size=n)
            p = np.unique(prefix, return_counts=True)[1] / n
            joint = float(-(p * np.log2(p)).sum())
            entropy[run, t], distinct[run, t], before = joint - before, len(p), joint
    for seen, expected in (
        (entropy, expected_conditional_entropy(n, sizes)),
        (distinct, expected_distinct_prefixes(n, sizes)),
    ):
        error = seen.std(axis=0, ddof=1) / math.sqrt(runs)
        assert (np.abs(seen.mean(axis=0) - expected) <= 5 * error + 1e-12).all()


@given(n=counts, sizes=sizes_lists)
def test_distinct_prefixes_never_shrink_nor_exceed_their_bounds(n: int, sizes: list[int]) -> None:
    distinct = expected_distinct_prefixes(n, sizes)
    cells = np.cumprod(np.asarray(sizes, dtype=np.float64))
    assert (np.diff(distinct) >= -1e-9 * distinct[:-1]).all()
    assert (distinct <= np.minimum(n, cells) * (1 + 1e-12)).all()
    assert (distinct >= 1 - 1e-12).all()


@given(n=st.integers(2, 10**18), sizes=sizes_lists)
def test_expected_entropies_sum_to_log2_n_at_most(n: int, sizes: list[int]) -> None:
    assert expected_conditional_entropy(n, sizes).sum() <= math.log2(n) + 1e-9


def from_the_mode(n: int, m: int) -> float:
    """E[log2(1 + B)], summed outwards from the most likely B, where nothing is lost."""
    p, mode = 1 / m, (n - 1) // m
    weights: dict[int, float] = {mode: 1.0}
    reach = int(14 * math.sqrt(mode) + 80)
    for b in range(mode, min(n - 1, mode + reach)):
        weights[b + 1] = weights[b] * ((n - 1 - b) / (b + 1)) * (p / (1 - p))
    for b in range(mode, max(0, mode - reach), -1):
        weights[b - 1] = weights[b] * (b / (n - b)) * ((1 - p) / p)
    total = math.fsum(weights.values())
    return math.fsum(w * math.log2(1 + b) for b, w in weights.items()) / total


@pytest.mark.parametrize("n", [10**6, 10**18])
@pytest.mark.parametrize("mean", [0.01, 1, 99, 1001, 9_999, 10_001, 60_000])
def test_both_ways_of_summing_agree_with_a_careful_sum(n: int, mean: float) -> None:
    """Up to a mean of 10^4 sequences a cell the library sums, above it takes a series."""
    m = max(2, round(n / mean))
    spent = float(expected_conditional_entropy(n, [m])[0])
    assert math.log2(n) - spent == pytest.approx(from_the_mode(n, m), rel=1e-12, abs=2e-14)


def test_huge_cells_spend_everything_at_once() -> None:
    curve = expected_conditional_entropy(1000, [2**40] * 60)  # cells beyond the range of a float
    assert curve[0] == pytest.approx(math.log2(1000), abs=1e-8)
    assert np.isfinite(curve).all() and (curve >= 0).all() and curve[2:].sum() < 1e-20
    assert expected_distinct_prefixes(1000, [2**40] * 60)[-1] == 1000


def test_one_sequence_and_one_position() -> None:
    np.testing.assert_array_equal(expected_conditional_entropy(1, [7, 7]), [0, 0])
    np.testing.assert_allclose(expected_distinct_prefixes(1, [7, 7]), [1, 1])
    np.testing.assert_array_equal(steepest_entropy(1, [7]), [0])
    assert expected_conditional_entropy(5, [3]).shape == (1,)


# ------------------------------------------------------------- values that the book quotes


@pytest.mark.parametrize(
    ("n", "sizes", "bits"),
    [
        (IMAGENET, [16384] * 4, [13.99, 6.29, 0.005, 0.0]),
        (IMAGENET, [4096] * 3, [12.00, 8.22, 0.08]),
        (60_000, [256] * 3, [8.00, 7.11, 0.77]),
        (
            IMAGENET,
            codebook_sizes("doubling", 8, 16384),
            [1, 2, 3, 4.0, 4.98, 4.77, 0.54, 0.005],
        ),
    ],
)
def test_ideal_curves_of_the_book(n: int, sizes, bits) -> None:
    ideal = expected_conditional_entropy(n, sizes)
    for value, quoted in zip(ideal, bits, strict=True):
        digits = len(str(quoted).partition(".")[2])
        assert value == pytest.approx(quoted, abs=0.5 * 10 ** -max(digits, 2))


def test_share_spent_at_the_cliff_of_60000_images() -> None:
    ideal = expected_conditional_entropy(60_000, [256] * 16)
    assert cliff_position(60_000, 256) == 2
    assert np.cumsum(ideal)[1] / ideal.sum() == pytest.approx(0.95, abs=0.005)
    assert int(np.argmax(np.cumsum(ideal) >= 0.99 * ideal.sum())) + 1 == 3
    assert ideal.sum() == pytest.approx(math.log2(60_000), abs=1e-9)


@settings(max_examples=30)
@given(t=st.integers(0, 40))
def test_log2_n_is_spent_one_position_after_the_cliff_grows_by_k(t: int) -> None:
    """n → n·K moves the cliff by exactly one position."""
    n = 3 + t
    assert cliff_position(n * 256**t, 256) == t + cliff_position(n, 256)


# ---------------------------------------------------------------------- hostile numbers

HOSTILE = (10**400, -(10**400), 10**5000, math.nan, math.inf, -math.inf, "7", None, True, [], b"7")
CALLS = {  # argument: what it is given to, beside values that are good
    "n": [lambda n: cliff_position(n, 2), lambda n: steepest_entropy(n, [4, 4]),
          lambda n: expected_conditional_entropy(n, [4, 4]),
          lambda n: expected_distinct_prefixes(n, [4, 4])],
    "K": [lambda k: cliff_position(9, k), lambda k: cliff_position(9, [2, k]),
          lambda k: cumulative_capacity([2, k]), lambda k: steepest_entropy(9, [2, k]),
          lambda k: expected_conditional_entropy(9, [2, k]),
          lambda k: expected_distinct_prefixes(9, [2, k])],
    "epsilon": [lambda x: spent_after([1.0, 2.0], x)],
} | {
    name: [lambda x, name=name, schedule=schedule: codebook_sizes(
        **{"schedule": schedule, "length": 4, "k_max": 64, name: x}) for schedule in SCHEDULES]
    for name in ("length", "k_max", "k_min", "ramp", "power", "seed")
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("value", HOSTILE, ids=lambda x: repr(x)[:9] if x != 10**5000 else "huge")
def test_any_number_gives_finite_results_or_one_line(name: str, value: object) -> None:
    for call in CALLS[name]:
        try:
            found = call(value)
        except (TypeError, ValueError) as error:
            assert "\n" not in str(error) and len(str(error)) < 300
            assert name.lower() in str(error).lower() or "sizes is empty" in str(error)
        else:
            assert found is None or np.isfinite(np.asarray(found, np.float64)).all()


@pytest.mark.parametrize("bits", [[], [1.0, math.nan], [math.inf]], ids=str)
def test_a_curve_that_is_none_has_no_cliff(bits: list[float]) -> None:
    with pytest.raises(ValueError, match="bits must be a curve"):
        spent_after(bits)


@pytest.mark.parametrize("n", [2**128, 10**30])
def test_expectations_reach_the_largest_n(n: int) -> None:
    assert expected_conditional_entropy(n, [2, 16]).tolist() == pytest.approx([1, 4])
    assert expected_distinct_prefixes(n, [2, 16]).tolist() == pytest.approx([2, 32])
