"""What the metrics may be given: sets of features or images, of NumPy or torch, in any precision.

Each function returns the set as a NumPy array, or refuses it with a ValueError that names it. Every
metric reads through them, so that no NaN, no complex number and no masked entry becomes a score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..checks import host, must

LARGEST = 1e50  # the sixth power, which the kernel distance takes, still fits in float64


def finite(x: np.ndarray, name: str) -> np.ndarray:
    """`x`, which may not be empty, and holds real numbers, none NaN, infinite or beyond LARGEST."""
    must(x.dtype.kind in "iuf", name, "real numbers", x.dtype)
    if x.size == 0:
        raise ValueError(f"{name} is empty: shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} has {np.count_nonzero(~np.isfinite(x))} NaN or infinite values")
    if max(float(x.max()), -float(x.min())) > LARGEST:
        raise ValueError(f"{name} has values beyond {LARGEST:g}: too large to be squared")
    return x


def matrix(x: Any, name: str) -> np.ndarray:
    """float64 [N, d]."""
    array = host(x, name)
    must(array.ndim == 2, name, "[N, d]", f"shape {array.shape}")
    return finite(array, name).astype(np.float64)


def sparse_matrix(x: Any, name: str) -> Any:
    """CSR float64 [N, d], of a SciPy-sparse matrix or of a dense one."""
    from scipy.sparse import csr_array, issparse

    found = csr_array(x if issparse(x) else matrix(x, name))
    if found.nnz:
        finite(found.data, name)
    return found.astype(np.float64)


def nonnegative(x: Any, name: str) -> np.ndarray:
    """float64 [N], none negative."""
    found = finite(host(x, name), name).astype(np.float64).ravel()
    if found.min() < 0:
        raise ValueError(f"{name} has the negative value {found.min():g}")
    return found


def rows(x: Any, name: str, pictures: bool = False) -> np.ndarray:
    """float32 or float64 [N, values] of features, or of `pictures`, which are in [-1, 1]."""
    array = host(x, name)
    must(array.ndim > 1, name, "[N, …]", f"shape {array.shape}")
    wide = finite(array, name).astype(np.result_type(array.dtype, np.float32))
    wide = wide.reshape(len(array), -1)
    if pictures and array.dtype == np.uint8:
        return wide / 127.5 - 1
    good = not pictures or np.abs(wide).max() <= 1.001  # else its units are not those of uint8
    must(good, name, "uint8 images, or floats in [-1, 1]",
         f"{array.dtype} from {wide.min():g} to {wide.max():g}")  # fmt: skip
    return wide


def pair(
    a: Any, b: Any, name_a: str = "a", name_b: str = "b", read: Callable = matrix
) -> tuple[np.ndarray, np.ndarray]:
    """[N, d] and [M, d]: two sets of one width."""
    x, y = read(a, name_a), read(b, name_b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{name_a} has {x.shape[1]} features, {name_b} has {y.shape[1]}")
    return x, y


def gaussian(mean: Any, covariance: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean float64 [d] and covariance float64 [d, d], symmetric."""
    m, c = (finite(host(x, f"the {what} of {name}"), f"the {what} of {name}").astype(np.float64)
            for x, what in ((mean, "mean"), (covariance, "covariance")))  # fmt: skip
    good = m.ndim == 1 and c.shape == (len(m), len(m))
    must(good, name, "a mean [d] and a covariance [d, d]", f"{m.shape} and {c.shape}")
    if (gap := np.abs(c - c.T)).max() > 1e-6 * np.abs(c).max():
        i, j = np.unravel_index(gap.argmax(), c.shape)
        raise ValueError(f"the covariance of {name} is not symmetric: {c[i, j]:g} at [{i}, {j}], "
                         f"{c[j, i]:g} at [{j}, {i}]")  # fmt: skip
    return m, c


def spectrum(values: np.ndarray, name: str) -> np.ndarray:
    """The eigenvalues of a covariance, which are not negative but for rounding."""
    if values.min() < -1e-4 * np.abs(values).max():
        raise ValueError(f"the covariance of {name} has the negative eigenvalue {values.min():g}")
    return values.clip(0)


def images(x: Any, name: str) -> Any:
    """`x`, an array or a tensor, which has to be uint8 [N, C, H, W]."""
    kind, shape = str(getattr(x, "dtype", type(x))).removeprefix("torch."), tuple(np.shape(x))
    must(kind == "uint8" and len(shape) == 4 and 0 not in shape, name, "uint8 [N, C, H, W] and not "
         "empty", f"{kind} {shape}; vcqlib.data.image_sets.to_uint8 converts floats")  # fmt: skip
    last = shape[1] == shape[2] > 4 >= shape[3]
    must(not last, name, "[N, C, H, W]", f"{shape}: move the last axis to the second")
    return x


def codes(x: Any, name: str) -> np.ndarray:
    """Integers [N, T], none negative."""
    array = finite(host(x, name), name)
    must(array.dtype.kind in "iu" and array.ndim == 2 and array.min() >= 0, name,
         "codes [N, T], integers from 0",
         f"{array.dtype} {array.shape}, the least {array.min()}")  # fmt: skip
    return array


def labels(x: Any, name: str) -> np.ndarray:
    """[N] whole numbers, truth values or strings."""
    array = host(x, name).ravel()
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array):
        array = array.astype(str)
    whole = array.dtype.kind != "f" or (np.isfinite(array) & (array == np.rint(array))).all()
    must(array.dtype.kind in "iubfUST" and whole, name, "whole numbers or strings",
         array.dtype if whole else f"{array.dtype}, not all of them whole")  # fmt: skip
    return array
