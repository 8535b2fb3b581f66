"""One trial: a training set, tokenizers for every arm, AR models on their codes, and how far off.

Everything that an arm does not change is shared by the arms of a trial: the training points, their
order, the fresh points, the first weights, the draws of the samples. So arms pair up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..data.order import batch_indices
from ..entropy.estimates import conditional_entropy
from ..files import load_tensors, save_tensors
from ..models.autoregressive import ARModel
from ..settings import Real, Whole, fold, setting, settings
from ..study import cache
from .distances import Cloud, energy_distance
from .models import PointTokenizer, Shape, StackedAR, StackedTokenizer, ar_config
from .stack import Stack, seeded
from .worlds import Points, draw, stream, world

Seed = Annotated[int, Field(ge=0, lt=2**31)]


@settings
class Trial:
    """Everything the numbers of a trial depend on."""

    arms: dict[str, tuple[int, ...]] = Field(min_length=1)  # name: K_1..K_T
    world: str = setting("pinwheel", "density")
    n: Whole = setting(300, "training points N", ge=2)
    passes: tuple[Real, ...] = Field(min_length=1)  # over the training set, where to measure
    set_seed: Seed = setting(0, "of the training points")
    tokenizer_seed: Seed = setting(0, "of the tokenizer's first weights and its points")
    ar_seed: Seed = setting(0, "of the AR model's first weights and its order of the data")
    samples: Whole = setting(5000, "generated points behind a distance", ge=2)
    fresh: Whole = setting(40_000, "points of each reference", ge=2)
    tokenizer_points: Literal["fresh", "training"] = setting("fresh", "what it is trained on")
    tokenizer_steps: Whole = setting(1500, "steps of the tokenizer", ge=1)
    tokenizer_batch: Whole = setting(128, "points a step of the tokenizer", ge=2)
    tokenizer_lr: Real = setting(1e-2, "highest learning rate of the tokenizer", gt=0)
    batch: Whole = setting(64, "points a step of the AR model", ge=1)
    lr: Real = setting(5e-3, "learning rate of the AR model", gt=0)
    weight_decay: Real = setting(0.03, "weight decay of the AR model", ge=0)
    shape: Shape = Shape()

    def __post_init__(self) -> None:
        world(self.world)
        for name, sizes in self.arms.items():
            if len(sizes) != self.shape.length or not all(
                2 <= k <= self.shape.k_max for k in sizes
            ):
                raise ValueError(
                    f"arm {name!r} must have {self.shape.length} sizes from 2 to "
                    f"{self.shape.k_max}, got {sizes}"
                )
        if list(self.passes) != sorted(set(self.passes)) or self.passes[0] <= 0:
            raise ValueError(f"passes must grow and lie above 0, got {self.passes}")

    def steps(self, passes: float) -> int:
        """Training steps in so many passes over the training set."""
        return max(1, round(passes * self.n / min(self.batch, self.n)))

    def points(self, use: str, n: int) -> Points:
        """Fresh points for a use: `training`, `validation`, `test`, `reference`."""
        return draw(self.world, n, stream(self.world, use, self.set_seed))


def tokenizers(trial: Trial) -> dict[str, PointTokenizer]:
    """Trained tokenizers of all arms, side by side; a stage of the cache."""
    shared = ("world", "tokenizer_seed", "tokenizer_points", "tokenizer_steps", "tokenizer_batch",
              "tokenizer_lr")  # fmt: skip
    inputs = {name: getattr(trial, name) for name in shared} | fold(trial.shape)
    inputs["arms"] = {name: list(sizes) for name, sizes in trial.arms.items()}
    if trial.tokenizer_points == "training":
        inputs |= {"set_seed": trial.set_seed, "n": trial.n}

    def build(folder: Path) -> None:
        for name, model in train_tokenizers(trial).items():
            save_tensors(folder / f"{name}.safetensors", model.state_dict())

    folder = cache.stage("lab", inputs, build, train_tokenizers)
    found = {}
    for name, sizes in trial.arms.items():
        found[name] = PointTokenizer(sizes, trial.shape).eval()
        found[name].load_state_dict(load_tensors(folder / f"{name}.safetensors")[0])
    return found


def train_tokenizers(trial: Trial) -> dict[str, PointTokenizer]:
    """What `tokenizers` caches."""
    seed, shape = trial.tokenizer_seed, trial.shape
    models = [
        seeded(lambda s=sizes: StackedTokenizer(s, shape), seed) for sizes in trial.arms.values()
    ]
    stack = Stack(models, trial.tokenizer_lr, (0.9, 0.99), steps=trial.tokenizer_steps)
    generator = stream(trial.world, "tokenizer", seed)
    own = trial.points("training", trial.n).points
    for _ in range(trial.tokenizer_steps):
        if trial.tokenizer_points == "training":
            batch = own[torch.randint(trial.n, (trial.tokenizer_batch,), generator=generator)]
        else:
            batch = draw(trial.world, trial.tokenizer_batch, generator).points
        stack.train(batch.expand(len(models), -1, -1))
    return {
        name: stack.load_into(PointTokenizer(sizes, shape), i)
        for i, (name, sizes) in enumerate(trial.arms.items())
    }


@dataclass(frozen=True)
class Coded:
    """A tokenizer at work on a trial's points: what its AR model learns from and is held to."""

    tokenizer: PointTokenizer
    train: Tensor  # int64 [N, T]
    validation: Tensor
    test: Tensor
    reconstructions: Cloud  # of fresh points
    measures: dict

    @classmethod
    def of(cls, tokenizer: PointTokenizer, trial: Trial, data: Data) -> Coded:
        codes = {name: tokenizer.encode(getattr(data, name).points)
                 for name in ("training", "validation", "test", "reference")}  # fmt: skip
        rebuilt = tokenizer.decode(codes["test"])
        cloud, reference = map(Cloud.of, (rebuilt, tokenizer.decode(codes["reference"])))
        plain = conditional_entropy(codes["training"].numpy())
        measures = {
            "mse": float((rebuilt - data.test.points).square().mean()),
            "to_truth": energy_distance(cloud, data.truth),
            "floor": energy_distance(cloud, reference),  # 0 on average
            "entropy": plain.bits.tolist(),  # plug-in, of the training codes
            "cliff": plain.cliff(),
            "cells": len(reference.points),
            "seen": _seen(codes["test"], codes["training"]),
        }
        return cls(tokenizer, codes["training"], codes["validation"], codes["test"], reference,
                   measures)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """The points of a trial; test points are reported, validation points choose."""

    training: Points
    validation: Points
    test: Points
    reference: Points
    truth: Cloud
    memorised: float  # distance to the truth of the training points, drawn again and again
    near: float  # distance to the nearest training point that 1 of 100 fresh points undercuts

    @classmethod
    def of(cls, trial: Trial) -> Data:
        training = trial.points("training", trial.n)
        test = trial.points("test", trial.samples)
        truth, own = _truth(trial.world, trial.fresh), Cloud.of(training.points)
        # drawn with repetition two draws may be one point, at distance 0
        memorised = energy_distance(own, truth) + own.within / own.size
        near = float(np.quantile(_nearest(test.points, training.points), 0.01))
        return cls(training, trial.points("validation", 2000), test,
                   trial.points("reference", trial.fresh), truth, memorised, near)  # fmt: skip


@lru_cache(maxsize=2)
def _truth(name: str, n: int) -> Cloud:
    """The same fresh points for all trials of a world."""
    return Cloud.of(draw(name, n, stream(name, "truth")).points)


def _nearest(points: Tensor, training: Tensor) -> np.ndarray:
    from scipy.spatial import KDTree

    return KDTree(training.numpy()).query(points.numpy())[0]


def _seen(codes: Tensor, training: Tensor) -> float:
    """Share of code sequences that are a training sequence."""
    _, index = torch.cat([training, codes]).unique(dim=0, return_inverse=True)
    return float(torch.isin(index[len(training) :], index[: len(training)]).double().mean())


def run(trial: Trial) -> dict[str, dict]:
    """Measure a trial: arm → its tokenizer's numbers, `curve` over passes, and `forced` prefixes.

    `memorised` is the distance of the training points to the truth, drawn again and again: what a
    model has that knows them by heart and nothing else. A point of the curve holds bits [T] of
    training, validation and test codes, energy distances of samples to fresh points (`to_truth`)
    and to reconstructions of fresh points by the same tokenizer (`to_reconstructions`), and two
    signs of memorising: the share of samples whose codes are a training sequence (`seen`), and of
    those closer to a training point than 1 in 100 fresh points (`near`). `forced[m − 1]` is the
    distance to reconstructions with m codes from test points, at the last point of the curve.
    """
    data = Data.of(trial)
    coded = {name: Coded.of(model, trial, data) for name, model in tokenizers(trial).items()}
    found = {
        name: {"sizes": list(trial.arms[name]), "memorised": data.memorised, "curve": []}
        | c.measures
        for name, c in coded.items()
    }
    for passes, models in train_ar(trial, {n: c.train for n, c in coded.items()}, data):
        for name, model in models.items():
            point = measure(model, coded[name], data, trial)
            found[name]["curve"].append({"passes": passes, **point})
            if passes == trial.passes[-1]:
                found[name]["forced"] = forced(model, coded[name], data, trial)
    return found


def train_ar(
    trial: Trial, codes: Mapping[str, Tensor], data: Data
) -> Iterator[tuple[float, dict[str, ARModel]]]:
    """Train the AR models of all arms side by side; yield (passes, arm → model) at each stop."""
    classes, shape = world(trial.world).classes, trial.shape
    configs = {name: ar_config(trial.arms[name], classes, shape) for name in codes}
    models = [seeded(lambda c=c: StackedAR(c), trial.ar_seed) for c in configs.values()]
    for model, rows in zip(models, codes.values(), strict=True):
        ARModel.check(model, rows, data.training.labels)
    stack = Stack(models, trial.lr, (0.9, 0.96), trial.weight_decay)
    together = torch.stack(list(codes.values()))  # [arms, N, T]
    for passes in trial.passes:
        while stack.step < trial.steps(passes):
            rows = batch_indices(trial.n, trial.batch, stack.step, trial.ar_seed)
            stack.train(together[:, rows], data.training.labels[rows].expand(len(models), -1))
        yield (
            passes,
            {
                name: stack.load_into(ARModel(config), i)
                for i, (name, config) in enumerate(configs.items())
            },
        )


def measure(model: ARModel, coded: Coded, data: Data, trial: Trial) -> dict:
    """One point of a curve; see `run`."""
    codes = sample(model, data.test.labels, trial)
    points = coded.tokenizer.decode(codes)
    cloud = Cloud.of(points)
    return {
        "train": bits(model, coded.train[:2000], data.training.labels[:2000]),
        "validation": bits(model, coded.validation, data.validation.labels),
        "test": bits(model, coded.test[:5000], data.test.labels[:5000]),
        "to_truth": energy_distance(cloud, data.truth),
        "to_reconstructions": energy_distance(cloud, coded.reconstructions),
        "seen": _seen(codes, coded.train),
        "near": float((_nearest(points, data.training.points) <= data.near).mean()),
    }


def forced(model: ARModel, coded: Coded, data: Data, trial: Trial) -> list[float]:
    """Distance to reconstructions with the first m = 1..T − 1 codes of test points, [T − 1].

    m = 0 is `to_reconstructions` of the same model, m = T the tokenizer's `floor`.
    """
    found = []
    for m in range(1, trial.shape.length):
        codes = sample(model, data.test.labels, trial, coded.test[:, :m])
        cloud = Cloud.of(coded.tokenizer.decode(codes))
        found.append(energy_distance(cloud, coded.reconstructions))
    return found


def sample(model: ARModel, labels: Tensor, trial: Trial, prefix: Tensor | None = None) -> Tensor:
    """Codes int64 [n, T] of samples for labels [n], the same draws for every arm."""
    generator = stream(trial.world, "samples", trial.ar_seed)
    parts = []
    for start in range(0, len(labels), 1000):  # in parts that stay in the cache
        rows = slice(start, start + 1000)
        given = None if prefix is None else prefix[rows]
        parts.append(model.generate(labels[rows], generator=generator, prefix=given))
    return torch.cat(parts)


def bits(model: ARModel, codes: Tensor, labels: Tensor) -> list[float]:
    """Mean cross-entropy of each position over the whole vocabulary, bits [T]."""
    parts = zip(codes.split(1000), labels.split(1000), strict=True)
    total = sum(model.position_losses(c, y).sum(0).double() for c, y in parts)
    return (total / len(codes) / math.log(2)).tolist()
