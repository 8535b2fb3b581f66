"""The diagnosis: numbers against plain readings, advice on matrices whose truth is known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vcqlib.entropy.advice import Advice
from vcqlib.entropy.diagnosis import HeldOut, diagnose, guessed_sizes
from vcqlib.entropy.twins import equal_rows, twins
from vcqlib.entropy.usage import usage
from vcqlib.theory import cliff as theory
from vcqlib.theory.schedules import codebook_sizes

N, T, K = 5000, 16, 64


def ideal(n=N, sizes=(K,) * T, seed=0):
    return np.random.default_rng(seed).integers(0, sizes, (n, len(sizes)))


def chain(n=N, length=T, k=K):
    """Codes of which each is the one before, or the one after it: 1 bit each, after the first."""
    steps = np.random.default_rng(1).integers(0, 2, (n, length))
    steps[:, 0] = np.random.default_rng(2).integers(0, k, n)
    return steps.cumsum(axis=1) % k


def with_column(t, values, codes=None):
    codes = ideal() if codes is None else codes
    codes[:, t] = values
    return codes


# ---------------------------------------------------------------- one position at a time


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**40), st.data())
def test_usage_is_what_counting_gives(n, length, k, low, data):
    seed = data.draw(st.integers(0, 2**32))
    codes = np.random.default_rng(seed).integers(0, k, (n, length)) + low * (seed % 3 == 0)
    seen = usage(codes)
    for t, column in enumerate(codes.T):
        values, counts = np.unique(column, return_counts=True)
        share = counts / n
        assert (seen.used[t], seen.largest[t]) == (len(values), values[-1])
        assert seen.bits[t] == pytest.approx(-(share * np.log2(share)).sum(), abs=1e-12)
    share = np.unique(codes, return_counts=True)[1] / codes.size
    assert seen.pooled_used == len(share)
    assert seen.pooled_bits == pytest.approx(-(share * np.log2(share)).sum(), abs=1e-12)
    assert seen.effective_size == pytest.approx(np.prod(seen.perplexity) ** (1 / length))


def test_usage_reads_files_and_any_layout_alike(tmp_path, monkeypatch):
    monkeypatch.setattr("vcqlib.entropy.usage.AT_ONCE", 3 * N * 2)  # three columns at a time
    monkeypatch.setattr("vcqlib.entropy.usage.KEPT", 100)
    codes = with_column(9, ideal()[:, 4])
    np.save(tmp_path / "rows.npy", codes.astype(np.uint16))
    np.save(tmp_path / "columns.npy", np.asfortranarray(codes.astype(np.uint16)))
    want = vars(usage(codes))
    for name in ("rows.npy", "columns.npy"):
        got = vars(usage(np.load(tmp_path / name, mmap_mode="r")))
        assert all(np.array_equal(want[key], got[key]) for key in want), name


@pytest.mark.parametrize(
    ("codes", "copies"),
    [
        (with_column(9, (ideal()[:, 4] * 5 + 3) % K), ((10, 5),)),
        (with_column(9, ideal()[:, 4] % 32), ()),  # follows from position 5, but says less
        (np.repeat(ideal()[:, :1], 4, axis=1), ((2, 1), (3, 1), (4, 1))),
        (np.arange(3000)[:, None] * np.ones(3, int), ()),  # all tokens differ: no evidence
        (np.array([[0, 1], [1, 0], [0, 1]]), ()),  # chance does that
        (np.eye(3000, 1, dtype=int).repeat(2, axis=1), ()),  # two rare tokens meet in some row
        (np.zeros((N, 3), int), ()),  # dead, not copied
    ],
)
def test_a_copy_is_named_if_chance_cannot_make_it(codes, copies):
    assert usage(codes).copies == copies


def test_columns_that_part_beyond_the_sample_are_no_copies():
    codes = with_column(9, ideal()[:, 4])
    codes[-1, 9] = (codes[-1, 9] + 1) % K
    assert usage(codes).copies == ()


def test_a_negative_token_is_named_wherever_it_is():
    codes = ideal()
    codes[77, T - 1] = -4  # long after the cliff
    with pytest.raises(ValueError, match="-4"):
        diagnose(codes)


# ---------------------------------------------------------------- what follows


def rules(codes, **options):
    return [advice.rule for advice in diagnose(codes, **options).advice]


@pytest.mark.parametrize(
    ("codes", "sizes", "found"),
    [
        (ideal(), (K,), ["cliff"]),
        (with_column(3, 7), (K,), ["dead", "cliff"]),
        (with_column(3, np.arange(N) % 100 == 0), (K,), ["faint", "cliff"]),
        (with_column(9, ideal()[:, 4]), (K,), ["copy", "cliff"]),
        (ideal() // 4 * 4, (K,), ["unused", "cliff"]),
        (ideal() % 16, (K,), ["unused", "cliff"]),
        (ideal() % 48, (K,), ["cliff"]),  # 0.5 bits short: less than half of the codebook
        (np.concatenate([ideal(4000), ideal(1000)]), (K,), ["same", "cliff"]),
        (ideal(sizes=(4,) * 6), (4,), ["short"]),
        (ideal(sizes=(8,) * 6), (8,), []),  # t* = 5 of 6: the bits last
        (ideal(sizes=(4096,) * T), (4096,), ["few", "cliff"]),
        (ideal(sizes=codebook_sizes("loglinear", T, 32)), codebook_sizes("loglinear", T, 32), []),
        (chain(length=64), (K,), ["late"]),
        (chain(length=64).repeat(2, axis=0), (K,), ["same", "late"]),
        (np.zeros((N, T), int), (K,), ["dead", "same"]),
        (np.zeros((3, 2), int), (2,), ["few"]),  # 3 rows may agree by chance
        (np.zeros((1, 4), int), (2,), ["few"]),
    ],
)  # fmt: skip
def test_each_rule_finds_its_truth_and_no_other(codes, sizes, found):
    assert rules(codes, sizes=sizes) == found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(100, 3000), st.integers(1, 20), st.integers(2, 300), st.integers(0, 2**32),
    st.sampled_from(["uniform", "doubling", "loglinear"]),
)  # fmt: skip
def test_ideal_codes_are_never_called_ill(n, length, k, seed, schedule):
    sizes = codebook_sizes(schedule, length, k)
    assert set(rules(ideal(n, sizes, seed), sizes=sizes)) <= {"few", "short", "cliff"}


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 10**6), st.integers(1, 12), st.integers(2, 40))
def test_the_remedy_of_short_is_the_smallest_that_works(n, length, k):
    from vcqlib.entropy.advice import _root

    root = _root(n, length)
    assert root**length >= n and (root == 2 or (root - 1) ** length < n)
    needed = theory.cliff_position(n, k)
    assert k**needed >= n > k ** (needed - 1) or needed == 0


def test_what_short_says_is_true():
    codes = ideal(sizes=(4,) * 6)
    (advice,) = diagnose(codes, sizes=[4]).advice
    assert "4,096 codes, for 5,000 sequences: at least 904" in advice.finding
    assert N - len(np.unique(codes, axis=0)) >= 904
    assert "7 positions with K = 4, or 6 with K = 5" in advice.remedy


def test_positions_are_told_in_runs():
    codes = ideal()
    codes[:, [0, 1, 2, 9]] = 5
    assert diagnose(codes, sizes=[K]).advice[0].finding.startswith("Positions 1–3, 10 (4 in all):")


def test_other_codebooks_are_the_theory():
    found = diagnose(ideal(), sizes=[K])
    assert [a.name for a in found.alternatives] == [
        "uniform", "doubling", "log-linear to 4", "log-linear to 16",
    ]  # fmt: skip
    for a in found.alternatives:
        assert a.cliff == theory.cliff_position(N, a.sizes)
        assert a.bits == pytest.approx(sum(map(math.log2, a.sizes)))
        told = np.cumsum(theory.expected_conditional_entropy(N, a.sizes))
        assert told[a.spent - 1] >= 0.99 * told[-1] > (told[a.spent - 2] if a.spent > 1 else 0)
    assert found.alternatives[0].share == 1 and max(a.share for a in found.alternatives) == 1
    assert "doubling: t* = 5 at" in found.advice[0].remedy


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        ([63, 60, 63], (64, 64, 64)),
        ([1, 3, 7, 7], (2, 4, 8, 8)),
        ([1, 3, 16383, 16380], (2, 4, 16384, 16384)),  # grows, up to the noise of the last codes
        ([63, 0, 63], (64, 64, 64)),  # a dead position does not make the codebook grow
        ([7, 3, 1], (8, 8, 8)),  # a reversed one cannot be told from one badly used
        ([0, 0], (2, 2)),
        ([2**63 - 1], (2**63,)),
    ],
)
def test_sizes_are_guessed_from_the_largest_tokens(largest, sizes):
    assert guessed_sizes(np.array(largest)) == sizes


def test_where_the_sizes_come_from():
    codes = ideal(sizes=(4,) * 6)
    for options, origin, sizes in [
        ({"sizes": [5]}, "given", (5,) * 6),
        ({"sizes": [5], "recorded": (4,) * 6}, "given", (5,) * 6),
        ({"recorded": (6,) * 6}, "recorded", (6,) * 6),
        ({}, "assumed", (4,) * 6),
    ]:
        found = diagnose(codes, **options)
        assert (found.sizes_from, found.sizes) == (origin, sizes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([3], "K_1 = 3, but position 1 holds the token 3"),
        ([4, 4], "got 2 values, need 1 or T = 6"),
        ([4, 4, 4, 1, 4, 4], "K_4 must be at least 2, got 1"),
    ],
)
def test_impossible_sizes_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        diagnose(ideal(sizes=(4,) * 6), sizes=sizes)


def test_numbers_beside_the_measures_it_is_made_of():
    codes, labels = ideal(), np.arange(N) % 3
    found = diagnose(codes, labels, sizes=[K])
    record = json.loads(json.dumps(found.to_dict()))
    assert record["cliff"] == found.entropy.cliff(0.01) == 3 and record["ideal_cliff"] == 3
    assert record["class_cliffs"] == [p.cliff(0.01) for p in found.entropy.per_class.values()]
    assert record["ideal_unigram"] == [theory.expected_conditional_entropy(N, [K])[0]] * T
    assert record["bits"] == found.entropy.bits.tolist()
    assert record["advice"][0]["rule"] == "cliff"


def held_out(train, test):
    return HeldOut(np.full(T, train), np.full(T, test), 1000, 100)


@pytest.mark.parametrize(
    ("train", "test", "found"),
    [
        (3.0, 5.0, ["memorised"]),
        (5.0, 5.2, []),
        (5.95, 5.95, ["noise"]),
        (6.2, 6.3, ["unlearned"]),
        (3.0, 6.3, ["memorised", "unlearned"]),
        (0.0, 0.0, []),
    ],
)
def test_what_a_model_makes_of_the_codes(train, test, found):
    with_model = diagnose(ideal(), sizes=[K]).with_model(held_out(train, test))
    assert [a.rule for a in with_model.advice] == ["cliff", *found]


# ---------------------------------------------------------------- sequences that are equal


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32))
def test_equal_rows_are_found_whatever_their_hash(n, length, k, seed):
    codes = np.random.default_rng(seed).integers(0, k, (n, length))
    groups = {}
    for i, row in enumerate(codes.tolist()):
        groups.setdefault(tuple(row), []).append(i)
    want = sorted(rows for rows in groups.values() if len(rows) > 1)
    assert sorted(rows.tolist() for rows in equal_rows(codes)) == want


@pytest.fixture
def pictures(tmp_path):
    """Six pictures in two classes: the first three are equal, the next is as codes have it."""
    paths = []
    for i in range(6):
        path = tmp_path / "pictures" / "ab"[i // 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (max(i, 2), 10, 10)).save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("crops", [1, 2])
def test_equal_codes_of_equal_and_of_other_pictures(crops, pictures):
    codes = np.array([[1, 1], [1, 1], [1, 1], [2, 2], [2, 2], [3, 3]]).repeat(crops, axis=0)
    found = twins(codes, pictures)  # two crops of one picture are no pair
    assert found.groups == (tuple(pictures[:3]), tuple(pictures[3:5]))
    assert found.equal == (True, False) and found.total == 2


def test_every_rule_of_the_table_has_a_case_here():
    """The table in the docstring of `advice` lists what the tests above find, and no more."""
    import vcqlib.entropy.advice as module

    lines = [line.split("|") for line in module.__doc__.splitlines() if line.startswith("|")]
    listed = {name.strip() for line in lines[2:] for name in line[1].split(",")}
    source = Path(module.__file__).read_text()
    said = {part.split('"')[1] for part in source.split("Advice(\n")[1:]}
    assert listed == said
    assert Advice.__dataclass_params__.frozen
