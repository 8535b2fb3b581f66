"""Image sets by name, as uint8 tensors [N, C, H, W].

Bytes in memory, floats in a batch: `to_float` maps to [-1, 1], `to_uint8` maps back. Asking what a
name means (`parse_name`) loads neither torch nor data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np

from ..checks import integer, must, one_of, unknown_name
from ..extras import needed
from ..files import atomic_path
from ..progress import bar
from .named_sets import TRAINING_IMAGES, earlier_of_class, read_named

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Split = Literal["train", "test"]
Part = Literal["validation", "test", "all"]
LARGEST = 4096  # side in pixels
NAMES = (*TRAINING_IMAGES, "folder:PATH", "parquet:PATH", "synthetic:SIZExCHANNELS")


@dataclass(frozen=True)
class ImageSet:
    """Images with their classes.

    images: uint8 [N, C, H, W]; labels: int64 [N], indices into `classes`.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def size(self) -> int:
        """Side in pixels, of square images."""
        return self.images.shape[-1]

    def part(self, name: Part) -> ImageSet:
        """Of held-out images the half to choose by, the half to report on, or all.

        They take the classes in turn, so that a half is balanced too.
        """
        one_of(get_args(Part), "part", name)
        half = len(self) // 2
        ends = {"validation": (0, half), "test": (half, 2 * half), "all": (0, None)}[name]
        return replace(self, images=self.images[slice(*ends)], labels=self.labels[slice(*ends)])


class Files(Protocol):
    """Images of one split that are found but not decoded: a folder's or those of Parquet files."""

    labels: np.ndarray  # int64 [N]
    classes: tuple[str, ...]
    channels: int  # 1 if every image of the data set, all its splits, is grey; else 3

    def open(self, i: int) -> Image: ...

    def name(self, i: int) -> str:
        """Where image i lies, for messages."""
        ...


def parse_name(dataset: str) -> tuple[str, str]:
    """What a data set's name means: the kind, and what follows its colon ("" for a named set).

    Raises ValueError for what is no data set: the nearest names, or the rule that is broken.
    """
    kind, _, argument = dataset.partition(":") if isinstance(dataset, str) else ("", "", "")
    if kind in ("folder", "parquet") and argument:
        return kind, argument
    if kind == "synthetic":
        match = re.fullmatch(r"(\d{1,4})x([13])", argument, re.ASCII)
        if match is None or not 4 <= int(match[1]) <= 1024:
            raise ValueError(
                f"{dataset!r}: write synthetic:SIZExCHANNELS, 4 <= SIZE <= 1024, CHANNELS 1 or 3"
            )
        return kind, argument
    if dataset not in TRAINING_IMAGES:
        raise unknown_name("data set", dataset, NAMES)
    return dataset, ""


def own_files(dataset: str) -> str | None:
    """The user's own folder (or Parquet file) that a name stands for; None for other sets."""
    from .image_folder import split_options

    kind, _, place = dataset.partition(":")
    return split_options(place)[0] if kind == "parquet" else place if kind == "folder" else None


def to_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1], same shape and device; 0 gives -1, 255 gives 1.

    Raises ValueError for any other type: floats would be scaled once too often.
    """
    import torch

    must(images.dtype == torch.uint8, "images", "uint8", images.dtype)
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8, rounded; values outside are clipped."""
    import torch

    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_channels(images: Tensor, channels: int | None) -> Tensor:
    """uint8 [N, C, H, W] with 1 or 3 channels (None: as it is): grey is repeated, colour becomes
    its luma, the same numbers as Pillow's."""
    if channels is None or images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    red, green, blue = images.int().split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(images.dtype)


def write_sheet(
    path: str | Path, images: Tensor, columns: int = 8, padding: int = 2, colours: int | None = None
) -> None:
    """Write uint8 images [N, C, H, W] side by side as one PNG, of so many colours at most."""
    from PIL import Image
    from torchvision.utils import make_grid

    grid = make_grid(images, columns, padding).permute(1, 2, 0).numpy()
    picture = Image.fromarray(grid).convert("L" if images.shape[1] == 1 else "RGB")
    with atomic_path(path) as temporary:
        (picture.quantize(colours) if colours else picture).save(temporary, format="png")


def load_images(
    dataset: str,
    split: Split,
    n_images: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
    at_most: int | None = None,
    channels: int | None = None,
) -> ImageSet:
    """Load `n_images` of a set (None: all, in file order).

    dataset: "fashion-mnist" and "emoji" (vendored), "digits" (8x8), "cifar10" and "mnist"
    (downloaded once), "folder:PATH" (see `image_folder`), "parquet:PATH" (see `parquet`),
    "synthetic:SIZExCHANNELS" (drawn, any n_images; None gives 1000 for train, 200 for test).
    n_images: the first n of one order per seed that takes the classes in turn, so that subsets
    are balanced as far as the classes reach, and nested. Drawn images have that order already.
    at_most: like n_images, but a smaller set is taken whole (in the seed's order).
    image_size: side in pixels; other images are scaled (antialiased) to it, those of folders and
    Parquet files after the largest square was cut out of their centre.
    channels: 1 or 3, to which all are converted; None: as the whole data set has, all its splits.

    Raises ValueError for an unknown name or split, or n_images larger than the set; TypeError
    for sizes that are no integers; FileNotFoundError for missing files.
    """
    import torch

    check_request(split, channels, n_images=n_images, image_size=image_size, at_most=at_most)
    kind, argument = parse_name(dataset)
    if kind == "synthetic":
        from .synthetic import SHAPES, draw

        classes = SHAPES
        size, depth = map(int, argument.split("x"))
        count = n_images or at_most or (1000 if split == "train" else 200)
        # an odd and an even stream, so that no test image is also a training image
        stream = 2 * seed + (split == "test")
        images, labels = draw(count, image_size or size, depth, stream)
    elif kind in ("folder", "parquet"):
        files = open_files(dataset, split)
        chosen = choose(dataset, files.labels, n_images, seed, at_most)
        images = _decode(files, chosen, image_size, channels or files.channels)
        labels, classes = files.labels[chosen], files.classes
    else:
        images, labels, classes = read_named(dataset, split)
        chosen = choose(dataset, labels, n_images, seed, at_most)
        images, labels = images[chosen], labels[chosen]
    pixels = to_channels(torch.from_numpy(np.ascontiguousarray(images)), channels)
    if image_size is not None and pixels.shape[-2:] != (image_size, image_size):
        from torchvision.transforms.v2.functional import resize

        pixels = resize(pixels, [image_size, image_size], antialias=True)
    return ImageSet(dataset, pixels, torch.from_numpy(labels.astype(np.int64)), classes)


def check_request(split: str, channels: int | None = None, **counts: int | None) -> None:
    """Refuse a split, channels or counts that no data set has."""
    one_of(("train", "test"), "split", split)
    good = channels is None or integer(channels, "channels") in (1, 3)
    must(good, "channels", "1, 3 or None", channels)
    for what, value in counts.items():
        if value is not None:
            integer(value, what, 1, LARGEST if what == "image_size" else None)


def open_files(dataset: str, split: Split) -> Files:
    """The files of "folder:PATH" or "parquet:PATH", found but not decoded."""
    kind, place = parse_name(dataset)
    with needed():
        if kind == "folder":
            from .image_folder import FolderFiles as Reader
        else:
            from .parquet import ParquetFiles as Reader
    return Reader(place, split)


def choose(
    name: str, labels: np.ndarray, n: int | None, seed: int, at_most: int | None = None
) -> np.ndarray:
    """Indices of the first n images in the seed's order, which takes the classes in turn."""
    if n is None and at_most is None:
        return np.arange(len(labels))
    n = min(at_most, len(labels)) if n is None else n
    if n > len(labels):
        raise ValueError(f"n_images={n} but {name} has {len(labels)} images in this split")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    # within a round the order stays shuffled, so that no class is always first
    return shuffled[np.argsort(earlier_of_class(labels[shuffled]), kind="stable")][:n]


def _decode(files: Files, rows: np.ndarray, size: int | None, channels: int) -> np.ndarray:
    """uint8 [N, C, H, W] of those rows; without `size` all need the size of the first."""
    from .pictures import fit, to_pixels

    images = None
    for place, row in enumerate(bar(rows.tolist(), "decoding")):
        image = files.open(row)
        pixels = to_pixels(image if size is None else fit(image, size), channels)
        if images is None:
            images, first = np.empty((len(rows), *pixels.shape), np.uint8), image.size
        if pixels.shape != images.shape[1:]:
            here, there = ("{}x{}".format(*sides) for sides in (image.size, first))
            raise ValueError(f"{files.name(row)} is {here}, {files.name(int(rows[0]))} is {there}: "
                             "set image_size")  # fmt: skip
        images[place] = pixels
    return images
