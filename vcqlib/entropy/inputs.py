"""Accepting a token matrix from anyone: what it must be, and one line for what is wrong with it.

The only place that says what an integer matrix is: for `conditional_entropy`, the sharded engine
and `vcq entropy` alike.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import holds_integers, host, is_tensor, must, naming
from ..data.token_files import read_tokens
from ..data.tokens import Tokens
from ..progress import bar

CHECKED_WHOLE = 1 << 24  # entries; larger matrices are checked only where they are read
LIMIT = 1 << 63  # tokens are below it


def describe(array: Any) -> str:
    return f"shape {tuple(array.shape)}, {str(array.dtype).removeprefix('torch.')}"


def read_matrix(path: str | Path, columns: Sequence[str] = ()) -> Tokens:
    """`read_tokens`, with codes and labels held to what this module says; errors name the file."""
    tokens = read_tokens(path, columns)
    with naming(path):
        codes = as_matrix(tokens.codes)
        labels = None if tokens.labels is None else as_labels(tokens.labels, len(codes))
    return replace(tokens, codes=codes, labels=labels)


def as_matrix(codes: Any) -> Any:
    """Return `codes` as a NumPy array, or as a tensor on its device, or say what is wrong."""
    if is_tensor(codes):
        if codes.is_nested or codes.is_meta or str(codes.layout) != "torch.strided":
            raise TypeError(f"codes must be a dense tensor, got a {codes.layout} one without rows")
        if holds_integers(codes) and codes.device.type == "cpu":
            codes = codes.detach().numpy()
    else:
        codes = host(codes, "codes")
    if not holds_integers(codes):
        way = "; whole numbers become some by .astype('int64')"
        raise TypeError(f"codes must be integers, got {describe(codes)}{way}")
    hint = "; flatten each sequence: codes.reshape(len(codes), -1)" if codes.ndim > 2 else ""
    must(codes.ndim == 2, "codes", "a matrix [N, T]", f"{describe(codes)}{hint}")
    if 0 in codes.shape:
        raise ValueError(f"codes is empty: {describe(codes)}")
    if len(codes) >= 1 << 31:
        raise ValueError(f"codes ({describe(codes)}): above 2^31 rows see vcqlib.entropy.sharded")
    if isinstance(codes, np.ndarray):
        mapped = _check_file(codes)
        if len(codes) == 1 or (not mapped and codes.size <= CHECKED_WHOLE):
            check_range(codes)  # one row is never counted
    return codes


def largest_tokens(codes: np.ndarray) -> list[int]:
    """Largest token of each position [T]; every token is looked at.

    Raises ValueError naming the first block's token below 0 or above 2^63 − 1.
    """
    rows_first = codes.strides[0] >= codes.strides[1]
    if rows_first:
        step = max(2**22 // codes.shape[1], 1)
        blocks = [(i, 0, codes[i : i + step]) for i in range(0, len(codes), step)]
    else:
        blocks = [(0, t, codes[:, t : t + 1]) for t in range(codes.shape[1])]
    most = []
    for row, position, block in bar(blocks, "reading", delay=2):
        check_range(block, row, position, codes.dtype)
        most.append(block.max(axis=0))
    return (np.max(most, axis=0) if rows_first else np.concatenate(most)).tolist()


def checked_sizes(sizes: Sequence[int], largest: Sequence[int], least: int = 1) -> list[int]:
    """K, or K_1..K_T, as T sizes; ValueError if one is below `least` or a token that occurs."""
    length = len(largest)
    if len(sizes) not in (1, length):
        raise ValueError(f"sizes: got {len(sizes)} values, need 1 or T = {length}")
    sizes = [int(k) for k in sizes] * (length // len(sizes))
    for t, (size, most) in enumerate(zip(sizes, largest, strict=True), start=1):
        must(size >= least, f"sizes: K_{t}", f"at least {least}", size)
        if most >= size:
            raise ValueError(f"sizes: K_{t} = {size}, but position {t} holds the token {most}")
    return sizes


def check_range(codes: np.ndarray, row: int = 0, position: int = 0, dtype: Any = None) -> None:
    """Refuse a token out of range in a block that starts at `row` and `position`."""
    if int(codes.min()) >= 0 and int(codes.max()) < LIMIT:
        return
    where = codes.argmin() if int(codes.min()) < 0 else codes.argmax()
    r, t = np.unravel_index(where, codes.shape)
    refuse(int(codes[r, t]), row + int(r), position + int(t), dtype or codes.dtype)


def _check_file(codes: np.ndarray) -> bool:
    """Whether this is a map of a file; refuse one whose file has become shorter than the map."""
    mapped = mapped_file(codes)
    if mapped is None:
        return False
    file: mmap.mmap = mapped.base
    start = getattr(mapped, "offset", 0) // mmap.ALLOCATIONGRANULARITY
    needed = start * mmap.ALLOCATIONGRANULARITY + len(file)
    if file.size() < needed:  # reading on would end the process with a bus error
        name = getattr(mapped, "filename", None) or "the mapped file"
        raise ValueError(
            f"codes ({describe(codes)}) maps {needed} bytes of {name}, "
            f"which now has only {file.size()}: it was cut short"
        )
    return True


def as_labels(labels: Any, n: int) -> np.ndarray:
    """Labels [n], integers or words, as NumPy; columns of Python words are taken too."""
    labels = host(labels, "labels")
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), one for each row: {describe(labels)}")
    for where in np.flatnonzero(labels != labels)[:1]:
        raise ValueError(f"labels ({describe(labels)}) has NaN, first at labels[{where}]")
    if labels.dtype.kind == "O" and set(map(type, labels)) in ({int}, {str}):
        labels = np.array(labels.tolist())
    if labels.dtype.kind not in "iuUT":
        raise TypeError(f"labels must be integers or strings, got {describe(labels)}")
    return labels


def tally(values: np.ndarray, dense: int) -> tuple[np.ndarray, np.ndarray]:
    """Different integers [m], ascending, and how often each occurs; below `dense` by a table."""
    if int(values.max()) >= dense:
        different, often = np.unique(values, return_counts=True)
        return different.astype(np.int64), often
    table = np.bincount(values)
    different = np.flatnonzero(table)
    return different, table[different]


def refuse(value: int, row: int, position: int, dtype: Any) -> None:
    """Raise the error for a token that is negative as int64."""
    what = f"{value} is negative" if value < 0 else f"{value} does not fit in 63 bits"
    raise ValueError(
        f"codes ({dtype}) must hold tokens from 0 to 2^63-1, but the token at row {row}, "
        f"position {position} (both zero-based): {what}"
    )


def mapped_file(array: Any) -> np.memmap | None:
    """The map of a file that `array` is a view of, if it is one."""
    while isinstance(array, np.ndarray):
        if isinstance(array.base, mmap.mmap):
            return array
        array = array.base
    return None
