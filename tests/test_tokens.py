"""Token files: every format gives the same matrix, and a bad file gives one clear line."""

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vcqlib.data import npy, token_parquet, tokens
from vcqlib.data.code_store import write_codes
from vcqlib.data.npy import read_npy
from vcqlib.data.token_files import read_labels, read_tokens

N, T = 60, 7


@pytest.fixture
def matrix():
    return np.random.default_rng(0).integers(0, 500, (N, T))


@pytest.fixture
def classes():
    return np.random.default_rng(1).integers(0, 4, N)


def write_llamagen(root, codes, labels, crops=1):
    """As LlamaGen's extract_codes_c2i.py: `i.npy` of shape (1, crops, T), labels of shape (1,)."""
    for name in ("x256_codes", "x256_labels"):
        (root / name).mkdir()
    for i in range(len(codes) // crops):
        np.save(root / f"x256_codes/{i}.npy", codes[None, i * crops : (i + 1) * crops])
        np.save(root / f"x256_labels/{i}.npy", labels[i : i + 1])
    return root / "x256_codes"


def write_jsonl(path, codes, labels=None):
    """As TiTok's and RAR's pretokenization.py."""
    with open(path, "w") as file:
        for i, row in enumerate(codes.tolist()):
            record = {"tokens": row} | ({} if labels is None else {"class_id": int(labels[i])})
            file.write(json.dumps(record) + "\n")
    return path


def write(kind, root, codes, labels):
    path = root / f"codes{kind if kind.startswith('.') else ''}"
    if kind == ".npy":
        np.save(path, codes)
    elif kind == ".npz":
        np.savez_compressed(path, codes=codes, labels=labels, other=np.zeros((2, 2)))
    elif kind == ".jsonl":
        write_jsonl(path, codes, labels)
    elif kind == ".parquet":
        pq.write_table(pa.table({"class_id": labels, "tokens": codes.tolist()}), path)
    elif kind == "columns":
        path = root / "codes.parquet"
        columns = {f"p{t}": codes[:, t].astype(np.uint16) for t in range(T)}
        pq.write_table(pa.table({"label": labels} | columns), path)
    elif kind == "fixed":
        path = root / "codes.parquet"
        flat = pa.array(codes.reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(flat, T)
        pq.write_table(pa.table({"codes": lists, "y": labels}), path, row_group_size=16)
    elif kind == "llamagen":
        path = write_llamagen(root, codes, labels)
    elif kind == "store":
        path = root / "store"
        write_codes(path, codes, labels, [500] * T)
    return path


KINDS = (".npy", ".npz", ".jsonl", ".parquet", "columns", "fixed", "llamagen", "store")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_matrix(kind, tmp_path, matrix, classes, monkeypatch):
    monkeypatch.setattr(tokens, "PIECE", 100)  # several pieces
    monkeypatch.setattr(token_parquet, "ROWS", 16)
    read = read_tokens(write(kind, tmp_path, matrix, classes))
    assert np.array_equal(read.codes, matrix)
    assert (read.labels is None) == (kind == ".npy")
    if read.labels is not None:
        assert np.array_equal(read.labels, classes)
    assert read.sizes == ((500,) * T if kind == "store" else None)


def test_npy_is_mapped_and_fortran_order_kept(tmp_path, matrix):
    for name, array in (("c.npy", matrix), ("f.npy", np.asfortranarray(matrix))):
        np.save(tmp_path / name, array)
        read = read_npy(tmp_path / name)
        assert isinstance(read, np.memmap)
        assert np.array_equal(read, matrix)
        assert read.strides == array.strides


def test_crops_become_rows_with_the_label_of_their_image(tmp_path, matrix, classes):
    folder = write_llamagen(tmp_path, matrix, classes, crops=10)
    read = read_tokens(folder)
    assert np.array_equal(read.codes, matrix)  # files in numeric order: 2 before 10
    assert np.array_equal(read.labels, np.repeat(classes[: N // 10], 10))
    labels, each = read_labels(tmp_path / "x256_labels", N)
    assert np.array_equal(labels, read.labels) and each == 10


def test_gathered_tokens_are_narrow(tmp_path, matrix):
    assert read_tokens(write_jsonl(tmp_path / "a.jsonl", matrix)).codes.dtype == np.uint16
    assert read_tokens(write_jsonl(tmp_path / "b.jsonl", matrix + 2**20)).codes.dtype == np.uint32
    large = read_tokens(write_jsonl(tmp_path / "c.jsonl", matrix + 2**40)).codes
    assert np.array_equal(large, matrix + 2**40)


def test_labels_from_files(tmp_path, classes):
    np.save(tmp_path / "y.npy", classes)
    np.savez(tmp_path / "y.npz", y=classes)
    for name in ("y.npy", "y.npz"):
        labels, each = read_labels(tmp_path / name, N)
        assert np.array_equal(labels, classes) and each == 1
    with pytest.raises(ValueError, match=r"y\.npy: labels of shape \(60,\) do not fit 61"):
        read_labels(tmp_path / "y.npy", N + 1)


def test_objects_are_refused_and_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    objects = np.array([[Bomb()]], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", codes=objects)
    for name in ("o.npy", "o.npz"):
        with pytest.raises(ValueError, match="Python objects; unpickling is refused"):
            read_tokens(tmp_path / name)


@pytest.mark.parametrize("kind", [".npy", ".npz", ".jsonl", ".parquet"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_cut_short(kind, share, tmp_path, matrix, classes):
    path = write(kind, tmp_path, matrix, classes)
    whole = path.read_bytes()
    cut = whole[: int(share * len(whole))]
    path.write_bytes(
        cut.rstrip(b"\n")[:-3]
    )  # a file of whole lines cannot be told from a short one
    with pytest.raises(ValueError) as caught:
        read_tokens(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flipped_bytes_in_an_archive(tmp_path, matrix, classes):
    path = write(".npz", tmp_path, matrix, classes)
    whole = bytearray(path.read_bytes())
    whole[200:220] = bytes(20)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"codes\.npz"):
        read_tokens(path)


def forged_header(shape):
    buffer = io.BytesIO()
    header = {"descr": "<u2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def test_forged_shapes_do_not_allocate(tmp_path):
    shape = (10**15, 10**6)
    (tmp_path / "big.npy").write_bytes(forged_header(shape) + bytes(100))
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as archive:
        archive.writestr("codes.npy", forged_header(shape) + bytes(100))
    for name in ("big.npy", "big.npz"):
        with pytest.raises(ValueError, match="cut short"):
            read_tokens(tmp_path / name)


def test_what_unfolds_beyond_the_memory_is_refused(tmp_path, matrix, monkeypatch):
    monkeypatch.setattr(npy.os, "sysconf", lambda name: 16)  # 256 bytes in all
    zeros = np.zeros((N, T), np.int64)
    np.savez_compressed(tmp_path / "bomb.npz", codes=zeros)
    pq.write_table(pa.table({"tokens": zeros.tolist()}), tmp_path / "bomb.parquet")
    write_jsonl(tmp_path / "bomb.jsonl", zeros)
    for name in ("bomb.npz", "bomb.parquet", "bomb.jsonl"):
        with pytest.raises(ValueError, match="unfolds to"):
            read_tokens(tmp_path / name)
    np.save(tmp_path / "fine.npy", matrix)  # mapped, not read: no limit
    assert read_tokens(tmp_path / "fine.npy").codes.shape == (N, T)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"tokens": [1, 2]}\n{"tokens": [1]}', "line 2: 1 tokens where others have 2"),
        ('{"tokens": [1, 2]}\n{"tokens": [1.5, 2]}', "line 2: tokens must be integers"),
        ('{"tokens": [1, "a"]}', "line 1: tokens must be integers"),
        ('{"tokens": []}', "line 1: tokens must be integers"),
        ('{"tokens": [1]}\n{"codes": [2]}', "line 2: no 'tokens'"),
        ('{"width": 2}', "what of it holds the tokens? It has width int"),
        ('{"a": [1], "b": [2]}', "It has a list, b list. Name it with --columns"),
        ("[1, 2]\n3", "line 2: expected an object with tokens, got int"),
        ('{"tokens": [1, 2]}\nnot json', "line 2: Expecting value"),
        ("[" * 100_000, "line 1: "),
        ('{"tokens": [1], "class_id": 1}\n{"tokens": [1]}', "1 of 2 sequences lack class_id"),
        ("\n\n", "holds no sequences"),
    ],
)
def test_bad_lines_are_named(lines, message, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(lines)
    with pytest.raises(ValueError, match="bad.jsonl") as caught:
        read_tokens(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ambiguous_and_ragged_tables(tmp_path):
    cases = {
        "two": {"a": [[1], [2]], "b": [[1], [2]]},
        "ragged": {"tokens": [[1], [2, 3]]},
        "null": {"tokens": [[1, None], [2, 3]]},
        "hole": {"tokens": [[1, 2], None]},
        "text": {"caption": ["a", "b"]},
    }
    for name, columns in cases.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        with pytest.raises(ValueError, match=rf"{name}\.parquet"):
            read_tokens(tmp_path / f"{name}.parquet")


def test_other_refusals(tmp_path, matrix):
    np.savez(tmp_path / "two.npz", a=matrix, b=matrix)
    np.save(tmp_path / "none.npy", matrix[:0])
    (tmp_path / "x.txt").write_text("1 2")
    (tmp_path / "empty").mkdir()
    cases = {
        "two.npz": r"what of it holds the tokens\? It has a int64 \(60, 7\), b int64",
        "none.npy": "empty",
        "x.txt": "unknown suffix '.txt'; known: .npy, .npz",
        "empty": r"no token files \(\.npy, .*\) in this folder",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            read_tokens(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent.npy does not exist"):
        read_tokens(tmp_path / "absent.npy")
