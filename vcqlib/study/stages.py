"""From images to samples, stage by stage: one way, for a study, a chapter and the commands.

    images → train_tokenizer → encode → train_ar → sample

A stage takes the configuration, what the stages before it made, and the folder in which its result
is to lie. A study gives folders of its cache, `vcq … --out` any other; a run of one is read by the
other. Under torchrun the work of every stage is shared between the processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.batches import ImageSource, Part, stream
from ..data.code_store import CodeStore, Layout, code_writer, open_codes, resident
from ..data.image_sets import ImageSet
from ..files import read_json, write_json
from ..models import autoregressive
from ..models import tokenizer as tokenizers
from ..models.autoregressive import ARConfig, ARModel
from ..models.tokenizer import Tokenizer, TokenizerConfig
from ..progress import bar
from ..training import autoregressive as ar_training
from ..training import distributed
from ..training import tokenizer as tokenizer_training
from ..training.checkpoints import save_weights
from ..training.inference import both_bits, changed_codes, encode_batch, position_bits
from ..training.losses import Backbone
from ..training.recipe import halves
from ..training.run import own_randomness
from .configuration import Configuration
from .folder import run_folder

EVALUATED = 2000  # codes behind each point of a training curve, train and held-out


# ------------------------------------------------------------------------- tokenizer


def tokenizer_config(c: Configuration, channels: int, size: int) -> TokenizerConfig:
    """The tokenizer's shape; the reversed arm has that of the arm that it flips."""
    t = c.tokenizer
    return TokenizerConfig(
        c.sizes[::-1] if c.flipped else c.sizes, c.codes.k_max, size, channels,
        t.code_dim, t.balance, codebook_ema=t.codebook_ema, revive=t.revive,
        **tokenizers.PRESETS[t.tokenizer],
    )  # fmt: skip


def train_tokenizer(
    c: Configuration,
    images: ImageSet | ImageSource,
    folder: Path,
    device: torch.device,
    held_out: Tensor | None = None,
) -> Tokenizer:
    """Train on the images, or go on where the folder's last checkpoint stands.

    held_out: uint8 [M, C, H, W] whose error is logged on the way.
    """
    shape = tokenizer_config(c, images.channels, images.size)
    recipe = c.recipe("tokenizer")
    about = {"configuration": c.identity("tokenizer"), "model": shape.to_dict(),
             "classes": list(images.classes)}  # fmt: skip
    with run_folder(folder, Tokenizer, about, device) as finish:
        if finish:
            features = None
            if c.losses.perceptual:
                if c.losses.perceptual_weights is None:
                    raise ValueError("a perceptual loss needs its network's perceptual_weights")
                network, weights = c.losses.perceptual_network, c.losses.perceptual_weights
                features = Backbone(network, weights).to(device)
            with own_randomness(device):
                torch.manual_seed(recipe.seed)
                model = Tokenizer(shape).to(device)
            tokenizer_training.train_tokenizer(
                model, pixels_of(images), recipe, folder, held_out, features, c.data.workers,
                about["configuration"], c.losses,
            )  # fmt: skip
            finish(model)
    return Tokenizer.from_pretrained(folder, device)


def pixels_of(images: ImageSet | ImageSource) -> Tensor | ImageSource:
    """What is read in training."""
    return images.images if isinstance(images, ImageSet) else images


# ----------------------------------------------------------------------------- codes


def encode(
    c: Configuration,
    model: Tokenizer,
    images: ImageSet | ImageSource,
    folder: Path,
    info: dict[str, Any],
    layout: Layout = "position-major",
    batch: int = 1000,
) -> CodeStore:
    """The codes [N, T] of all images, in the AR model's order, with their labels.

    Images are read and codes written as they come. Each process encodes its share; the first one
    joins them.

    info: what is to be said of the tokenizer and the images, beside what is known here.
    """
    device = next(model.parameters()).device
    pixels, labels = pixels_of(images), torch.as_tensor(images.labels)
    info = {**info, "model": model.config.to_dict(), "reversed": c.flipped,
            "classes": list(images.classes), "crop": getattr(images, "crop", "centre")}  # fmt: skip
    if halves("auto", device.type):
        first = next(stream(pixels, [Part(0, torch.arange(min(64, len(images))))]))
        info["changed_by_bf16"] = changed_codes(model, first.to(device))  # share of the codes
    mine = distributed.share(len(images))
    joined = len(mine) == len(images)
    place = folder if joined else _part(folder, distributed.rank())
    parts = [Part(0, rows) for rows in torch.tensor(mine).split(batch)]
    with code_writer(place, len(mine), c.sizes, info, layout) as writer:
        read = stream(pixels, parts, workers=c.data.workers)
        for part, some in zip(bar(parts, "encoding", delay=2), read, strict=True):
            codes = encode_batch(model, some.to(device)).cpu().numpy()
            writer.append(codes[:, ::-1] if c.flipped else codes, labels[part.rows].numpy())
    if not joined:
        _join(folder, len(images), c.sizes, info, layout, batch)
    return open_codes(folder, verify=False)


def _part(folder: Path, rank: int) -> Path:
    return folder.with_name(f"{folder.name}.part{rank}")


def _join(folder: Path, rows: int, sizes, info: dict, layout: Layout, batch: int) -> None:
    """One store of the processes' shares, in their order; the shares go."""
    distributed.barrier()
    if distributed.rank() == 0:
        places = [_part(folder, rank) for rank in range(distributed.world())]
        with code_writer(folder, rows, sizes, info, layout) as writer:
            for store in map(open_codes, places):
                for start in range(0, len(store.codes), batch):
                    some = slice(start, start + batch)
                    writer.append(store.codes[some], store.labels[some])
        for place in places:
            shutil.rmtree(place)
    distributed.barrier()


# -------------------------------------------------------------------------- AR model


@dataclass(frozen=True)
class ARRun:
    """A trained AR model with what was measured on the way."""

    model: ARModel  # after the last step, eval mode
    curve: list[dict]  # step, and bits per position: train, held_out, held_out_own
    folder: Path

    def bits(self, which: str = "held_out") -> np.ndarray:
        """Cross-entropy [evaluations, T] in bits; which: train, held_out, held_out_own."""
        return np.asarray([point[which] for point in self.curve])

    @property
    def steps(self) -> list[int]:
        return [point["step"] for point in self.curve]

    @property
    def best_step(self) -> int:
        """Step with the lowest held-out cross-entropy."""
        return self.steps[int(self.bits().sum(1).argmin())]

    def at(self, step: int) -> ARModel:
        """The model as it was after an evaluated step."""
        if step not in self.steps:
            raise ValueError(f"no snapshot at step {step} (there are {self.steps})")
        if step == self.steps[-1]:
            return self.model
        device = self.model.head.weight.device
        return ARModel.from_pretrained(self.folder, device, f"snapshot-{step:08d}.safetensors")


def evaluation_steps(steps: int, points: int = 6) -> tuple[int, ...]:
    """Steps at which an AR run is evaluated: a geometric grid that ends at the last step."""
    grid = np.geomspace(max(1, steps / 32), steps, points)
    return tuple(sorted({int(round(s)) for s in grid}))


def ar_config(c: Configuration, sizes: Sequence[int], vocabulary: int, classes: int) -> ARConfig:
    """The AR model's shape, for codes of these sizes and images of so many classes."""
    a = c.ar
    return ARConfig(
        tuple(sizes), vocabulary, classes, dropout=a.dropout, label_dropout=a.label_dropout,
        restricted_head=a.restricted_head, attention_dropout=a.attention_dropout,
        **autoregressive.PRESETS[a.ar],
    )  # fmt: skip


def train_ar(
    c: Configuration,
    codes: CodeStore,
    folder: Path,
    device: torch.device,
    held_out: CodeStore | None = None,
    draw: Callable[[ARModel], Tensor] | None = None,
    score: Callable[[ARModel], float | None] | None = None,
) -> ARRun:
    """Train on the codes, or go on where the folder's last checkpoint stands.

    Args:
        held_out: codes whose bits at each position are measured on the way, beside as many of the
            training codes; without them no snapshots are kept.
        draw: model → uint8 images [n, C, H, W], a sheet of which is written on the way.
        score: model → distance of its samples, logged every `evaluate_every` steps.
    """
    info = codes.info
    shape = ar_config(c, codes.sizes, info["model"]["num_codes"], len(info["classes"]))
    recipe = c.recipe("ar")
    about = {"configuration": c.ar_identity(), "model": shape.to_dict(), "codes": codes.info}
    measured = (codes, held_out) if held_out is not None else ()
    looked_at = [_sample(store) for store in measured]

    def evaluate(model: ARModel, step: int) -> None:
        (train, test), point = looked_at, {"step": step}
        point["train"] = position_bits(model, *train, shared=True).tolist()
        point["held_out"], point["held_out_own"] = both_bits(model, *test, shared=True).tolist()
        save_weights(folder / f"snapshot-{step:08d}.safetensors", model)  # shards them again
        if distributed.rank() == 0:
            write_json(folder / f"point-{step:08d}.json", point)

    with run_folder(folder, ARModel, about, device) as finish:
        if finish:
            with own_randomness(device):
                torch.manual_seed(recipe.seed)
                model = ARModel(shape).to(device)
            grid = evaluation_steps(recipe.steps, c.ar.ar_snapshots) if looked_at else ()
            rows, labels = resident(codes, device), torch.from_numpy(codes.labels)
            ar_training.train_ar(
                model, rows, labels, recipe, folder, grid, evaluate,
                looked_at[1] if looked_at else None, draw, codes.info, score, c.ar.evaluate_every,
            )  # fmt: skip
            finish(model)
    return read_ar(folder, device)


def read_ar(folder: Path, device: torch.device) -> ARRun:
    """What `train_ar` left in a folder."""
    curve = [read_json(path) for path in sorted(folder.glob("point-*.json"))]
    return ARRun(ARModel.from_pretrained(folder, device), curve, folder)


def _sample(store: CodeStore) -> tuple[Tensor, Tensor]:
    """The first codes of a store, int64, with their labels."""
    rows = torch.from_numpy(store.codes[:EVALUATED].astype(np.int64))
    return rows, torch.from_numpy(store.labels[:EVALUATED])
