"""The token store: what is written comes back, what is wrong is refused by name."""

import os
import shutil
import sys

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


@pytest.mark.parametrize("k", [2**16, 2**20, 2**32])
def test_codes_on_a_gpu_are_read_as_they_were_written(tmp_path, k):
    """What `resident` puts there, here without a GPU."""
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
    with pytest.raises(ValueError, match="codes.json has format 9, this vcqlib reads 1"):
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


STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod")  # what touches a file


def killed_at(step, work):
    """Do the work in a process that is killed at so many of its steps; whether it was."""
    if (child := os.fork()) == 0:
        left = step

        def kill(event, arguments):
            nonlocal left
            if event in STEPS and not (left := left - 1):
                os._exit(9)

        sys.addaudithook(kill)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


OLD, NEW = {"info": {"made": "first"}}, {"info": {"made": "second"}}


def same_codes_new_labels(codes, labels):
    return codes, labels + 1


def all_new(codes, labels):
    return codes[::-1], labels[::-1]


@pytest.mark.parametrize("second", [all_new, same_codes_new_labels, lambda c, y: (c[:9], y[:9])])
def test_a_kill_at_any_step_leaves_the_old_store_or_the_new_one(tmp_path, second):
    """And the next writer leaves the new one alone, with nothing beside it."""
    first, again = sample(), second(*sample())
    origin = tmp_path / "origin"
    write_codes(origin, *first, SIZES, **OLD)
    seen = set()
    for step in range(1, 200):
        folder = tmp_path / str(step)
        shutil.copytree(origin, folder)
        dead = killed_at(step, lambda to=folder: write_codes(to, *again, SIZES, **NEW))
        store = open_codes(folder)
        made = store.info["made"]
        codes, labels = first if made == "first" else again
        assert np.array_equal(store.codes, codes) and np.array_equal(store.labels, labels)
        seen.add(made)
        write_codes(folder, *again, SIZES, **NEW)
        assert np.array_equal(open_codes(folder).codes, again[0])
        beside = [path.name for path in folder.iterdir() if path.name[0] != "."]
        assert len(beside) == 3
        shutil.rmtree(folder)
        if not dead:
            break
    assert not dead and step > 10 and seen == {"first", "second"}


def test_several_writers_leave_the_store_of_the_last(tmp_path):
    """As under torchrun, where every process may write into one folder."""
    codes, labels = sample()
    children = []
    for i in range(4):
        if (child := os.fork()) == 0:
            try:
                for turn in range(5):
                    write_codes(tmp_path, codes[(i + turn) % 3 :], labels[(i + turn) % 3 :], SIZES)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
    store = open_codes(tmp_path)
    assert np.array_equal(store.codes, codes[-len(store.codes) :])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_new_store_is_there_whole_or_not_at_all(tmp_path):
    for step in range(1, 200):
        folder = tmp_path / str(step)
        if not killed_at(step, lambda to=folder: write_codes(to, *sample(), SIZES)):
            break
        try:
            store = open_codes(folder)
        except FileNotFoundError:
            continue
        assert np.array_equal(store.codes, sample()[0])
    assert 8 < step < 199


def test_a_writer_that_fails_leaves_the_store_that_was_there(tmp_path):
    write_codes(tmp_path, *sample(), SIZES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    codes, labels = sample()
    codes[-1, -1] = 300
    with pytest.raises(ValueError, match="code 300 of image 49"):
        write_codes(tmp_path, codes, labels, SIZES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_same_codes_again_are_the_same_files_and_others_are_left_alone(tmp_path):
    mine = tmp_path / "codes.npy"  # somebody's own matrix, not a store
    np.save(mine, np.zeros(3))
    for _ in range(2):
        write_codes(tmp_path, *sample(), SIZES)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert len(names) == 4 and names[0].startswith("codes-") and names[-1].startswith("labels-")
    assert mine.exists() and (tmp_path / "codes.json").exists()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([-1, 5], torch.int16), ([-1, 5], torch.int32), ([-1, 5], torch.int64), ([-1, 5], torch.int8),
     ([65_535, 5], torch.uint16), ([2**32 - 1, 5], torch.uint32), ([200, 5], torch.uint8)],
)  # fmt: skip
def test_codes_of_any_type_keep_their_values(values, dtype):
    """−1 of int16 is −1, so that what refuses it names it; uint16 has no sign to undo."""
    batch = take(torch.tensor([values], dtype=dtype), torch.tensor([0, 0]), torch.device("cpu"))
    assert batch.dtype == torch.int64 and batch.tolist() == [values, values]
