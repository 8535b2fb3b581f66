"""Images in Parquet files, as Hugging Face `datasets` stores them: encoded bytes and a label.

    parquet:PATH                     a folder whose files, or folders of files, are named by split
    parquet:PATH?label=fine_label    where several columns could be the label (image=…: the image)

Read with pyarrow alone: `datasets` would copy all files into its cache to read their rows in any
order, and its shuffled streams lose what is in their buffer when a run is resumed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from PIL import Image
from pyarrow import parquet, types
from pyarrow.dataset import dataset
from torch import Tensor

from ..progress import say
from . import image_folder as folders
from .pictures import open_image
from .readers import WINDOW
from .token_parquet import index_columns, is_class, is_text, readable

KINDS = {  # the type that `datasets` gives such a column, and its usual names
    "image": ("Image", ("image", "img", "picture", "jpg", "png")),
    "label": ("ClassLabel", ("label", "labels", "class", "category", "target", "cls")),
}
MOST_CLASSES = 1_000_000
NO_LABEL = re.compile(r"(^|_)(id|idx|index|width|height|size)$", re.IGNORECASE)


class ParquetFiles:
    """The images of one split, read a row group at a time.

    A split is the files whose name, or whose folder's name, starts with its word (see
    `image_folder`). Held out is the test split; the validation split where there is none, or where
    all its labels are −1, which marks what has none.

    The image is a column of bytes (plain, or in a struct as `bytes`), the label one of integers, or
    of texts, plain or dictionary-encoded, whose classes are those of the training split, sorted.
    Which column is which: the option, else the features that `datasets` writes, the usual names,
    or that there is but one. Class names of integers are read from the features, too.

    An epoch shuffles the row groups, and the rows within `WINDOW` neighbouring groups, so that a
    group is read once and not once for every image; several readers have groups of their own.
    """

    def __init__(self, place: str | Path, split: str) -> None:
        folder, options = folders.split_options(str(place))
        self._root = folders.existing_folder(folder)
        _read.cache_clear()  # whose files may have been replaced
        files = _files(self._root)
        with readable(self._root):
            self._splits = {name: dataset(paths, format="parquet") for name, paths in files.items()}
        asked = [s for s in {"train": ["train"]}.get(split, ["test", "validation"]) if s in files]
        if not asked:
            words = "train" if split == "train" else "test or validation"
            raise ValueError(f"{self._root} has no Parquet file whose name starts with {words}")
        self._image, label, names = self._columns(dict(parse_qsl(options)))
        for taken in asked:
            values = _labels(self._splits[taken], label, self._root)
            if values.dtype == object or (values != -1).any():
                break
        known = values
        if "train" in files and taken != "train":
            known = _labels(self._splits["train"], label, self._root)
        self.labels, self.classes = _numbered(values, known, names, self._root)
        self._groups = list(_groups(self._splits[taken]))
        self._ends = np.cumsum([rows for *_, rows in self._groups])
        say(f"{split} images: {len(self.labels):,} in {len(files[taken])} Parquet files of "
            f"{self._root}, columns {self._image!r} and {label!r}")  # fmt: skip

    def _columns(self, options: dict[str, str]) -> tuple[str, str, tuple[str, ...]]:
        """Names of the image and the label column, the same in all files, and class names."""
        if unknown := sorted(options.keys() - KINDS.keys()):
            raise ValueError(f"{self._root}?{unknown[0]}=…: the options are image and label")
        found = {}
        for part in (f for files in self._splits.values() for f in files.get_fragments()):
            with readable(part.path):
                schema = part.physical_schema
            columns = tuple(_column(schema, what, options.get(what), part.path) for what in KINDS)
            found.setdefault(columns, part)
        if len(found) > 1:
            (first, a), (other, b) = list(found.items())[:2]
            raise ValueError(f"{b.path} has columns {other}, {a.path} has {first}")
        ((image, label), part) = next(iter(found.items()))
        names = _features(part.physical_schema, label).get("names")
        known = isinstance(names, list) and set(map(type, names)) == {str}
        return image, label, tuple(names) if known else ()

    @cached_property
    def channels(self) -> int:
        """1 if every image of all splits is grey, else 3."""
        groups = [group for files in self._splits.values() for group in _groups(files)]

        def modes() -> Iterator[str | None]:
            for path, group, _ in groups:
                for value in _read(path, group, self._image):
                    yield folders.mode_or_none(BytesIO(_content(value) or b""), path)

        paths = sorted({Path(path) for path, *_ in groups})
        count = sum(rows for *_, rows in groups)
        return folders.channels_of(modes(), count, lambda: folders.files_digest(paths, self._root))

    @cached_property
    def groups(self) -> np.ndarray:
        """Which row group each image lies in, int64 [N]."""
        return np.repeat(np.arange(len(self._groups)), [rows for *_, rows in self._groups])

    def _place(self, i: int) -> tuple[str, int, int]:
        """File, row group and row of image i."""
        number = int(np.searchsorted(self._ends, i, side="right"))
        path, group, rows = self._groups[number]
        return path, group, i - (int(self._ends[number]) - rows)

    def name(self, i: int) -> str:
        path, group, row = self._place(i)
        return f"{path}, row group {group}, row {row}"

    def open(self, i: int) -> Image.Image:
        """Image i; ValueError names file and row if it cannot be read."""
        path, group, row = self._place(i)
        content = _content(_read(path, group, self._image)[row])
        if content is None:
            raise ValueError(f"{self.name(i)}: no image bytes")
        return open_image(BytesIO(content), self.name(i))

    def order(self, seed: int, epoch: int) -> Tensor:
        """int64 [N]: row groups shuffled, rows shuffled within each window of groups."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        starts = np.concatenate([[0], self._ends[:-1]])
        found = []
        for window in torch.randperm(len(self._groups), generator=generator).split(WINDOW):
            rows = np.concatenate([np.arange(starts[g], self._ends[g]) for g in window.tolist()])
            found.append(torch.from_numpy(rows)[torch.randperm(len(rows), generator=generator)])
        return torch.cat(found)


def _files(folder: Path) -> dict[str, list[str]]:
    """Split → its files, sorted."""
    found: dict[str, list[str]] = {}
    for path in folders.walk(folder):
        if path.suffix.lower() == ".parquet":
            names = path.name, path.relative_to(folder).parent.name
            own, above = (folders.split_of(re.split("[-_.]", name)[0]) for name in names)
            if split := own or above:
                found.setdefault(split, []).append(str(path))
    return found


def _groups(files: Any) -> Iterator[tuple[str, int, int]]:
    """File, number and rows of each row group of a pyarrow data set."""
    for part in files.get_fragments():
        yield from ((part.path, group.id, group.num_rows) for group in part.row_groups)


@lru_cache(maxsize=WINDOW)
def _read(path: str, group: int, column: str) -> Any:
    """One row group's image column; each worker keeps the last few."""
    with readable(f"{path}, row group {group}"):
        file = parquet.ParquetFile(path)
        return file.read_row_group(group, [column], use_threads=False)[column]


def _content(value: Any) -> bytes | None:
    """An image's encoded bytes; None where there are none."""
    value = value.as_py()
    return value.get("bytes") if isinstance(value, dict) else value


def _features(schema: Any, column: str) -> dict[str, Any]:
    """What `datasets` wrote about a column."""
    try:
        return dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"][column])
    except (KeyError, TypeError, ValueError):
        return {}


def _fits(kind: Any, what: str) -> bool:
    """Whether a column of this type can hold images, or labels."""
    if what == "image":
        place = kind.get_field_index("bytes") if types.is_struct(kind) else -1
        kind = kind.field(place).type if place >= 0 else kind
        return str(kind).startswith(("binary", "large_binary", "fixed_size_binary"))
    return is_class(kind) or types.is_boolean(kind)


def _column(schema: Any, what: str, asked: str | None, path: str) -> str:
    """The image or the label column of a file, or one line on how to say which it is."""
    index = index_columns(schema)
    fitting = {f.name: f.type for f in schema if _fits(f.type, what) and f.name not in index}
    if asked in fitting:
        return asked
    if asked is not None:
        names = ", ".join(sorted(fitting)) or "none"
        raise ValueError(f"{path} has no {what} column {asked!r}; there are {names}")
    feature, usual = KINDS[what]
    for found in (
        [name for name in fitting if _features(schema, name).get("_type") == feature],
        [name for name in fitting if name.lower() in usual],
        # a text is a caption as often as a class, a number may be the row's own or a size
        [n for n, kind in fitting.items() if not (is_text(kind) or NO_LABEL.search(n))],
    ):
        if len(found) == 1:
            return found[0]
    which = f"which column is the {what}, {' or '.join(sorted(fitting))}? Add ?{what}=NAME"
    wanted = "needs a column of image bytes and one of labels, integers or texts"
    raise ValueError(f"{path}: {which if fitting else wanted}")


def _labels(files: Any, column: str, root: Path) -> np.ndarray:
    """The labels of a pyarrow data set, int64 or texts (object) [N]."""
    with readable(f"{root}, column {column!r}"):
        found = files.to_table(columns=[column])[column].to_pylist()
    if None in found:
        raise ValueError(f"{root}: {found.count(None):,} rows have no {column}")
    if not found:
        raise ValueError(f"{root} has no images in {files.files[0]}")
    return np.array(found, dtype=object if isinstance(found[0], str) else np.int64)


def _numbered(
    values: np.ndarray, known: np.ndarray, names: tuple[str, ...], root: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 [N] and class names, as the labels of the training split have them."""
    if values.dtype != known.dtype:
        raise ValueError(f"{root}: labels are texts in one split and numbers in another")
    if values.dtype == object:
        classes = tuple(sorted(set(known)))
        strange = sorted(set(values).difference(classes))
        numbers = np.searchsorted(np.array(classes, dtype=object), values)
    else:
        if (most := int(known.max())) >= MOST_CLASSES:
            raise ValueError(f"{root}: label {most:,} is no class: are these the rows' numbers?")
        classes = names or tuple(str(i) for i in range(most + 1))
        strange = values[(values < 0) | (values >= len(classes))].tolist()
        numbers = values
    if strange:
        raise ValueError(f"{root}: label {strange[0]!r} is none of the {len(classes)} classes")
    return numbers, classes
