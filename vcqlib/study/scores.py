"""Features of images, real and drawn, and what they say of samples; processes share the work."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import must
from ..metrics import distances
from ..metrics.adm import Inception
from ..metrics.extractors import BatchedExtractor, InceptionExtractor
from ..models.autoregressive import ARModel
from ..models.tokenizer import Tokenizer
from ..progress import bar
from ..training import distributed
from .samples import draw

AT_ONCE = 64  # samples drawn beside a model in training


def features_of(extract: BatchedExtractor, images: Tensor) -> np.ndarray:
    """Features [N, d] of uint8 images [N, C, H, W], in every process."""
    mine = distributed.share(len(images))
    return distributed.joined(extract(images[mine.start : mine.stop]))


def everything_of(extract: InceptionExtractor, images: Tensor) -> Inception:
    """All that the Inception network makes of uint8 images [N, C, H, W], in every process."""
    mine = distributed.share(len(images))
    some = extract.everything(images[mine.start : mine.stop])
    return Inception(*map(distributed.joined, some))


def features_of_samples(
    extract: BatchedExtractor,
    model: ARModel,
    decoder: Tokenizer,
    n: int,
    batch: int,
    seed: int = 0,
    **sampling: Any,
) -> np.ndarray:
    """Features [n, d] of samples 0 … n − 1, which no disk sees; `sampling` goes to `draw`."""
    must(n >= distributed.world(), "n_samples", f"at least {distributed.world()}, one a process", n)
    found = []
    for part in bar(distributed.parts(n, batch), "sampling", delay=2):
        labels = torch.tensor(part) % model.config.classes
        drawn = draw(model, decoder, labels, seed, part.start, **sampling)
        found.append(extract(drawn.images))
    return distributed.joined(np.concatenate(found))


def enough(made: int, real: np.ndarray, extract: BatchedExtractor) -> None:
    """Refuse, before anything is drawn, fewer samples or real images than there are features."""
    width = real.shape[1]
    for what, count in (("n_samples", made), ("validation images", len(real))):
        must(count > width, what, f"above {width}, the features of {extract.name!r}", count)


class Watch:
    """The distance of an AR model's samples to validation images, asked for in the middle of a run.

    Every process draws its share and waits for the others; the first one gets the number.
    """

    def __init__(
        self, extract: BatchedExtractor, decoder: Tokenizer, real: Tensor, n: int, flipped: bool
    ) -> None:
        """real: validation images uint8 [N, C, H, W]; ValueError if they or n are too few."""
        self.extract, self.decoder, self.n, self.flipped = extract, decoder, n, flipped
        self.real = features_of(extract, real)
        enough(n, self.real, extract)

    def __call__(self, model: ARModel) -> float | None:
        made = features_of_samples(
            self.extract, model, self.decoder, self.n, AT_ONCE, flipped=self.flipped
        )
        return None if distributed.rank() else distances.frechet_distance(made, self.real)


def compared(made: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Fréchet distance, precision and recall of samples against real images; equal counts."""
    few = min(len(made), len(real))
    both = distances.precision_recall(real[:few], made[:few])
    return {"distance": distances.frechet_distance(made, real), **both._asdict()}
