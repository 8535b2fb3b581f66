"""Pictures from a trained AR model and its tokenizer, in one file.

An .npz in ADM's layout: arr_0 uint8 [n, H, W, C], arr_1 labels int64 [n], and codes int64 [n, T].
Sample i depends on the seed and on i alone, so that batches and processes may be cut anywhere.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import must
from ..data.image_sets import to_uint8, write_sheet
from ..data.npy import read_npz
from ..files import atomic_path, existing_path
from ..models.autoregressive import ARModel
from ..models.tokenizer import Tokenizer
from ..progress import bar
from ..training import distributed
from ..training.inference import decode, in_precision
from ..training.recipe import Precision

SHEET = 64  # samples shown in the picture


@dataclass(frozen=True)
class Samples:
    """Samples in the order of their numbers, the classes in turn."""

    images: Tensor  # uint8 [n, C, H, W]
    codes: Tensor  # int64 [n, T], in the AR model's order
    labels: Tensor  # int64 [n]


def draw(
    model: ARModel,
    decoder: Tokenizer,
    labels: Tensor,
    seed: int = 0,
    first: int = 0,
    flipped: bool = False,
    **sampling: Any,
) -> Samples:
    """One sample for each label int64 [n]; `sampling` goes to `ARModel.generate`.

    Sample i has a generator of its own, seeded by `seed` and `first + i`, so that it is the same
    whatever the batch (up to rounding).
    """
    device = model.head.weight.device
    generators = [torch.Generator(device).manual_seed(seed * 1_000_003 + first + i)
                  for i in range(len(labels))]  # fmt: skip
    codes = model.generate(labels.to(device), generator=generators, **sampling).cpu()
    return Samples(to_uint8(decode(decoder, codes.flip(1) if flipped else codes)), codes, labels)


def write_samples(
    out: Path,
    model: ARModel,
    decoder: Tokenizer,
    n: int,
    first: int = 0,
    batch: int = 1000,
    seed: int = 0,
    precision: Precision = "auto",
    **more: Any,
) -> Path:
    """Write samples first … first + n − 1 to `out` (.npz), with a sheet of the first beside it.

    Images go to the disk as they come. Each process draws its share; the first one joins them.
    `more` goes to `draw`. By `precision` the weights are cast once, on a GPU to bf16.
    """
    model = in_precision(model, precision)
    c, share = decoder.config, distributed.share(n)
    shape = (c.image_size, c.image_size, c.channels)
    entries = {"arr_0": (np.uint8, shape), "arr_1": (np.int64, ()),
               "codes": (np.int64, (c.length,))}  # fmt: skip
    arrays = {
        name: np.lib.format.open_memmap(_part(out, distributed.rank(), name), "w+", kind,
                                        (len(share), *rest))
        for name, (kind, rest) in entries.items()
    }  # fmt: skip
    for start in bar(range(share.start, share.stop, batch), "sampling", delay=2):
        stop = min(start + batch, share.stop)
        labels = torch.arange(first + start, first + stop) % model.config.classes
        drawn = draw(model, decoder, labels, seed, first + start, **more)
        here = slice(start - share.start, stop - share.start)
        arrays["arr_0"][here] = drawn.images.permute(0, 2, 3, 1).numpy()
        arrays["arr_1"][here], arrays["codes"][here] = drawn.labels.numpy(), drawn.codes.numpy()
        if start == 0:
            write_sheet(out.with_suffix(".png"), drawn.images[:SHEET])
    for array in arrays.values():
        array.flush()
    distributed.barrier()
    if distributed.rank() == 0:
        _join(out, n, entries)
    distributed.barrier()
    return out


def _part(out: Path, rank: int, name: str) -> Path:
    return out.with_name(f".{out.stem}.{rank}.{name}.npy")


def _join(out: Path, n: int, entries: dict[str, tuple[type, tuple[int, ...]]]) -> None:
    """One .npz of the processes' shares, in their order, without holding them in memory."""
    ranks = range(distributed.world())
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, (kind, rest) in entries.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                head = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (n, *rest)}
                np.lib.format.write_array_header_1_0(file, head)
                for rank in ranks:
                    rows = np.load(_part(out, rank, name), mmap_mode="r", allow_pickle=False)
                    for start in range(0, len(rows), 1000):
                        file.write(np.ascontiguousarray(rows[start : start + 1000]).data)
    for rank in ranks:
        for name in entries:
            _part(out, rank, name).unlink()


def read_samples(path: Path) -> Samples:
    """What `write_samples` wrote, or any .npz in ADM's layout (codes and labels may be absent)."""
    names, none = ("arr_0", "codes", "arr_1"), np.zeros((0, 0), np.int64)
    found = read_npz(existing_path(path), names)
    images, codes, labels = (found.get(name, none) for name in names)
    good = images.dtype == np.uint8 and images.ndim == 4
    must(good, f"{path}: arr_0", "uint8 [n, H, W, C]", f"{images.dtype} {images.shape}")
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return Samples(pixels, torch.tensor(codes), torch.tensor(labels))
