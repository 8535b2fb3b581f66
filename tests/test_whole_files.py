"""A reader takes all of a file or refuses it: what follows the first array is not passed over."""

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vcqlib.data.npy import read_npy, read_npz
from vcqlib.data.token_files import read_labels, read_tokens
from vcqlib.files import load_tensors, read_json, save_tensors, write_json
from vcqlib.metrics.distances import load_moments

A = np.arange(12).reshape(4, 3)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def pt(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def parquet(codes, **options):
    file = io.BytesIO()
    pq.write_table(pa.table({"tokens": codes.tolist()}), file, **options)
    return file.getvalue()


def member_twice():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("codes.npy", npy(A))
        archive.writestr("codes.npy", npy(A + 1))
    return file.getvalue()


def member_padded():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("codes.npy", npy(A) + npy(A))
    return file.getvalue()


LINE = b'{"tokens": [1, 2]}\n'
UNREAD = {
    "npy, then npy": ("a.npy", npy(A) + npy(A), "follow its array"),
    "npy, then one byte": ("a.npy", npy(A) + b"\0", "1 bytes follow its array"),
    "npy in Fortran order, then more": ("a.npy", npy(np.asfortranarray(A)) + b"xy", "2 bytes"),
    "npz, then npz": ("a.npz", npz(codes=A) + npz(codes=A + 1), "before or after its archive"),
    "npz, then bytes": ("a.npz", npz(codes=A) + b"more", "before or after its archive"),
    "bytes, then npz": ("a.npz", b"more" + npz(codes=A), "before or after its archive"),
    "npz with a name twice": ("a.npz", member_twice, "holds codes.npy twice"),
    "npz with two arrays in a member": ("a.npz", member_padded, "cut short or padded"),
    "pt, then pt": ("a.pt", pt(torch.from_numpy(A)) * 2, "before or after its archive"),
    "pt, then bytes": ("a.pt", pt(torch.from_numpy(A)) + b"more", "before or after"),
    "parquet, then parquet": ("a.parquet", parquet(A) * 2, "belong to no column"),
    "parquet, then another": ("a.parquet", parquet(A[:2]) + parquet(A), "belong to no column"),
    "parquet, then bytes": ("a.parquet", parquet(A) + b"more", "Parquet cannot be read"),
    "lines, then words": ("a.jsonl", LINE + b"# end\n", "line 2: Expecting value"),
    "two records on a line": ("a.jsonl", LINE + LINE.strip() * 2, "line 2: Extra data"),
    "lines, then zeros": ("a.jsonl", LINE + bytes(64), "line 2: "),
    "one key twice": ("a.jsonl", b'{"tokens": [1, 2], "tokens": [3, 4]}', "one key twice"),
    "array, then array": ("a.json", b"[[1, 2]]\n[[3, 4]]", "line 1: Extra data"),
    "array, then words": ("a.json", b'[{"tokens": [1]}] {"tokens": [2]}', "line 1: Extra data"),
    "array, not closed": ("a.json", b"[[1, 2],\n[3, 4]\n", "line 1: Expecting"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_tokens(case, tmp_path):
    name, content, message = UNREAD[case]
    path = tmp_path / name
    path.write_bytes(content() if callable(content) else content)
    with pytest.raises(ValueError, match=message) as caught:
        read_tokens(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


WHOLE = {
    "empty lines at the end": ("a.jsonl", LINE + b"\n  \n\n", [[1, 2]]),
    "no end of line": ("a.jsonl", LINE + b'{"tokens": [3, 4]}', [[1, 2], [3, 4]]),
    "ends of lines of Windows": ("a.jsonl", b'{"tokens": [1]}\r\n{"tokens": [2]}\r\n', [[1], [2]]),
    "byte order mark": ("a.jsonl", b"\xef\xbb\xbf" + LINE, [[1, 2]]),
    "archive with a comment": ("a.npz", None, A.tolist()),
    "parquet with page indices": ("a.parquet", parquet(A, write_page_index=True), A.tolist()),
    "parquet in many groups": ("a.parquet", parquet(A, row_group_size=1), A.tolist()),
    "parquet without dictionaries": ("a.parquet", parquet(A, use_dictionary=False), A.tolist()),
    "parquet, compressed": ("a.parquet", parquet(A, compression="zstd"), A.tolist()),
    "empty parquet columns": ("a.parquet", parquet(A, write_statistics=False), A.tolist()),
}


@pytest.mark.parametrize("case", WHOLE)
def test_what_only_looks_longer_is_read(case, tmp_path):
    name, content, expected = WHOLE[case]
    path = tmp_path / name
    path.write_bytes(npz(codes=A) if content is None else content)
    if content is None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = b"written by hand"
    assert read_tokens(path).codes.tolist() == expected


def test_files_that_are_not_tokens(tmp_path):
    """Labels, moments, records and tensors go through the same readers, or say the same."""
    two = tmp_path / "y.npy"
    two.write_bytes(npy(A[:, 0]) * 2)
    with pytest.raises(ValueError, match="follow its array"):
        read_labels(two, 4)
    with pytest.raises(ValueError, match="follow its array"):
        read_npy(two)
    moments = tmp_path / "m.npz"
    moments.write_bytes(npz(mu=np.zeros(2), sigma=np.eye(2)) + npz(mu=np.ones(2), sigma=np.eye(2)))
    with pytest.raises(ValueError, match="before or after its archive"):
        load_moments(moments)
    record = tmp_path / "r.json"
    write_json(record, {"a": 1})
    record.write_text(record.read_text() + json.dumps({"a": 2}))
    with pytest.raises(ValueError, match=r"r\.json is not valid JSON: Extra data"):
        read_json(record)
    tensors = tmp_path / "t.safetensors"
    save_tensors(tensors, {"x": torch.zeros(2)})
    tensors.write_bytes(tensors.read_bytes() * 2)
    with pytest.raises(ValueError, match=r"t\.safetensors is damaged"):
        load_tensors(tensors)


def test_members_that_are_not_wanted_may_be_anything(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("codes.npy", npy(A))
        archive.writestr("README.txt", b"hello")
        with archive.open("paths.npy", "w") as file:
            np.lib.format.write_array(file, np.array(["a", None], object), allow_pickle=True)
    read = read_tokens(path)
    assert np.array_equal(read.codes, A) and read.left_out == ("README.txt", "paths")
    assert read_npz(path, ["codes"]).keys() == {"codes"}
    with pytest.raises(ValueError, match=r"README\.txt: not a \.npy array"):
        read_npz(path)
