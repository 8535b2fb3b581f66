"""Linear probes: what a linear classifier reads from features, or from the first m tokens.

Up to LARGE training images the probe is scikit-learn's logistic regression, solved to the end.
Above, it is the same model fitted by stochastic gradient descent, on a GPU where there is one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..checks import host, must
from . import checks
from .checks import pair

LARGE = 20_000  # training images from which a probe is fitted by gradient descent
EPOCHS, BATCH, LEAST = 20, 1000, 1000  # of that descent; LEAST: steps, however few the images


def linear_probe(
    x_train: Any, y_train: ArrayLike, x_test: Any, y_test: ArrayLike, device: str = "cpu"
) -> float:
    """Test accuracy of a logistic regression on features [N, d], dense or SciPy-sparse.

    Dense features are standardised with the training moments; sparse (one-hot) ones are left as
    they are. L2 penalty with C = 1. Deterministic on a CPU: lbfgs with at most 200 iterations, or
    above LARGE training images, dense, `gradient_probe` on `device`. ValueError for unequal counts,
    for one class only, or a test class without training images.
    """
    from scipy.sparse import issparse
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sparse = issparse(x_train) or issparse(x_test)
    read = checks.sparse_matrix if sparse else checks.matrix
    x_train, x_test = pair(x_train, x_test, "x_train", "x_test", read)
    y_train, y_test = _labels(x_train, y_train, x_test, y_test)
    if not sparse and len(y_train) > LARGE:
        return gradient_probe(x_train, y_train, x_test, y_test, device)
    model = LogisticRegression(max_iter=200)
    probe = model if sparse else make_pipeline(StandardScaler(), model)
    with warnings.catch_warnings():  # the accuracy is settled long before the last digit of loss
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(x_train, y_train)
    return float(probe.score(x_test, y_test))


def prefix_probe(
    train: ArrayLike, y_train: ArrayLike, test: ArrayLike, y_test: ArrayLike,
    lengths: Sequence[int] | None = None, device: str = "cpu",
) -> np.ndarray:  # fmt: skip
    """Accuracy of a linear probe on the first m positions, for each m in `lengths` (all 1…T).

    `train` and `test` are vectors [N, T, d] (encoder outputs, code vectors) or integer codes
    [N, T], which are read one-hot. Returns float64 [len(lengths)]. `device`: as `linear_probe`.
    """
    from sklearn.preprocessing import OneHotEncoder

    a, b = host(train, "train"), host(test, "test")
    codes = all(x.ndim == 2 and x.dtype.kind in "iu" for x in (a, b))
    good = (codes or a.ndim == b.ndim == 3) and a.shape[1:] == b.shape[1:]
    must(good, "train and test", "vectors [N, T, d] or integer codes [N, T], of equal T and d",
         f"{a.dtype} {a.shape} and {b.dtype} {b.shape}")  # fmt: skip
    if codes:
        a, b = checks.codes(a, "train"), checks.codes(b, "test")
    lengths = range(1, a.shape[1] + 1) if lengths is None else lengths
    accuracies = []
    for m in lengths:
        must(1 <= m <= a.shape[1], "a prefix length", f"in 1…{a.shape[1]}", m)
        u, v = a[:, :m].reshape(len(a), -1), b[:, :m].reshape(len(b), -1)
        probe = gradient_probe if codes and len(u) > LARGE else linear_probe
        if codes and probe is linear_probe:  # a column for each code that training shows
            encoder = OneHotEncoder(handle_unknown="ignore", dtype=np.float64).fit(u)
            u, v = encoder.transform(u), encoder.transform(v)
        accuracies.append(probe(u, y_train, v, y_test, device))
    return np.array(accuracies)


def gradient_probe(
    x_train: ArrayLike, y_train: ArrayLike, x_test: ArrayLike, y_test: ArrayLike,
    device: str = "cpu", seed: int = 0,
) -> float:  # fmt: skip
    """The probe by stochastic gradient descent (Adam, cosine), for sets of any size.

    Reads float features [N, d], standardised with the training moments, or integer codes [N, m],
    one-hot without a column being written out. Batches go to `device` one by one. Errors as
    `linear_probe`.
    """
    import torch
    from torch.nn import functional as F

    codes = host(x_train, "x_train").dtype.kind in "iu"
    x, z = pair(x_train, x_test, "x_train", "x_test", checks.codes if codes else checks.rows)
    y, y_test = _labels(x, y_train, z, y_test)
    known, y = np.unique(y, return_inverse=True)
    if codes:
        # one row of weights for each position's code; one that training never showed stays zero
        sizes = np.maximum(x.max(0), z.max(0)).astype(np.int64) + 1
        first = np.concatenate([[0], sizes.cumsum()[:-1]])
        x, z = x.astype(np.int64) + first, z.astype(np.int64) + first
        weight = torch.zeros(int(sizes.sum()), len(known))
        model = torch.nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum")
    else:
        mean, scale = x.mean(0), x.std(0)
        scale[scale == 0] = 1
        x, z = (((part - mean) / scale).astype(np.float32) for part in (x, z))
        model = torch.nn.utils.skip_init(torch.nn.Linear, x.shape[1], len(known))
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
    model = model.to(device)
    x, z, y = torch.from_numpy(x), torch.from_numpy(z), torch.from_numpy(y)
    steps = max(LEAST, EPOCHS * len(x) // BATCH)
    generator = torch.Generator().manual_seed(seed)
    # C = 1: |w|² / 2 beside the sum of the losses, so 1 / N beside their mean
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1 / len(x))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    orders = iter(lambda: torch.randperm(len(x), generator=generator).split(BATCH), None)
    for batch in islice(chain.from_iterable(orders), steps):
        loss = F.cross_entropy(model(x[batch].to(device)), y[batch].to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    with torch.inference_mode():
        found = torch.cat([model(part.to(device)).argmax(1).cpu() for part in z.split(BATCH)])
    return float((known[found.numpy()] == y_test).mean())


def _labels(
    x_train: Any, y_train: ArrayLike, x_test: Any, y_test: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] and [M], one for each row, of at least two classes that training shows."""
    labels = checks.labels(y_train, "y_train"), checks.labels(y_test, "y_test")
    for x, y, name in ((x_train, labels[0], "train"), (x_test, labels[1], "test")):
        if x.shape[0] != len(y):
            raise ValueError(f"x_{name} has {x.shape[0]} rows, y_{name} has {len(y)} labels")
    known = np.unique(labels[0])
    if len(known) < 2:
        raise ValueError(f"y_train has only the class {known.tolist()}: a probe needs two")
    if missing := sorted(set(np.unique(labels[1]).tolist()) - set(known.tolist())):
        raise ValueError(f"y_train has no example of class {missing}, which y_test has")
    return labels
