"""One picture: opened whole or refused by name, cut to a square, turned into pixels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..checks import one_line, printable

EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
GREY = frozenset(("1", "L", "LA"))
COLOUR = frozenset(("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"))
# what the suffixes mean, and no more: Pillow would hand a PostScript file to an interpreter
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


def _open(file: Path | BinaryIO, name: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a cut file, which is refused below
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            limit = Image.MAX_IMAGE_PIXELS
            raise ValueError(f"{name} has more than {limit} pixels: scale it down") from None
        except Exception as error:  # a cut header fails in as many ways as there are formats
            if isinstance(error, MemoryError) or getattr(error, "filename", None):
                raise  # it is not there, or may not be read: says so itself
            known = isinstance(error, UnidentifiedImageError)
            reason = "" if known else f" ({one_line(error)})"
            raise ValueError(
                f"{name} is no image that Pillow can read{reason}: replace or remove it"
            ) from None
    if image.mode not in GREY | COLOUR:
        mode = image.mode
        image.close()
        raise ValueError(f"{name} has mode {mode}: convert it to 8-bit grey or RGB")
    return image


def image_mode(file: Path | BinaryIO, name: str | None = None) -> str:
    """The mode in the header; ValueError if it does not fit into 8 bits a channel."""
    with _open(file, printable(name or str(file))) as image:
        return image.mode


def open_image(file: Path | BinaryIO, name: str | None = None) -> Image.Image:
    """A picture, turned as its EXIF says, on white where it is transparent.

    Raises ValueError with `name` (default: the path) if it is broken, too large, in a mode that
    8 bits cannot hold, or one of several in its file (animations, pages).
    """
    name = printable(name or str(file))
    with _open(file, name) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on corrupt EXIF data: names no file
        try:
            # not of MPO, which is what a phone's JPEG with its depth map is called
            pages = getattr(opened, "n_frames", 1) if opened.format in FORMATS else 1
            if opened.format == "PPM" and _bytes_after(opened):
                pages = "several"
            image = ImageOps.exif_transpose(opened)  # reads the pixels
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
        except MemoryError:
            raise
        except Exception as error:  # as above
            reason = one_line(error)
            raise ValueError(f"{name} is damaged ({reason}): replace or remove it") from None
    if pages != 1:
        raise ValueError(f"{name} holds {pages} pictures: save each as a file of its own")
    return image


def _bytes_after(image: Image.Image) -> int:
    """How much follows the pixels of a PPM file, whose format allows several in a row."""
    kind, _, offset, *_ = image.tile[0]
    if kind != "raw":  # as text, or of another depth
        return 0
    row = {"1": (image.width + 7) // 8, "L": image.width, "RGB": 3 * image.width}[image.mode]
    return image.fp.seek(0, 2) - offset - row * image.height


def fit(image: Image.Image, size: int) -> Image.Image:
    """Scale the short side to `size` and cut out the centre."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def to_pixels(image: Image.Image, channels: int) -> np.ndarray:
    """uint8 [C, H, W]: for one channel grey (colours become their luma), else RGB."""
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A random square of the image at 1 to 1.25 times the size, mirrored half of the time."""
    wide = _short_side(image, round(size * rng.uniform(1, 1.25)))
    left, top = (int(rng.integers(0, side - size + 1)) for side in wide.size)
    square = wide.crop((left, top, left + size, top + size))
    mirror = Image.Transpose.FLIP_LEFT_RIGHT
    return square.transpose(mirror) if rng.random() < 0.5 else square


def ten_crops(image: Image.Image, size: int) -> list[Image.Image]:
    """Corners and centre at 1.1 times the size (0 to 4), the same mirrored (5 to 9)."""
    wide = _short_side(image, round(1.1 * size))
    w, h = (side - size for side in wide.size)
    places = ((0, 0), (w, 0), (0, h), (w, h), (w // 2, h // 2))
    found = [wide.crop((left, top, left + size, top + size)) for left, top in places]
    return found + [square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for square in found]


def _short_side(image: Image.Image, size: int) -> Image.Image:
    """Scaled so that the short side is `size`."""
    scale = size / min(image.size)
    sides = [max(size, round(side * scale)) for side in image.size]
    return image.resize(sides, Image.Resampling.BICUBIC)
