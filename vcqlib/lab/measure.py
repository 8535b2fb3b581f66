"""What comes out of a trial: bits, distances, memorising, forced prefixes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..entropy.estimates import conditional_entropy
from ..models.autoregressive import ARModel
from .distances import Cloud, energy_distance
from .models import PointTokenizer
from .trial import Trial, TrialData, nearest, tokenizers, train_ar
from .worlds import stream

FORCED = 4000  # samples behind a distance with forced prefix, which is read as a mean over seeds


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
    def of(cls, tokenizer: PointTokenizer, trial: Trial, data: TrialData) -> Coded:
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
            "seen": float(seen(codes["test"], codes["training"]).double().mean()),
        }
        return cls(tokenizer, codes["training"], codes["validation"], codes["test"], reference,
                   measures)  # fmt: skip


def seen(codes: Tensor, training: Tensor) -> Tensor:
    """Whether each sequence of codes [n, T] is one of the training sequences [N, T], bool [n]."""
    _, index = torch.cat([training, codes]).unique(dim=0, return_inverse=True)
    return torch.isin(index[len(training) :], index[: len(training)])


def run(trials: Sequence[Trial]) -> list[dict[str, dict]]:
    """Measure trials side by side: for each, arm → numbers of its tokenizer, `curve`, `forced`.

    A point of the curve over passes holds bits [T] of training, validation and test codes, energy
    distances of samples to fresh points (`to_truth`) and to reconstructions of fresh points by the
    same tokenizer (`to_reconstructions`), and two signs of memorising: the share of samples whose
    codes are a training sequence (`seen`), and of those closer to a training point than 1 in 100
    fresh points (`near`). `forced[m − 1]` is the distance to reconstructions with m codes from test
    points, at the last point of the curve.
    """
    data = [TrialData.of(t) for t in trials]
    coded = [
        {name: Coded.of(model, t, d) for name, model in models.items()}
        for t, d, models in zip(trials, data, tokenizers(trials), strict=True)
    ]
    found: list[dict[str, dict]] = [
        {name: {"curve": [], **c.measures} for name, c in arms.items()} for arms in coded
    ]
    codes = [{name: c.train for name, c in arms.items()} for arms in coded]
    for passes, stopped in train_ar(trials, codes, [d.training.labels for d in data]):
        for i, (t, d) in enumerate(zip(trials, data, strict=True)):
            for name, model in stopped[i].items():
                point = {"passes": passes, **measure(model, coded[i][name], d, t)}
                found[i][name]["curve"].append(point)
                if passes == t.passes[-1]:
                    found[i][name]["forced"] = forced(model, coded[i][name], d, t)
    return found


def measure(model: ARModel, coded: Coded, data: TrialData, trial: Trial) -> dict:
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
        "seen": float(seen(codes, coded.train).double().mean()),
        "near": float((nearest(points, data.training.points) <= data.near).mean()),
    }


def forced(model: ARModel, coded: Coded, data: TrialData, trial: Trial) -> list[float]:
    """Distance to reconstructions with the first m = 1..T − 1 codes of test points, [T − 1].

    m = 0 is `to_reconstructions` of the same model, m = T the tokenizer's `floor`.
    """
    found = []
    for m in range(1, trial.shape.length):
        codes = sample(model, data.test.labels[:FORCED], trial, coded.test[:FORCED, :m])
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
