"""Images that are read as they are needed: a folder or Parquet files, decoded by worker processes.

What a loader yields depends only on the rows and the seed, never on the number of workers, so a
resumed run goes on with the very pictures it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .image_folder import GREY, fit, image_mode, list_folder, open_image, to_pixels
from .image_sets import ImageSet, choose, load_images
from .order import Part, shuffled
from .parquet import ParquetFiles

Crop = Literal["centre", "random", "ten"]
IN_MEMORY = 2**31  # bytes of pixels up to which a folder of images is held in memory


class Source:
    """Images found but not decoded.

    Args:
        pictures: has `labels` (int64 [N]), `classes`, `channels`, `open(i)` → PIL image, and
            `order(seed, epoch)` → int64 [N], the order in which an epoch reads them.
        size: side of the square that is cut out.
        crop: "centre"; "random", at up to 1.25 times the size and mirrored half of the time;
            "ten", five places at 1.1 times the size and their mirror images (row 10·i + j).
        rows: take only these images.
    """

    def __init__(
        self,
        pictures: FolderFiles | ParquetFiles | Decoded,
        size: int,
        crop: Crop = "centre",
        rows: np.ndarray | None = None,
    ) -> None:
        if crop not in ("centre", "random", "ten"):
            raise ValueError(f"crop must be 'centre', 'random' or 'ten', got {crop!r}")
        self.pictures, self.size, self.crop, self._rows = pictures, size, crop, rows
        self.classes, self.channels = pictures.classes, pictures.channels
        labels = pictures.labels if rows is None else pictures.labels[rows]
        self.labels = labels.repeat(10) if crop == "ten" else labels

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch, int64 [N]: whatever the files make cheap, shuffled by the seed."""
        order = self.pictures.order(seed, epoch)
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
        return torch.from_numpy(np.stack([self._one(int(i), seed) for i in rows]))

    def _one(self, i: int, seed: tuple[int, ...]) -> np.ndarray:
        i, place = divmod(i, 10) if self.crop == "ten" else (i, None)
        image = self.pictures.open(i if self._rows is None else int(self._rows[i]))
        if self.crop == "random":
            image = random_crop(image, self.size, np.random.default_rng((*seed, i)))
        elif place is not None:
            image = one_of_ten(image, self.size, place)
        else:
            image = fit(image, self.size)
        return to_pixels(image, self.channels)


def random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A random square of the image at 1 to 1.25 times the size, mirrored half of the time."""
    wide = _short_side(image, round(size * rng.uniform(1, 1.25)))
    left, top = (int(rng.integers(0, side - size + 1)) for side in wide.size)
    square = wide.crop((left, top, left + size, top + size))
    mirror = Image.Transpose.FLIP_LEFT_RIGHT
    return square.transpose(mirror) if rng.random() < 0.5 else square


def one_of_ten(image: Image.Image, size: int, place: int) -> Image.Image:
    """Corners and centre at 1.1 times the size (places 0 to 4), the same mirrored (5 to 9)."""
    wide = _short_side(image, round(1.1 * size))
    w, h = (side - size for side in wide.size)
    left, top = ((0, 0), (w, 0), (0, h), (w, h), (w // 2, h // 2))[place % 5]
    square = wide.crop((left, top, left + size, top + size))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if place >= 5 else square


def _short_side(image: Image.Image, size: int) -> Image.Image:
    """Scaled so that the short side is `size`."""
    scale = size / min(image.size)
    sides = [max(size, round(side * scale)) for side in image.size]
    return image.resize(sides, Image.Resampling.BICUBIC)


class FolderFiles:
    """Image files of one split of a folder (see `image_folder`)."""

    def __init__(self, folder: str | Path, split: str) -> None:
        listing = list_folder(folder, split)
        self.paths, self.labels, self.classes = listing.paths, listing.labels, listing.classes
        some = self.paths[:: max(1, len(self.paths) // 64)]  # a look at 64 headers
        self.channels = 1 if {image_mode(path) for path in some} <= GREY else 3

    def open(self, i: int) -> Image.Image:
        return open_image(self.paths[i])

    def order(self, seed: int, epoch: int) -> Tensor:
        return shuffled(len(self.paths), seed, epoch)


@dataclass(frozen=True)
class Decoded:
    """A data set that is in memory, behind the same names."""

    data: ImageSet

    @property
    def labels(self) -> np.ndarray:
        return self.data.labels.numpy()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.classes

    @property
    def channels(self) -> int:
        return self.data.images.shape[1]

    def open(self, i: int) -> Image.Image:
        pixels = self.data.images[i].numpy()
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))

    def order(self, seed: int, epoch: int) -> Tensor:
        return shuffled(len(self.data), seed, epoch)


def open_source(
    dataset: str,
    split: Literal["train", "test"],
    n_images: int | None = None,
    image_size: int | None = None,
    crop: Crop = "centre",
) -> Source:
    """A data set by name: those of `load_images`, and "parquet:FOLDER".

    Folders and Parquet files are read as they are needed and have to be given `image_size`.

    Raises:
        ValueError: no image_size, or more images asked for than there are.
    """
    kind, _, place = dataset.partition(":")
    if kind not in ("folder", "parquet"):
        data = load_images(dataset, split, n_images, image_size=image_size)
        return Source(Decoded(data), data.images.shape[-1], crop)
    if image_size is None:
        raise ValueError(f"{dataset}: give image_size, to which its images are cut")
    files = FolderFiles(place, split) if kind == "folder" else ParquetFiles(place, split)
    rows = None
    if n_images is not None and n_images != len(files.labels):
        rows = choose(dataset, files.labels, n_images, seed=0)
    return Source(files, image_size, crop, rows)


class _Batches(IterableDataset):
    """Batches of a source, dealt to the workers in turn; the loader puts them back in order."""

    def __init__(self, source: Source, parts: Iterable[Part], seed: int) -> None:
        self.source, self.parts, self.seed = source, parts, seed

    def __iter__(self) -> Iterator[Tensor | Exception]:
        worker = get_worker_info()
        for i, part in enumerate(self.parts):
            if worker is None or i % worker.num_workers == worker.id:
                try:
                    yield self.source.read(part.rows.tolist(), (self.seed, part.step))
                except (ValueError, OSError) as error:  # raised again where it can be read
                    yield error


def stream(
    images: Tensor | Source, parts: Iterable[Part], seed: int = 0, workers: int = 0
) -> Iterator[Tensor]:
    """uint8 [b, C, H, W] for each part, in order, decoded ahead by `workers` processes."""
    if isinstance(images, Tensor):
        yield from (images[part.rows] for part in parts)
        return
    loader = DataLoader(
        _Batches(images, parts, seed), batch_size=None, num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def open_images(
    dataset: str, n_images: int | None, image_size: int | None, augment: bool = False
) -> ImageSet | Source:
    """Training images in memory, or, if they are many, augmented or in Parquet, to be streamed."""
    kind, _, place = dataset.partition(":")
    large = kind == "parquet" or augment
    if kind == "folder" and image_size is not None and not large:
        count = n_images or len(list_folder(place, "train").paths)
        large = count * 3 * image_size**2 > IN_MEMORY
    if not large:
        return load_images(dataset, "train", n_images, image_size=image_size)
    return open_source(dataset, "train", n_images, image_size, "random" if augment else "centre")


def read_images(
    dataset: str, split: Literal["train", "test"], at_most: int, image_size: int | None
) -> ImageSet:
    """At most so many images of any data set, the classes in turn, decoded into memory."""
    if not dataset.startswith("parquet:"):
        return load_images(dataset, split, image_size=image_size, at_most=at_most)
    whole = open_source(dataset, split, None, image_size)
    source = open_source(dataset, split, min(at_most, len(whole)), image_size)
    labels = torch.from_numpy(source.labels)
    return ImageSet(dataset, source.read(range(len(source))), labels, source.classes)
