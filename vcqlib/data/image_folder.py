"""Anyone's own pictures: folders in the style of torchvision's ImageFolder.

    PATH/train/CLASS/*.png  and  PATH/test/CLASS/*.png (or val/)   the user's own split
    PATH/CLASS/*.png                     every fifth file of a class, by name, is held out
    PATH/*.png                           the same, as one class

Files are found first and decoded only once chosen, so that a subset of a large set is cheap.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
GREY = frozenset(("1", "L", "LA"))
COLOUR = frozenset(("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"))
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Listing:
    """Files of one split with their class numbers, in order of class and name."""

    paths: tuple[Path, ...]
    labels: np.ndarray  # int64 [N]
    classes: tuple[str, ...]


def list_folder(folder: str | Path, split: str) -> Listing:
    """The files of `split` ("train" or "test").

    Raises FileNotFoundError if there is no such folder, ValueError if it holds no images, mixes
    loose images with class folders, or has a class in the test split only.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"image folder {root} does not exist")
    train = root / "train" if (root / "train").is_dir() else root
    held_out = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if train == root or held_out is None:
        chosen = {
            name: [
                p for i, p in enumerate(paths, 1) if (i % HELD_OUT_EVERY == 0) == (split == "test")
            ]
            for name, paths in _classes(train).items()
        }
        names = tuple(chosen)
    else:
        names = tuple(_classes(train))
        chosen = _classes(train if split == "train" else held_out)
        if strange := sorted(set(chosen) - set(names)):
            raise ValueError(f"{held_out}: class {strange[0]!r} does not occur in {train}")
    paths = [path for name in names for path in chosen.get(name, [])]
    if not paths:
        raise ValueError(f"{root} has no images for the {split} split")
    labels = np.repeat(np.arange(len(names)), [len(chosen.get(name, [])) for name in names])
    return Listing(tuple(paths), labels, names)


def list_images(folder: str | Path) -> Listing:
    """All files of PATH/train, or of PATH, in the order of torchvision's ImageFolder.

    Raises as `list_folder`.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"image folder {root} does not exist")
    found = _classes(root / "train" if (root / "train").is_dir() else root)
    labels = np.repeat(np.arange(len(found)), [len(paths) for paths in found.values()])
    return Listing(tuple(path for paths in found.values() for path in paths), labels, (*found,))


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Class name -> files below its folder, both sorted; loose files are the class "all"."""

    def images(names: list[str]) -> list[str]:
        return [name for name in names if name.lower().endswith(EXTENSIONS)]

    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            walk = os.walk(entry, followlinks=True)
            paths = [Path(place) / name for place, _, names in walk for name in images(names)]
            if not paths:
                raise ValueError(f"{entry} holds no image: remove the folder or fill it")
            found[entry.name] = sorted(paths)
    loose = [folder / name for name in images(sorted(os.listdir(folder)))]
    if found and loose:
        raise ValueError(f"{folder} holds class folders and also loose images such as {loose[0]}")
    if not found and not loose:
        raise ValueError(f"{folder} holds no image ({', '.join(EXTENSIONS)})")
    return found or {"all": loose}


def decode_images(paths: tuple[Path, ...], image_size: int | None = None) -> np.ndarray:
    """Decode files to uint8 [N, C, H, W]: C = 1 if every file is grey, else 3.

    With `image_size` the short side is scaled to it and the centre is cut out; without it all
    files need the size of the first. Transparent pixels become white, EXIF turns are applied.
    Raises ValueError naming the file that is broken, too large, of another size, or in a mode
    that 8 bits cannot hold.
    """
    channels = 1 if {image_mode(path) for path in paths} <= GREY else 3
    first = _decode(paths[0], channels, image_size)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)
    for image, path in zip(images, paths, strict=True):
        decoded = _decode(path, channels, image_size)
        if decoded.shape != image.shape:
            (h, w), (h0, w0) = decoded.shape[1:], first.shape[1:]
            raise ValueError(f"{path} is {w}x{h}, {paths[0]} is {w0}x{h0}: set image_size")
        image[...] = decoded
    return images


def _open(file: Path | BinaryIO, name: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            limit = Image.MAX_IMAGE_PIXELS
            raise ValueError(f"{name} has more than {limit} pixels: scale it down") from None
        except (UnidentifiedImageError, SyntaxError, ValueError):
            raise ValueError(f"{name} is no image that Pillow can read: remove it") from None
    if image.mode not in GREY | COLOUR:
        mode = image.mode
        image.close()
        raise ValueError(f"{name} has mode {mode}: convert it to 8-bit grey or RGB")
    return image


def image_mode(path: Path) -> str:
    """The mode in the header; ValueError if it does not fit into 8 bits a channel."""
    with _open(path, str(path)) as image:
        return image.mode


def open_image(file: Path | BinaryIO, name: str | None = None) -> Image.Image:
    """A picture, turned as its EXIF says, on white where it is transparent.

    Raises ValueError with `name` (default: the path) if it is broken, too large, or in a mode that
    8 bits cannot hold.
    """
    name = name or str(file)
    with _open(file, name) as opened:
        try:
            image = ImageOps.exif_transpose(opened)  # reads the pixels
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name} is damaged ({error}): replace or remove it") from None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image


def fit(image: Image.Image, size: int) -> Image.Image:
    """Scale the short side to `size` and cut out the centre."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def to_pixels(image: Image.Image, channels: int) -> np.ndarray:
    """uint8 [C, H, W], grey for one channel, else RGB."""
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _decode(path: Path, channels: int, image_size: int | None) -> np.ndarray:
    """One file as uint8 [C, H, W]."""
    image = open_image(path).convert("L" if channels == 1 else "RGB")
    return to_pixels(image if image_size is None else fit(image, image_size), channels)


def folder_digest(folder: str | Path) -> str:
    """Hash of the names, sizes and times of all files below `folder`: a change shows in it."""
    root = Path(folder).expanduser()
    seen = hashlib.sha256()
    walk = os.walk(root, followlinks=True)  # class folders may be links
    for path in sorted(Path(at) / name for at, _, names in walk for name in names):
        stat = path.stat()
        seen.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return seen.hexdigest()
