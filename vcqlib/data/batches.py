"""In which order a run reads its data, and images that are read as they are needed.

An order is epochs of a seeded shuffle, in batches, shared and cut. What a loader yields depends
only on the rows and the seed, never on the number of workers, so a resumed run goes on with the
very pictures it would have seen. The order of a set that lies in groups depends on its readers, too
(`readers.py`): with as many of them it is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..checks import one_of
from .image_sets import (
    Files,
    ImageSet,
    Split,
    check_request,
    choose,
    load_images,
    open_files,
    parse_name,
)
from .pictures import fit, random_crop, ten_crops, to_pixels
from .readers import Readers

Crop = Literal["centre", "random", "ten"]
Order = Callable[[int, int], Tensor]  # seed, epoch → int64 [N], a permutation
IN_MEMORY = 2**31  # bytes of pixels up to which a folder of images is held in memory


# ------------------------------------------------------------------------------ the order


def shuffled(n: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch, int64 [n]."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


@lru_cache(maxsize=2)  # the shuffle of 12.8 million rows takes longer than a step
def _epoch(n: int, seed: int, epoch: int, order: Order | None) -> Tensor:
    return order(seed, epoch) if order else shuffled(n, seed, epoch)


def batch_indices(n: int, batch: int, step: int, seed: int, order: Order | None = None) -> Tensor:
    """Rows of step `step`, int64 [min(batch, n)]: epochs of a seeded shuffle, last part dropped."""
    per_epoch = max(1, n // batch)
    epoch, place = divmod(step, per_epoch)
    return _epoch(n, seed, epoch, order)[place * batch : (place + 1) * batch]


class Part(NamedTuple):
    """What goes through the model at once."""

    step: int
    rows: Tensor  # int64 [b]


@dataclass(frozen=True)
class Batches:
    """One process's parts of the batches of steps start..steps − 1, `accumulate` a step."""

    n: int
    batch: int
    seed: int
    start: int
    steps: int
    accumulate: int = 1
    rank: int = 0
    processes: int = 1
    order: Order | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("there are no images to train on")
        size, pieces = min(self.n, self.batch), self.processes * self.accumulate
        if size % pieces:
            raise ValueError(
                f"a batch of {size} does not divide into {self.processes} processes x "
                f"{self.accumulate} accumulated parts: change batch or accumulate"
            )

    def __iter__(self) -> Iterator[Part]:
        for step in range(self.start, self.steps):
            rows = batch_indices(self.n, self.batch, step, self.seed, self.order)
            pieces = rows.chunk(self.processes * self.accumulate)
            yield from (Part(step, piece) for piece in pieces[self.rank :: self.processes])


# ----------------------------------------------------------------------------- the images


class ImageSource:
    """Images found but not decoded, cut to squares as they are read.

    Args:
        files: a folder's, Parquet files, or a set in memory (`Decoded`).
        size: side of the square that is cut out.
        crop: "centre"; "random", at up to 1.25 times the size and mirrored half of the time;
            "ten", five places at 1.1 times the size and their mirror images (row 10·i + j).
        rows: take only these images.
        channels: 1 or 3, to which all are converted; None: as the whole data set has.
    """

    def __init__(
        self,
        files: Files,
        size: int,
        crop: Crop = "centre",
        rows: np.ndarray | None = None,
        channels: int | None = None,
    ) -> None:
        one_of(("centre", "random", "ten"), "crop", crop)
        self.files, self.size, self.crop, self._rows = files, size, crop, rows
        self.classes, self.channels = files.classes, channels or files.channels
        labels = files.labels if rows is None else files.labels[rows]
        self.labels = labels.repeat(10) if crop == "ten" else labels

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, seed: int, epoch: int, readers: Readers | None = None) -> Tensor:
        """The order of an epoch, int64 [N]: whatever the files make cheap, shuffled by the seed.

        readers: if several read files that lie in groups, each is dealt groups of its own.
        """
        several = readers is not None and readers.processes * readers.workers > 1
        if several and hasattr(self.files, "groups") and self.crop != "ten":
            groups = self.files.groups
            return readers.dealt(groups if self._rows is None else groups[self._rows], seed, epoch)
        in_turn = getattr(self.files, "order", None)  # Parquet files are read by row groups
        order = in_turn(seed, epoch) if in_turn else shuffled(len(self.files.labels), seed, epoch)
        if self._rows is not None:  # the files' order, less the images that were not chosen
            place = torch.full((len(order),), -1)
            place[self._rows] = torch.arange(len(self._rows))
            order = place[order]
            order = order[order >= 0]
        if self.crop == "ten":
            order = (10 * order[:, None] + torch.arange(10)).flatten()
        return order

    def read(self, rows: Iterable[int], seed: tuple[int, ...] = ()) -> Tensor:
        """uint8 [b, C, H, W] of the rows; a random crop depends on seed and row only."""
        ten, made = lru_cache(maxsize=1)(self._ten), []  # an image is decoded once for its crops
        for row in map(int, rows):
            made.append(ten(row // 10)[row % 10] if self.crop == "ten" else self._one(row, seed))
        return torch.from_numpy(np.stack(made))

    def _open(self, i: int) -> Image.Image:
        return self.files.open(i if self._rows is None else int(self._rows[i]))

    def _one(self, i: int, seed: tuple[int, ...]) -> np.ndarray:
        image = self._open(i)
        if self.crop == "random":
            image = random_crop(image, self.size, np.random.default_rng((*seed, i)))
        else:
            image = fit(image, self.size)
        return to_pixels(image, self.channels)

    def _ten(self, i: int) -> list[np.ndarray]:
        return [to_pixels(crop, self.channels) for crop in ten_crops(self._open(i), self.size)]


class _Reading(Dataset):
    """Part → its images; an error is handed on as it is, a worker would bury it in a traceback."""

    def __init__(self, source: ImageSource, seed: int) -> None:
        self.source, self.seed = source, seed

    def __getitem__(self, part: Part) -> Tensor | Exception:
        try:
            return self.source.read(part.rows.tolist(), (self.seed, part.step))
        except (ValueError, OSError) as error:
            return error


def stream(
    images: Tensor | ImageSource, parts: Iterable[Part], seed: int = 0, workers: int = 0
) -> Iterator[Tensor]:
    """uint8 [b, C, H, W] for each part, in order, decoded ahead by `workers` processes."""
    if isinstance(images, Tensor):
        yield from (images[part.rows] for part in parts)
        return
    loader = DataLoader(
        _Reading(images, seed), sampler=parts, batch_size=None, num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


class Decoded:
    """A data set in memory, behind the names of `Files`."""

    def __init__(self, data: ImageSet) -> None:
        self.data, self.labels = data, data.labels.numpy()
        self.classes, self.channels = data.classes, data.channels

    def open(self, i: int) -> Image.Image:
        pixels = self.data.images[i].numpy()
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))

    def name(self, i: int) -> str:
        return f"{self.data.name}, image {i}"


def open_source(
    dataset: str,
    split: Split,
    n_images: int | None = None,
    image_size: int | None = None,
    crop: Crop = "centre",
    channels: int | None = None,
) -> ImageSource:
    """A data set of `load_images`, by name, to be read as it is needed; errors as there.

    Folders and Parquet files have to be given `image_size`.
    """
    check_request(split, channels, n_images=n_images, image_size=image_size)
    if parse_name(dataset)[0] not in ("folder", "parquet"):
        data = load_images(dataset, split, n_images, image_size=image_size, channels=channels)
        return ImageSource(Decoded(data), data.images.shape[-1], crop)
    if image_size is None:
        raise ValueError(f"{dataset}: give image_size, to which its images are cut")
    files, rows = open_files(dataset, split), None
    if n_images is not None and n_images != len(files.labels):
        rows = choose(dataset, files.labels, n_images, seed=0)
    return ImageSource(files, image_size, crop, rows, channels)


def open_images(
    dataset: str,
    n_images: int | None,
    image_size: int | None,
    augment: bool = False,
    channels: int | None = None,
) -> ImageSet | ImageSource:
    """Training images in memory, or, if they are many, augmented or in Parquet, to be streamed."""
    kind, _ = parse_name(dataset)
    large = kind == "parquet" or augment
    if kind == "folder" and image_size is not None and not large:
        count = n_images or len(open_files(dataset, "train").labels)
        large = count * 3 * image_size**2 > IN_MEMORY
    if not large:
        return load_images(dataset, "train", n_images, image_size=image_size, channels=channels)
    crop = "random" if augment else "centre"
    return open_source(dataset, "train", n_images, image_size, crop, channels)
