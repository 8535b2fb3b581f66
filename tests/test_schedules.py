"""Codebook sizes: shape and monotony of every schedule, the book's table, controls, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcqlib import cliff_position, codebook_sizes, cumulative_capacity
from vcqlib.theory.schedules import GROWING, LARGEST

growing = st.sampled_from(GROWING)
lengths = st.integers(1, 300)
bounds = st.tuples(st.integers(2, LARGEST), st.integers(2, LARGEST)).map(sorted)
ramps = st.none() | st.integers(1, 400)
powers = st.floats(0.2, 5)


@given(growing, lengths, bounds, ramps, powers)
def test_growing_schedules_are_integers_within_bounds_and_never_fall(
    schedule, length, bounds, ramp, power
) -> None:
    k_min, k_max = bounds
    sizes = codebook_sizes(schedule, length, k_max, k_min, ramp, power)
    assert sizes.dtype == np.int64 and sizes.shape == (length,)
    assert (np.diff(sizes) >= 0).all()
    assert k_min <= sizes[0] and sizes[-1] <= k_max
    assert sizes[0] == (k_max if schedule == "uniform" else k_min)


@given(
    st.sampled_from(["loglinear", "linear", "quadratic", "cosine"]),
    st.integers(2, 200),
    bounds,
    st.integers(2, 200),
)
def test_the_ramp_ends_at_k_max(schedule, length, bounds, ramp) -> None:
    k_min, k_max = bounds
    sizes = codebook_sizes(schedule, length, k_max, k_min, ramp)
    if ramp <= length:
        assert (sizes[ramp - 1 :] == k_max).all()
    longer = codebook_sizes(schedule, max(length, ramp), k_max, k_min, ramp)
    np.testing.assert_array_equal(sizes, longer[:length])  # the length only cuts the ramp off


def test_forms_by_hand() -> None:
    assert codebook_sizes("doubling", 6, 20, 3).tolist() == [3, 6, 12, 20, 20, 20]
    assert codebook_sizes("loglinear", 5, 32).tolist() == [2, 4, 8, 16, 32]
    assert codebook_sizes("loglinear", 3, 32, power=2.0).tolist() == [2, 4, 32]
    assert codebook_sizes("linear", 5, 10).tolist() == [2, 4, 6, 8, 10]
    assert codebook_sizes("linear", 3, 5).tolist() == [2, 4, 5]  # 3.5 rounds up
    assert codebook_sizes("quadratic", 5, 18).tolist() == [2, 3, 6, 11, 18]
    assert codebook_sizes("cosine", 5, 18).tolist() == [2, 4, 10, 16, 18]
    assert codebook_sizes("loglinear", 4, 16, ramp=2).tolist() == [2, 16, 16, 16]
    assert codebook_sizes("linear", 4, 16, ramp=1).tolist() == [2, 2, 2, 2]
    assert codebook_sizes("uniform", 3, 16).tolist() == [16, 16, 16]
    assert codebook_sizes("doubling", 70, LARGEST)[-1] == LARGEST


@pytest.mark.parametrize(
    ("schedule", "ramp", "cliff", "first_ten", "percent"),
    [
        ("uniform", None, 2, 140, 100),
        ("linear", None, 4, 73.6, 90),
        ("doubling", None, 6, 55, 97),
        ("loglinear", 32, 9, 29.1, 94),
        ("loglinear", 64, 11, 19.2, 88),
        ("loglinear", 128, 13, 14.3, 77),
        ("loglinear", 256, 16, 11.8, 54),
    ],
)
def test_schedules_at_imagenet_size(schedule, ramp, cliff, first_ten, percent) -> None:
    sizes = codebook_sizes(schedule, 256, 16384, ramp=ramp)
    capacity = cumulative_capacity(sizes)
    assert cliff_position(1_281_167, sizes) == cliff
    assert capacity[9] == pytest.approx(first_ten, abs=0.05)
    assert 100 * capacity[-1] / (256 * 14) == pytest.approx(percent, abs=0.5)


def test_the_longest_ramp_if_it_were_floored_and_its_number_of_entries() -> None:
    u = np.arange(256) / 255
    floored = np.floor(2 ** (1 + 13 * u)).astype(int)
    capacity = cumulative_capacity(floored)
    assert cliff_position(1_281_167, floored) == 18
    assert capacity[9] == pytest.approx(10.0, abs=0.05)
    assert 100 * capacity[-1] / 3584 == pytest.approx(53, abs=0.5)
    rounded = codebook_sizes("loglinear", 256, 16384)
    assert rounded.sum() / (256 * 16384) == pytest.approx(0.112, abs=0.0005)


# ------------------------------------------------------------------------------- controls


@given(growing, lengths, bounds, ramps, powers)
def test_reversed_is_the_schedule_flipped(schedule, length, bounds, ramp, power) -> None:
    k_min, k_max = bounds
    forward = codebook_sizes(schedule, length, k_max, k_min, ramp, power)
    flipped = codebook_sizes("reversed", length, k_max, k_min, ramp, power, of=schedule)
    np.testing.assert_array_equal(flipped, forward[::-1])
    flipped[0] = 0  # an array of its own, not a view of the other


@given(growing, lengths, bounds, ramps, powers)
def test_matched_is_the_constant_of_nearest_rate(schedule, length, bounds, ramp, power) -> None:
    k_min, k_max = bounds
    reference = codebook_sizes(schedule, length, k_max, k_min, ramp, power)
    matched = codebook_sizes("matched", length, k_max, k_min, ramp, power, of=schedule)
    k = int(matched[0])
    assert (matched == k).all() and k_min <= k <= k_max
    rate = np.log2(reference).mean()
    assert math.log2(k - 0.5) - 1e-9 <= rate <= math.log2(k + 0.5) + 1e-9


def test_matched_rate_of_the_small_study() -> None:
    """T = 16, K_max = 256: K = 23, 72.4 bits against the 72.1 of the log-linear schedule."""
    loglinear = codebook_sizes("loglinear", 16, 256)
    matched = codebook_sizes("matched", 16, 256, of="loglinear")
    assert set(matched.tolist()) == {23}
    assert cumulative_capacity(matched)[-1] == pytest.approx(72.4, abs=0.05)
    assert cumulative_capacity(loglinear)[-1] == pytest.approx(72.05, abs=0.01)
    assert cumulative_capacity(codebook_sizes("doubling", 16, 256))[-1] == 100


def test_controls_take_an_explicit_schedule() -> None:
    assert codebook_sizes("reversed", 3, 9, of=[2, 3, 9]).tolist() == [9, 3, 2]
    assert codebook_sizes("matched", 2, 16, of=(4, 16)).tolist() == [8, 8]


# ------------------------------------------------------------------- explicit and refusals


@given(st.lists(st.integers(2, 99), min_size=1, max_size=20))
def test_explicit_sizes_come_back_as_they_are(sizes) -> None:
    given_sizes = np.asarray(sizes, dtype=np.uint8)
    result = codebook_sizes(given_sizes, len(sizes), 99)
    assert result.dtype == np.int64 and result.tolist() == sizes


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"schedule": "loglinea"}, ValueError, "unknown schedule 'loglinea': did you mean 'loglin"),
        ({"schedule": "qqq"}, ValueError, "unknown schedule 'qqq': known: cosine, doubling"),
        ({"length": 0}, ValueError, "length must be at least 1, got 0"),
        ({"length": 4.0}, TypeError, "length must be an integer, got 4.0"),
        ({"k_min": 1}, ValueError, "k_min must be at least 2, got 1"),
        ({"k_min": 65}, ValueError, "k_min must be at most k_max = 64, got 65"),
        ({"k_max": LARGEST + 1}, ValueError, "k_max must be at most 4294967296, got 4294967297"),
        ({"k_max": 64.5}, TypeError, "k_max must be an integer, got 64.5"),
        ({"k_max": True}, TypeError, "k_max must be an integer, got True"),
        ({"k_min": "2"}, TypeError, "k_min must be an integer, got '2'"),
        ({"ramp": 0}, ValueError, "ramp must be at least 1, got 0"),
        ({"ramp": 2.5}, TypeError, "ramp must be an integer, got 2.5"),
        ({"power": 0.0}, ValueError, "power must be positive, got 0.0"),
        ({"power": math.nan}, ValueError, "power must be finite, got nan"),
        ({"power": math.inf}, ValueError, "power must be finite, got inf"),
        ({"schedule": [2, 3]}, ValueError, r"needs 4 integers, got int64\(2,\)"),
        ({"schedule": [2, 3, 4.5, 5]}, ValueError, r"needs 4 integers, got float64\(4,\)"),
        ({"schedule": [2, 3, 1, 5]}, ValueError, r"K_3 = 1 is outside 2..64"),
        ({"schedule": [2, 3, 4, 65]}, ValueError, r"K_4 = 65 is outside 2..64"),
        (
            {"schedule": "reversed", "of": "matched"},
            ValueError,
            "of='matched': a control must refer",
        ),
        ({"schedule": "matched", "of": "nope"}, ValueError, "unknown schedule 'nope'"),
    ],
)
def test_impossible_arguments_are_named(arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        codebook_sizes(**{"schedule": "loglinear", "length": 4, "k_max": 64, **arguments})
