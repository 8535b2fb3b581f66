"""Variance components of a nested design: against known ones, and against the textbook's case."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vcqlib.study.scorecard import paired_effect
from vcqlib.study.spread import Spread, interval, ratios, seeds_needed, spread


def drawn(rng, k, r, tokenizer, ar):
    centres = rng.normal(0, math.sqrt(tokenizer), k)
    return {i: rng.normal(c, math.sqrt(ar), r).tolist() for i, c in enumerate(centres)}


@pytest.mark.parametrize(("tokenizer", "ar"), [(0.04, 0.01), (0.0, 0.05), (0.02, 0.02)])
def test_variances_that_are_known_come_back(tokenizer, ar):
    found = spread(drawn(np.random.default_rng(0), 4000, 3, tokenizer, ar))
    assert found.tokenizer == pytest.approx(tokenizer, abs=0.003)
    assert found.ar == pytest.approx(ar, rel=0.05)


def test_unequal_counts_are_weighed():
    rng = np.random.default_rng(1)
    logs = drawn(rng, 6000, 3, 0.03, 0.02)
    logs = {i: values[: 1 + i % 3] for i, values in logs.items()}
    found = spread(logs)
    assert (found.tokenizer, found.ar) == pytest.approx((0.03, 0.02), rel=0.1)


def test_equal_counts_are_the_f_test_of_scipy():
    from scipy.stats import f_oneway

    logs = drawn(np.random.default_rng(2), 6, 4, 0.05, 0.02)
    found = spread(logs)
    f = f_oneway(*logs.values()).statistic
    assert (4 * found.tokenizer + found.ar) / found.ar == pytest.approx(f)


def test_no_spread_between_tokenizers_is_not_negative():
    found = spread({0: [-1.0, 1.0], 1: [1.0, -1.0]})
    assert found == Spread(0.0, 2.0, 2, 4)


@pytest.mark.parametrize("logs", [{0: [0.1, 0.2]}, {0: [0.1], 1: [0.2]}])
def test_what_cannot_be_told_apart_is_refused(logs):
    with pytest.raises(ValueError, match="seeds .*2 or more"):
        spread(logs)


@pytest.mark.parametrize("n", [2, 6, 40])
def test_the_interval_of_a_variance_holds_it_19_times_of_20(n):
    found = np.random.default_rng(n).normal(0, 0.3, (4000, n)).var(1, ddof=1)
    low, high = np.array([interval(v, n) for v in found]).T
    assert np.mean((low <= 0.09) & (high >= 0.09)) == pytest.approx(0.95, abs=0.015)


def test_one_value_has_no_interval_of_its_variance():
    with pytest.raises(ValueError, match="values must be 2 or more, got 1"):
        interval(0.1, 1)


@pytest.mark.parametrize("variance", [0.01, 0.05, 0.2])
def test_so_many_seeds_see_the_ratio_and_one_fewer_does_not(variance):
    n = seeds_needed(variance)

    def detectable(n):
        """From the scorecard, of values whose sample variance is this one."""
        logs = np.linspace(-1, 1, n)
        logs *= math.sqrt(variance / logs.var(ddof=1))
        return paired_effect(np.exp(logs - logs.mean()), np.ones(n)).detectable

    assert detectable(n) <= 1 / 0.9 < detectable(n - 1)


@pytest.mark.parametrize(
    ("values", "what"), [((-1.0,), "variance"), ((0.1, 1.0), "ratio"), ((9.0, 0.99, 50), "seeds")]
)
def test_questions_without_an_answer_are_refused(values, what):
    with pytest.raises(ValueError, match=what):
        seeds_needed(*values)


def record(arm, seed, ar_seed, value, rfd=1.0):
    config = {"ar_seed": ar_seed, "dataset": "mnist"}
    measures = {"v": value, "parameters": 1, "rfd": rfd}
    return {"group": "spread", "arm": arm, "seed": seed, "config": config, "measures": measures}


def test_ratios_stand_by_tokenizer():
    found = [record(arm, s, 8, v) for arm, v in (("a", 2.0), ("b", 1.0)) for s in (0, 1)]
    found += [record(arm, 0, 9, v) for arm, v in (("a", 3.0), ("b", 1.0))]
    logs = ratios(found, lambda m: m["v"], "a", "b")
    assert logs == {0: [pytest.approx(math.log(2)), pytest.approx(math.log(3))],
                    1: [pytest.approx(math.log(2))]}  # fmt: skip


def test_another_tokenizer_of_the_same_seed_is_refused():
    found = [record(arm, 0, a, 1.0) for arm in "ab" for a in (8, 9)]
    found[1]["measures"]["rfd"] = 1.5
    with pytest.raises(ValueError, match="rFD of a, seed 0 must be 1.0 as for its other AR seed"):
        ratios(found, lambda m: m["v"], "a", "b")
