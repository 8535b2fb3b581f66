"""Images in Parquet files, as Hugging Face `datasets` stores them: encoded bytes and a label."""

from __future__ import annotations

import json
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .image_folder import GREY, open_image

WINDOW = 16  # row groups that are shuffled together, and held in memory
SPLITS = {"train": ("train",), "test": ("validation", "val", "test")}


class ParquetFiles:
    """The images of one split, read a row group at a time.

    A split is the files whose name, or whose folder's name, starts with its word: `train`, and for
    held-out images `validation`, `val` or `test`, in this order. The image is the first column of
    bytes (plain, or in a struct as `bytes`), the label the first column of integers; class names
    are read from the features that `datasets` writes, if they are there.

    An epoch shuffles the row groups, and the rows within `WINDOW` neighbouring groups, so that a
    group is read once by each worker and not once for every image.

    Raises ImportError without pyarrow, FileNotFoundError and ValueError for what is not there.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        try:
            import pyarrow as arrow
            import pyarrow.parquet as parquet
        except ImportError:
            raise ImportError("reading Parquet needs pyarrow: pip install pyarrow") from None
        self.paths = _files(Path(folder).expanduser(), split)
        schema = parquet.read_schema(self.paths[0])
        self._image, self._label = _columns(schema, arrow, self.paths[0])
        sizes, self._groups, labels = [], [], []
        for path in self.paths:
            file = parquet.ParquetFile(path)
            _columns(file.schema_arrow, arrow, path)
            for group in range(file.num_row_groups):
                sizes.append(file.metadata.row_group(group).num_rows)
                self._groups.append((path, group))
            labels.append(file.read(columns=[self._label])[self._label].to_numpy())
        self._ends = np.cumsum(sizes)
        self.labels = np.concatenate(labels).astype(np.int64)
        if len(self.labels) and self.labels.min() < 0:
            raise ValueError(f"{self.paths[0].parent}: label {self.labels.min()} is negative")
        self.classes = _classes(schema, self._label, self.labels)
        modes = {self.open(i).mode for i in range(0, min(16, len(self.labels)))}
        self.channels = 1 if modes <= GREY else 3

    def open(self, i: int) -> Image.Image:
        """Image i; ValueError names file and row if it cannot be read."""
        number = int(np.searchsorted(self._ends, i, side="right"))
        path, group = self._groups[number]
        row = i - (int(self._ends[number - 1]) if number else 0)
        value = _read(path, group, self._image)[row].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise ValueError(f"{path}, row group {group}, row {row}: no image bytes")
        return open_image(BytesIO(content), f"{path}, row group {group}, row {row}")

    def order(self, seed: int, epoch: int) -> Tensor:
        """int64 [N]: row groups shuffled, rows shuffled within each window of groups."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        starts = np.concatenate([[0], self._ends[:-1]])
        found = []
        for window in torch.randperm(len(self._groups), generator=generator).split(WINDOW):
            rows = np.concatenate([np.arange(starts[g], self._ends[g]) for g in window.tolist()])
            found.append(torch.from_numpy(rows)[torch.randperm(len(rows), generator=generator)])
        return torch.cat(found)


@lru_cache(maxsize=WINDOW)
def _read(path: Path, group: int, column: str) -> Any:
    """One row group's image column; each worker keeps the last few."""
    import pyarrow.parquet as parquet

    table = parquet.ParquetFile(path).read_row_group(group, [column], use_threads=False)
    return table[column]


def _files(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist")
    every = sorted(folder.rglob("*.parquet"))
    for word in SPLITS[split]:
        if found := [p for p in every if word in (_word(p.name), _word(p.parent.name))]:
            return found
    words = " or ".join(SPLITS[split])
    raise ValueError(f"{folder} has no Parquet file whose name starts with {words}")


def _word(name: str) -> str:
    return name.replace("_", "-").replace(".", "-").split("-")[0]


def _columns(schema: Any, arrow: Any, path: Path) -> tuple[str, str]:
    """Names of the image and the label column."""
    types = arrow.types

    def is_image(kind: Any) -> bool:
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return types.is_binary(kind) or types.is_large_binary(kind)

    images = [field.name for field in schema if is_image(field.type)]
    labels = [field.name for field in schema if types.is_integer(field.type)]
    if not images or not labels:
        raise ValueError(f"{path} needs a column of image bytes and one of integer labels")
    return images[0], labels[0]


def _classes(schema: Any, column: str, labels: np.ndarray) -> tuple[str, ...]:
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(features[column]["names"])
    except (KeyError, TypeError, ValueError):
        return tuple(str(i) for i in range(int(labels.max()) + 1))
