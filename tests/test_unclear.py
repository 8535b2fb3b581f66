"""Inputs once refused in a way that did not help: one line, the value, the place, a way out."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vcqlib.cli.app import main
from vcqlib.data.code_store import write_codes
from vcqlib.data.token_files import read_tokens

A = np.arange(12).reshape(4, 3)


def header(shape, descr="'<i8'", end="}"):
    """A `.npy` of 16 bytes of data, whose header says what it is told to."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {end}"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode() + bytes(16)


def save(path, value):
    path.parent.mkdir(exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif path.suffix == ".pt":
        torch.save(value, path)
    elif path.suffix == ".npz":
        np.savez(path, **value)
    elif path.suffix == ".npy":
        np.save(path, value)
    elif path.suffix == ".parquet":
        pq.write_table(pa.table(value), path)
    else:
        path.write_text(value)


def mismatched(root):
    for i in range(3):
        save(root / "x_codes" / f"{i}.npy", A[:1])
        save(root / "x_labels" / f"{i + (i == 2)}.npy", np.array([i]))


# what is written; how it is read; what the line has to say
UNCLEAR = {
    "grids of images": ({"d/0.npy": A[:3], "d/1.npy": A[:3]}, "d", "one image's grid, or"),
    "grids in a batch of one": ({"d/0.npy": A[None, :3]}, "d", "(1, 3, 3): one image's grid"),
    "features": ({"d/0.npy": np.zeros((2, 2, 2, 2))}, "d", "grid"),
    "one number": ({"d/0.npy": np.array(3)}, "d", "shape (): one image's grid"),
    "two kinds in a folder": ({"d/0.npy": A, "d/a.npz": {"a": A}}, "d", ".npy and .npz files"),
    "folders in a folder": ({"d/x_codes/0.npy": A}, "d", "name one of its folders: x_codes"),
    "splits in a folder": ({"d/train.npy": A, "d/val.npy": A}, "d", "train.npy, val.npy: parts of"),
    "codes and labels in a folder": ({"d/codes.npy": A, "d/labels.npy": A[:, 0]}, "d", "parts"),
    "lines in a folder": ({"d/a.jsonl": "[1]", "d/b.jsonl": "[1]"}, "d", "a.jsonl, b.jsonl: parts"),
    "labels under other names": (mismatched, "x_codes", "3 labels for the 3 files of"),
    "other suffix": ({"a.bin": "x"}, "a.bin", "unknown suffix '.bin'; known: .npy, .npz, .pt"),
    "no suffix": ({"a": "x"}, "a", "unknown suffix ''"),
    "lines in gzip": ({"a.jsonl.gz": "x"}, "a.jsonl.gz", "unknown suffix '.gz'"),
    "labels alone in lines": ({"a.jsonl": '{"y": [1, 2]}'}, "a.jsonl", "It has y list."),
    "labels alone in npz": ({"a.npz": {"labels": A, "x": A[0]}}, "a.npz", "It has labels int64"),
    "labels alone in Parquet": ({"a.parquet": {"label": [[1, 2], [3, 4]]}}, "a.parquet", "label"),
    "a name of two lines": ({"a.npz": {"a\nb\x1b[2J": A[0]}}, "a.npz", r"It has a\nb\x1b[2J int"),
    "three dimensions": ({"a.npy": A[:, :, None]}, "a.npy", "flatten each sequence"),
    "no tokens in npz": ({"a.npz": {"mu": np.zeros(2)}}, "a.npz", "It has mu float64 (2,)."),
    "float tokens in npz": ({"a.npz": {"codes": A * 1.0}}, "a.npz", "must be integers, got"),
    "boolean tokens in npz": ({"a.npz": {"codes": A > 1}}, "a.npz", "must be integers, got"),
    "labels too few": ({"a.npz": {"codes": A, "y": A[0]}}, "a.npz", "labels must have shape (4,)"),
    "tokens as objects": ({"a.npz": {"codes": np.array([[None]])}}, "a.npz", "Python objects"),
    "a list of words": ({"a.pt": ["a", "b"]}, "a.pt", "It has 0 (no array), 1 (no array)."),
    "a number": ({"a.pt": 3}, "a.pt", "holds no integers but int"),
    "float tensor": ({"a.pt": torch.zeros(4, 3)}, "a.pt", "must be integers, got"),
    "bf16 tensor": ({"a.pt": {"codes": torch.zeros(3).bfloat16()}}, "a.pt", "is no plain"),
    "a model": ({"a.pt": torch.nn.Linear(2, 2)}, "a.pt", "a.pt: is damaged, or holds more"),
    "not of torch": ({"a.pth": "hello"}, "a.pth", "no archive of torch.save"),
    "scales of one image": (
        {"a.pt": [torch.zeros(1).long(), torch.zeros(4).long()]}, "a.pt", "--columns"
    ),
    "grids in lines": ({"a.jsonl": '{"tokens": [[1, 2], [3, 4]]}'}, "a.jsonl", "tokens are nested"),
    "columns in JSON": ({"a.json": '{"tokens": [[1, 2], [3, 4]], "y": [0, 1]}'}, "a.json", "nest"),
    "true among tokens": ({"a.jsonl": '{"tokens": [1, true]}'}, "a.jsonl", "got bool, int"),
    "floats in lines": ({"a.jsonl": "[1, 2]\n[1, 2.0]"}, "a.jsonl", "line 2: tokens must be"),
    "null in lines": ({"a.jsonl": '{"tokens": [1, null]}'}, "a.jsonl", "got NoneType, int"),
    "a flat array": ({"a.json": "[\n1,\n2\n]"}, "a.json", "entry 1: expected an object"),
    "an empty array": ({"a.json": "[]"}, "a.json", "line 1: tokens must be integers in a list"),
    "an empty file": ({"a.json": ""}, "a.json", "holds no sequences"),
    "labels of two types": (
        {"a.jsonl": '{"tokens": [1], "y": 1}\n{"tokens": [1], "y": "b"}'}, "a.jsonl", "y must be"
    ),
    "tokens as words": ({"a.parquet": {"tokens": [["a"], ["b"]]}}, "a.parquet", "must be integers"),
    "grids in Parquet": ({"a.parquet": {"tokens": [[[1, 2]] * 2]}}, "a.parquet", "nested, 2 × 2"),
    "ragged grids": ({"a.parquet": {"tokens": [[[1]], [[1], [2]]]}}, "a.parquet", "lengths: [1"),
    "missing labels": (
        {"a.parquet": {"tokens": [[1], [2]], "y": [1, None]}}, "a.parquet", "y: 1 of 2 labels are"
    ),
    "a second name later": (
        {"a.jsonl": '{"tokens": [1]}\n{"tokens": [1], "codes": [2]}'}, "a.jsonl", "--columns"
    ),
    "a token of 2^63": ({"a.jsonl": f"[{2**63}, 1]"}, "a.jsonl", "got 9223372036854775808"),
    "a token of 2^70": ({"a.jsonl": f"[{2**70}, 1]"}, "a.jsonl", f"got {2**70}"),
    "a negative shape": ({"a.npy": header("(-3, -5)")}, "a.npy", "array: shape (-3, -5)"),
    "a shape of truth": ({"a.npy": header("(True, 2)")}, "a.npy", "not a .npy array: "),
    "a shape of 40 axes": ({"a.npy": header(f"({'1,' * 40})")}, "a.npy", "not a .npy array: shape"),
    "a header too deep": ({"a.npy": header("-" * 9000 + "1")}, "a.npy", "not a .npy array: Memory"),
    "a header not closed": ({"a.npy": header("(1, 2)", end="[")}, "a.npy", "not a .npy array: "),
    "a header with half a type": ({"a.npy": header("(1, 2)", "'i4, ('")}, "a.npy", "not a .npy ar"),
    "a list as a key": ({"a.npy": header("(1, 2)", end="[]: 1}")}, "a.npy", "not a .npy array: "),
    "a type of no bytes": ({"a.npy": header("(1, 2)", "'V0'")[:-16]}, "a.npy", "empty: shape"),
    "numpy in pt": ({"a.pt": {"codes": A}}, "a.pt", "holds more than tensors, lists and words"),
    "columns of one": ({"d/0.npy": A[:, :1], "d/1.npy": A[:, :1]}, "d", "shape (4, 1): one image"),
    "a copy by hand": ({"d/0.npy": A[0], "d/0 (1).npy": A[0]}, "d", "0 (1).npy: parts of one"),
    "an empty table": ({"a.parquet": {"tokens": pa.array([], "int64")}}, "a.parquet", "--columns"),
    "no rows": ({"a.parquet": {"codes": pa.array([], pa.list_(pa.int8()))}}, "a.parquet", "no seq"),
    "int16 with −1": ({"a.npy": A.astype(np.int16) - 1}, "a.npy", "row 0, position 0 (both"),
    "int16 with −1 in a folder": ({"d/0.npy": A.astype(np.int16) - 1}, "d", ": -1 is negative"),
    "int8 and uint64 in a folder": (
        {"d/0.npy": A.astype("i1"), "d/1.npy": A.astype("u8") + 2**63}, "d", "from 0 to 2^63-1, got"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_one_line_with_place_and_way_out(case, tmp_path, capsys):
    files, name, message = UNCLEAR[case]
    if callable(files):
        files(tmp_path)
    else:
        for file, value in files.items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            save(tmp_path / file, value)
    assert main(["entropy", str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert message in said.err and str(tmp_path) in said.err


def test_the_folder_here_and_the_ones_above(tmp_path, monkeypatch, capsys):
    """`vcq entropy .` reads this folder, with the labels of the folder beside it."""
    for i in range(5):
        for name, value in (("x_codes", A[None, :, :]), ("x_labels", np.array([i % 2]))):
            (tmp_path / name / "below").mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / name / f"{i}.npy", value + i)
    for place, path in (
        ("x_codes", "."),
        ("x_codes/below", ".."),
        ("", "x_codes/"),
        ("", "./x_codes"),
    ):
        monkeypatch.chdir(tmp_path / place)
        assert main(["entropy", path]) == 0
        assert "within each of 3 classes" in capsys.readouterr().out
    for path in ("/", "../../../../../../../.."):  # without a name, or above where there is one
        assert main(["entropy", path]) == 2 and capsys.readouterr().err.count("\n") == 1


HOMELESS = {
    "tokens": "from vcqlib.data.token_files import read_tokens; read_tokens('~/a.npy')",
    "labels": "from vcqlib.data.token_files import read_labels; read_labels('~/a.npy', 3)",
    "text": "from vcqlib.data.texts import load_text; load_text('file:~/a.txt')",
    "cache": "from vcqlib.data.vendored import cache_root; cache_root()",
    "somebody": "from vcqlib.files import user_path; user_path('~nobody-of-this-name/a')",
}


@pytest.mark.parametrize("case", HOMELESS)
def test_a_user_without_a_home(case):
    """No HOME, and a number that no entry of the password file has."""
    code = (
        "import os, pwd\n"
        "def none(*_): raise KeyError\n"
        "pwd.getpwuid = pwd.getpwnam = none\n"
        f"try:\n  {HOMELESS[case]}\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "VCQ_DATA")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stderr == "" and "~" in done.stdout and done.stdout.count("\n") == 1
    assert ("set VCQ_DATA to a folder" if case == "cache" else "in full") in done.stdout


@pytest.mark.parametrize(
    ("codes", "labels", "sizes", "error", "message"),
    [
        ([[0.5, 1]], [0], [2, 2], TypeError, "codes must be integers, got float64"),
        ([[True, False]], [0], [2, 2], TypeError, "codes must be integers, got bool"),
        ([[0, 1]], [0.5], [2, 2], TypeError, "labels must be integers, got float64"),
        ([[0, 1]], [float("nan")], [2, 2], TypeError, "labels must be integers"),
        ([[0, 1]], [[0]], [2, 2], ValueError, "do not fit"),
        ([[0, 1]], [0], [2, 2.5], TypeError, "K_2 must be an integer, got 2.5"),
        ([[0, 1]], [0], [2, 2**33], ValueError, "K_2 must be at most 4294967296"),
        ([[0, 1]], [0], [], ValueError, "sizes must be K_1 … K_T, got none"),
        ([[0, 1]], [0], [0, 2], ValueError, "K_1 must be at least 1, got 0"),
        (np.zeros((0, 2), int), [], [2, 2], ValueError, "rows must be at least 1, got 0"),
        (
            [[0, 1]],
            np.array([2**63], "u8"),
            [2, 2],
            ValueError,
            "labels must be from 0 to 2^63-1, got",
        ),
        (np.array([[-1, 0]], "i2"), [0], [2, 2], ValueError, "code -1 of image 0 at position 1"),
    ],
)
def test_a_store_takes_whole_numbers_in_range(codes, labels, sizes, error, message, tmp_path):
    with pytest.raises(error) as caught:
        write_codes(tmp_path / "s", np.asarray(codes), np.asarray(labels), sizes)
    assert message in str(caught.value) and not (tmp_path / "s").exists()


def test_what_our_own_reader_narrows_is_taken_everywhere_here(tmp_path):
    """uint16 from JSON Lines: into the engine, as NumPy and torch, and into a store."""
    from vcqlib.entropy.estimates import conditional_entropy

    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in A.tolist()))
    codes = read_tokens(tmp_path / "a.jsonl").codes
    assert codes.dtype == np.uint16
    for form in (codes, torch.from_numpy(codes), codes.astype(np.int8)):
        assert conditional_entropy(form).total_bits == pytest.approx(2)
    write_codes(tmp_path / "store", codes, np.zeros(4, np.uint8), np.full(3, 12, np.int16))
    store = read_tokens(tmp_path / "store")
    assert np.array_equal(store.codes, A) and store.sizes == (12, 12, 12)
