"""The same conditional entropy from a token matrix that lies in shards, counted on dask.

    from dask.distributed import Client
    Client("scheduler:8786")  # or none: then in threads of this process
    result = sharded_conditional_entropy("codes/*.parquet")

1. From the first rows of some shards choose a depth d: how many positions it takes until no
   prefix is so frequent that it would fill a worker.
2. Each shard counts its prefixes of d positions; the tables are added up. This gives the groups
   of positions 1 … d exactly.
3. The rows are shuffled by their first d tokens, so that each partition holds whole groups from
   position d on, and refined there with the engine of `prefixes`. How often each group size
   occurs adds up over partitions: the result is that of the unsharded matrix, not an estimate.

Cost, for N sequences of T tokens of b bytes: the shards are read twice (2 N T b); N T b go once
through the network and the workers' disks (dask's peer-to-peer shuffle, when a client is
connected); a partition of n rows takes n T b bytes twice over and 32 n to count. The step that no
worker shares is the table of step 2: the different prefixes of d positions. Cutting the shards to
the positions before the cliff first divides all of it but the counting.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checks import naming
from ..data.token_files import one_series, token_files
from .estimates import ConditionalEntropy, Level, PrefixCounts, count_prefixes, gain, summarize
from .inputs import largest_tokens, read_matrix
from .usage import merged

log = logging.getLogger(__name__)
SAMPLE = 1 << 16  # rows looked at to choose the depth
PARTITION = 1 << 28  # bytes of tokens in a partition


class _Shard(NamedTuple):
    rows: int
    length: int
    most: int  # the largest token
    said: str  # which columns were read
    prefixes: np.ndarray  # [m, d]
    often: np.ndarray  # [m]


def sharded_conditional_entropy(
    shards: str | Path | Sequence[str | Path],
    partitions: int | None = None,
    columns: Sequence[str] = (),
) -> ConditionalEntropy:
    """Exact plug-in H(X_t | X_<t) of the rows of all shards together; see the module's text.

    Args:
        shards: a folder, a glob pattern, or the files: anything `token_files` reads as a matrix
            [n_i, T], a file for each worker's turn (say 100 MB to 1 GB).
        partitions: how many groups of rows to refine apart; default one for each 256 MiB of tokens,
            and no fewer than shards.
        columns: as for `read_tokens`; every shard has to be read from the same ones. They are
            logged (`logging.getLogger("vcqlib.entropy.sharded")`).

    Returns:
        What `vcqlib.conditional_entropy` returns for the matrix of all rows, equal to it up to the
        order of floating-point sums.

    Raises:
        FileNotFoundError: no shard matches.
        ValueError: a damaged shard, shards of different T or columns, a token out of range; names
            the file.
    """
    import dask
    import dask.dataframe as dd
    import pandas as pd

    files, columns = _files(shards), tuple(columns)
    heads = files[:: -(-len(files) // 16)]
    sampled = dask.compute(*(dask.delayed(_head)(f, columns, SAMPLE // len(heads)) for f in heads))
    lengths = {file: head.shape[1] for file, head in zip(heads, sampled, strict=True)}
    _check_lengths(lengths)
    depth = _depth(np.concatenate(sampled), max(partitions or 0, len(files)))

    tables = dask.compute(*(dask.delayed(_table)(file, columns, depth) for file in files))
    _check_lengths({file: table.length for file, table in zip(files, tables, strict=True)})
    for file, table in zip(files, tables, strict=True):
        if table.said != tables[0].said:
            raise ValueError(f"{file}: {table.said}; but {files[0]}: {tables[0].said}")
    log.info("%s: %s", shards, tables[0].said or "a matrix a file")
    n, length = sum(table.rows for table in tables), tables[0].length
    most = max(table.most for table in tables)
    dtype = next(d for d in ("u2", "u4", "i8") if most <= np.iinfo(d).max)
    if partitions is None:
        partitions = max(len(files), -(-n * length * np.dtype(dtype).itemsize // PARTITION))
    shallow = _merge_tables(tables, depth)

    names = [f"p{t}" for t in range(length)]
    empty = pd.DataFrame(np.empty((0, length), dtype), columns=names)
    frame = dd.from_map(_frame, files, dtype=dtype, names=names, only=columns, meta=empty)
    shuffled = frame.shuffle(on=names[:depth], npartitions=partitions)
    counted = dask.compute(*(dask.delayed(_refine)(p, depth) for p in shuffled.to_delayed()))
    deep = [_merge_levels([*filter(None, levels)]) for levels in zip_longest(*counted)]
    return summarize(PrefixCounts(n, length, tuple(level for level in [*shallow, *deep] if level)))


def _files(shards: str | Path | Sequence[str | Path]) -> list[Path]:
    if not isinstance(shards, (str, Path)):
        files = [Path(shard) for shard in shards]
    elif os.path.isdir(shards):
        files, _ = token_files(Path(shards))
        one_series(files)
    else:
        files = sorted(map(Path, glob.glob(str(shards))))
    if not files:
        raise FileNotFoundError(f"{shards}: no such files")
    return files


def _check_lengths(lengths: dict[Path, int]) -> None:
    first, *others = lengths
    for file in others:
        if lengths[file] != lengths[first]:
            raise ValueError(f"{file}: T = {lengths[file]}, but {first} has T = {lengths[first]}")


def _head(file: Path, columns: tuple[str, ...], rows: int) -> np.ndarray:
    return np.array(read_matrix(file, columns).codes[: max(rows, 1)])


def _depth(sample: np.ndarray, partitions: int) -> int:
    """Smallest depth at which no prefix holds more than a quarter of a partition's share.

    No deeper than where a quarter of the rows differ: the tables would become as long as the data.
    """
    for depth in range(1, sample.shape[1] + 1):
        prefixes, often = np.unique(sample[:, :depth], axis=0, return_counts=True)
        fair = max(len(sample) / (4 * partitions), 1)
        if often.max() <= fair or 4 * len(prefixes) > len(sample):
            return depth
    return sample.shape[1]


def _table(file: Path, columns: tuple[str, ...], depth: int) -> _Shard:
    tokens = read_matrix(file, columns)
    codes = tokens.codes
    with naming(file):
        most = max(largest_tokens(codes))
    prefixes, often = _unique_rows(np.asarray(codes[:, :depth], np.int64))
    return _Shard(len(codes), codes.shape[1], most, tokens.said(), prefixes, often)


def _unique_rows(rows: np.ndarray, weights: np.ndarray | None = None) -> tuple[Any, Any]:
    """Different rows in lexicographic order, and how often (or with what weight) each occurs."""
    order = np.lexsort(rows.T[::-1])
    rows = rows[order]
    opens = np.flatnonzero(np.r_[True, (rows[1:] != rows[:-1]).any(axis=1)])
    weights = np.ones(len(rows), np.int64) if weights is None else weights[order]
    return rows[opens], np.add.reduceat(weights, opens)


def _merge_tables(tables: Sequence[_Shard], depth: int) -> list[Level | None]:
    """The levels of positions 1 … depth from the tables of all shards."""
    rows = np.concatenate([table.prefixes for table in tables])
    often = np.concatenate([table.often for table in tables])
    rows, often = _unique_rows(rows, often)
    levels: list[Level | None] = []
    parents, whole = np.zeros(len(rows), np.int64), np.array([often.sum()])
    for t in range(depth):
        opens = np.r_[True, (rows[1:, : t + 1] != rows[:-1, : t + 1]).any(axis=1)]
        own = np.add.reduceat(often, np.flatnonzero(opens))
        above = whole[parents[opens]]
        several = own > 1
        cross = np.dot(own[several] * gain(own[several]), gain(above[several]))
        sizes, counts = np.unique(own[several], return_counts=True)
        levels.append(Level(sizes, counts, float(cross)) if several.any() else None)
        parents, whole = np.cumsum(opens) - 1, own
    return levels


def _frame(file: Path, dtype: str, names: list[str], only: tuple[str, ...]) -> Any:
    import pandas as pd

    codes = np.asarray(read_matrix(file, only).codes)
    return pd.DataFrame(codes.astype(dtype), columns=names)


def _refine(part: Any, depth: int) -> list[Level]:
    """The levels after `depth` of the rows of one partition."""
    return list(count_prefixes(part.to_numpy()).levels[depth:]) if len(part) else []


def _merge_levels(levels: list[Level]) -> Level:
    """One position's level of all partitions that still have one."""
    sizes, often = merged([(level.sizes, level.often) for level in levels])
    return Level(sizes, often, float(sum(level.cross for level in levels)))
