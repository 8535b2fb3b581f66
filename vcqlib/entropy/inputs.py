"""Accepting a token matrix from anyone: what it must be, and one line for what is wrong with it."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

CHECKED_WHOLE = 1 << 24  # entries; larger matrices are checked only where they are read


def describe(array: Any) -> str:
    return f"shape {tuple(array.shape)}, {str(array.dtype).removeprefix('torch.')}"


def is_tensor(value: Any) -> bool:
    """Whether this is a torch tensor, found out without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch"


def as_matrix(codes: Any) -> Any:
    """Return `codes` as a NumPy array, or as a tensor on its device, or say what is wrong."""
    if is_tensor(codes):
        if codes.is_floating_point() or codes.is_complex() or codes.element_size() == 0:
            raise TypeError(f"codes must be integers, got {describe(codes)}")
        if codes.device.type == "cpu":
            codes = codes.detach().numpy()
    else:
        try:
            codes = np.asarray(codes)
        except ValueError:
            raise ValueError("codes must be a matrix [N, T]; its rows differ in length") from None
    whole = not isinstance(codes, np.ndarray) or codes.dtype.kind in "iu"
    if not whole or "bool" in str(codes.dtype):
        raise TypeError(f"codes must be integers, got {describe(codes)}")
    if codes.ndim != 2:
        hint = "; flatten each sequence: codes.reshape(len(codes), -1)" if codes.ndim > 2 else ""
        raise ValueError(f"codes must be a matrix [N, T], got {describe(codes)}{hint}")
    if 0 in codes.shape:
        raise ValueError(f"codes is empty: {describe(codes)}")
    if len(codes) >= 1 << 31:
        raise ValueError(f"codes ({describe(codes)}): 2^31 rows and more need vcqlib.sharded")
    if isinstance(codes, np.ndarray) and not _check_file(codes) and codes.size <= CHECKED_WHOLE:
        _check_range(codes)
    return codes


def _check_range(codes: np.ndarray) -> None:
    least, most = int(codes.min()), int(codes.max())
    if least < 0 or most >= 1 << 63:
        row, position = np.unravel_index(
            codes.argmin() if least < 0 else codes.argmax(), codes.shape
        )
        raise ValueError(
            f"codes ({describe(codes)}) must be from 0 to 2^63-1, "
            f"got {least if least < 0 else most} at codes[{row}, {position}]"
        )


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
    if is_tensor(labels):
        labels = labels.detach().cpu().numpy()
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), one for each row: {describe(labels)}")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        where = int(np.flatnonzero(np.isnan(labels))[0])
        raise ValueError(f"labels ({describe(labels)}) has NaN, first at labels[{where}]")
    if labels.dtype.kind not in "iuUT":
        raise TypeError(f"labels must be integers or strings, got {describe(labels)}")
    return labels


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
