"""Metrics that compare sets of images, through the features of a stated extractor.

Features are arrays [N, d], one row an image (vcqlib.extractors makes them); images are uint8
[N, C, H, W]. A Fréchet distance is biased upwards by small samples, so print `real_real_floor` at
the same count beside it. Values are raw: never multiplied by 100.

Every function takes NumPy arrays and tensors of any precision, and refuses what is not finite and
real, empty sets and unequal widths with a ValueError that names the argument.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..checks import host, integer, must
from ..data.npy import read_npz
from . import checks
from .checks import matrix, pair
from .probe import linear_probe as linear_probe
from .probe import prefix_probe as prefix_probe

WORKING_MEMORY = 128  # MiB for one block of pairwise distances


class Moments(NamedTuple):
    """Mean [d] and covariance [d, d] of a set of features."""

    mean: np.ndarray
    covariance: np.ndarray


class PrecisionRecall(NamedTuple):
    """Shares of samples inside the real manifold, and of real images inside the samples'."""

    precision: float
    recall: float


class Copies(NamedTuple):
    """How many samples lie closer to a training image than held-out images almost ever do."""

    count: int
    fraction: float
    threshold: float


def moments(features: ArrayLike, name: str = "features") -> Moments:
    """Mean and unbiased covariance of features [N, d], in float64.

    A constant feature is allowed: a Gaussian may be flat in some direction. ValueError if N <= d
    (the covariance would be singular), or if all samples are equal.
    """
    x = matrix(features, name)
    count, width = x.shape
    if count <= width:
        raise ValueError(f"{name}: {count} samples are too few for {width} features; give at least "
                         f"{width + 1}, or take an extractor with fewer features")  # fmt: skip
    if (np.ptp(x, axis=0) == 0).all():
        raise ValueError(f"{name}: all {width} features are constant, every sample is the same")
    return Moments(x.mean(axis=0), np.cov(x, rowvar=False).reshape(width, width))


def load_moments(path: str | Path, suffix: str = "") -> Moments:
    """Reference moments from an .npz with `mu` and `sigma` (ADM's and pytorch-fid's layout).

    suffix: behind both names; "_s" for the spatial features in ADM's batches.
    """
    names = [f"mu{suffix}", f"sigma{suffix}"]
    arrays = read_npz(path, names)
    if missing := set(names) - arrays.keys():
        raise ValueError(f"{path} has no {' and no '.join(sorted(missing))}: not a reference")
    return Moments(*checks.gaussian(*(arrays[name] for name in names), str(path)))


def frechet_from_moments(a: Moments, b: Moments) -> float:
    """Squared 2-Wasserstein distance of two Gaussians (doi:10.1016/0047-259X(82)90077-X).

    |m_a - m_b|² + tr(A) + tr(B) - 2 tr((A^½ B A^½)^½), by symmetric eigendecompositions: no
    complex square root to cut, and flat directions do no harm.
    """
    (mean_a, cov_a), (mean_b, cov_b) = checks.gaussian(*a, "a"), checks.gaussian(*b, "b")
    if len(mean_a) != len(mean_b):
        raise ValueError(f"{len(mean_a)} features against {len(mean_b)}: use one extractor")
    checks.spectrum(np.linalg.eigvalsh(cov_b), "b")
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(checks.spectrum(values, "a"))) @ vectors.T  # A^½
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    gap = np.square(mean_a - mean_b).sum()
    return float(max(0.0, gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Fréchet distance between two sets of features [N, d] and [M, d] (10.48550/arXiv.1706.08500).

    N and M may differ; the bias is that of the smaller set. Symmetric; 0 for equal moments.
    """
    return frechet_from_moments(moments(a, "a"), moments(b, "b"))


def real_real_floor(features: ArrayLike, n: int, seed: int = 0) -> float:
    """Fréchet distance between two disjoint random halves of n real images each.

    What a perfect generator would score with n samples against n references.
    """
    x = matrix(features, "features")
    if 2 * integer(n, "n", least=1) > len(x):
        raise ValueError(f"two halves of {n} need {2 * n} images, there are {len(x)}: lower n")
    order = np.random.default_rng(seed).permutation(len(x))
    return frechet_distance(x[order[:n]], x[order[n : 2 * n]])


def kernel_distance(
    a: ArrayLike, b: ArrayLike, seed: int = 0, subsets: int = 100, subset_size: int = 1000
) -> float:
    """Squared maximum mean discrepancy with the kernel (x·y/d + 1)³ (KID, arXiv.1801.01401).

    The mean of the unbiased estimate over seeded subsets, which are no larger than the smaller set;
    unbiased means that it is around 0, negative at times, for two sets of one distribution.
    """
    x, y = pair(a, b)
    size = min(integer(subset_size, "subset_size"), len(x), len(y))
    must(size >= 2, "each set of a kernel distance", "at least 2 samples", size)
    subsets = integer(subsets, "subsets", least=1)
    generator = np.random.default_rng(seed)

    def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        k = u @ v.T / u.shape[1] + 1
        return k * (k * k)

    total = 0.0
    for _ in range(subsets):
        u, v = (some[generator.choice(len(some), size, replace=False)] for some in (x, y))
        within = sum(k.sum() - np.trace(k) for k in (kernel(u, u), kernel(v, v)))
        total += within / (size * (size - 1)) - 2 * kernel(u, v).sum() / size**2
    return float(total / subsets)


def precision_recall(
    real: ArrayLike, fake: ArrayLike, k: int = 3, unequal: bool = False
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv.1904.06991).

    Precision: the share of samples that lie in some real image's ball, whose radius is the distance
    to its k-th nearest real neighbour; recall: the same with the roles exchanged. ValueError for
    unequal counts, since the radii depend on the density (`unequal`: ADM's protocol, which takes
    10,000 real images and 50,000 samples), and for no more than k images.
    """
    x, y = pair(real, fake, "real", "fake")
    if len(x) != len(y) and not unequal:
        raise ValueError(f"{len(x)} real images against {len(y)} samples: give equal counts")
    if integer(k, "k", least=1) >= (fewest := min(len(x), len(y))):
        raise ValueError(f"k = {k} neighbours need at least {k + 1} images, there are {fewest}")
    x, y = x - x.mean(0), y - x.mean(0)  # |a|² − 2ab + |b|² loses the digits of a common mean
    return PrecisionRecall(_share_inside(y, x, k), _share_inside(x, y, k))


def _share_inside(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(centres)
    radii = neighbours.kneighbors()[0][:, -1]  # without an argument: a point is no own neighbour
    # what |a|² − 2ab + |b|² may be off: a copy lies in a ball of radius 0
    slack = 1e-13 * sum(np.square(x).sum(axis=1).max() for x in (points, centres))
    inside = lambda squares, start: (squares <= radii**2 + slack).any(axis=1)  # noqa: E731
    blocks = pairwise_distances_chunked(
        points, centres, reduce_func=inside, working_memory=WORKING_MEMORY, squared=True
    )
    return float(np.concatenate(list(blocks)).mean())


def class_score(probabilities: ArrayLike) -> float:
    """exp(E KL(p(y|x) ‖ p(y))) of class probabilities [N, C]: 1 at worst, C at best.

    The Inception score (arXiv.1606.03498) with the probabilities of a stated classifier, over all
    samples at once. A class that no sample shows lowers the score; it is not an error.
    """
    p = matrix(probabilities, "probabilities")
    total = p.sum(axis=1, keepdims=True)
    good = (p >= 0).all() and np.allclose(total, 1, atol=1e-2)  # the most that bf16 is off
    must(good, "probabilities", "a softmax's, with rows that add up to 1", f"from {p.min():g}")
    p /= total
    marginal = p.mean(axis=0)
    ratio = np.divide(p, marginal, out=np.ones_like(p), where=p > 0)
    return float(np.exp((p * np.log(ratio)).sum(axis=1).mean()))


def reconstruction(images: ArrayLike, reconstructed: ArrayLike) -> dict[str, float | None]:
    """Fidelity of reconstructions, both uint8 [N, C, H, W]: `mse`, `psnr`, `ssim`.

    `mse` is in units of [-1, 1] images; `psnr` is in dB, from the mean mse, and None for equal
    images, since JSON has no infinity; `ssim` (10.1109/TIP.2003.819861) uses a Gaussian window of
    11 pixels, σ = 1.5, mirrored at the border so that small images count too, averaged over
    pixels, channels and images.
    """
    a, b = (checks.images(host(x, name), name)
            for x, name in ((images, "images"), (reconstructed, "reconstructed")))  # fmt: skip
    if a.shape != b.shape:
        raise ValueError(f"images {a.shape} and reconstructed {b.shape} must pair up: equal shapes")
    mse = ssim = 0.0
    for start in range(0, len(a), 256):
        u, v = (x[start : start + 256] / 127.5 - 1 for x in (a, b))
        mse += np.square(u - v).sum()
        ssim += _ssim(u, v).sum()
    mse, ssim = float(mse / a.size), float(ssim / a.size)
    return {"mse": mse, "psnr": 10 * math.log10(4 / mse) if mse else None, "ssim": ssim}


def _ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    def blur(x: np.ndarray) -> np.ndarray:  # truncate 3.5: 11 taps
        return gaussian_filter(x, (0, 0, 1.5, 1.5), mode="mirror", truncate=3.5)

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the data range is 2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * covariance + c2) / (var_a + var_b + c2)


def nearest_training(samples: ArrayLike, training: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """For each sample the nearest training row: (index int64 [N], Euclidean distance float64 [N]).

    Rows are features, or images of any shape, which are flattened; uint8 images are measured in
    [-1, 1]. Computed in blocks; a copy has the distance 0.
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    both = host(samples, "samples"), host(training, "training")
    shapes = [array.shape[1:] for array in both]
    pictures = any(array.ndim > 2 or array.dtype == np.uint8 for array in both)
    x, y = checks.rows(both[0], "samples", pictures), checks.rows(both[1], "training", pictures)
    if x.shape[1] != y.shape[1] or (shapes[0] != shapes[1] and min(map(len, shapes)) > 1):
        raise ValueError(f"samples are {shapes[0]} each, training rows {shapes[1]}: equal shapes")
    mean = y.mean(0)  # |x|² − 2xy + |y|² loses the digits of a common mean …
    index = pairwise_distances_argmin_min(x - mean, y - mean)[0]
    # … and gives no exact 0 for a copy: the distance is made anew from the difference
    distance = np.linalg.norm(x.astype(np.float64) - y[index], axis=1)
    return index.astype(np.int64), distance


def count_copies(
    distances: ArrayLike, held_out_distances: ArrayLike, quantile: float = 0.01
) -> Copies:
    """Count samples that are closer to a training image than held-out images are.

    distances [N] and held_out_distances [M]: from `nearest_training`, of samples and of real unseen
    images. The threshold is the quantile of the latter; so a generator that copies nothing has
    about this fraction, and only what exceeds it is evidence.
    """
    d = checks.nonnegative(distances, "distances")
    reference = checks.nonnegative(held_out_distances, "held_out_distances")
    must(0 < quantile < 1, "quantile", "between 0 and 1", quantile)
    threshold = float(np.quantile(reference, quantile))
    count = int((d <= threshold).sum())
    return Copies(count, count / len(d), threshold)
