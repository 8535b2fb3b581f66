"""The verdict rule on synthetic records, one for each verdict and each reason."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from vcqlib.study.scorecard import (
    CONTRADICTED,
    DIRECTION,
    REPRODUCED,
    UNDECIDED,
    UNTESTABLE,
    VERDICTS,
    Effect,
    across,
    holm,
    judge_effect,
    judge_identity,
    judge_share,
    on_curve,
    paired_effect,
    worst,
)

UNIFORM = [170.0, 180.0, 175.0]


def record(ratios, control=UNIFORM):
    """A study of one pair of arms: the control's values times the given ratios."""
    return paired_effect([r * c for r, c in zip(ratios, control, strict=True)], control)


def test_effect_is_the_geometric_mean_with_the_textbook_interval():
    ratios = [0.5, 0.7, 0.6]
    effect = record(ratios)
    logs = [math.log(r) for r in ratios]
    mean = sum(logs) / 3
    low, high = stats.t.interval(0.95, 2, loc=mean, scale=stats.sem(logs))
    assert effect.ratio == pytest.approx(math.exp(mean))
    assert (effect.low, effect.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert effect.seeds == 3


def test_swapping_the_arms_inverts_effect_and_interval():
    treatment = [100.0, 90.0, 130.0]
    there, back = paired_effect(treatment, UNIFORM), paired_effect(UNIFORM, treatment)
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert (back.low, back.high) == pytest.approx((1 / there.high, 1 / there.low))


def test_pairing_matters():
    """Seeds that move both arms together leave a narrow interval; shuffled, they do not."""
    control = [100.0, 200.0, 400.0]
    paired = record([0.8, 0.81, 0.79], control)
    shuffled = paired_effect([80.0, 162.0, 316.0], control[::-1])
    assert paired.high < 1 < shuffled.high


@pytest.mark.parametrize("n", [1, 2])
def test_few_seeds_have_no_interval(n):
    effect = paired_effect([80.0] * n, [100.0] * n)
    assert effect.low is None and effect.high is None
    assert effect.interval() == {1: "one seed", 2: "2 seeds: too few"}[n]


def test_interval_is_written_out():
    assert Effect(0.6, 0.512, 0.703, 3).interval() == "0.51 to 0.70"
    assert Effect(1.1, 1.003, 1.289, 3).interval() == "1.003 to 1.289"  # 1 lies outside
    assert Effect(1.1, 0.998, 1.289, 3).interval() == "1.00 to 1.29"


def test_reproduced_needs_direction_certainty_and_size():
    assert judge_effect(record([0.50, 0.52, 0.51]), smaller=True, paper=0.529) == REPRODUCED
    assert judge_effect(record([0.50, 0.55, 0.56]), smaller=True, paper=0.529) == REPRODUCED
    assert judge_effect(record([0.90, 0.91, 0.92]), smaller=True) == REPRODUCED  # no size claimed


def test_a_smaller_effect_than_the_papers_is_direction_only():
    effect = record([0.90, 0.91, 0.92])
    assert effect.high < 1
    assert judge_effect(effect, smaller=True, paper=0.529) == DIRECTION


def test_an_interval_that_holds_one_is_not_told_apart_on_either_side():
    effect = record([0.6, 1.2, 0.9])
    assert effect.low < 1 < effect.high and effect.ratio < 1
    assert judge_effect(effect, smaller=True) == UNDECIDED
    assert judge_effect(record([1.6, 0.9, 1.2]), smaller=True) == UNDECIDED


def test_the_detectable_effect_is_seen_four_times_of_five():
    rng, n = np.random.default_rng(0), 6
    noise = 0.2 * rng.standard_normal((4000, n))
    effects = [paired_effect(np.exp(row), np.ones(n)) for row in noise]
    typical = math.exp(0.2 * (stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) / math.sqrt(n))
    assert np.median([e.detectable for e in effects]) == pytest.approx(typical, rel=0.03)
    seen = [paired_effect(typical * np.exp(row), np.ones(n)).low > 1 for row in noise]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.05)
    assert paired_effect([1.0, 2.0], [1.0, 1.0]).detectable is None


def test_holm_widens_and_never_lets_a_worse_arm_pass_a_better_one():
    rng = np.random.default_rng(1)
    pairs = {name: (np.exp(shift + 0.1 * rng.standard_normal(6)), np.ones(6))
             for name, shift in (("far", -0.6), ("near", -0.12), ("none", 0.0))}  # fmt: skip
    corrected, plain = holm(pairs), {name: paired_effect(*pair) for name, pair in pairs.items()}
    assert list(corrected) == list(pairs)
    for name, effect in corrected.items():
        assert effect.ratio == plain[name].ratio
        assert effect.low <= plain[name].low and effect.high >= plain[name].high
    assert corrected["far"].high < 1 and corrected["none"].low <= 1 <= corrected["none"].high
    one = {"far": pairs["far"]}
    assert holm(one)["far"] == plain["far"]  # a single arm is not corrected


def test_holm_keeps_the_familys_error():
    """Of families of four true nulls at most about 5 % see any effect."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(600):
        pairs = {str(i): (np.exp(0.2 * rng.standard_normal(5)), np.ones(5)) for i in range(4)}
        wrong += any(e.low > 1 or e.high < 1 for e in holm(pairs).values())
    assert wrong / 600 < 0.08


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("ratio", [0.9, 0.1, 1.0, 10.0])
def test_too_few_seeds_decide_nothing_on_either_side(n, ratio):
    effect = paired_effect([100.0 * ratio] * n, [100.0] * n)
    for smaller, paper in ((True, 0.529), (False, 1.62)):
        assert judge_effect(effect, smaller, paper) == UNTESTABLE


def test_an_interval_on_the_other_side_contradicts():
    assert judge_effect(record([1.1, 1.3, 1.2]), smaller=True) == UNDECIDED
    assert judge_effect(record([1.15, 1.25, 1.2]), smaller=True) == CONTRADICTED
    assert judge_effect(record([0.8, 0.82, 0.81]), smaller=False, paper=1.62) == CONTRADICTED


def test_no_measurement_or_no_floor_is_not_testable():
    assert judge_effect(None, smaller=True) == UNTESTABLE
    assert judge_effect(record([0.5, 0.5, 0.51]), smaller=True, floors=False) == UNTESTABLE


def test_larger_is_the_mirror_of_smaller():
    for ratios in ([0.5, 0.52, 0.51], [0.9, 0.91, 0.92], [0.6, 1.2, 0.9], [1.1, 1.3, 1.2]):
        below = judge_effect(record(ratios), smaller=True, paper=0.529)
        above = judge_effect(record([1 / r for r in ratios]), smaller=False, paper=1 / 0.529)
        assert below == above


@pytest.mark.parametrize(
    ("holds", "verdict"), [(True, REPRODUCED), (False, CONTRADICTED), (None, UNTESTABLE)]
)
def test_identity(holds, verdict):
    assert judge_identity(holds) == verdict


@pytest.mark.parametrize(
    ("share", "seeds", "verdict"),
    [
        (0.999, 3, REPRODUCED),
        (0.999, 2, UNTESTABLE),
        (0.3, 2, UNTESTABLE),
        (0.86, 3, DIRECTION),
        (0.3, 3, CONTRADICTED),
        (None, 0, UNTESTABLE),
    ],
)
def test_share(share, seeds, verdict):
    assert judge_share(share, whole=0.99, part=0.5, seeds=seeds) == verdict


def test_worst_is_the_most_cautious():
    assert worst(REPRODUCED, DIRECTION) == DIRECTION
    assert worst(REPRODUCED, UNTESTABLE) == UNTESTABLE
    assert worst(UNTESTABLE, CONTRADICTED) == CONTRADICTED
    assert worst(UNDECIDED, DIRECTION) == UNDECIDED
    assert [worst(v) for v in VERDICTS] == list(VERDICTS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_effect([1.0, 2.0], [1.0]), "2 and 1"),
        (lambda: paired_effect([], []), "0 and 0"),
        (lambda: paired_effect([0.0], [1.0]), "0.0"),
        (lambda: paired_effect([float("nan")], [1.0]), "nan"),
        (lambda: judge_effect(None, smaller=True, paper=1.62), "1.62"),
        (lambda: worst("won"), "'won'"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("others", [[], [REPRODUCED], [DIRECTION, UNDECIDED], [CONTRADICTED]])
def test_a_regime_that_was_not_testable_counts_as_not_run(others):
    assert across(UNTESTABLE, *others) == (worst(*others) if others else UNTESTABLE)
    assert across(*others, UNTESTABLE, UNTESTABLE) == across(UNTESTABLE, *others)


@given(
    some.lists(some.tuples(some.floats(1, 200), some.floats(0.01, 100)), min_size=2, max_size=6,
               unique_by=lambda point: point[0]),
    some.floats(0, 201),
)  # fmt: skip
def test_between_two_codebooks_the_logarithm_is_linear(curve, bits):
    found = on_curve(bits, curve)
    rates = [rate for rate, _ in curve]
    if not min(rates) <= bits <= max(rates):
        assert found is None
        return
    low = max(point for point in curve if point[0] <= bits)
    high = min(point for point in curve if point[0] >= bits)
    share = (bits - low[0]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
    assert found == pytest.approx(low[1] ** (1 - share) * high[1] ** share)


def test_no_curve_gives_no_value():
    assert on_curve(1.0, []) is None
