"""Tokens in JSON Lines, or in one JSON array of the same records (RAR, TiTok)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import one_line
from ..progress import bar
from .npy import check_memory
from .tokens import Blocks, Tokens, ambiguous, choose, gather, known_codes, label_name

PARSED = 8  # bytes in memory for one of JSON text, at most


def read_json_tokens(path: Path, columns: Sequence[str] = ()) -> Tokens:
    """Tokens and labels of records `{"class_id": 3, "tokens": [...]}`, or of plain lists.

    ValueError names the file and the line, or the entry of the array.
    """
    keys: list[str] = []
    label: str | None = None
    seen: dict[str, None] = {}
    labels: list[Any] = []

    def row(record: Any) -> np.ndarray:
        nonlocal keys, label
        if isinstance(record, list):
            record = {"": record}
        if not isinstance(record, dict):
            raise ValueError(f"expected an object with tokens, got {type(record).__name__}")
        kinds = {key: type(value).__name__ for key, value in record.items()}
        lists = [key for key, value in record.items() if isinstance(value, list)]
        if not keys:
            keys = choose(path, kinds, columns, lists, [[key] for key in lists])
            label = label_name([key for key in record if key not in keys])
        if missing := [key for key in keys if key not in record]:
            raise ValueError(f"no {missing[0]!r}" if missing[0] else "an object after plain lists")
        if not columns and record.keys() - seen.keys() and {*known_codes(lists)} - {*keys}:
            raise ambiguous(path, kinds)
        seen.update(dict.fromkeys(record))
        labels.append(record.get(label))
        return np.concatenate([_sequence(record[key]) for key in keys])

    def blocks() -> Blocks:
        for name, record in _records(path):
            try:
                yield name, row(record)[None]
            except ValueError as error:
                what = str(error)
                raise ValueError(what if str(path) in what else f"{name}: {what}") from None

    codes = gather(blocks(), path)
    left_out = tuple(key for key in seen if key not in (*keys, label))
    found = Tokens(codes, columns=tuple(filter(None, keys)), left_out=left_out)
    if missing := labels.count(None):
        if missing < len(labels):
            raise ValueError(f"{path}: {missing} of {len(labels)} sequences lack {label}")
        return found
    if {type(value) for value in labels} not in ({int}, {str}):
        raise ValueError(f"{path}: {label} must be whole numbers, or words, in every record")
    return found.labelled(np.array(labels), label)


def _sequence(value: Any) -> np.ndarray:
    """One sequence [T] of a list of integers; lists nested with a width of 1 are unfolded."""
    while isinstance(value, list) and value and all(isinstance(v, list) for v in value):
        if len(value) > 1 and any(len(v) != 1 for v in value):
            raise ValueError(f"tokens are nested ({len(value)} lists): write one flat list")
        value = value[0] if len(value) == 1 else [v[0] for v in value]
    kinds = set(map(type, value)) if isinstance(value, list) else {type(value)}
    if kinds != {int} or not isinstance(value, list):
        got = ", ".join(sorted(kind.__name__ for kind in kinds)) or "an empty list"
        raise ValueError(f"tokens must be integers in a list, got {got}")
    tokens = np.array(value)
    if tokens.dtype != np.int64:
        raise ValueError(f"tokens must be from 0 to 2^63-1, got {max(value, key=abs)}")
    return tokens


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(name for errors, value) of each line, or of each entry if the file is one JSON array."""
    with open(path, "rb") as file:
        lines = enumerate(bar(file, "reading", unit=" lines", delay=2), start=1)
        full = ((f"{path}, line {number}", line) for number, line in lines if line.strip())
        name, line = next(full, ("", b""))
        check_memory(PARSED * len(line), path)
        if line.lstrip(b"\xef\xbb\xbf \t").startswith(b"[") and not _row(line):
            check_memory(PARSED * path.stat().st_size, path)
            entries = _parse(b"".join([line, *(more for _, more in full)]), name)
            yield from ((f"{path}, entry {i}", entry) for i, entry in enumerate(entries, 1))
        elif line:
            yield name, _parse(line, name)
            yield from ((name, _parse(line, name)) for name, line in full)


def _row(line: bytes) -> bool:
    """Whether a line is a list of its own, and not the beginning of an array of records."""
    try:
        return not any(isinstance(entry, list | dict) for entry in json.loads(line))
    except (ValueError, RecursionError):
        return False


def _parse(text: bytes, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {one_line(error)}") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError(f"one key twice in {[key for key, _ in pairs]}")
    return record
