"""Instruments that see the AR model, not the tokenizer's blur.

A Fréchet distance to held-out images is mostly the tokenizer's: even true codes decode to blurred
pictures. Here the reference is what the same tokenizer makes of held-out images. The distance
reaches its floor only if the AR model has the true distribution of codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..metrics import distances
from ..metrics.two_sample import two_sample_test
from .experiment import Experiment
from .judge import Judge

SEQUENCES = 2000  # held-out codes that lend their first ones, at most


class Reconstructions:
    """What a tokenizer makes of real images, in the features by which they are judged."""

    def __init__(self, e: Experiment, known: Judge) -> None:
        self.known = known
        n = e.c.sampling.n_samples
        self.test = known.extract(e.decode(rows(e.test_codes.codes)))
        self.validation = known.extract(e.decode(rows(e.validation_codes.codes)))
        self.train = known.extract(e.decode(rows(e.codes.codes[:n])))  # as many as samples

    def distances(self, features: np.ndarray) -> dict[str, float]:
        """Fréchet and kernel distance of images' features to the reconstructed test images."""
        return {"fd": distances.frechet_distance(features, self.test),
                "kid": distances.kernel_distance(features, self.test)}  # fmt: skip

    def to_validation(self, features: np.ndarray) -> float:
        """Fréchet distance to the reconstructed validation images: to choose by."""
        return distances.frechet_distance(features, self.validation)

    def floor(self) -> dict[str, float]:
        """The distances of reconstructed training images: what true codes would score."""
        return self.distances(self.train)


def rows(codes: np.ndarray) -> Tensor:
    """Codes of a store as int64."""
    return torch.from_numpy(codes.astype(np.int64))


def redraw(
    e: Experiment,
    codes: np.ndarray,
    m: int,
    labels: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
) -> Tensor:
    """uint8 images [B · draws, C, H, W] from the first m codes [B, T] and sampled other ones.

    labels: int64 [B], the classes; without them the AR model is not told, so that what comes out
        alike is what the prefix fixed.
    """
    model = e.ar.model
    where = model.head.weight.device
    prefix = rows(codes[:, :m]).repeat_interleave(draws, 0)
    if labels is None:
        labels = torch.full((len(codes),), model.null_label)
    labels = labels.repeat_interleave(draws, 0)
    generator = torch.Generator(where).manual_seed(seed)
    drawn = [
        model.generate(y.to(where), generator=generator, prefix=p.to(where)).cpu()
        for y, p in zip(labels.split(1000), prefix.split(1000), strict=True)
    ]
    return e.decode(torch.cat(drawn))


def forced_prefix(e: Experiment, real: Reconstructions) -> dict[str, float]:
    """FD to reconstructions when the first m codes are real and the rest is sampled, by m.

    The prefixes are those of validation images, with their classes; the reference is of test
    images. Where the curve falls, there the AR model's error arose. m runs from 0 to T, in steps
    that grow.
    """
    codes = e.validation_codes.codes[:SEQUENCES]
    labels = e.validation.labels[:SEQUENCES]
    length = codes.shape[1]
    grid = [m for m in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128) if m < length]
    return {
        str(m): real.distances(real.known.extract(redraw(e, codes, m, labels)))["fd"]
        for m in [*grid, length]
    }


def two_sample(e: Experiment, drawn: Tensor) -> dict[str, Any]:
    """Accuracy of a classifier on the first m codes, sampled [N, T] against test, by m.

    `floor` is that of validation against test codes, which are from one distribution.
    """
    test, validation = e.test_codes.codes, e.validation_codes.codes
    length = test.shape[1]
    grid = sorted({m for m in (*range(1, 17), 24, 32, 48, 64, 96, 128) if m < length} | {length})
    sampled = {str(m): two_sample_test(drawn.numpy()[:, :m], test[:, :m]) for m in grid}
    same = two_sample_test(validation, test)
    return {"accuracy": {m: found.accuracy for m, found in sampled.items()},
            "error": sampled[str(length)].error, "floor": same.accuracy}  # fmt: skip
