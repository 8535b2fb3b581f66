"""Where data files lie, and the check that they are the ones the project was tested with."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
from pathlib import Path
from typing import Any

from ..files import read_json, user_path

UNPACK = {".gz": gzip.decompress, ".xz": lzma.decompress}
PACKAGED = Path(__file__).resolve().parents[1] / "_vendored"  # in a wheel: the small files


def cache_root() -> Path:
    """Folder for downloaded data sets: `$VCQ_DATA` if set, else `~/.cache/vcqlib`."""
    return user_path(os.environ.get("VCQ_DATA") or "~/.cache/vcqlib", "set VCQ_DATA to a folder")


def data_root() -> Path:
    """Folder of the vendored files: `$VCQ_DATA`, else `data/` of the clone, else the cache."""
    clone = Path(__file__).resolve().parents[2] / "data"
    if os.environ.get("VCQ_DATA") or not (clone / "MANIFEST.json").is_file():
        return cache_root()
    return clone


def manifest(root: Path | None = None) -> dict[str, dict[str, Any]]:
    """Vendored files: path below the data root -> sha256, bytes, licence, source; may be {}."""
    path = (root or data_root()) / "MANIFEST.json"
    entries = read_json(path) if path.is_file() else {}
    whole = isinstance(entries, dict) and all(
        isinstance(entry, dict) and {"sha256", "bytes"} <= entry.keys()
        for entry in entries.values()
    )
    if not whole:
        raise ValueError(f"{path} is damaged: restore it with `git checkout -- data/MANIFEST.json`")
    return entries


def read_vendored(name: str) -> bytes:
    """Contents of the vendored file `name`, unpacked, after its SHA-256 was checked.

    Raises FileNotFoundError if it is absent and ValueError if a byte of it changed.
    """
    root = next((root for root in (data_root(), PACKAGED) if name in manifest(root)), None)
    if root is None:
        raise FileNotFoundError(
            f"{name} is not listed in {data_root() / 'MANIFEST.json'}: set VCQ_DATA to the data/ "
            "folder of a clone of the project"
        )
    path, entry = root / name, manifest(root)[name]
    expected = f"expected {entry['bytes']} bytes with SHA-256 {str(entry['sha256'])[:16]}…"
    restore = f"restore it with `git checkout -- data/{name}`"
    restore = "install vcqlib again" if root == PACKAGED else restore
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing ({expected}): {restore}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path} is damaged ({expected}): {restore}")
    return UNPACK.get(path.suffix, bytes)(content)
