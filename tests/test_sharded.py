"""Counting shards on dask gives what counting the whole matrix gives."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster

from vcqlib.entropy import sharded
from vcqlib.entropy.estimates import conditional_entropy
from vcqlib.entropy.sharded import sharded_conditional_entropy
from vcqlib.theory.schedules import codebook_sizes


@pytest.fixture(scope="module")
def client():
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    )
    with cluster, Client(cluster) as client:
        yield client


def make(kind, n=5000, length=12):
    rng = np.random.default_rng(3)
    if kind == "uniform":
        codes = rng.integers(0, 64, (n, length))
    elif kind == "loglinear":
        codes = rng.integers(0, codebook_sizes("loglinear", length, 64), (n, length))
    elif kind == "skewed":
        codes = np.minimum(rng.zipf(1.3, (n, length)), 10**9)
    else:  # every sequence twice, and one of them a thousand times
        codes = np.repeat(rng.integers(0, 8, (n // 2, length)), 2, axis=0)
        codes[:1000] = codes[0]
    return rng.permutation(codes)


def save(codes, folder, suffix, pieces=4):
    for i, part in enumerate(np.array_split(codes, pieces)):
        path = folder / f"part-{i}{suffix}"
        if suffix == ".npy":
            np.save(path, part.astype([np.int64, np.uint32][i % 2]))  # shards may differ in type
        else:
            pq.write_table(pa.table({"tokens": part.tolist()}), path)
    return folder


def assert_equal(result, expected):
    for name in ("bits", "unique_share", "standard_error"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name), abs=1e-9)
    assert np.array_equal(result.distinct_prefixes, expected.distinct_prefixes)
    assert result.total_bits == pytest.approx(expected.total_bits, abs=1e-9)
    assert result.n_sequences == expected.n_sequences
    assert result.grassberger() == pytest.approx(expected.grassberger(), abs=1e-9)


@pytest.mark.parametrize(("n", "partitions"), [(1, 3), (7, 1), (300, 9)])
def test_equal_without_a_cluster_for_any_partitions(n, partitions, tmp_path):
    codes = make("loglinear", n, 6)
    folder = save(codes, tmp_path, ".npy", pieces=min(n, 3))
    files = sorted(folder.iterdir())
    assert_equal(sharded_conditional_entropy(files, partitions), conditional_entropy(codes))
    assert_equal(sharded_conditional_entropy(f"{folder}/*.npy"), conditional_entropy(codes))


def test_one_position_and_one_value(tmp_path):
    for codes in (np.zeros((9, 3), int), np.arange(9)[:, None], np.arange(9)[:, None] + 2**60):
        np.save(tmp_path / "a0.npy", codes)
        assert_equal(sharded_conditional_entropy(tmp_path), conditional_entropy(codes))


def test_depth_grows_until_no_prefix_fills_a_worker():
    fair = np.random.default_rng(0).integers(0, 2, (4096, 20))
    assert sharded._depth(fair, partitions=8) in (5, 6)  # 2^5 prefixes just do on average
    assert sharded._depth(np.zeros((10, 4), int), partitions=2) == 4  # nothing tells them apart
    assert sharded._depth(np.arange(100)[:, None], partitions=2) == 1
    zipf = np.random.default_rng(0).zipf(1.5, (4096, 20))
    assert sharded._depth(zipf, partitions=1000) < 6  # not so deep that the table is the data


def test_bad_shards_are_named(tmp_path):
    np.save(tmp_path / "a0.npy", np.zeros((3, 4), int))
    np.save(tmp_path / "a1.npy", np.zeros((3, 5), int))
    with pytest.raises(ValueError, match=r"a1\.npy: T = 5, but .*a0\.npy has T = 4"):
        sharded_conditional_entropy(tmp_path)
    np.save(tmp_path / "a1.npy", np.full((3, 4), -1))
    with pytest.raises(ValueError, match=r"a1\.npy"):
        sharded_conditional_entropy(tmp_path)
    np.save(tmp_path / "a1.npy", np.full((3, 4), 0.5))
    with pytest.raises(ValueError, match=r"a1\.npy: .*integers"):
        sharded_conditional_entropy(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such files"):
        sharded_conditional_entropy(tmp_path / "*.none")


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("uniform", ".npy"), ("loglinear", ".parquet"), ("skewed", ".parquet"), ("repeated", ".npy")],
)
def test_equal_to_memory_on_a_cluster(kind, suffix, tmp_path, client):
    codes = make(kind)
    result = sharded_conditional_entropy(save(codes, tmp_path, suffix))
    assert_equal(result, conditional_entropy(codes))
