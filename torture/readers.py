"""Token files of every kind: the numbers that are in them, or one line that names the file."""

from __future__ import annotations

import contextlib
import io
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import hypothesis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import test_layouts as layouts
import test_whole_files as whole
import torch
from numpy.random import Generator

from torture.fuzz import _is_fine, _oracle, matrices
from torture.tally import OURS, Tally, unclear
from vcqlib import conditional_entropy
from vcqlib.cli import app as cli
from vcqlib.data.token_files import read_tokens
from vcqlib.data.tokens import CODE_NAMES, LABEL_NAMES
from vcqlib.entropy.sharded import sharded_conditional_entropy

BESIDE = ("id", "label", "Index", "split", "width", "__index_level_0__", "class", "y", "row_id",
          "sha", "embedding", "é", "", "attention_mask", "codes_path", "t")  # fmt: skip
INTEGERS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """Every kind below, some of them less often."""
    tally.kinds({
        "columns beside the tokens of a Parquet file": (10, _columns),
        "more or less than one array in a file": (20, _not_whole),
        "layouts of the field's own scripts": (10, _layouts),
        "JSON and JSON Lines of anything": (20, _json),
        "containers of anything (.npz, .pt, .parquet)": (10, _containers),
        "a folder of shards of any types": (10, _shards),
        "one matrix through every door": (5, _doors),
    }, count, seed, folder)  # fmt: skip


def judged(path: Path, right: np.ndarray | None, must: bool = False, **options: object) -> str:
    """What is wrong with how a path is read: `right` or nothing; a refusal names the path."""
    name = path.name
    try:
        codes = read_tokens(path, **options).codes
        name = ""  # who counts has no file
        bits = conditional_entropy(codes).total_bits
    except OURS as error:
        return unclear(str(error), name) or (f"refused: {error}" if must else "")
    if right is None:
        return f"read as {codes.shape} {codes.dtype}: {codes[:2].tolist()}"
    if not np.array_equal(codes, right):
        return f"read as {codes.shape} {codes.dtype}: {codes[:2].tolist()}, is {right[:2].tolist()}"
    return "" if abs(bits - _oracle(right)[0][-1]) < 1e-9 else f"{bits} bits"


def _columns(rng: Generator, place: Path) -> str:
    n, length = int(rng.integers(2, 30)), int(rng.integers(2, 13))
    codes = rng.integers(0, 5, (n, length)).astype(rng.choice(INTEGERS))
    kinds: list[Callable[[], object]] = [
        lambda: np.arange(n), lambda: rng.random(n), lambda: ["a"] * n, lambda: rng.random((n, 3)),
        lambda: np.arange(n) % 2 == 0, lambda: rng.integers(0, 2, (n, length)),
    ]  # fmt: skip
    names = rng.permutation(BESIDE)[: rng.integers(0, 5)]
    columns = {name: kinds[rng.integers(len(kinds))]() for name in names}
    family = str(rng.choice(["p", "t_", "x.", "token ", "", "q1_"]))
    first = rng.integers(0, 2)
    if lists := rng.random() < 0.5:
        columns[str(rng.choice(["codes", "tokens", "Indices", "vq"]))] = codes
    else:
        columns |= {f"{family}{t + first}": codes[:, t] for t in range(length)}
    order = rng.permutation(list(columns))
    arrays = {name: pa.array(np.asarray(columns[name]).tolist()) for name in order}
    table, path = pa.table(arrays), place / "a.parquet"
    if rng.random() < 0.5 and not lists and all(np.ndim(c) == 1 for c in columns.values()):
        frame = pd.DataFrame({name: columns[name] for name in order})
        frame = (
            frame.set_index(order[0]) if order[0] in names and order[0] else frame.sample(frac=1)
        )
        codes = frame[[f"{family}{t + first}" for t in range(length)]].to_numpy()
        table = pa.Table.from_pandas(frame)
    pq.write_table(table, path, row_group_size=int(rng.integers(1, 40)))
    said = judged(path, codes)
    try:
        sharded = sharded_conditional_entropy([path]).total_bits
        if abs(sharded - _oracle(codes)[0][-1]) > 1e-9:
            return f"{order}: sharded, {sharded} bits"
    except OURS as error:
        said = said or unclear(str(error), path.name)
    return said and f"{list(order)}: {said}"


WRITERS = {
    ".npy": whole.npy, ".npz": lambda x: whole.npz(codes=x), ".parquet": whole.parquet,
    ".pt": lambda x: whole.pt(torch.from_numpy(x)),
    ".jsonl": lambda x: "".join(f"{json.dumps(row)}\n" for row in x.tolist()).encode(),
    ".json": lambda x: json.dumps(x.tolist()).encode(),
}  # fmt: skip


def _not_whole(rng: Generator, place: Path) -> str:
    """Bytes before, between and after, a second array, a cut: all that is there, or a refusal."""
    suffix = rng.choice(list(WRITERS))
    write = WRITERS[suffix]
    a, b = (rng.integers(0, 300, (rng.integers(1, 9), 3)) for _ in "ab")
    data, more = write(a), write(b)
    junk = [b"\0", b"\n", b" ", b"\r\n\t", bytes(rng.integers(0, 256, 9, np.uint8)), more, b"PK",
            b"\x93NUMPY", b"PAR1", b"[]", b"{}", b"0", b"]", b"\x1a", b"\xef\xbb\xbf", b"\x0c",
            b"NaN", b"null\n", data[:20], data[-20:], data]  # fmt: skip
    extra = junk[rng.integers(len(junk))]
    at = int(rng.integers(len(data)))
    few = bytearray(data)
    for spot in rng.integers(0, min(len(data), 140), 3):
        few[spot] = rng.choice(list(b"\0 ()[]{}',:-1<>\xff"))
    ways = {"few": bytes(few), "after": data + extra, "before": extra + data, "cut": data[:at],
            "lacking": data[at:], "between": data[:at] + extra + data[at:]}  # fmt: skip
    way = rng.choice(["after", "before", "cut", "lacking", *["between"] * (suffix == ".npz"),
                      *["few"] * (suffix in (".npy", ".pt"))])  # fmt: skip
    path = place / f"a{suffix}"
    path.write_bytes(ways[way])
    fine = [a]
    if suffix == ".jsonl":  # every whole line is a sequence
        with contextlib.suppress(ValueError, UnicodeDecodeError):
            rows = [
                json.loads(line)
                for line in ways[way].decode("utf-8-sig").splitlines()
                if line.strip()
            ]
            fine = [np.array(rows)] if rows and all(isinstance(row, list) for row in rows) else []
    if way == "few":  # what a header now says cannot be known to be wrong
        with contextlib.suppress(*OURS):
            conditional_entropy(read_tokens(path).codes)
            return ""
    said = judged(path, fine[0] if fine else None)
    return said and f"{suffix}, {way}, {extra[:20]!r}, {at} of {len(data)}: {said}"


def _layouts(rng: Generator, place: Path) -> str:
    high = int(rng.choice([2, 500, 2**16, 2**31 - 1]))
    codes = rng.integers(0, high, (layouts.N, layouts.T))
    labels = rng.integers(0, 4, layouts.N)
    records = [{"class_id": y, "tokens": row} for y, row in zip(labels.tolist(), codes.tolist(),
                                                                strict=True)]  # fmt: skip
    both = (torch.from_numpy(codes), torch.from_numpy(labels))
    table = rng.choice([layouts.LAYOUTS, layouts.BARE])
    layout = rng.choice(list(table))
    given = {"CODES": codes, "LABELS": labels, "RECORDS": records, "BOTH": both}
    if "uint16" in layout and high > 2**16 or "big-endian" in layout and high > 2**16:
        return ""
    with mock.patch.multiple(layouts, **given):
        path = table[layout](place)
    said = judged(path, codes, must=True)
    if not said and table is layouts.LAYOUTS:
        crops = 4 if "ten" in layout else 1
        same = np.array_equal(read_tokens(path).labels, np.repeat(labels[::crops], crops))
        said = "" if same else "other labels"
    return said and f"{layout}: {said}"


def _value(rng: Generator, depth: int = 0) -> object:
    """JSON of any kind, most of it near to tokens."""
    leaves = [0, 1, 7, 7, 2**16, 2**63, -1, 2.0, 0.5, True, None, "7", "cat", math.nan, 10**40]
    way = rng.random()
    if depth > 2 or way < 0.2:
        return leaves[rng.integers(len(leaves)) if rng.random() < 0.4 else rng.integers(5)]
    if way < 0.8:
        if rng.random() < 0.6:
            return rng.integers(0, 9, 3).tolist()
        return [_value(rng, depth + 1) for _ in range(rng.integers(0, 4))]
    names = rng.choice(["tokens", "codes", "label", "y", "class_id", "Tokens", "a"],
                       rng.integers(0, 4), replace=False)  # fmt: skip
    return {str(name): _value(rng, depth + 1) for name in names}


def _row(value: object) -> list | None:
    """The tokens of one entry, where they are plain to see."""
    if isinstance(value, dict):
        known = [v for k, v in value.items() if k.lower() in CODE_NAMES and isinstance(v, list)]
        lists = [v for v in value.values() if isinstance(v, list)]
        labelled = any(k.lower() in LABEL_NAMES for k, v in value.items() if isinstance(v, list))
        known = known or ([] if labelled else lists)
        value = known[0] if len(known) == 1 else None
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        (value,) = value
    whole_numbers = isinstance(value, list) and value and set(map(type, value)) == {int}
    return value if whole_numbers and all(0 <= x < 2**63 for x in value) else None


def _json(rng: Generator, place: Path) -> str:
    rows = [_value(rng) for _ in range(rng.integers(0, 4))]
    if rows and rng.random() < 0.6:
        rows = [rows[0]] * 3 + ([_value(rng)] if rng.random() < 0.5 else [])
    suffix = rng.choice([".json", ".jsonl", ".ndjson"])
    path = place / f"a{suffix}"
    indent = rng.choice([None, 1])
    text = (
        json.dumps(rows, indent=indent) if suffix == ".json" else "\n".join(map(json.dumps, rows))
    )
    path.write_text(text)
    if suffix == ".json" and "\n" not in text and _row(rows):
        rows = [rows]  # a sequence on a line of its own
    found = [_row(row) for row in rows]
    right = None
    if found and None not in found and len({len(row) for row in found}) == 1:
        right = np.array(found, dtype=np.uint64)
    said = judged(path, right)
    return said and f"{text[:300]}: {said}"


def _containers(rng: Generator, place: Path) -> str:
    """One known matrix among arrays of any other name and type; it, or a refusal."""
    n = int(rng.integers(2, 9))
    codes = rng.integers(0, 99, (n, 4)).astype(rng.choice(INTEGERS))
    name = str(rng.choice(["codes", "tokens", "indices", "CODES", "idx", "thing"]))
    other = [rng.random((n, 2)), rng.integers(0, 9, n), np.array("x"), np.zeros((0, 3)),
             np.arange(3), rng.random(n) > 0.5, np.array([None] * n), rng.integers(0, 3, (n, 2, 2)),
             np.array(["2020-01-01"] * n, "M8[D]"), np.zeros(n, [("a", "i4")])]  # fmt: skip
    content = {name: codes}
    for more in rng.permutation(["z", "labels", "meta", "Label", "mask", "y"])[
        : rng.integers(0, 4)
    ]:
        content[str(more)] = other[rng.integers(len(other))]
    suffix = rng.choice([".npz", ".pt"])
    path = place / f"a{suffix}"
    if suffix == ".npz":
        save = np.savez_compressed if rng.random() < 0.5 else np.savez
        save(path, **content)
        if rng.random() < 0.3:
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(str(rng.choice(["README.md", "a/b.npy", "\n.npy"])), b"hello")
    else:
        fit = {k: v for k, v in content.items() if v.dtype.kind not in "MV"}
        plain = {k: torch.from_numpy(v) if v.dtype.kind in "iuf" else v.tolist()
                 for k, v in fit.items()}  # fmt: skip
        torch.save(plain, path, _use_new_zipfile_serialization=bool(rng.random() < 0.9))
    named = rng.random() < 0.3
    must = named and zipfile.is_zipfile(path) and not set(content) & {"labels", "Label", "y"}
    said = judged(path, codes, must, **({"columns": [name]} if named else {}))
    return said and f"{suffix}, { {k: (v.dtype.str, v.shape) for k, v in content.items()} }: {said}"


def _shards(rng: Generator, place: Path) -> str:
    """Shards of one matrix under numbered names, each of a type of its own: their rows in order."""
    n = int(rng.integers(1, 12))
    wide = rng.random() < 0.3
    parts = []
    for i in range(n):
        kind = str(rng.choice(INTEGERS))
        high = min(np.iinfo(kind).max, 2**63 - 1) if wide else 100
        part = rng.integers(0, high, (rng.integers(2, 5), 5), endpoint=True, dtype=np.uint64)
        parts.append(part.astype(kind))
        np.save(place / f"{rng.choice(['part', 'part'])}-{i}.npy", parts[-1])
    right = np.concatenate([part.astype(np.uint64) for part in parts])
    bad = rng.random() < 0.3
    if bad:  # one that is no shard of it
        i = int(rng.integers(n))
        value = rng.choice(["width", "floats", "negative", "bool", "empty"])
        bad_parts = {
            "width": parts[i][:, :-1], "floats": parts[i] * 1.0, "bool": parts[i] > 1,
            "negative": -1 - parts[i].astype("i8") // 2, "empty": parts[i][:0],
        }  # fmt: skip
        np.save(place / f"part-{i}.npy", bad_parts[value])
        if n == 1 and value == "width" or value == "empty":
            return ""
    (place / ".part-0.npy.x").write_bytes(b"half")
    said = judged(place, None if bad else right, must=not bad)
    try:
        bits = sharded_conditional_entropy(place).total_bits
        if bad or abs(bits - _oracle(right)[0][-1]) > 1e-9:
            return f"sharded, {bits} bits"
    except OURS as error:
        said = said or ("" if bad else f"sharded, refused: {error}")
    return said


def _doors(rng: Generator, place: Path) -> str:
    """Array, list, file, container, shards and shell agree whether it is one, and on its bits."""
    with np.errstate(all="ignore"):
        codes = _example(int(rng.integers(2**31)))
    array = codes.numpy() if isinstance(codes, torch.Tensor) else np.asarray(codes)
    if array.dtype == object:
        return ""
    good, path = _is_fine(array), place / "codes.npy"
    np.save(path, np.ascontiguousarray(array))  # of other maps only what counts is read
    np.savez(place / "codes.npz", codes=array)
    out = place / "o.json"
    doors = {
        "array": lambda: conditional_entropy(codes).total_bits,
        "file": lambda: conditional_entropy(read_tokens(path).codes).total_bits,
        "container": lambda: conditional_entropy(read_tokens(place / "codes.npz").codes).total_bits,
        "shards": lambda: sharded_conditional_entropy([path]).total_bits,
        "shell": lambda: _shell(path, out),
    }  # fmt: skip
    for door, call in doors.items():
        try:
            bits = call()
        except OURS as error:
            if good or unclear(str(error)):
                return f"{door}, {array.dtype} {array.shape}: {error}"
            continue
        if not good or abs(bits - _oracle(array)[0][-1]) > 1e-9:
            return f"{door}, {array.dtype} {array.shape}: {bits} bits"
    return ""


def _example(seed: int) -> object:
    """One of the matrices that the part `fuzz` draws."""
    found: list[object] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=9, database=None, deadline=None,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(matrices())
    def keep(matrix: object) -> None:
        found.append(matrix)

    keep()
    return found[-1]


def _shell(path: Path, out: Path) -> float:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = cli.main(["entropy", str(path), "--json", str(out)])
    if status:
        raise ValueError(said.getvalue().strip())
    return json.loads(out.read_text())["total_bits"]
