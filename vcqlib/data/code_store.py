"""The token store: codes of a data set, encoded once, on disk as one array and a sidecar.

Two layouts. "position-major" (row t holds position t of every image): the entropy engine reads only
the positions it needs. "image-major" (row n holds image n): training reads whole images at random,
and a writer can stream. uint16 holds sizes up to 65,536; larger codebooks use uint32.

The arrays are named after their content (`codes-1f3a….npy`), the sidecar `codes.json` says which
are meant. A store is replaced by writing new arrays beside the old ones and renaming the sidecar,
which is one step; then the old arrays go. A kill leaves the old store or the new one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..checks import int64, integer, must, one_of
from ..files import put, read_record, scratch_path, sha256_file, write_record
from .npy import read_npy

if TYPE_CHECKING:
    import torch

LARGEST = 1 << 32  # codebook size
Layout = Literal["position-major", "image-major"]
ARRAY = re.compile(r"(codes|labels)-[0-9a-f]{16}\.npy")
RESIDENT_SHARE = 0.25  # of the memory that is free on a GPU; the rest is the model's


@dataclass(frozen=True)
class CodeStore:
    """Codes as they lie on disk, memory-mapped."""

    codes: np.ndarray  # uint16 or uint32 [N, T], a view of the file whatever its layout
    labels: np.ndarray  # int64 [N]
    sizes: tuple[int, ...]  # K_1..K_T
    info: dict  # what produced the codes


class CodeWriter:
    """Takes codes batch by batch, in order, and never holds more than one batch."""

    def __init__(self, codes: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> None:
        self._codes, self._labels, self._sizes = codes, labels, sizes  # codes: [N, T], mapped
        self.written = 0

    def append(self, codes: np.ndarray, labels: np.ndarray) -> None:
        """Add codes [b, T] and labels [b].

        Raises TypeError for what is no integer; ValueError for shapes that differ, too many rows,
        or a code out of range, which it names.
        """
        codes, labels = int64(np.asarray(codes), "codes"), int64(np.asarray(labels), "labels")
        end = self.written + len(codes)
        if codes.shape != (*labels.shape, len(self._sizes)) or labels.ndim != 1:
            raise ValueError(f"codes {codes.shape}, labels {labels.shape} and "
                             f"{len(self._sizes)} sizes do not fit")  # fmt: skip
        if end > len(self._codes):
            raise ValueError(f"the store holds {len(self._codes)} rows, got {end}")
        for n, t in np.argwhere((codes < 0) | (codes >= self._sizes))[:1]:
            raise ValueError(f"code {codes[n, t]} of image {self.written + n} at position {t + 1} "
                             f"is outside 0..{self._sizes[t] - 1}")  # fmt: skip
        self._codes[self.written : end] = codes
        self._labels[self.written : end] = labels
        self.written = end


@contextmanager
def code_writer(
    folder: str | Path,
    rows: int,
    sizes: Sequence[int],
    info: dict[str, Any] | None = None,
    layout: Layout = "image-major",
) -> Iterator[CodeWriter]:
    """Write a store of `rows` rows as the codes come; it is there when the block ends well.

    Raises ValueError if fewer rows came than were announced, and as `CodeWriter.append`.
    """
    folder, rows = Path(folder).absolute(), integer(rows, "rows", 1)
    sizes = [integer(size, f"K_{t}", 1, LARGEST) for t, size in enumerate(sizes, start=1)]
    must(sizes, "sizes", "K_1 … K_T", "none")
    one_of(("position-major", "image-major"), "layout", layout)
    flipped, made = layout == "position-major", not folder.exists()
    shape = (len(sizes), rows) if flipped else (rows, len(sizes))
    labels = np.empty(rows, np.int64)
    try:
        with (
            scratch_path(folder / "codes.npy") as ours,
            scratch_path(folder / "labels.npy") as beside,
        ):
            dtype = np.uint16 if max(sizes) <= 2**16 else np.uint32
            codes = np.lib.format.open_memmap(ours, "w+", dtype, shape)
            _take_space(ours)
            writer = CodeWriter(codes.T if flipped else codes, labels, np.array(sizes, np.int64))
            yield writer
            if writer.written != rows:
                raise ValueError(f"{rows} rows were announced, {writer.written} came")
            codes.flush()
            del codes, writer._codes
            np.save(beside, labels, allow_pickle=False)
            digests = {"codes": sha256_file(ours), "labels": sha256_file(beside)}
            sidecar = {"layout": layout, "images": rows, "sizes": sizes, "info": info or {}}
            with _locked(folder):
                before = {p for p in folder.glob("*.npy") if ARRAY.fullmatch(p.name)}
                put(ours, codes_file := _array(folder, "codes", digests["codes"]))
                put(beside, labels_file := _array(folder, "labels", digests["labels"]))
                write_record(folder / "codes.json", sidecar | {"files": digests})
                for path in before - {codes_file, labels_file}:
                    path.unlink(missing_ok=True)
    except BaseException:
        if made and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        raise


@contextmanager
def _locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Inside, no other writer puts its arrays into the folder, where the system has such locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network disk without locks
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _array(folder: Path, name: str, digest: str) -> Path:
    """Where the array with this SHA-256 lies."""
    return folder / f"{name}-{digest[:16]}.npy"


def _take_space(path: Path) -> None:
    """Reserve the file's blocks: a full disk is an error now, not a bus error while mapping."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def write_codes(
    folder: str | Path,
    codes: np.ndarray,
    labels: np.ndarray,
    sizes: Sequence[int],
    info: dict | None = None,
) -> None:
    """Check codes [N, T] and labels [N] as `CodeWriter` does and write them, position-major."""
    with code_writer(folder, len(codes), sizes, info, "position-major") as writer:
        writer.append(codes, labels)


def open_codes(folder: str | Path, verify: bool = True) -> CodeStore:
    """Memory-map a store.

    Raises FileNotFoundError if there is no store, or an array of it is missing; ValueError for
    another format and for a file that is damaged. The message names the file.
    """
    folder = Path(folder)
    path = folder / "codes.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no code store: it has no codes.json")
    with _locked(folder, shared=True):
        sidecar = read_record(path)
        try:
            layout, sizes, info = sidecar["layout"], tuple(sidecar["sizes"]), sidecar["info"]
            shape = sidecar["images"], len(sizes)
            digests = {name: sidecar["files"][name] for name in ("codes", "labels")}
            places = {name: _array(folder, name, digest) for name, digest in digests.items()}
        except (KeyError, TypeError):
            raise ValueError(f"{path} is no sidecar of a code store") from None
        for name, place in places.items():
            if not ARRAY.fullmatch(place.name):
                raise ValueError(f"{path} is no sidecar of a code store: {place.name}")
            if not place.exists():
                raise FileNotFoundError(f"{place} is missing: encode the images again")
            if verify and sha256_file(place) != digests[name]:
                raise ValueError(f"{place} is damaged: its SHA-256 is not the recorded one")
        codes, labels = read_npy(places["codes"]), np.array(read_npy(places["labels"]))
    codes = codes.T if layout == "position-major" else codes
    if codes.shape != shape:
        raise ValueError(f"{places['codes']} holds {codes.shape}, its sidecar says {shape}")
    return CodeStore(codes, labels, sizes, info)


def resident(store: CodeStore, device: torch.device) -> torch.Tensor | np.ndarray:
    """The codes on the GPU if they take at most a quarter of its free memory, else as mapped.

    On the GPU they keep their 2 or 4 bytes a code; `take` turns a batch into int64.
    """
    import torch

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    if store.codes.nbytes > RESIDENT_SHARE * free:
        return store.codes
    return torch.from_numpy(np.array(store.codes, order="C")).to(device)


def take(
    codes: torch.Tensor | np.ndarray, rows: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Codes of the rows int64 [b], integers of any width, as int64 [b, T] on the device."""
    import torch

    if isinstance(codes, np.ndarray):
        batch = torch.from_numpy(codes[rows.cpu().numpy()].astype(np.int64))
        return batch.to(device, non_blocking=True)
    # few kernels know the unsigned types
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32}.get(codes.dtype)
    batch = codes.view(signed or codes.dtype)[rows.to(codes.device)].to(torch.int64)
    if signed:
        batch &= (1 << 8 * codes.element_size()) - 1  # undo the sign
    return batch.to(device)
