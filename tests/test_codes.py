"""The token store: what is written comes back, what is wrong is refused by name."""

import numpy as np
import pytest
import torch

from vcqlib.data.code_store import open_codes, take, write_codes
from vcqlib.files import read_record, write_record

SIZES = (2, 7, 300)


def sample(n=50, sizes=SIZES):
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, k, n) for k in sizes], 1), rng.integers(0, 10, n)


def test_round_trip_memory_mapped(tmp_path):
    codes, labels = sample()
    write_codes(tmp_path, codes, labels, SIZES, {"arm": "x"})
    store = open_codes(tmp_path)
    assert np.array_equal(store.codes, codes) and np.array_equal(store.labels, labels)
    assert store.sizes == SIZES and store.info == {"arm": "x"}
    assert store.codes.dtype == np.uint16 and store.labels.dtype == np.int64
    base = store.codes
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.mode == "r" and store.codes.T.flags.c_contiguous  # position-major on disk


@pytest.mark.parametrize(("k", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_the_largest_code_survives(tmp_path, k, dtype):
    write_codes(tmp_path, np.asarray([[k - 1]]), np.zeros(1, int), (k,))
    codes = open_codes(tmp_path).codes
    assert codes.dtype == dtype and codes[0, 0] == k - 1


@pytest.mark.parametrize("k", [2**16, 2**20])
def test_codes_on_a_gpu_are_read_as_they_were_written(tmp_path, k):
    """`resident` keeps them unsigned; `take` gives the values back (here without a GPU)."""
    codes = np.asarray([[k - 1, 0], [k // 2, 1], [3, k // 2 - 1]])
    write_codes(tmp_path, codes, np.zeros(3, int), (k, k))
    mapped, rows, cpu = open_codes(tmp_path).codes, torch.tensor([2, 0]), torch.device("cpu")
    held = torch.from_numpy(np.array(mapped))
    for source in (mapped, held):
        batch = take(source, rows, cpu)
        assert batch.dtype == torch.int64 and batch.tolist() == codes[[2, 0]].tolist()


@pytest.mark.parametrize(("value", "row", "column"), [(7, 3, 1), (-1, 9, 2)])
def test_out_of_range_codes_are_named_and_nothing_is_written(tmp_path, value, row, column):
    codes, labels = sample()
    codes[row, column] = value
    with pytest.raises(ValueError, match=f"code {value} of image {row} at position {column + 1}"):
        write_codes(tmp_path / "store", codes, labels, SIZES)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("cut", [lambda c, y: (c[:, :2], y), lambda c, y: (c, y[:-1])])
def test_shapes_must_fit(tmp_path, cut):
    with pytest.raises(ValueError, match="do not fit"):
        write_codes(tmp_path, *cut(*sample()), SIZES)


@pytest.mark.parametrize("name", ["codes", "labels"])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_files_are_named(tmp_path, name, damage):
    write_codes(tmp_path, *sample(), SIZES)
    (path,) = tmp_path.glob(f"{name}-*.npy")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw if damage == "flip" else raw[:-10])
    with pytest.raises(ValueError, match=rf"{name}-\w+\.npy is damaged"):
        open_codes(tmp_path)


def test_a_sidecar_of_another_format_or_size_is_refused(tmp_path):
    write_codes(tmp_path, *sample(), SIZES)
    sidecar = tmp_path / "codes.json"
    text = sidecar.read_text()
    sidecar.write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(ValueError, match="format 9 is not 1; encode the images again"):
        open_codes(tmp_path)
    sidecar.write_text(text.replace('"images": 50', '"images": 51'))
    with pytest.raises(ValueError, match="codes.json is damaged: its SHA-256"):
        open_codes(tmp_path)
    sidecar.write_text(text)
    write_record(sidecar, read_record(sidecar) | {"images": 51})
    with pytest.raises(ValueError, match=r"holds \(50, 3\), its sidecar says \(51, 3\)"):
        open_codes(tmp_path)
    sidecar.write_text(text[:-20])
    with pytest.raises(ValueError, match="codes.json is not valid JSON"):
        open_codes(tmp_path)
    sidecar.unlink()
    with pytest.raises(FileNotFoundError, match="is no code store: it has no codes.json"):
        open_codes(tmp_path)
