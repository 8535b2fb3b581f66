"""Probes of two arms at equal tokens and at equal bits, on records made up for it."""

import numpy as np
import pytest

from vcqlib.study import order, records

UNIFORM, GROWING = [16] * 4, [2, 4, 16, 16]


def record(arm="uniform", seed=0, sizes=UNIFORM, probe=(0.2, 0.4, 0.6, 0.8), **changes):
    shown = {
        "study": "made-up", "group": "main", "arm": arm, "seed": seed, "sizes": list(sizes),
        "edition": 2, "config": {"dataset": "digits", "n_images": 100, "seed": seed},
        "measures": {"probe": {r: list(probe) for r in order.READINGS}, "parameters": {}},
    }  # fmt: skip
    return shown | changes


def study(scale=1.0, seeds=3, **changes):
    """Log-linear reads `scale` times what uniform reads from each prefix, less by seed."""
    found = []
    for seed in range(seeds):
        here = np.array([0.2, 0.4, 0.6, 0.8]) * (1 + 0.01 * seed)
        found.append(record("uniform", seed, probe=here, **changes))
        tilt = scale * (1 - 0.001 * seed)
        found.append(record("loglinear", seed, GROWING, here * tilt, **changes))
    return found


def test_accuracy_is_linear_between_prefixes_on_either_axis():
    growing = record(sizes=GROWING)  # 1, 3, 7 and 11 bits
    assert order.accuracy(growing, "code vectors", tokens=3) == pytest.approx(0.6)
    assert order.accuracy(growing, "code vectors", tokens=1.5) == pytest.approx(0.3)
    assert order.accuracy(growing, "code vectors", bits=7) == pytest.approx(0.6)
    assert order.accuracy(growing, "code vectors", bits=5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"bits": 3.9}, "bits must be 4 to 16 in uniform, got 3.9"),  # less than a first token
        ({"bits": 17}, "bits must be 4 to 16 in uniform, got 17"),
        ({"tokens": 5}, "tokens must be 1 to 4 in uniform, got 5"),
        ({}, "give tokens or bits"),
        ({"tokens": 1, "bits": 4}, "give tokens or bits"),
    ],
)
def test_a_prefix_that_was_not_probed_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        order.accuracy(record(), "code vectors", **asked)
    with pytest.raises(ValueError, match="unknown reading 'codes'"):
        order.accuracy(record(), "codes", tokens=1)


def test_equal_tokens_and_equal_bits_can_point_in_opposite_directions():
    """0.9 of uniform at each token: below at equal tokens, above where tokens are smaller."""
    found = order.table(study(0.9)).set_index(["equal", "at", "reading"])
    assert set(found["control"]) == {"uniform"} and set(found["seeds"]) == {3}
    tokens = found.loc["tokens", 4, "code vectors"]
    assert tokens["ratio"] == pytest.approx(0.9, rel=0.01) and tokens["high"] < 1
    bits = found.loc["bits", 4, "code vectors"]  # 2.25 tokens of the arm against 1
    assert bits["ratio"] == pytest.approx(0.9 * 0.45 / 0.2, rel=0.01) and bits["low"] > 1
    assert ("bits", 4, "encoder outputs") not in found.index  # the codebook does not limit them
    assert set(found.loc["bits"].index.get_level_values("at")) == {4}  # 12: more than 11 in all


def test_fewer_than_three_seeds_give_no_interval():
    assert order.table(study(seeds=2))["low"].isna().all()


def test_controls_without_probes_have_no_rows():
    backward = record("reversed", sizes=GROWING[::-1])
    del backward["measures"]["probe"]
    assert set(order.table([*study(), backward])["control"]) == {"uniform"}
    assert order.table([record()]).empty  # no arm to compare


def test_of_two_groups_that_share_tokenizers_one_counts():
    few, many = study(seeds=2), study(group="n50")
    for r in many:
        r["config"] = r["config"] | {"n_images": 50}
    (chosen,) = order.probed([*few, *many]).values()
    assert {r["group"] for r in chosen} == {"n50"}  # more seeds
    (chosen,) = order.probed([*study(), *many]).values()
    assert {r["group"] for r in chosen} == {"main"}  # as many seeds, more images
    other = study(study="elsewhere")
    for r in other:
        r["config"] = r["config"] | {"dataset": "emoji"}
    assert set(order.probed([*few, *other])) == {("digits", 4), ("emoji", 4)}


def test_bits_saved_past_the_cliff_are_counted_after_it_only():
    curve = [{"step": 1, "held_out": [9.0] * 4}, {"step": 2, "held_out": [4.0, 4.0, 1.0, 3.5]}]
    r = record(measures={"curve": curve, "unigram": [4.0, 4.0, 3.0, 3.0]})  # t* = 2 of N = 100
    assert records.past_the_cliff(r) == pytest.approx(2.0 - 0.5)  # of the better step
    assert records.past_the_cliff(r | {"sizes": [2, 2, 2, 2]}) == 0  # no cliff
    with pytest.raises(ValueError, match="main-uniform has no AR model"):
        records.past_the_cliff(record())
