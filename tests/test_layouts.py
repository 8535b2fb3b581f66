"""What people of the field have on disk, written as their scripts write it, labels included."""

import gc
import json
import resource
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vcqlib.data.npy import read_npy
from vcqlib.data.token_files import read_labels, read_tokens

N, T = 24, 6
RNG = np.random.default_rng(0)
CODES, LABELS = RNG.integers(0, 500, (N, T)), RNG.integers(0, 4, N)
RECORDS = [
    {"class_id": y, "tokens": row} for y, row in zip(LABELS.tolist(), CODES.tolist(), strict=True)
]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def llamagen(root, crops=1, codes="imagenet256_codes", labels="imagenet256_labels"):
    """extract_codes_c2i.py: a file an image, [1, crops, T], beside it one of labels, [1]."""
    for name in (codes, labels):
        (root / name).mkdir()
    for i in range(N // crops):
        np.save(root / codes / f"{i}.npy", CODES[None, i * crops : (i + 1) * crops])
        np.save(root / labels / f"{i}.npy", LABELS[i * crops : i * crops + 1])
    return root / codes


def titok_ranks(root):
    """pretokenization.py before its last step: an array of records for each process."""
    for rank in range(2):
        name = root / f"pretokenized_{rank}.json"
        name.write_text(json.dumps(RECORDS[rank * N // 2 : (rank + 1) * N // 2]))
    return root


def indented(root):
    (root / "pretokenized_0.json").write_text(json.dumps(RECORDS, indent=2))
    return root / "pretokenized_0.json"


def titok_nested(root):
    """TiTok's encoder gives [B, 1, T]."""
    nested = [{**record, "tokens": [record["tokens"]]} for record in RECORDS]
    return write_lines(root / "a.jsonl", nested)


def npz(root, name="train.npz", **arrays):
    np.savez_compressed(root / name, **arrays)
    return root / name


def var_maps(root):
    """Maps of each scale, and all of them as one sequence under `idx`."""
    maps = {"tok_1x1": CODES[:, :1, None], "tok_2x2": CODES[:, 1:5].reshape(N, 2, 2)}
    return npz(root, "tokens_multiscale_maps.npz", **maps, vnums=[1, 2], idx=CODES, label=LABELS)


def pt(root, value, name="a.pt"):
    torch.save(value, root / name)
    return root / name


def tensors(**more):
    return {"indices": torch.from_numpy(CODES), "labels": torch.from_numpy(LABELS), **more}


def parquet(root, name="a.parquet", rows=slice(None), **columns):
    whole = {"image_id": np.arange(N), "label": LABELS} | columns
    pq.write_table(
        pa.table({k: np.asarray(v)[rows].tolist() for k, v in whole.items()}), root / name
    )
    return root / name


def hub_shards(root):
    """A split of the Hugging Face hub: numbered Parquet files."""
    for i in range(3):
        parquet(
            root,
            f"train-0000{i}-of-00003.parquet",
            slice(i * N // 3, (i + 1) * N // 3),
            tokens=CODES,
        )
    return root


def words(root, kind):
    """Labels as words, plain or encoded as a dictionary."""
    names = pa.array([f"class {y}" for y in LABELS])
    names = names.dictionary_encode() if kind == "dictionary" else names.cast(kind)
    pq.write_table(pa.table({"tokens": CODES.tolist(), "label": names}), root / "a.parquet")
    return root / "a.parquet"


def capitals(root, path):
    return path.rename(path.with_suffix(path.suffix.upper()))


LAYOUTS = {
    "LlamaGen": llamagen,
    "LlamaGen, ten crops": lambda root: llamagen(root, 4),
    "LlamaGen, folders `codes` and `labels`": lambda root: llamagen(root, 1, "codes", "labels"),
    "RAR": lambda root: write_lines(root / "maskgitvq.jsonl", RECORDS),
    "TiTok, a file a process": titok_ranks,
    "TiTok, one JSON array": lambda root: titok_ranks(root) and indented(root),
    "TiTok, nested": titok_nested,
    "JSON Lines of `codes` and `label`": lambda root: write_lines(
        root / "a.ndjson", [{"label": r["class_id"], "codes": r["tokens"]} for r in RECORDS]
    ),
    "npz with paths": lambda root: npz(
        root, tokens=CODES, labels=LABELS, paths=np.array([f"n{i}.JPEG" for i in range(N)])
    ),
    "npz with paths as objects": lambda root: npz(
        root, tokens=CODES, labels=LABELS, paths=np.array([None] * N)
    ),
    "npz with labels [N, 1]": lambda root: npz(root, codes=CODES, labels=LABELS[:, None]),
    "VAR, maps and sequence": var_maps,
    "pt, dictionary": lambda root: pt(root, tensors()),
    "pt, dictionary with settings": lambda root: pt(root, tensors(config={"k": 5}, n=3, z=None)),
    "pt, bf16 features beside": lambda root: pt(root, tensors(z=torch.zeros(N, 2).bfloat16())),
    "pth": lambda root: pt(root, tensors(), "a.pth"),
    "pt, int32 tokens as lists": lambda root: pt(root, tensors(indices=CODES.tolist())),
    "Parquet": lambda root: parquet(root, tokens=CODES),
    "Parquet, nested lists of width 1": lambda root: parquet(root, tokens=CODES[:, :, None]),
    "Parquet, lists in a list": lambda root: parquet(root, tokens=CODES[:, None]),
    "Parquet, shards of the hub": hub_shards,
    "suffixes in capitals: .JSON": lambda root: capitals(root, indented(root)),
    "suffixes in capitals: .NPZ": lambda root: capitals(root, npz(root, codes=CODES, y=LABELS)),
    "suffixes in capitals: .PT": lambda root: capitals(root, pt(root, tensors())),
    "suffixes in capitals: .PARQUET": lambda root: capitals(root, parquet(root, tokens=CODES)),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout, tmp_path):
    read = read_tokens(LAYOUTS[layout](tmp_path))
    assert np.array_equal(read.codes, CODES)
    crops = 4 if "ten" in layout else 1
    assert np.array_equal(read.labels, np.repeat(LABELS[::crops], crops))
    assert read.labels_from


def npys(root, names, arrays):
    for name, array in zip(names, arrays, strict=True):
        np.save(root / f"{name}.npy", array)
    return root


def npy(root, array=None):
    return npys(root, "a", [CODES if array is None else array]) / "a.npy"


def array_of_lists(root):
    (root / "a.json").write_text(json.dumps(CODES.tolist()))
    return root / "a.json"


def of_a_mac(root):
    """What a copy from a Mac, or Spark, leaves beside."""
    (root / "._0.npy").write_bytes(b"x")
    (root / "_SUCCESS").touch()
    return npys(root, "0", [CODES])


def with_notes(root):
    (root / "classes.json").write_text('["cat", "dog"]')
    (root / "README.md").touch()
    return npys(root, [f"part-{i}" for i in range(3)], np.split(CODES, 3))


def test_more_files_than_may_be_open(tmp_path):
    """A folder of a million images keeps none of them open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for name in ("x_codes", "x_labels"):
        (tmp_path / name).mkdir()
    for i in range(300):
        np.save(tmp_path / f"x_codes/{i}.npy", CODES[None, :1])
        np.save(tmp_path / f"x_labels/{i}.npy", [i % 3])
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
        read = read_tokens(tmp_path / "x_codes")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert read.codes.shape == (300, T) and read.labels.tolist() == [0, 1, 2] * 100


BOTH = (torch.from_numpy(CODES), torch.from_numpy(LABELS))
BARE = {
    "npy in capitals": lambda root: capitals(root, npy(root)),
    "big-endian npy": lambda root: npy(root, CODES.astype(">u2")),
    "npz, one array": lambda root: npz(root, arr_0=CODES),
    "npz, one matrix among others": lambda root: npz(root, a=CODES, sizes=[2, 4], scale=[[0.5]]),
    "pt, one tensor": lambda root: pt(root, BOTH[0]),
    "pt, uint16": lambda root: pt(root, torch.from_numpy(CODES.astype(np.uint16))),
    "pt, a tensor an image": lambda root: pt(root, list(BOTH[0])),
    "pt, codes and labels": lambda root: pt(root, BOTH),
    "JSON array of lists": array_of_lists,
    "JSON Lines of lists": lambda root: write_lines(root / "a.jsonl", CODES.tolist()),
    "folder of shards": lambda root: npys(root, range(3), np.split(CODES, 3)),
    "folder of one sequence a file": lambda root: npys(root, range(N), CODES),
    "folder of a Mac": of_a_mac,
    "folder with notes": with_notes,
    "folder of images with any names": lambda root: npys(root, "abcdefghijklmnopqrstuvwx", CODES),
}


@pytest.mark.parametrize("layout", BARE)
def test_layout_without_labels(layout, tmp_path):
    read = read_tokens(BARE[layout](tmp_path))
    assert np.array_equal(read.codes, CODES) and read.labels is None


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_labels_may_be_words(kind, tmp_path):
    read = read_tokens(words(tmp_path, kind))
    assert read.labels.tolist() == [f"class {y}" for y in LABELS]
    lines = [{**record, "class_id": f"class {record['class_id']}"} for record in RECORDS]
    assert np.array_equal(read_tokens(write_lines(tmp_path / "a.jsonl", lines)).labels, read.labels)


SCALES = [CODES[:, :1], CODES[:, 1:3], CODES[:, 3:].reshape(N, 1, 3)]
NAMED = {
    "npz": lambda root: npz(root, **{f"s{i}": scale for i, scale in enumerate(SCALES)}),
    "pt, list": lambda root: pt(root, [torch.from_numpy(scale) for scale in SCALES]),
    "pt, dictionary": lambda root: pt(
        root, {f"s{i}": torch.from_numpy(scale) for i, scale in enumerate(SCALES)}
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_scales_of_var_are_joined_where_they_are_named(kind, tmp_path):
    path = NAMED[kind](tmp_path)
    with pytest.raises(
        ValueError, match=r"--columns .*scales from coarse to fine.*joined"
    ) as caught:
        read_tokens(path)
    assert str(path) in str(caught.value) and "(24, 1, 3)" in str(caught.value)
    names = ["*"] if kind == "pt, list" else ["s0", "s1", "s2"]
    assert np.array_equal(read_tokens(path, names).codes, CODES)
    backwards = read_tokens(path, list(read_tokens(path, names).columns)[::-1]).codes
    assert np.array_equal(backwards, CODES[:, [3, 4, 5, 1, 2, 0]])


LABEL_FILES = {
    "npy": lambda root: np.save(root / "y.npy", LABELS) or root / "y.npy",
    "npy in capitals": lambda root: capitals(root, LABEL_FILES["npy"](root)),
    "npz": lambda root: npz(root, "y.npz", anything=LABELS),
    "npz in capitals": lambda root: capitals(root, npz(root, "y.npz", anything=LABELS)),
    "npz with others": lambda root: npz(root, "y.npz", label=LABELS, other=np.zeros(3)),
    "pt": lambda root: pt(root, torch.from_numpy(LABELS), "train_labels.pt"),
    "pt, dictionary": lambda root: pt(root, tensors(), "y.pt"),
    "folder": lambda root: llamagen(root).with_name("imagenet256_labels"),
}


@pytest.mark.parametrize("kind", LABEL_FILES)
def test_labels_in_a_file_of_their_own(kind, tmp_path):
    labels, each = read_labels(LABEL_FILES[kind](tmp_path), N)
    assert np.array_equal(labels, LABELS) and each == 1


def test_headers_are_parsed_in_many_threads(tmp_path):
    """As dask's workers do: CPython 3.11 fails where a finalizer lets another thread parse."""

    class Finalized:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            sum(range(50))

    def read(_):
        Finalized()
        return read_npy(path).shape

    path, before = npy(tmp_path), (gc.get_threshold(), sys.getswitchinterval())
    try:
        gc.set_threshold(20)
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(read, range(10_000))) == {(N, T)}
    finally:
        gc.set_threshold(*before[0])
        sys.setswitchinterval(before[1])
