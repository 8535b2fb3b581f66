"""The entropy engine against brute force, theory, and itself under every change of form."""

import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vcqlib import codebook_sizes, expected_conditional_entropy, expected_distinct_prefixes
from vcqlib.entropy import backends, inputs, prefixes
from vcqlib.entropy.backends import NumPyArrays, TorchArrays
from vcqlib.entropy.estimates import conditional_entropy, count_prefixes, summarize


def brute_force(codes):
    """Joint entropies, distinct prefixes and unique share by counting tuples."""
    n, joint, distinct, unique = len(codes), [], [], []
    for t in range(1, codes.shape[1] + 1):
        counts = Counter(tuple(row[:t]) for row in codes.tolist()).values()
        joint.append(-math.fsum(c / n * math.log2(c / n) for c in counts))
        distinct.append(len(counts))
        unique.append(sum(c == 1 for c in counts) / n)
    return np.diff(joint, prepend=0), np.array(distinct), np.array(unique)


@st.composite
def token_matrices(draw, max_rows=60, max_length=7):
    """Small matrices with shared prefixes, whole repeats, and tokens of any width."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, length = draw(st.integers(1, max_rows)), draw(st.integers(1, max_length))
    tops = draw(st.lists(st.sampled_from([1, 2, 3, 70, 2**40, 2**63 - 1]), min_size=length))
    codes = np.stack([rng.integers(0, top, n) for top in tops[:length]], axis=1)
    if draw(st.booleans()):  # few different sequences, many times each
        codes = codes[rng.integers(0, draw(st.integers(1, n)), n)]
    return codes


def assert_same(a, b, exact=True):
    """Bit for bit, but for the standard error, whose sums run in another order."""
    close = dict(rel=0, abs=0) if exact else dict(rel=1e-12, abs=1e-12)
    for name in ("bits", "unique_share", "distinct_prefixes"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), **close)
    assert a.total_bits == pytest.approx(b.total_bits, **close)
    assert a.standard_error == pytest.approx(b.standard_error, abs=1e-6)


@given(codes=token_matrices())
@settings(max_examples=150, deadline=None)
def test_equals_brute_force(codes):
    result = conditional_entropy(codes)
    bits, distinct, unique = brute_force(codes)
    assert result.bits == pytest.approx(bits, abs=1e-12)
    assert np.array_equal(result.distinct_prefixes, distinct)
    assert result.unique_share == pytest.approx(unique, abs=1e-15)
    assert result.bits.dtype == result.unique_share.dtype == np.float64
    assert result.distinct_prefixes.dtype == np.int64
    assert result.n_sequences == len(codes)


@given(
    codes=token_matrices(),
    key_bits=st.integers(13, 63),
    sample=st.sampled_from([1, 7, 1 << 16]),
    block=st.sampled_from([3, 1 << 14]),
    threads=st.sampled_from([1, 3]),
)
@settings(max_examples=150, deadline=None)
def test_packing_makes_no_difference(codes, key_bits, sample, block, threads):
    """Narrow keys split tokens over several sorts; a short sample misjudges widths."""
    expected = conditional_entropy(codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "KEY_BITS", key_bits)
        patch.setattr(prefixes, "SAMPLE", sample)
        patch.setattr(backends, "BLOCK", block)
        patch.setattr(NumPyArrays, "threads", threads)
        assert_same(conditional_entropy(codes), expected)
        assert_same(conditional_entropy(np.asfortranarray(codes)), expected)
        tensor = torch.from_numpy(codes.copy())
        assert_same(summarize(count_prefixes(tensor, arrays=TorchArrays)), expected)


@given(codes=token_matrices())
@settings(max_examples=100, deadline=None)
def test_chain_rule_and_bounds(codes):
    n = len(codes)
    result = conditional_entropy(codes)
    assert result.bits.sum() == pytest.approx(result.total_bits, abs=1e-12)
    assert result.total_bits <= math.log2(n)
    assert (result.bits >= 0).all()
    spent = np.cumsum(result.bits) - result.bits
    observed = [len(np.unique(column)) for column in codes.T]
    assert (result.bits <= np.log2(observed) + 1e-12).all()
    assert (result.bits <= math.log2(n) - spent + 1e-12).all()
    assert (np.diff(result.distinct_prefixes) >= 0).all()
    assert (np.diff(result.unique_share) >= 0).all()
    all_differ = len(np.unique(codes, axis=0)) == n
    assert (result.total_bits == pytest.approx(math.log2(n), abs=1e-12)) == all_differ
    assert result.distinct_prefixes[-1] == n or not all_differ


@given(codes=token_matrices(), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_rows_permuted_and_tokens_relabelled(codes, seed):
    rng = np.random.default_rng(seed)
    expected = conditional_entropy(codes)
    assert_same(conditional_entropy(rng.permutation(codes)), expected)
    relabelled = np.empty_like(codes)
    for t, column in enumerate(codes.T):
        values, ranks = np.unique(column, return_inverse=True)
        relabelled[:, t] = rng.choice(2**40, len(values), replace=False)[ranks]
    assert_same(conditional_entropy(relabelled), expected)


FORMS = {
    "int8": lambda c, _: c.astype(np.int8),
    "uint16": lambda c, _: c.astype(np.uint16),
    "big-endian": lambda c, _: c.astype(">i4"),
    "uint64": lambda c, _: c.astype(np.uint64),
    "position-major": lambda c, _: np.ascontiguousarray(c.T).T,
    "every other column": lambda c, _: np.repeat(c, 2, axis=1)[:, ::2],
    "both axes backwards": lambda c, _: np.ascontiguousarray(c[::-1, ::-1])[::-1, ::-1],
    "read-only": lambda c, _: np.frombuffer(c.tobytes(), c.dtype).reshape(c.shape),
    "lists": lambda c, _: c.tolist(),
    "torch": lambda c, _: torch.from_numpy(c),
    "torch uint8, transposed": lambda c, _: torch.from_numpy(c.T.copy()).to(torch.uint8).T,
    "row-major map": lambda c, path: mapped(c, path),
    "position-major map": lambda c, path: mapped(c.T, path).T,
    "rows of a map": lambda c, path: mapped(np.concatenate([c[:5], c]), path)[5:],
}


def mapped(codes, path, dtype=np.uint16):
    np.save(path, codes.astype(dtype))
    return np.load(path, mmap_mode="r")


@pytest.fixture
def codes():
    sizes = codebook_sizes("loglinear", 12, 100)
    return np.random.default_rng(0).integers(0, sizes, (3000, 12))


@pytest.mark.parametrize("form", FORMS)
def test_form_makes_no_difference(form, codes, tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "BLOCK", 256)
    monkeypatch.setattr(prefixes, "KEY_BITS", 32)  # several sorts
    monkeypatch.setattr(prefixes, "SAMPLE", 500)
    given = FORMS[form](codes, tmp_path / "codes.npy")
    assert_same(conditional_entropy(given), conditional_entropy(codes))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int64])
def test_device_path_takes_every_integer_type(dtype, codes):
    tensor = torch.from_numpy(codes).to(dtype)
    result = summarize(count_prefixes(tensor, arrays=TorchArrays))
    assert_same(result, conditional_entropy(codes))
    some = np.arange(0, 3000, 3)
    result = summarize(count_prefixes(tensor, some, TorchArrays))
    assert_same(result, conditional_entropy(codes[some]))


def test_position_major_map_reads_only_the_columns_it_needs(tmp_path):
    """Columns after the cliff would be refused if they were read."""
    codes = np.random.default_rng(0).integers(0, 1000, (500, 40))
    codes[:, 20:] = -1
    result = conditional_entropy(mapped(codes.T, tmp_path / "codes.npy", np.int32).T)
    assert result.distinct_prefixes[-1] == 500


@pytest.mark.parametrize("schedule", ["uniform", "doubling", "loglinear"])
def test_simulated_ideal_codes_follow_theory(schedule):
    n, length = 50_000, 16
    sizes = codebook_sizes(schedule, length, 256)
    codes = np.random.default_rng(1).integers(0, sizes, (n, length))
    result = conditional_entropy(codes)
    assert result.bits == pytest.approx(expected_conditional_entropy(n, sizes), abs=0.02)
    expected = expected_distinct_prefixes(n, sizes)
    assert result.distinct_prefixes == pytest.approx(expected, rel=0.005)


def test_imagenet_size_falls_off_at_position_two():
    """The values of the paper's theory at N = 1,281,167, K = 16384."""
    codes = np.random.default_rng(0).integers(0, 16384, (1_281_167, 4), np.uint16)
    result = conditional_entropy(codes)
    assert result.bits == pytest.approx([13.99, 6.29, 0.005, 0], abs=0.006)
    assert result.cliff() == 2


def test_cliff():
    codes = np.random.default_rng(0).integers(0, 16, (4000, 8))
    result = conditional_entropy(codes)
    spent = np.cumsum(result.bits)
    for epsilon in (0.0, 0.01, 0.2, 0.9):
        t = result.cliff(epsilon)
        assert spent[t - 1] >= (1 - epsilon) * spent[-1]
        assert t == 1 or spent[t - 2] < (1 - epsilon) * spent[-1]
    assert conditional_entropy(np.zeros((5, 3), int)).cliff() == 0
    assert conditional_entropy(np.eye(2, dtype=int)).cliff(0) == 1
    for epsilon in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="epsilon"):
            result.cliff(epsilon)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_smallest_matrices(shape):
    result = conditional_entropy(np.arange(math.prod(shape)).reshape(shape))
    assert result.total_bits == pytest.approx(math.log2(shape[0]))
    assert (result.unique_share == 1).all()
    assert np.isfinite(result.standard_error).all()
    assert np.isfinite(result.grassberger()).all()
    assert len(result.to_frame()) == shape[1]


@pytest.mark.parametrize("copies", [2, 5])
def test_repeated_sequences_end_early(copies, codes, monkeypatch):
    """Once no group splits the rest is compared, not sorted; a late difference is still seen."""
    monkeypatch.setattr(prefixes, "KEY_BITS", 32)
    whole = np.concatenate([codes] * copies)
    last = np.arange(len(whole))[:, None] // 2999  # tells the copies apart at the very end
    for array in (whole, np.hstack([whole, whole, last]), np.asfortranarray(whole)):
        bits, distinct, unique = brute_force(array)
        result = conditional_entropy(array)
        assert result.bits == pytest.approx(bits, abs=1e-12)
        assert np.array_equal(result.distinct_prefixes, distinct)
        assert result.unique_share == pytest.approx(unique)
        assert_same(summarize(count_prefixes(torch.from_numpy(array), None, TorchArrays)), result)


@given(codes=token_matrices(max_rows=25, max_length=5))
@settings(max_examples=40, deadline=None)
def test_standard_error_is_the_jackknife(codes):
    n = len(codes)
    result = conditional_entropy(codes)
    if n == 1:
        assert (result.standard_error == 0).all()
        return
    without = [conditional_entropy(np.delete(codes, i, axis=0)).bits for i in range(n)]
    deviations = without - np.mean(without, axis=0)
    expected = np.sqrt((n - 1) / n * (deviations**2).sum(axis=0))
    assert result.standard_error == pytest.approx(expected, abs=1e-6)


def test_interval_covers_where_the_bias_is_small():
    """Two dependent positions of known entropy, N ≫ cells: about 95 of 100 intervals cover."""
    rng = np.random.default_rng(0)
    first = np.array([0.5, 0.25, 0.25])
    second = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    truth = -np.sum(first[:, None] * second * np.log2(second))
    covered = 0
    for _ in range(200):
        x = rng.choice(3, 4000, p=first)
        y = (rng.random(4000) < second[x, 1]).astype(int)
        low, high = conditional_entropy(np.stack([x, y], 1)).interval(0.95)
        covered += low[1] <= truth <= high[1]
    assert 180 <= covered <= 199
    with pytest.raises(ValueError, match="level"):
        conditional_entropy(np.eye(2, dtype=int)).interval(1.0)


def test_bias_corrections():
    """At 4 sequences a cell both help; at 1 Grassberger alone is near; past the cliff neither."""
    rng = np.random.default_rng(0)
    truth = 6.0  # 64 equally likely tokens at each position
    for per_cell, best in ((4.0, 0.05), (1.0, 0.25)):
        runs = [rng.integers(0, 64, (int(per_cell * 64**2), 2)) for _ in range(5)]
        plug, miller, grass = (
            abs(np.mean([f(conditional_entropy(c))[1] for c in runs]) - truth)
            for f in (lambda r: r.bits, lambda r: r.miller_madow(), lambda r: r.grassberger())
        )
        assert grass < miller < plug
        assert grass < best
    past = conditional_entropy(rng.integers(0, 64, (4096, 8)))
    assert past.miller_madow()[-1] == past.grassberger()[-1] == 0


def test_miller_madow_by_hand():
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0]])
    result = conditional_entropy(codes)
    step = 1 / (2 * 4 * math.log(2))  # one more distinct prefix
    assert result.bits == pytest.approx([1.0, 0.5])
    assert result.miller_madow() == pytest.approx([1.0 + step, 0.5 + step])


@pytest.mark.parametrize("names", [[3, 0, 7], ["ant", "bee", "cat"]])
def test_per_class(names, codes):
    labels = np.random.default_rng(2).choice(names, len(codes))
    result = conditional_entropy(codes, labels)
    assert list(result.per_class) == sorted(names)
    for name, part in result.per_class.items():
        assert_same(part, conditional_entropy(codes[labels == name]))
    assert_same(result, conditional_entropy(codes))
    frame = result.to_frame()
    assert len(frame) == 4 * codes.shape[1]
    assert list(frame["class"].unique()) == ["all", *sorted(names)]
    tensor = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    again = conditional_entropy(torch.from_numpy(codes), tensor)
    assert [part.n_sequences for part in again.per_class.values()] == [
        part.n_sequences for part in result.per_class.values()
    ]


def test_frame_counts_positions_from_one(codes):
    frame = conditional_entropy(codes).to_frame()
    assert frame["position"].tolist() == list(range(1, 13))
    assert frame["bits"].sum() == pytest.approx(math.log2(3000))


OBJECTS = np.array([[1, 2], [3, 4]], dtype=object)


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (np.array([[0, 1], [2, -3]]), ValueError, r"\(int64\).*row 1, position 1 .*-3 is negative"),
        (np.array([[0, 2**63]], np.uint64), ValueError, r"uint64.*9223372036854775808"),
        (np.zeros((2, 2)), TypeError, r"codes must be integers, got shape \(2, 2\), float64"),
        (np.full((2, 2), np.nan), TypeError, "float64"),
        (np.zeros((2, 2), bool), TypeError, "bool"),
        (OBJECTS, TypeError, "object"),
        (np.array([["a"]]), TypeError, "<U1"),
        (torch.zeros(2, 2), TypeError, r"integers, got shape \(2, 2\), float32"),
        (torch.zeros(2, 2, dtype=torch.bool), TypeError, "bool"),
        (np.zeros((0, 4), int), ValueError, r"codes is empty: shape \(0, 4\), int64"),
        (np.zeros((4, 0), int), ValueError, r"empty: shape \(4, 0\)"),
        (np.zeros(4, int), ValueError, r"matrix \[N, T\], got shape \(4,\), int64"),
        (np.broadcast_to(np.int8(0), (2**31, 2)), ValueError, "see vcqlib.entropy.sharded"),
        (np.zeros((4, 2, 2), int), ValueError, r"\(4, 2, 2\).*reshape"),
        (torch.zeros(3, dtype=torch.int64), ValueError, r"shape \(3,\), int64"),
        ([[1, 2], [3]], ValueError, "differ in length"),
        (5, ValueError, r"shape \(\)"),
    ],
)
def test_bad_codes(codes, error, message):
    with pytest.raises(error, match=message) as caught:
        conditional_entropy(codes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-5, 2**63])
@pytest.mark.parametrize("survive", [False, True])
def test_bad_tokens_in_large_matrices_are_found_where_they_are_read(value, survive, monkeypatch):
    """Also when the bad token is only read in a later pass, through a subset of the rows."""
    monkeypatch.setattr(inputs, "CHECKED_WHOLE", 0)
    monkeypatch.setattr(prefixes, "KEY_BITS", 20)
    codes = np.repeat(np.arange(500), 2)[:, None] * np.ones(12, int)
    codes = codes.astype(np.int64 if value < 0 else np.uint64)
    codes[700, 9 if survive else 0] = value
    for array in (codes, np.asfortranarray(codes)):
        with pytest.raises(ValueError, match=rf"row 700, position {9 * survive} .*{value} "):
            conditional_entropy(array)
    if value < 0:
        with pytest.raises(ValueError, match=f"position {9 * survive} .*-5 is negative"):
            count_prefixes(torch.from_numpy(codes), arrays=TorchArrays)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1], ValueError, r"labels must have shape \(3,\).*shape \(2,\)"),
        ([0.0, np.nan, 1.0], ValueError, r"shape \(3,\), float64\) has NaN, first at labels\[1\]"),
        ([0.0, 0.5, 1.0], TypeError, "integers or strings, got shape .*float64"),
        ([None, 1, 2], TypeError, "object"),
        ([[0], [1], [2]], ValueError, r"shape \(3, 1\)"),
    ],
)
def test_bad_labels(labels, error, message):
    with pytest.raises(error, match=message):
        conditional_entropy(np.zeros((3, 2), int), labels)


@pytest.mark.parametrize("view", [lambda m: m, lambda m: m.T, lambda m: m[3:, ::2]])
def test_map_of_a_file_that_was_cut_short(view, tmp_path):
    path = tmp_path / "codes.bin"
    np.zeros((1000, 8), np.uint16).tofile(path)
    codes = np.memmap(path, np.uint16, "r", shape=(1000, 8))
    with open(path, "r+b") as file:
        file.truncate(5000)  # reading the map now would end the process
    with pytest.raises(ValueError, match=r"codes \(shape .*codes\.bin.*only 5000: it was cut"):
        conditional_entropy(view(codes))


def test_map_longer_than_its_file_is_refused_by_numpy(tmp_path):
    path = tmp_path / "codes.bin"
    np.zeros(10, np.uint16).tofile(path)
    with pytest.raises(ValueError):
        np.memmap(path, np.uint16, "r", shape=(1000, 8))


def test_import_is_light():
    code = (
        "import sys, vcqlib.entropy.sharded, vcqlib.data.token_files, vcqlib.cli.entropy;"
        "print([m for m in ('torch', 'pandas', 'dask', 'polars', 'pyarrow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_extra_memory_is_bounded():
    """Arrays held beside the matrix stay below four 64-bit columns, even if no row drops out."""
    import tracemalloc

    n = 1 << 18
    rng = np.random.default_rng(0)
    pairs = np.repeat(rng.integers(0, 4096, (n // 2, 12), np.uint16), 2, axis=0)
    for codes in (rng.integers(0, 4096, (n, 12), np.uint16), pairs, rng.permutation(pairs)):
        tracemalloc.start()
        conditional_entropy(codes)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        blocks = 40 * backends.BLOCK * NumPyArrays.threads
        assert peak < 32 * n + blocks
