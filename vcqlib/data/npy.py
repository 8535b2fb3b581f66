"""NumPy's own files, read without unpickling: whole, or refused with one line that names them."""

from __future__ import annotations

import math
import os
import threading
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ..checks import one_line

DIMENSIONS = 32  # the most that NumPy 1 has
PARSING = threading.Lock()  # CPython 3.11 parses a literal in one thread at a time, or fails


class Header(NamedTuple):
    """What a `.npy` says of itself: `start` is where its data begin, in bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def bytes(self) -> int:
        """Size of the data; in Python integers, so that a forged shape cannot overflow."""
        return math.prod(map(int, self.shape)) * self.dtype.itemsize


def read_npy(path: str | Path) -> np.ndarray:
    """Memory-map a `.npy` file that is exactly as long as its header says.

    Raises ValueError naming the file if it is no such file, holds objects, is empty, cut short,
    or goes on after its array.
    """
    path = Path(path)
    with open(path, "rb") as file:
        header, size = _header(file, path), os.fstat(file.fileno()).st_size
    needed = header.start + header.bytes
    if size < needed:
        raise ValueError(f"{path}: cut short: {size} bytes, its header promises {needed}")
    if size > needed:
        raise ValueError(
            f"{path}: {size - needed} bytes follow its array {header.shape}: "
            "save one array a file, or several as .npz"
        )
    if not header.bytes:
        raise ValueError(f"{path}: empty: shape {header.shape}")
    order = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", header.start, header.shape, order)


def _header(file: IO[bytes], name: object) -> Header:
    try:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        with PARSING:
            header = Header(*read(file), file.tell())
        whole = all(type(extent) is int and extent >= 0 for extent in header.shape)
        if not whole or len(header.shape) > DIMENSIONS:
            raise ValueError(f"shape {header.shape}")
    except OSError:
        raise
    except Exception as error:  # a literal can be damaged in as many ways as Python has errors
        raise ValueError(f"{name}: not a .npy array: {one_line(error)}") from None
    if header.dtype.hasobject:
        raise ValueError(f"{name}: holds Python objects; unpickling is refused: save integers")
    return header


def npz_headers(path: str | Path) -> dict[str, Header | None]:
    """The arrays of a `.npz` by name; None for a member that is no array, or holds objects."""
    found: dict[str, Header | None] = {}
    for name, _, file in _members(path):
        found[name] = None
        with suppress(ValueError):
            found[name] = _header(file, path)
    return found


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a `.npz`, each held against its header and the memory before it is read.

    With `names` only those of them that are there; the other members may be anything. ValueError
    naming the file if it is damaged, holds objects, or would not fit.
    """
    arrays = {}
    for name, size, file in _members(path):
        if names is None or name in names:
            header = _header(file, where := f"{path}:{name}")
            if header.start + header.bytes != size:
                raise ValueError(f"{where}: cut short or padded: its header does not fit")
            check_memory(header.bytes, where)
            flat = np.frombuffer(file.read(), header.dtype)
            arrays[name] = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return arrays


def _members(path: str | Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each member of a `.npz`."""
    with whole_zip(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                yield info.filename.removesuffix(".npy"), info.file_size, file


@contextmanager
def whole_zip(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive that is all of its file: nothing before it or after it, and no name twice."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{path}: holds {', '.join(sorted(twice))} twice")
            end = len(archive.comment) + 22  # bytes of the record that ends an archive
            archive.fp.seek(-end, os.SEEK_END)
            if min((i.header_offset for i in infos), default=0) or archive.fp.read(4) != b"PK\5\6":
                raise ValueError(f"{path}: bytes lie before or after its archive: several in one?")
            yield archive
    except (ValueError, FileNotFoundError):
        raise
    except Exception as error:  # zlib.error and others: an archive can be damaged anywhere
        raise ValueError(f"{path}: damaged archive: {one_line(error)}") from None


def check_memory(needed: int, name: object) -> None:
    """Refuse what would unfold to more bytes than this machine has."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, AttributeError, OSError):
        return
    if needed > memory:
        raise ValueError(
            f"{name}: unfolds to {needed / 2**30:.1f} GiB, this machine has {memory / 2**30:.1f}; "
            "store it as .npy, which is read in place"
        )
