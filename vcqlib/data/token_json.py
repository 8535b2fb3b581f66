"""Tokens in JSON Lines, or in one JSON array of the same records (RAR, TiTok)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import one_line
from ..progress import bar
from .npy import check_memory
from .tokens import Blocks, Tokens, ambiguous, gather, known_codes, label_name, named, no_labels

PARSED = 8  # bytes in memory for one of JSON text, at most


def read_json_tokens(path: Path, columns: Sequence[str] = ()) -> Tokens:
    """Tokens and labels of records `{"class_id": 3, "tokens": [...]}`, or of plain lists.

    Raises:
        ValueError: names the file and the line, or the entry of the array.
    """
    rows = _Rows(path, columns)
    codes = gather(rows.blocks(), path)
    found: dict[str, Any] = dict(columns=tuple(rows.keys), left_out=rows.left_out)
    if missing := sum(value is None for value in rows.labels):
        if missing < len(rows.labels):
            raise ValueError(f"{path}: {missing} of {len(rows.labels)} sequences lack {rows.label}")
        return Tokens(codes, **found)
    if {type(value) for value in rows.labels} not in ({int}, {str}):
        raise ValueError(f"{path}: {rows.label} must be whole numbers, or words, in every record")
    return Tokens(codes, np.array(rows.labels), labels_from=rows.label or "", **found)


class _Rows:
    """The sequences of a file, and what the first record says of where they lie."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns
        self.keys: list[str] = []
        self.label: str | None = None
        self.left_out: tuple[str, ...] = ()
        self.seen: set[str | None] = set()
        self.labels: list[Any] = []

    def blocks(self) -> Blocks:
        for name, record in _records(self.path):
            try:
                yield name, self._tokens(record)[None]
            except ValueError as error:
                what = str(error)
                raise ValueError(what if str(self.path) in what else f"{name}: {what}") from None
            self.labels.append(record.get(self.label) if isinstance(record, dict) else None)

    def _tokens(self, record: Any) -> np.ndarray:
        if isinstance(record, list) and not (self.keys or self.columns):
            return _sequence(record)
        if not isinstance(record, dict):
            raise ValueError(f"expected an object with tokens, got {type(record).__name__}")
        if not self.keys:
            self._look(record)
        if missing := [key for key in self.keys if key not in record]:
            raise ValueError(f"no {missing[0]!r}")
        if new := record.keys() - self.seen:
            self._left_out(record, new)
        return np.concatenate([_sequence(record[key]) for key in self.keys])

    def _look(self, record: dict[str, Any]) -> None:
        lists = [key for key, value in record.items() if isinstance(value, list)]
        if self.columns:
            self.keys = named(self.columns, record, self.path)
        else:
            self.keys = known_codes(lists) or no_labels(lists)
        if len(self.keys) != 1 and not self.columns:
            raise ambiguous(self.path, {k: type(v).__name__ for k, v in record.items()})
        self.label = label_name([key for key in record if key not in self.keys])
        self.seen = {*self.keys, self.label}

    def _left_out(self, record: dict[str, Any], new: Set[str]) -> None:
        """Note keys that were not there before; refuse a second one that is named as tokens."""
        if not self.columns and known_codes(k for k in new if isinstance(record[k], list)):
            raise ambiguous(self.path, {k: type(v).__name__ for k, v in record.items()})
        self.left_out += tuple(key for key in record if key in new)
        self.seen |= new


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
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return not any(isinstance(entry, list | dict) for entry in value)


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
