"""What ADM's evaluator says of samples, from its reference batches (arXiv 2105.05233).

    Inception score   of the samples alone, in parts of 5,000
    FID, sFID         to the batch's `mu`, `sigma` and `mu_s`, `sigma_s`, or to those of its images
    precision, recall of all samples against the batch's images, `arr_0`: 50,000 against 10,000

The definitions are those of openai/guided-diffusion, evaluations/evaluator.py. Two things differ:
the network is torch-fidelity's copy of its graph, and distances for precision and recall are in
float64, where the evaluator takes float16.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..checks import integer, must
from ..data.npy import read_npz
from ..files import existing_path
from . import distances
from .checks import matrix
from .distances import Moments

POOLED, SPATIAL = 2048, 17 * 17 * 7  # features: after pooling, and of seven channels of a map
SPLIT = 5000  # samples behind one value of the Inception score


class Inception(NamedTuple):
    """What the network makes of N images."""

    pooled: np.ndarray  # [N, 2048]
    spatial: np.ndarray  # [N, 2023]
    probabilities: np.ndarray  # [N, 1008]


class Reference(NamedTuple):
    """What a reference file holds; the rest is None."""

    pooled: Moments | None
    spatial: Moments | None
    images: np.ndarray | None  # uint8 [n, 3, H, W]


def load_reference(path: str | Path) -> Reference:
    """A reference batch of ADM's, or the moments alone of one, as pytorch-fid writes them.

    ValueError in one line for a file of another layout: no moments and no images, one moment
    without the other, features of another width, images that are not uint8 [n, H, W, 3].
    """
    arrays = read_npz(existing_path(path), ("mu", "mu_s", "arr_0"))
    if not arrays.keys() & {"mu", "arr_0"}:
        raise ValueError(f"{path} is no reference batch: it has neither mu and sigma nor arr_0")
    pooled = _moments(path, arrays.get("mu"), "", POOLED)
    spatial = _moments(path, arrays.get("mu_s"), "_s", SPATIAL)
    images = arrays.get("arr_0")
    if images is not None:
        good = images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] == 3
        must(good, f"{path}: arr_0", "uint8 [n, H, W, 3]", f"{images.dtype} {images.shape}")
        images = images.transpose(0, 3, 1, 2).copy()
    return Reference(pooled, spatial, images)


def _moments(path: str | Path, mean: np.ndarray | None, suffix: str, width: int) -> Moments | None:
    if mean is None:
        return None
    must(mean.shape == (width,), f"{path}: mu{suffix}", f"Inception's, [{width}]", mean.shape)
    return distances.load_moments(path, suffix)


def inception_score(probabilities: ArrayLike, split: int = SPLIT) -> float:
    """The Inception score (arXiv 1606.03498): mean over parts of exp(E KL(p(y|x) ‖ p(y))).

    Args:
        probabilities: [N, C], in the order of the samples; a last, smaller part counts as much.
        split: rows of a part.
    """
    p = matrix(probabilities, "probabilities")
    starts = range(0, len(p), integer(split, "split", 1))
    return float(np.mean([distances.class_score(p[i : i + split]) for i in starts]))


def scores(made: Inception, reference: Reference, real: Inception | None) -> dict[str, float | str]:
    """Every score of the samples that this reference allows; a line of text says what it lacks.

    real: of the reference's images, which give the moments too where the file has none.
    """
    rows: dict[str, float | str] = {"Inception score": inception_score(made.probabilities)}
    without = real is not None and reference.pooled is None
    for name, which in (("FID", "pooled"), ("sFID", "spatial")):
        ours, theirs = getattr(made, which), getattr(reference, which)
        if theirs is None and without:
            theirs = distances.moments(getattr(real, which), "the images of the reference")
        rows[name] = "unknown: the reference has no mu_s and sigma_s"
        if theirs is not None:
            found = distances.moments(ours, "samples")
            rows[name] = distances.frechet_from_moments(found, theirs)
    if real is None:
        rows["precision, recall"] = "unknown: the reference has no images (arr_0)"
        return rows
    both = distances.precision_recall(real.pooled, made.pooled, unequal=True)
    return rows | both._asdict()


def joined(parts: Iterable[Inception]) -> Inception:
    """The rows of all parts, in their order."""
    return Inception(*map(np.concatenate, zip(*parts, strict=True)))
