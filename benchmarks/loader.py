"""Images decoded and codes delivered, beside the usual loader and what the models eat.

    .venv/bin/python benchmarks/loader.py            # about a minute on two idle cores
    .venv/bin/python benchmarks/loader.py --small    # seconds, to see that it runs

Images: JPEG files of 320 x 280 pixels (noise on smooth shapes, quality 90) cut to 256, with the
training crop, by as many workers as cores and by none; the peer is torchvision's `ImageFolder` with
`RandomResizedCrop` and torch's DataLoader. Eaten: a training step of the vit-b tokenizer.
Codes: a store of [N, 256] codes on disk, batches of random rows in int64; both layouts. Eaten: a
training step of AR model B.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measure import arguments, best_seconds, devices, finish, goal
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import Compose, PILToTensor, RandomHorizontalFlip, RandomResizedCrop
from training import Loss, step
from training import ours as ar_model

from vcqlib.data.batches import Batches, open_source, stream
from vcqlib.data.code_store import code_writer, open_codes, take
from vcqlib.data.image_sets import to_float
from vcqlib.models.tokenizer import PRESETS, Tokenizer, TokenizerConfig


def write_images(folder: Path, count: int) -> None:
    """JPEG files of two classes: `count` in train/, two in test/."""
    rng = np.random.default_rng(0)
    wide = Image.Resampling.BICUBIC
    for i in range(count + 2):
        smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((320, 280), wide)
        noisy = np.asarray(smooth, np.int16) + rng.integers(-12, 13, (280, 320, 3), np.int16)
        path = folder / ("train" if i < count else "test") / str(i % 2) / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def drain(batches: Iterator) -> None:
    for _ in batches:
        pass


def image_calls(folder: Path, count: int, workers: int) -> dict[str, Callable]:
    """Calls that decode all images once."""
    source = open_source(f"folder:{folder}", "train", image_size=256, crop="random")
    parts = Batches(count, 32, seed=0, start=0, steps=count // 32)
    usual = ImageFolder(
        folder / "train",
        Compose(
            [
                RandomResizedCrop(256, (0.64, 1.0), (1, 1), InterpolationMode.BICUBIC),
                RandomHorizontalFlip(),
                PILToTensor(),
            ]
        ),
    )
    return {
        f"{name}, {n} workers": call
        for n in (0, workers)
        for name, call in {
            "vcqlib": lambda n=n: drain(stream(source, parts, 0, n)),
            "torchvision": lambda n=n: drain(DataLoader(usual, 32, shuffle=True, num_workers=n)),
        }.items()
    }


def code_calls(folder: Path, rows: int, length: int, batch: int) -> dict[str, Callable]:
    """Calls that deliver `rows` rows in random order."""
    rng, calls = np.random.default_rng(0), {}
    for layout in ("position-major", "image-major"):
        codes = rng.integers(0, 16384, (rows, length), np.uint16)
        with code_writer(folder / layout, rows, [16384] * length, layout=layout) as writer:
            writer.append(codes, np.zeros(rows, np.int64))
        store = open_codes(folder / layout)
        order = torch.from_numpy(rng.permutation(rows)).split(batch)

        def run(codes=store.codes, order=order) -> None:
            for part in order:
                take(codes, part, torch.device("cpu"))

        calls[layout] = run
    return calls


def eaten(device: str, small: bool) -> dict[str, float]:
    """Images and codes a second that training consumes."""
    preset = PRESETS["vit-tiny" if small else "vit-b"]
    size, length, batch = (32, 8, 2) if small else (256, 256, 64 if device == "cuda" else 1)
    config = TokenizerConfig((256,) * length, 256, size, 3, 14, **preset)
    tokenizer = Tokenizer(config).to(device).train()
    images = torch.zeros(batch, 3, size, size, dtype=torch.uint8, device=device)

    def loss() -> torch.Tensor:
        x = to_float(images)
        output = tokenizer(x)
        return (output.images - x).square().mean() + output.loss

    ar = Loss(ar_model("nano" if small else "B", "uniform", length).to(device).train())
    codes = torch.zeros(batch, length, dtype=torch.int64, device=device)
    runs = {
        "images": step(tokenizer, loss, device),
        "codes": step(ar, lambda: ar(codes, codes[:, 0]), device),
    }
    seconds = best_seconds(runs, 2)
    return {"images": batch / seconds["images"], "codes": batch * length / seconds["codes"]}


def main() -> None:
    options = arguments(__doc__)
    count, rows, length = (64, 1000, 8) if options.small else (256, 100_000, 256)
    workers = max(2, options.threads)
    table, goals = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, count)
        images = best_seconds(image_calls(folder, count, workers), 2)
        codes = best_seconds(code_calls(folder, rows, length, 256), 2)
    rates = {"images": {n: count / s for n, s in images.items()},
             "codes": {n: rows * length / s for n, s in codes.items()}}  # fmt: skip
    eats = {d: eaten(d, options.small) if d in devices() else None for d in ("cpu", "cuda")}
    for what, found in rates.items():
        for case, rate in found.items():
            row = {"what": what, "case": case, "a second": rate}
            row |= {f"times what the {d} eats": eats[d] and rate / eats[d][what] for d in eats}
            table.append(row)
    for d, eat in eats.items():
        for what, best in (("images", f"vcqlib, {workers} workers"), ("codes", "image-major")):
            reached = eat and rates[what][best] / eat[what]
            goals.append(goal(f"{what}: delivered over eaten", d, 1.0, reached))
    settings = {"images": count, "image_size": 256, "workers": workers, "code_rows": rows,
                "positions": length, "eaten a second": eats}  # fmt: skip
    finish("loader", options, settings, table, goals, ("torch", "torchvision", "pillow"))


if __name__ == "__main__":
    main()
