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
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import holds_integers, is_tensor
from ..extras import needed
from ..files import existing_path, load_foreign
from ..progress import bar
from .code_store import open_codes
from .npy import Header, npz_headers, read_npy, read_npz, whole_zip
from .token_json import read_json_tokens
from .tokens import Blocks, Tokens, choose, gather, join, label_name, natural

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".parquet", ".jsonl", ".ndjson", ".json")
CONTAINERS, JSON = (".npz", ".pt", ".pth"), (".jsonl", ".ndjson", ".json")
BARE = ""  # the name of what a container holds without one

Reader = Callable[[Sequence[str]], dict[str, np.ndarray]]


def read_tokens(path: str | Path, columns: Sequence[str] = ()) -> Tokens:
    """Read tokens in any of the formats above; `Tokens.said()` tells which part of a container.

    Args:
        columns: names of the arrays, columns or keys that hold the tokens, in the order of
            positions; needed only where the names that are known do not decide.

    Raises FileNotFoundError if there is nothing, ValueError, in one line, if it is damaged,
    ambiguous, ragged, or too large.
    """
    path = existing_path(path)
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
    if suffix in CONTAINERS:
        return _read_container(path, columns)
    with needed():
        from .token_parquet import read_parquet
    return read_parquet(path, columns)


def read_labels(path: str | Path, n: int) -> tuple[np.ndarray, int]:
    """Labels [n], and how many rows share each: crops of one image follow each other.

    Reads `.npy`, `.npz` or `.pt` with one list of labels [m], or a folder of one `.npy` an image,
    where m divides n.
    """
    path = existing_path(path)
    if path.is_dir():
        labels = _folder_labels(token_files(path, (".npy",))[0])
    elif path.suffix.lower() == ".npy":
        labels = read_npy(path)
    elif path.suffix.lower() in CONTAINERS:
        members, read = _open(path)
        name = label_name(members) or (next(iter(members)) if len(members) == 1 else None)
        if name is None:
            raise ValueError(f"{path}: needs one array of labels, holds {', '.join(members)}")
        labels = read([name])[name]
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


def _read_container(path: Path, columns: Sequence[str]) -> Tokens:
    members, read = _open(path)
    held = {n: f"{m.dtype} {m.shape}" if m is not None else "(no array)"
            for n, m in members.items()}  # fmt: skip
    arrays = {name: member for name, member in members.items() if member is not None}
    if BARE in members:
        _no_names(columns, path)
    matrices = [[n] for n, a in arrays.items() if len(a.shape) > 1 and holds_integers(a)]
    names = [BARE] if BARE in members else choose(path, held, columns, held, matrices)
    label = label_name([name for name in arrays if name not in names])
    content = read([*names, *([label] if label else [])])
    found = Tokens(
        join({name: content[name] for name in names}, path),
        columns=tuple(filter(None, names)),
        left_out=tuple(name for name in held if name not in content),
    )
    return found.labelled(_flat(content[label]), label) if label else found


def _open(path: Path) -> tuple[Mapping[str, Header | np.ndarray | None], Reader]:
    """The members of a container, None for what is no array; and how to read some of them."""
    if path.suffix.lower() == ".npz":
        return npz_headers(path), lambda names: read_npz(path, names)
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path}: no archive of torch.save: load it where it was made, save it again"
        )
    with whole_zip(path):
        try:
            content = load_foreign(path)
        except ValueError:
            what = "is damaged, or holds more than tensors, lists and words: save tensors alone"
            raise ValueError(f"{path}: {what}") from None
    if (whole := _array(content)) is not None:
        content = {BARE: whole}
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no integers but {type(content).__name__}")
    arrays = {str(name): _array(value) for name, value in content.items()}

    def read(names: Sequence[str]) -> dict[str, np.ndarray]:
        if missing := [name for name in names if arrays[name] is None]:
            raise ValueError(f"{path}: {missing[0]} is no plain tensor of numbers")
        return {name: arrays[name] for name in names}

    return arrays, read


def _array(value: Any) -> np.ndarray | None:
    """A tensor, or sequences of one length (tensors or lists of integers) as rows; else None."""
    if isinstance(value, np.ndarray):
        return value
    if is_tensor(value):
        try:
            return value.detach().numpy()
        except TypeError:  # sparse, quantized, bfloat16
            return None
    if not isinstance(value, list | tuple) or not value:
        return None
    rows = [v.numpy() if is_tensor(v) and v.ndim == 1 and holds_integers(v) else v for v in value]
    if set(map(type, rows)) == {int}:
        return np.array(rows)
    whole = all(isinstance(v, np.ndarray) or isinstance(v, list) and set(map(type, v)) == {int}
                for v in rows)  # fmt: skip
    return np.array(rows) if whole and len(set(map(len, rows))) == 1 else None


def _read_folder(path: Path, columns: Sequence[str]) -> Tokens:
    if (path / "codes.json").exists():
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
        raise ValueError(f"{path}: no token files ({', '.join(suffixes)}) in this folder{way_out}")
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
    if any(file.stem.isdecimal() for file in files):
        one_series(files)

    def blocks() -> Blocks:
        for file in bar(files, "reading", delay=2):
            array = np.array(read_npy(file))  # a copy: each map would keep its file open
            if array.ndim == 2 and len(array) > 1 and max(images, default=1) == 1:
                one_series(files)  # they are shards
            images.append(len(rows := _rows(array, file)))
            yield file, rows

    codes = gather(blocks(), path)
    said = (f"{len(files):,} .npy files with {len(codes):,} rows",)
    ends = path.name.endswith("codes")
    beside = path.with_name(path.name.removesuffix("codes") + ("labels" if ends else "_labels"))
    found = Tokens(codes, columns=said, left_out=others)
    if not beside.is_dir():
        return found
    named_alike, _ = token_files(beside, (".npy",))
    labels = _folder_labels(named_alike)
    odd = {file.stem for file in files} ^ {file.stem for file in named_alike}
    if odd or len(labels) != len(images):
        odd = ", ".join(sorted(odd, key=natural)[:3]) or "several labels in a file"
        counts = f"{len(labels)} labels for the {len(images)} files of {path}"
        raise ValueError(f"{beside}: {counts} ({odd})")
    return found.labelled(np.repeat(labels, images), str(beside))


def _folder_labels(files: list[Path]) -> np.ndarray:
    return np.concatenate([np.array(read_npy(file)).reshape(-1) for file in files])


def _rows(one: np.ndarray, file: Path) -> np.ndarray:
    """[rows, T] of a file: of one image [T], [1, T] or [1, crops, T], or a shard [n, T]."""
    shape = one.shape
    rows = one[None] if one.ndim == 1 else one[0] if one.ndim == 3 and len(one) == 1 else one
    if rows.ndim != 2 or (len(rows) > 1 and rows.shape[1] in (1, len(rows))):
        raise ValueError(
            f"{file}: shape {shape}: one image's grid, or several sequences? Save a grid "
            "flattened, as [1, T], or all images in one .npy [N, T]"
        )
    return rows
