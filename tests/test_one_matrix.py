"""One fact, one place: every door has the same idea of an integer, and of an integer matrix."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import vcqlib
from vcqlib import settings
from vcqlib.checks import holds_integers, integer, unknown_name
from vcqlib.cli.app import main
from vcqlib.data.token_files import read_tokens
from vcqlib.entropy.inputs import as_labels, as_matrix, largest_tokens, read_matrix
from vcqlib.entropy.sharded import sharded_conditional_entropy

ROOT = Path(__file__).resolve().parents[1]
A = np.arange(6).reshape(3, 2)
MATRICES = {
    "int8": (A.astype(np.int8), True),
    "uint16": (A.astype(np.uint16), True),
    "big-endian": (A.astype(">i4"), True),
    "uint64": (A.astype(np.uint64), True),
    "largest": (A.astype(np.uint64) + (2**63 - 6), True),
    "Fortran order": (np.asfortranarray(A), True),
    "one position": (A[:, :1], True),
    "one sequence": (A[:1], True),
    "too large": (A.astype(np.uint64) + 2**63, False),
    "negative": (A - 1, False),
    "negative, one row": (A[:1] - 1, False),  # which no entropy needs to look at
    "too large, one row": (A[:1].astype(np.uint64) + 2**63, False),
    "int16, negative": (A.astype(np.int16) - 1, False),
    "bool": (A > 1, False),
    "float": (A * 1.0, False),
    "complex": (A * 1j, False),
    "words": (A.astype(str), False),
    "dates": (A.astype("datetime64[s]"), False),
    "one dimension": (A[0], False),
    "three dimensions": (A[:, :, None], False),
    "no rows": (A[:0], False),
    "no positions": (A[:, :0], False),
    "no dimension": (np.array(3), False),
    "fields": (np.zeros((3, 2), [("a", int)]), False),
}


@pytest.mark.parametrize("case", MATRICES)
def test_every_door_agrees(case, tmp_path, capsys):
    codes, good = MATRICES[case]
    path = tmp_path / "codes.npy"
    np.save(path, codes)
    np.savez(tmp_path / "codes.npz", codes=codes)
    doors = {
        "array": lambda: vcqlib.conditional_entropy(codes),
        "map": lambda: vcqlib.conditional_entropy(np.load(path, mmap_mode="r")),
        "list": lambda: vcqlib.conditional_entropy(codes.tolist()),
        "reader": lambda: vcqlib.conditional_entropy(read_tokens(path).codes),
        "container": lambda: read_matrix(tmp_path / "codes.npz"),
        "shards": lambda: sharded_conditional_entropy([path]),
    }
    try:
        tensor = torch.from_numpy(codes)
    except (TypeError, ValueError):
        tensor = None  # of a type that torch lacks
    if tensor is not None:
        doors["tensor"] = lambda: vcqlib.conditional_entropy(tensor)
    if case in ("fields", "dates", "big-endian"):  # other things as a list
        del doors["list"]
    for door, call in doors.items():
        try:
            call()
            taken = True
        except (TypeError, ValueError) as error:
            taken = False
            assert "\n" not in str(error), door
        assert taken == good, door
    assert main(["entropy", str(path)]) == (0 if good else 2)
    assert capsys.readouterr().err.count("\n") == (not good)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3)])
def test_integers_of_any_library_count_as_integers(value):
    assert integer(value, "n") == 3 and type(integer(value, "n")) is int
    assert vcqlib.cliff_position(value, value) == 1
    assert vcqlib.codebook_sizes("uniform", value, value).tolist() == [3, 3, 3]
    assert settings.check(settings.Whole, value, "n") == 3


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float64(3), "3", None, [3]])
def test_and_nothing_else_does(value):
    calls = (
        lambda: integer(value, "k_max"),
        lambda: (
            vcqlib.cliff_position(8, value) if not isinstance(value, list) else integer(value, "k")
        ),
        lambda: vcqlib.codebook_sizes("uniform", 3, value),
    )
    for call in calls:
        with pytest.raises(TypeError, match="must be an integer, got"):
            call()


@pytest.mark.parametrize(
    ("array", "whole"),
    [(np.zeros(1, t), t in "bBhHiIlLqQ") for t in "bBhHiIlLqQ?efdFDSUMmO"]
    + [(torch.zeros(1, dtype=t), True)
       for t in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
                 torch.uint32, torch.uint64)]
    + [(torch.zeros(1, dtype=t), False)
       for t in (torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.complex64)],
    ids=lambda value: str(getattr(value, "dtype", value)),
)  # fmt: skip
def test_types_that_hold_integers(array, whole):
    assert holds_integers(array) == whole


def test_masked_entries_are_not_counted_as_tokens():
    masked = np.ma.masked_equal(A, 3)
    with pytest.raises(ValueError, match="codes has 1 masked entries: fill or drop them"):
        vcqlib.conditional_entropy(masked)
    with pytest.raises(ValueError, match="labels has 1 masked entries"):
        vcqlib.conditional_entropy(A, np.ma.masked_equal([1, 2, 3], 3))
    assert vcqlib.conditional_entropy(np.ma.array(A)).total_bits == pytest.approx(np.log2(3))
    assert vcqlib.conditional_entropy(pd.DataFrame(A)).total_bits == pytest.approx(np.log2(3))


@pytest.mark.parametrize(
    "codes",
    [torch.empty(3, 2, dtype=torch.int64, device="meta"), torch.eye(3).int().to_sparse(),
     torch.nested.nested_tensor([torch.arange(3), torch.arange(2)])],
    ids=["meta", "sparse", "nested"],
)  # fmt: skip
def test_tensors_without_rows(codes):
    with pytest.raises(TypeError, match="codes must be a dense tensor"):
        vcqlib.conditional_entropy(codes)


@pytest.mark.parametrize(
    "labels",
    [["a", "b", "a"], pd.Series(["a", "b", "a"]), pd.Categorical(["a", "b", "a"]),
     np.array(["a", "b", "a"], object), np.array([1, 2, 1], object), torch.tensor([1, 2, 1])],
)  # fmt: skip
def test_labels_of_any_library(labels):
    result = vcqlib.conditional_entropy(A, labels)
    assert [part.n_sequences for part in result.per_class.values()] == [2, 1]


@pytest.mark.parametrize(
    "labels", [["a", None, "b"], [1, "a", 2], [0.5, 1, 2], [True, False, True]]
)
def test_labels_that_are_none(labels):
    with pytest.raises(TypeError, match="labels must be integers or strings"):
        as_labels(np.array(labels, object if None in labels or "a" in labels else None), 3)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("row", "position"), [(0, 0), (70_000, 39), (99_999, 59)])
def test_the_largest_tokens_and_the_first_bad_one(order, row, position):
    codes = np.random.default_rng(0).integers(0, 500, (100_000, 60)).astype(np.int16, order=order)
    assert largest_tokens(codes) == codes.max(axis=0).tolist()
    codes[row, position] = -1
    with pytest.raises(ValueError, match=f"row {row}, position {position} .*: -1 is negative"):
        largest_tokens(codes)
    with pytest.raises(ValueError, match=f"row {row}, position {position} .*: -1 is negative"):
        as_matrix(codes)


@pytest.mark.parametrize(
    ("value", "known", "message"),
    [
        ("unifrom", ["uniform", "doubling"], "unknown x 'unifrom': did you mean 'uniform'?"),
        ("UNIFORM", ["uniform", "doubling"], "unknown x 'UNIFORM': did you mean 'uniform'?"),
        ("zzz", ["b", "a"], "unknown x 'zzz': known: a, b"),
        (3, [1, "a"], "unknown x 3: known: 1, a"),
        (None, [], "unknown x None: known: none"),
    ],
)
def test_unknown_names(value, known, message):
    assert str(unknown_name("x", value, known)) == message
    assert len(str(unknown_name("x", "y" * 10_000, known))) < 200


def test_one_helper_says_did_you_mean_and_one_expands_a_home():
    """The library and the book's runner have one of each; the rest calls them."""
    for words, home in (("difflib", "vcqlib/checks.py"), ("expanduser", "vcqlib/files.py")):
        command = ["git", "grep", "-l", words, "--", "vcqlib", "book/*.py", "book/runner"]
        command += [":!vcqlib/data/image_folder.py", ":!vcqlib/data/parquet.py"]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
        assert found == [home]
