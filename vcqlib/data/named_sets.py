"""The image sets that go by a name: read, checked, split; uint8 arrays in file order.

A new one is a function from the split to `Arrays` and a line of `SETS`, at the end.
"""

from __future__ import annotations

import gzip
import json
import zlib
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

from .vendored import manifest, read_vendored

Arrays = tuple[np.ndarray, np.ndarray, tuple[str, ...]]  # u8 [N, C, H, W], [N], class names
DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
EMOJI_TEST_EVERY = 10


def read_named(name: str, split: str) -> Arrays:
    """All images of a split ("train" or "test") of one of the `SETS`."""
    return SETS[name][1](split)


def earlier_of_class(labels: np.ndarray) -> np.ndarray:
    """How many labels [N] equal to each one come before it, int64 [N]."""
    import pandas

    return pandas.Series(labels).groupby(labels).cumcount().to_numpy()


def read_idx(content: bytes, name: str) -> np.ndarray:
    """A uint8 array in the IDX format of MNIST: magic 0, 0, 8, rank; sizes; bytes, and no more."""
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{name} is not an IDX file of bytes: starts with {content[:4].hex()}")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).astype(np.int64)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if values.size != np.prod(shape.astype(object)):  # exact, whatever a forged header claims
        claimed = " x ".join(map(str, shape))
        raise ValueError(f"{name} is damaged: it claims {claimed} bytes and holds {values.size:,}")
    return values.reshape(shape)


def _idx_file(path: Path) -> np.ndarray:
    """An IDX file, or the same with `.gz`."""
    if path.is_file():
        return read_idx(path.read_bytes(), str(path))
    packed = path.with_name(f"{path.name}.gz")
    try:
        return read_idx(gzip.decompress(packed.read_bytes()), str(packed))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{packed} is damaged ({error}): remove it") from None


def _idx_set(name: str, classes: tuple[str, ...], split: str) -> Arrays:
    part = "train" if split == "train" else "t10k"
    names = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    if name == "FashionMNIST" and manifest():
        # images in xz: smaller by 4 MB, and a second slower
        files = [f"fashion-mnist/{n}.{p}" for n, p in zip(names, ("xz", "gz"), strict=True)]
        images, labels = (read_idx(read_vendored(file), file) for file in files)
    else:
        from .downloads import idx_files

        folder = idx_files(name)
        images, labels = (_idx_file(folder / file) for file in names)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"IDX images {images.shape} and labels {labels.shape} do not belong")
    return images[:, None], _known(labels, classes, "IDX labels"), classes


def _known(labels: np.ndarray, classes: tuple[str, ...], name: str) -> np.ndarray:
    if labels.max(initial=0) >= len(classes):
        raise ValueError(f"{name}: label {labels.max()} where there are {len(classes)} classes")
    return labels


def _digits(split: str) -> Arrays:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    rows = np.arange(len(labels))
    halves = train_test_split(rows, test_size=360, random_state=0, stratify=labels)
    chosen = np.sort(halves[split == "test"])
    return images[chosen], labels[chosen], DIGITS


def _cifar10(split: str) -> Arrays:
    from .downloads import cifar10_files

    paths = cifar10_files(split)
    raw = [np.fromfile(path, dtype=np.uint8) for path in paths]
    for path, batch in zip(paths, raw, strict=True):
        if batch.size != 10_000 * 3073:
            raise ValueError(f"{path} is damaged ({batch.size} bytes): remove it")
    rows = np.concatenate(raw).reshape(-1, 3073)  # label, then 3 x 32 x 32
    labels = _known(rows[:, 0], CIFAR10, str(paths[0].parent))
    return rows[:, 1:].reshape(-1, 3, 32, 32), labels, CIFAR10


def _emoji(split: str) -> Arrays:
    """Twemoji at 32 x 32 over white; every tenth of a class, in Unicode's order, is held out."""
    from PIL import Image

    listing = json.loads(read_vendored("emoji/emoji.json"))
    sheet = np.asarray(Image.open(BytesIO(read_vendored("emoji/emoji.webp"))).convert("RGB"))
    across = sheet.shape[1] // 32
    tiles = sheet.reshape(-1, 32, across, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
    labels = np.array([label for _, _, label in listing["emoji"]], dtype=np.int64)
    last_of_ten = (earlier_of_class(labels) + 1) % EMOJI_TEST_EVERY == 0
    chosen = np.flatnonzero(last_of_ten == (split == "test"))
    return tiles[chosen], labels[chosen], tuple(listing["classes"])


SETS = {  # name: number of training images, reader of a split
    "fashion-mnist": (60_000, partial(_idx_set, "FashionMNIST", FASHION)),
    "mnist": (60_000, partial(_idx_set, "MNIST", DIGITS)),
    "cifar10": (50_000, _cifar10),
    "digits": (1437, _digits),
    "emoji": (1720, _emoji),
}
TRAINING_IMAGES = {name: count for name, (count, _) in SETS.items()}
