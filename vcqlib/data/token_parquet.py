"""Tokens in a Parquet file: a column of lists, or a column a position."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from ..checks import must, one_line
from ..progress import bar
from .npy import check_memory
from .tokens import Blocks, Tokens, choose, gather, label_name, named, natural

ROWS = 1 << 13  # rows decoded at once


@contextmanager
def readable(what: object) -> Iterator[None]:
    """Inside, what Arrow says of damage is one line that names the place."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{what}: Parquet cannot be read: {one_line(error)}") from None


def read_parquet(path: Path, columns: Sequence[str] = ()) -> Tokens:
    """The column of lists that is named as tokens, or the only one; else columns p0, p1, … pT-1.

    A stored pandas index is never read, and other columns are left out; `Tokens` says which.
    """
    labels: list[np.ndarray] = []
    with readable(path), pq.ParquetFile(path) as file:
        meta, schema = file.metadata, file.schema_arrow
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        if meta.num_rows:
            _refuse_unread(chunks, path.stat().st_size - 8 - meta.serialized_size, path)
        if len(set(schema.names)) < len(schema.names):
            raise ValueError(f"{path}: two columns have one name: {schema.names}")
        label = label_name([f.name for f in schema if is_class(f.type)])
        chosen = named(columns, schema.names, path) if columns else _choose(schema, label, path)
        label = None if label in chosen else label
        wanted = [*chosen, *([label] if label else [])]
        read = (c.num_values for c in chunks if c.path_in_schema.split(".")[0] in wanted)
        check_memory(2 * sum(read), path)  # two bytes a token is the least that is kept

        def blocks() -> Blocks:
            row = 0
            batches = file.iter_batches(ROWS, columns=wanted)
            for batch in bar(batches, "reading", total=-(-meta.num_rows // ROWS), delay=2):
                if not len(batch):
                    continue
                name = f"{path}, rows from {row}"
                row += len(batch)
                if label:
                    labels.append(_labels(batch.column(label), f"{name}, {label}"))
                parts = [_tokens(batch.column(c), f"{name}, {c}") for c in chosen]
                yield name, np.concatenate(parts, axis=1)

        codes = gather(blocks(), path)
    left_out = tuple(name for name in schema.names if name not in wanted)
    found = Tokens(codes, columns=tuple(chosen), left_out=left_out)
    return found.labelled(np.concatenate(labels), label) if label else found


def _refuse_unread(chunks: Sequence[Any], footer: int, path: Path) -> None:
    """Refuse files that were written one after the other: only the last one's footer is read."""
    if any(c.has_column_index or c.has_offset_index for c in chunks):
        return  # of unknown length, between data and footer
    starts = (min(c.dictionary_page_offset or c.data_page_offset, c.data_page_offset)
              for c in chunks)  # fmt: skip
    end = max(at + c.total_compressed_size for at, c in zip(starts, chunks, strict=True))
    if footer > end:
        raise ValueError(f"{path}: {footer - end} bytes belong to no column: several files in one?")


def _choose(schema: Any, label: str | None, path: Path) -> list[str]:
    """Names of the token columns, in the order of positions."""
    index = index_columns(schema)
    held = {f.name: f.type for f in schema if f.name not in index}
    lists = [name for name, kind in held.items() if _is_list(kind)]
    numbered: dict[str, list[str]] = {}
    for name in sorted(held.keys() - {label}, key=natural):
        if types.is_integer(held[name]) and (match := re.fullmatch(r"(.*?)\d+", name)):
            numbered.setdefault(match[1], []).append(name)
    likely = [[name] for name in lists if types.is_integer(_leaf(held[name]))]
    likely += [names for names in numbered.values() if len(names) > 1]
    names = choose(path, held, (), lists, likely)
    if len(names) > 1:
        numbers = [int(re.search(r"\d+$", name)[0]) for name in names]
        gaps = [n for n in range(numbers[0] == 1, numbers[-1]) if n not in numbers]
        if gaps or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"{path}: columns {names[0]} … {names[-1]} are not numbered from 0 or 1 without "
                f"gaps (number {gaps[0] if gaps else 'twice'}): name them with --columns"
            )
    return names


def index_columns(schema: Any) -> set[str]:
    """Columns in which pandas stored a table's index."""
    found = {name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)}
    try:
        stored = schema.pandas_metadata["index_columns"]
        return found | {name for name in stored if isinstance(name, str)}
    except (KeyError, TypeError, ValueError):  # no note of pandas, or one that is none
        return found


def _is_list(kind: Any) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _leaf(kind: Any) -> Any:
    return _leaf(kind.value_type) if _is_list(kind) else kind


def is_class(kind: Any) -> bool:
    """Whether a column of this type can hold labels: integers or texts, dictionary-encoded too."""
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_integer(kind) or is_text(kind)


def is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _labels(column: Any, name: str) -> np.ndarray:
    labels = column.to_pylist()
    if None in labels:
        raise ValueError(f"{name}: {labels.count(None)} of {len(labels)} labels are missing (null)")
    return np.array(labels)


def _tokens(column: Any, name: str) -> np.ndarray:
    """[rows, T] of one column: integers, lists of them, or lists nested with a width of 1."""
    rows, widths = len(column), []
    while not column.null_count and _is_list(column.type):
        lengths = column.value_lengths().unique().to_pylist()
        if len(lengths) != 1:
            raise ValueError(f"{name}: sequences of different lengths: {sorted(lengths)[:5]}")
        widths += lengths
        column = column.flatten()
    if column.null_count:
        raise ValueError(f"{name}: has missing tokens (null)")
    must(types.is_integer(column.type), f"{name}: tokens", "integers", column.type)
    if sum(width != 1 for width in widths) > 1:
        grid = " × ".join(map(str, widths))
        raise ValueError(f"{name}: each row is nested, {grid}: store it flattened, as one list")
    return column.to_numpy(zero_copy_only=False).reshape(rows, -1)
