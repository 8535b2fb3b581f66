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

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
        labels = _folder_labels(token_files(path, (".npy",))[0])
    elif path.suffix.lower() == ".npy":
        labels = read_npy(path)
    elif path.suffix.lower() in (".npz", *TORCH):
        labels = _one_of_labels(path)
    else:
        raise ValueError(f"{path}: labels are read from .npy, .npz, .pt, or a folder of .npy")
    labels = _flat(labels)
    if labels.ndim != 1 or not len(labels) or n % len(labels):
        raise ValueError(f"{path}: labels of shape {labels.shape} do not fit {n} sequences")
    return np.repeat(labels, n // len(labels)), n // len(labels)


def _one_of_labels(path: Path) -> np.ndarray:
    """The labels of a container: known by their name, or the only array."""
    torch = path.suffix.lower() in TORCH
    content = _load(path) if torch else npz_headers(path)
    if torch and (whole := _array(content)) is not None:
        return whole
    names = _members(content, path)
    name = label_name(names) or (next(iter(names)) if len(names) == 1 else None)
    labels = None
    if name is not None:
        labels = _array(names[name]) if torch else read_npz(path, [name])[name]
    if labels is None:
        raise ValueError(f"{path}: needs one array of labels, holds {sorted(names)}")
    return labels


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
    members = _members(content, path)
    arrays = {name: _array(value) for name, value in members.items()}
    found = {name: array for name, array in arrays.items() if array is not None}
    matrices = [name for name, a in found.items() if a.ndim > 1 and holds_integers(a)]
    held = {
        name: f"{found[name].dtype} {found[name].shape}" if name in found else type(value).__name__
        for name, value in members.items()
    }
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


def _members(content: Any, path: Path) -> dict[str, Any]:
    """What a dictionary or a list holds, by name or number."""
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no integers but {type(content).__name__}")
    return {str(name): value for name, value in content.items()}


def _read_folder(path: Path, columns: Sequence[str]) -> Tokens:
    if (path / "codes.json").exists():
        from .code_store import open_codes

        _no_names(columns, path)
        store = open_codes(path)
        return Tokens(store.codes, store.labels, store.sizes)
    files, others = token_files(path)
    if files[0].suffix.lower() == ".npy":
        _no_names(columns, path)
        return _read_images(path, files, others)
    one_series(files)
    parts = [read_tokens(file, columns) for file in bar(files, "reading", delay=2)]
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        if part.said() != first.said():
            raise ValueError(f"{file}: {part.said()}; but {files[0].name}: {first.said()}")
    codes = gather(zip(files, (part.codes for part in parts), strict=True), path)
    labels = None if first.labels is None else np.concatenate([part.labels for part in parts])
    return replace(first, codes=codes, labels=labels, left_out=(*first.left_out, *others))


def token_files(
    path: Path, suffixes: tuple[str, ...] = SUFFIXES
) -> tuple[list[Path], tuple[str, ...]]:
    """The token files of a folder, all of one kind, by number; and what else is there.

    Hidden files are passed over; `.json` beside another kind is taken for notes.
    """
    entries = [entry for entry in path.iterdir() if not entry.name.startswith((".", "_"))]
    kinds: dict[str, list[Path]] = {}
    for entry in entries:
        if entry.suffix.lower() in suffixes and entry.is_file():
            kinds.setdefault(entry.suffix.lower(), []).append(entry)
    if len(kinds) > 1:
        kinds.pop(".json", None)
    if len(kinds) > 1:
        raise ValueError(f"{path}: holds {' and '.join(sorted(kinds))} files: name one of them")
    if not kinds:
        below = sorted(entry.name for entry in entries if entry.is_dir())
        way_out = f"; name one of its folders: {', '.join(below[:5])}" if below else ""
        raise ValueError(f"{path}: no {' or '.join(suffixes)} files in this folder{way_out}")
    (files,) = kinds.values()
    others = sorted(entry.name for entry in set(entries).difference(files))
    return sorted(files, key=lambda file: natural(file.stem)), tuple(others)


def one_series(files: Sequence[Path]) -> None:
    """Refuse files whose names differ in more than numbers: splits, not shards of one matrix."""
    series = {re.sub(r"\d+", "0", file.stem.lower()): file.name for file in files}
    if len(series) > 1:
        raise ValueError(
            f"{files[0].parent}: {', '.join(list(series.values())[:4])}: parts of one matrix are "
            "named alike but for numbers; name one of these files, or put apart what is apart"
        )


def _read_images(path: Path, files: list[Path], others: tuple[str, ...]) -> Tokens:
    """LlamaGen: a file an image, and the labels in the folder beside, under the same names."""
    images: list[int] = []

    def blocks() -> Blocks:
        for file in bar(files, "reading", delay=2):
            array = read_npy(file)
            if array.ndim == 2 and len(array) > 1:
                one_series(files)
            images.append(len(rows := _rows(array, file)))
            yield file, rows

    codes, said = gather(blocks(), path), (f"{len(files):,} .npy files",)
    ends = path.name.endswith("codes")
    name = path.name.removesuffix("codes") + "labels" if ends else f"{path.name}_labels"
    beside = path.parent / name
    if not beside.is_dir():
        return Tokens(codes, columns=said, left_out=others)
    named_alike, _ = token_files(beside, (".npy",))
    labels = _folder_labels(named_alike)
    stems = [{file.stem for file in group} for group in (files, named_alike)]
    if stems[0] != stems[1] or len(labels) != len(images):
        odd = ", ".join(sorted(stems[0] ^ stems[1], key=natural)[:3]) or "several labels in a file"
        counts = f"{len(labels)} labels for the {len(images)} files of {path}"
        raise ValueError(f"{beside}: {counts} ({odd})")
    return Tokens(codes, np.repeat(labels, images), None, said, str(beside), others)


def _folder_labels(files: list[Path]) -> np.ndarray:
    return np.concatenate([read_npy(file).reshape(-1) for file in files])


def _rows(one: np.ndarray, file: Path) -> np.ndarray:
    """[rows, T] of one image's file: [T], [crops, T] or [1, crops, T]."""
    shape = one.shape
    rows = one[None] if one.ndim == 1 else one[0] if one.ndim == 3 and len(one) == 1 else one
    if rows.ndim != 2 or 1 < len(rows) == rows.shape[1]:
        raise ValueError(
            f"{file}: shape {shape}: one image's grid, or several sequences? Save a grid "
            "flattened, as [1, T], or all images in one .npy [N, T]"
        )
    return rows
