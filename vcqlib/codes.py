"""The token store: codes of a data set, encoded once, on disk as one array and a sidecar.

The array is position-major (row t holds position t of every image), so that the entropy engine
reads only the positions it needs. uint16 holds sizes up to 65,536; larger codebooks use uint32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .files import atomic_path, read_json, sha256_file, write_json

FORMAT = 1


@dataclass(frozen=True)
class CodeStore:
    """Codes as they lie on disk, memory-mapped."""

    codes: np.ndarray  # uint16 or uint32 [N, T], a view of the position-major file
    labels: np.ndarray  # int64 [N]
    sizes: tuple[int, ...]  # K_1..K_T
    info: dict  # what produced the codes


def write_codes(
    folder: str | Path,
    codes: np.ndarray,
    labels: np.ndarray,
    sizes: Sequence[int],
    info: dict | None = None,
) -> None:
    """Check the range of codes [N, T] and write them with labels [N] and a JSON sidecar.

    Raises:
        ValueError: shapes differ, or a code is outside its position's range (named).
    """
    folder = Path(folder)
    codes, limits = np.asarray(codes), np.asarray(sizes, dtype=np.int64)
    if codes.ndim != 2 or codes.shape[1] != len(limits) or len(codes) != len(labels):
        raise ValueError(
            f"codes {codes.shape}, labels {np.shape(labels)} and {len(limits)} sizes do not fit"
        )
    wrong = np.argwhere((codes < 0) | (codes >= limits))
    if len(wrong):
        n, t = wrong[0]
        raise ValueError(
            f"code {codes[n, t]} of image {n} at position {t + 1} is outside 0..{limits[t] - 1}"
        )
    dtype = np.uint16 if limits.max() <= 2**16 else np.uint32
    for name, array in (("codes", codes.T.astype(dtype)), ("labels", np.asarray(labels, "int64"))):
        with atomic_path(folder / f"{name}.npy") as temporary:
            np.save(temporary, np.ascontiguousarray(array), allow_pickle=False)
    sidecar = {
        "format": FORMAT,
        "layout": "position-major",
        "images": len(codes),
        "sizes": limits.tolist(),
        "sha256": {n: sha256_file(folder / f"{n}.npy") for n in ("codes", "labels")},
        "info": info or {},
    }
    write_json(folder / "codes.json", sidecar)


def open_codes(folder: str | Path, verify: bool = True) -> CodeStore:
    """Memory-map a store written by `write_codes`.

    Raises:
        ValueError: unknown format, damaged or truncated file; the message names the file.
    """
    folder = Path(folder)
    sidecar = read_json(folder / "codes.json")
    if sidecar.get("format") != FORMAT:
        raise ValueError(
            f"{folder / 'codes.json'}: format {sidecar.get('format')!r} is not {FORMAT}; "
            "encode the images again"
        )
    for name, digest in sidecar["sha256"].items() if verify else ():
        if sha256_file(folder / f"{name}.npy") != digest:
            raise ValueError(f"{folder / name}.npy is damaged: its SHA-256 is not the recorded one")
    codes = np.load(folder / "codes.npy", mmap_mode="r", allow_pickle=False).T
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    expected = (sidecar["images"], len(sidecar["sizes"]))
    if codes.shape != expected:
        raise ValueError(f"{folder / 'codes.npy'} holds {codes.shape}, its sidecar says {expected}")
    return CodeStore(codes, labels, tuple(sidecar["sizes"]), sidecar["info"])
