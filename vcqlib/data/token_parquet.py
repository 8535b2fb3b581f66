"""Tokens in a Parquet file: a column of lists, or a column a position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import one_line
from ..progress import bar
from .npy import check_memory
from .tokens import Blocks, Tokens, ambiguous, gather, known_codes, label_name, named, no_labels

ROWS = 1 << 13  # rows decoded at once


def read_parquet(path: Path, columns: Sequence[str] = ()) -> Tokens:
    """The column of lists that is named as tokens, or the only one; else columns p0, p1, … pT-1.

    A stored pandas index is never read, and other columns are left out; `Tokens` says which.

    Raises:
        ValueError: damaged, ambiguous, ragged, with gaps or nested lists; names the file.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow (pip install pyarrow)") from None
    labels: list[np.ndarray] = []
    try:
        with pq.ParquetFile(path) as file:
            meta, schema = file.metadata, file.schema_arrow
            if meta.num_rows:
                _refuse_unread(meta, path)
            if len(set(schema.names)) < len(schema.names):
                raise ValueError(f"{path}: two columns have one name: {schema.names}")
            label = label_name([f.name for f in schema if _is_label(pa, f.type)])
            chosen = named(columns, schema.names, path) if columns else _choose(schema, label, path)
            label = None if label in chosen else label
            wanted = [*chosen, *([label] if label else [])]
            groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
            chunks = [g.column(j) for g in groups for j in range(g.num_columns)]
            read = [c.num_values for c in chunks if c.path_in_schema.split(".")[0] in wanted]
            check_memory(2 * sum(read), path)  # two bytes a token is the least that is kept

            def blocks() -> Blocks:
                batches = file.iter_batches(ROWS, columns=wanted)
                row = 0
                for batch in bar(batches, "reading", total=-(-meta.num_rows // ROWS), delay=2):
                    name = f"{path}, rows from {row}"
                    row += len(batch)
                    if label:
                        labels.append(_labels(pa, batch.column(label), f"{name}, {label}"))
                    if len(batch):
                        parts = [_tokens(pa, batch.column(c), f"{name}, {c}") for c in chosen]
                        yield name, np.concatenate(parts, axis=1)

            codes = gather(blocks(), path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged Parquet: {one_line(error)}") from None
    left_out = tuple(name for name in schema.names if name not in wanted)
    return Tokens(
        codes,
        np.concatenate(labels) if labels else None,
        None,
        tuple(chosen),
        label or "",
        left_out,
    )


def _refuse_unread(meta: Any, path: Path) -> None:
    """Refuse files that were written one after the other: only the last one's footer is read."""
    end = 4  # the format's mark
    for group in map(meta.row_group, range(meta.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.has_column_index or chunk.has_offset_index:
                return  # of unknown length, between data and footer
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            end = max(end, min(start, chunk.data_page_offset) + chunk.total_compressed_size)
    unread = path.stat().st_size - 8 - meta.serialized_size - end
    if unread > 0:
        raise ValueError(f"{path}: {unread} bytes belong to no column: several files in one?")


def _choose(schema: Any, label: str | None, path: Path) -> list[str]:
    """Names of the token columns, in the order of positions."""
    import pyarrow as pa

    index = index_columns(schema)
    lists = [f.name for f in schema if _is_list(pa, f.type) and f.name not in index]
    lists = no_labels(lists)
    whole = [
        f.name for f in schema if pa.types.is_integer(f.type) and f.name not in {*index, label}
    ]
    numbered: dict[str, list[str]] = {}
    for name in whole:
        if match := re.fullmatch(r"(.*?)\d+", name):
            numbered.setdefault(match[1], []).append(name)
    families = [names for names in numbered.values() if len(names) > 1]
    sure = [[name] for name in known_codes(lists)] or [
        *([name] for name in lists if pa.types.is_integer(_leaf(pa, schema.field(name).type))),
        *families,
    ]
    if len(sure) == 1 and sure[0] in families:
        sure = [_in_order(sure[0], path)]
    if len(sure) != 1:
        held = {f.name: str(f.type) for f in schema if f.name not in index}
        raise ambiguous(path, held)
    return sure[0]


def _in_order(names: list[str], path: Path) -> list[str]:
    """Columns p0 … pT-1 (or from p1) by number, none missing."""
    numbers = {int(re.search(r"\d+$", name)[0]): name for name in names}
    first = min(numbers)
    gaps = [n for n in range(first, max(numbers)) if n not in numbers]
    if first > 1 or gaps or len(numbers) < len(names):
        missing = f"number {gaps[0] if gaps else 0 if first > 1 else 'twice'}"
        raise ValueError(
            f"{path}: columns {names[0]} … {names[-1]} are not numbered from 0 or 1 without gaps "
            f"({missing}): name them with --columns (columns=…)"
        )
    return [numbers[n] for n in sorted(numbers)]


def index_columns(schema: Any) -> set[str]:
    """Columns in which pandas stored a table's index."""
    found = {name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)}
    try:
        stored = schema.pandas_metadata["index_columns"]
        return found | {name for name in stored if isinstance(name, str)}
    except (KeyError, TypeError, ValueError):  # no note of pandas, or one that is none
        return found


def _is_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _leaf(pa: Any, kind: Any) -> Any:
    while _is_list(pa, kind):
        kind = kind.value_type
    return kind


def _is_label(pa: Any, kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(
        is_(kind) for is_ in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    )


def _labels(pa: Any, column: Any, name: str) -> np.ndarray:
    if column.null_count:
        raise ValueError(f"{name}: {column.null_count} of {len(column)} labels are missing (null)")
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        return column.to_numpy(zero_copy_only=False)
    return np.array(column.to_pylist(), dtype=str)


def _tokens(pa: Any, column: Any, name: str) -> np.ndarray:
    """[rows, T] of one column: integers, lists of them, or lists nested with a width of 1."""
    rows, widths = len(column), []
    while True:
        if column.null_count:
            raise ValueError(f"{name}: has missing tokens (null)")
        if not _is_list(pa, column.type):
            break
        lengths = column.value_lengths().unique().to_pylist()
        if len(lengths) != 1:
            raise ValueError(f"{name}: sequences of different lengths: {sorted(lengths)[:5]}")
        widths += lengths
        column = column.flatten()
    if not pa.types.is_integer(column.type):
        raise ValueError(f"{name}: tokens must be integers, got {column.type}")
    if sum(width != 1 for width in widths) > 1:
        grid = " × ".join(map(str, widths))
        raise ValueError(f"{name}: each row is nested, {grid}: store it flattened, as one list")
    return column.to_numpy(zero_copy_only=False).reshape(rows, -1)
