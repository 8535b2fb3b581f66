"""Reading anyone's token files as one integer matrix [N, T], with labels where they have them.

| path | what is read |
|---|---|
| `codes.npy` | one array, memory-mapped |
| `codes.npz`, `codes.pt` | the array that is named as tokens, or the only matrix; labels if there |
| `codes.parquet` | a column of lists, or a column a position (see `token_parquet`) |
| `codes.jsonl` | RAR and TiTok: one `{"class_id": 3, "tokens": [...]}` a line; also plain lists |
| `codes.json` | the same records as one JSON array |
| a folder of `.npy` | LlamaGen: a file an image, [1, crops, T], in numeric order; a row a crop |
| a folder of others | shards of one kind, in numeric order |
| a folder with `codes.json` | the store of `vcqlib.data.code_store` |

Suffixes and names are known in any case: `codes`, `tokens`, `indices`, `idx`, `input_ids`, and for
labels `labels`, `label`, `class_id`, `class_ids`, `y`. Nothing is unpickled. A file that is
damaged, cut short, longer than what is read of it, or that would unfold to more than the memory of
this machine is refused with a ValueError of one line that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import holds_integers, is_tensor
from ..files import load_foreign, user_path
from ..progress import bar
from .npy import npz_headers, read_npy, read_npz, whole_zip
from .token_json import read_json_tokens
from .token_parquet import read_parquet
from .tokens import Blocks, Tokens, ambiguous, gather, join, known_codes, label_name, named, natural

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".parquet", ".jsonl", ".ndjson", ".json")
TORCH, JSON = (".pt", ".pth"), (".jsonl", ".ndjson", ".json")


def read_tokens(path: str | Path, columns: Sequence[str] = ()) -> Tokens:
    """Read tokens in any of the formats above; `Tokens.said()` tells which part of a container.

    Args:
        columns: names of the arrays, columns or keys that hold the tokens, in the order of
            positions; needed only where the names that are known do not decide.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: damaged, ambiguous, ragged, or too large; one line.
    """
    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        return _read_folder(path.resolve(), columns)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; known: {', '.join(SUFFIXES)}")
    if suffix == ".npy":
        _no_names(columns, path)
        return Tokens(read_npy(path))
    if suffix in JSON:
        return read_json_tokens(path, columns)
    if suffix == ".parquet":
        return read_parquet(path, columns)
    return _read_npz(path, columns) if suffix == ".npz" else _read_torch(path, columns)


def read_labels(path: str | Path, n: int) -> tuple[np.ndarray, int]:
    """Labels [n], and how many rows share each: crops of one image follow each other.

    Reads `.npy`, `.npz` or `.pt` with one list of labels [m], or a folder of one `.npy` an image,
    where m divides n.
    """
    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        labels = _folder_labels(_files(path, (".npy",)))
    elif path.suffix.lower() == ".npy":
        labels = read_npy(path)
    elif path.suffix.lower() in (".npz", *TORCH):
        arrays = read_npz(path) if path.suffix.lower() == ".npz" else _arrays(_load(path), path)
        name = label_name(arrays) or (next(iter(arrays)) if len(arrays) == 1 else None)
        if name is None or arrays[name] is None:
            raise ValueError(f"{path}: needs one array of labels, holds {sorted(arrays)}")
        labels = arrays[name]
    else:
        raise ValueError(f"{path}: labels are read from .npy, .npz, .pt, or a folder of .npy")
    labels = _flat(labels)
    if labels.ndim != 1 or not len(labels) or n % len(labels):
        raise ValueError(f"{path}: labels of shape {labels.shape} do not fit {n} sequences")
    return np.repeat(labels, n // len(labels)), n // len(labels)


def _flat(labels: np.ndarray) -> np.ndarray:
    """[N] from [N, 1]; other shapes as they are."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _no_names(columns: Sequence[str], path: Path) -> None:
    if columns:
        raise ValueError(f"{path}: holds one array without a name: leave out --columns (columns=…)")


def _read_npz(path: Path, columns: Sequence[str]) -> Tokens:
    headers = npz_headers(path)
    held = {n: f"{h.dtype} {h.shape}" if h else "(no array)" for n, h in headers.items()}
    matrices = [n for n, h in headers.items() if h and len(h.shape) > 1 and h.dtype.kind in "iu"]
    label = label_name([name for name, header in headers.items() if header])
    return _of_arrays(path, columns, held, matrices, label, lambda names: read_npz(path, names))


def _read_torch(path: Path, columns: Sequence[str]) -> Tokens:
    content = _load(path)
    whole = _array(content)
    if whole is not None:
        _no_names(columns, path)
        return Tokens(whole)
    arrays = _arrays(content, path)
    held = {n: f"({type(content).__name__})" if a is None else f"{a.dtype} {a.shape}"
            for n, a in arrays.items()}  # fmt: skip
    found = {name: array for name, array in arrays.items() if array is not None}
    matrices = [name for name, a in found.items() if a.ndim > 1 and holds_integers(a)]
    label = label_name(found)
    return _of_arrays(
        path, columns, held, matrices, label, lambda names: {n: arrays[n] for n in names}
    )


def _of_arrays(
    path: Path,
    columns: Sequence[str],
    held: Mapping[str, str],
    matrices: Sequence[str],
    label: str | None,
    read: Callable[[list[str]], dict[str, np.ndarray]],
) -> Tokens:
    """The tokens of a container of named arrays; `held`: what each is, in words."""
    names = named(columns, held, path) if columns else known_codes(held) or list(matrices)
    if not columns and len(names) != 1:
        raise ambiguous(path, held)
    label = None if label in names else label
    arrays = read([*names, *([label] if label else [])])
    codes = join({name: arrays[name] for name in names}, path)
    left_out = tuple(name for name in held if name not in arrays)
    labels = _flat(arrays[label]) if label else None
    return Tokens(codes, labels, None, tuple(names), label or "", left_out)


def _load(path: Path) -> Any:
    """What `torch.save` wrote: tensors, and lists and dictionaries of them."""
    with whole_zip(path):
        return load_foreign(path)


def _array(value: Any) -> np.ndarray | None:
    """A tensor, or sequences of one length (tensors or lists of integers) as rows; else None."""
    if is_tensor(value):
        dense = str(value.layout) == "torch.strided" and str(value.dtype) != "torch.bfloat16"
        return value.detach().numpy() if dense else None
    if not isinstance(value, list | tuple) or not value:
        return None
    if all(is_tensor(v) and v.ndim == 1 and holds_integers(v) for v in value):
        rows = [v.numpy() for v in value]
    elif all(isinstance(v, list) and set(map(type, v)) == {int} for v in value):
        rows = [np.array(v) for v in value]
    elif set(map(type, value)) == {int}:
        return np.array(value)
    else:
        return None
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else None


def _arrays(content: Any, path: Path) -> dict[str, np.ndarray | None]:
    """The members of a dictionary or a list by name or number; None for what is no array."""
    if is_tensor(content):
        content = [content]
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no tensors but {type(content).__name__}")
    return {str(name): _array(value) for name, value in content.items()}


def _read_folder(path: Path, columns: Sequence[str]) -> Tokens:
    if (path / "codes.json").exists():
        from .code_store import open_codes

        _no_names(columns, path)
        store = open_codes(path)
        return Tokens(store.codes, store.labels, store.sizes)
    files = _files(path)
    if files[0].suffix.lower() == ".npy":
        _no_names(columns, path)
        return _read_images(path, files)
    parts = [read_tokens(file, columns) for file in bar(files, "reading", delay=2)]
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        if (part.columns, part.labels_from) != (first.columns, first.labels_from):
            raise ValueError(f"{file}: {part.said()}; but {files[0].name}: {first.said()}")
    codes = gather(zip(files, (part.codes for part in parts), strict=True), path)
    labels = None if first.labels is None else np.concatenate([part.labels for part in parts])
    return Tokens(codes, labels, None, first.columns, first.labels_from, first.left_out)


def _files(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The token files of a folder, all of one kind, by number if they are numbered."""
    entries = [entry for entry in path.iterdir() if not entry.name.startswith((".", "_"))]
    files = [file for file in entries if file.suffix.lower() in suffixes and file.is_file()]
    if not files:
        below = sorted(entry.name for entry in entries if entry.is_dir())
        way_out = f"; name one of its folders: {', '.join(below[:5])}" if below else ""
        raise ValueError(f"{path}: no {' or '.join(suffixes)} files in this folder{way_out}")
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) > 1:
        raise ValueError(f"{path}: holds {' and '.join(kinds)} files: name one of them")
    return sorted(files, key=lambda file: natural(file.stem))


def _read_images(path: Path, files: list[Path]) -> Tokens:
    """LlamaGen: a file an image, and the labels in the folder beside, under the same names."""
    images: list[int] = []

    def blocks() -> Blocks:
        for file in bar(files, "reading", delay=2):
            rows = _rows(read_npy(file), file)
            images.append(len(rows))
            yield file, rows

    codes = gather(blocks(), path)
    ends = path.name.endswith("codes")
    name = path.name.removesuffix("codes") + "labels" if ends else f"{path.name}_labels"
    beside = path.parent / name
    if not beside.is_dir():
        return Tokens(codes, None, None, (f"{len(files):,} .npy files",))
    others = _files(beside, (".npy",))
    labels = _folder_labels(others)
    names = [{file.stem for file in group} for group in (files, others)]
    if names[0] != names[1] or len(labels) != len(images):
        odd = ", ".join(sorted(names[0] ^ names[1], key=natural)[:3]) or "several labels in a file"
        counts = f"{len(labels)} labels for the {len(images)} files of {path}"
        raise ValueError(f"{beside}: {counts} ({odd})")
    said = (f"{len(files):,} .npy files",)
    return Tokens(codes, np.repeat(labels, images), None, said, str(beside))


def _folder_labels(files: list[Path]) -> np.ndarray:
    return np.concatenate([read_npy(file).reshape(-1) for file in files])


def _rows(one: np.ndarray, file: Path) -> np.ndarray:
    """[rows, T] of one image's file: [T], [crops, T] or [1, crops, T]."""
    shape = one.shape
    rows = one[None] if one.ndim == 1 else one[0] if one.ndim == 3 and len(one) == 1 else one
    if rows.ndim != 2 or 1 < len(rows) == rows.shape[1]:
        raise ValueError(
            f"{file}: is {shape} one image's grid or {len(one) if one.ndim else 0} sequences? Save "
            "a grid flattened, as [1, T], or all images in one .npy [N, T]"
        )
    return rows
