"""The extractor by which a data set is judged, with the features of its images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..checks import must
from ..metrics import distances, extractors
from .configuration import Configuration
from .experiment import Experiment


class Judge:
    """The extractor, the features [N, d] of the three splits, and the distance to them."""

    def __init__(self, e: Experiment) -> None:
        self.name = extractors.default_extractor(e.c.data.dataset)
        self.extract = extractors.load_extractor(self.name, e.device.type)
        splits = (e.images, e.validation, e.test)
        self.train, self.validation, self.test = (self.extract(s.images) for s in splits)

    def gfd(self, features: np.ndarray) -> float:
        """Fréchet distance of features to those of the test images: to report, not to choose by."""
        return distances.frechet_distance(features, self.test)


@lru_cache(maxsize=2)
def _judge(dataset: str, n_images: int | None, image_size: int | None, device: str) -> Judge:
    return Judge(Experiment(Configuration.of(locals())))


def judge(e: Experiment) -> Judge:
    """The judge of an experiment's images, which all arms share."""
    d = e.c.data
    return _judge(d.dataset, d.n_images, d.image_size, e.device.type)


def check_samples(e: Experiment) -> None:
    """Refuse, before anything is trained, what is too small for the features it is judged by.

    ValueError if there are no more samples, training or held-out images than features; ImportError
    if the extractor of this data set is not installed.
    """
    known = judge(e)
    held_out, width = known.test.shape
    counts = {"n_samples": e.c.sampling.n_samples, "n_images": len(known.train),
              "held-out images": held_out}  # fmt: skip
    least = (f"above {width}, the features of the extractor {known.name!r} by which "
             f"{e.c.data.dataset} is judged")  # fmt: skip
    for what, count in counts.items():
        must(count > width, what, least, count)
