"""What the metrics may be given: sets of features or images, of NumPy or torch, in any precision.

Each function returns the set as a NumPy array, or refuses it with a ValueError that names it. Every
metric reads through them, so that no NaN, no complex number and no masked entry becomes a score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

LARGEST = 1e50  # the sixth power, which the kernel distance takes, still fits in float64


def host(x: Any, name: str) -> np.ndarray:
    """An array, or a torch tensor on any device, as a NumPy array (bf16 as float32)."""
    if hasattr(x, "detach"):
        x = x if str(x.layout) == "torch.strided" else x.to_dense()
        x = x.float() if x.is_floating_point() and x.itemsize < 4 else x
        return x.numpy(force=True)
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has masked entries: leave those rows out, or fill them")
    try:
        return np.asarray(x)
    except ValueError:
        raise ValueError(f"{name} is no array: its rows differ in length") from None


def finite(x: np.ndarray, name: str) -> np.ndarray:
    """`x`, which may not be empty, and holds real numbers, none NaN, infinite or beyond LARGEST."""
    if x.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be real numbers, got {x.dtype}")
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
    if array.ndim != 2:
        raise ValueError(f"{name} must be [N, d], got shape {array.shape}")
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
    if array.ndim < 2:
        raise ValueError(f"{name} must be [N, …], got shape {array.shape}")
    wide = finite(array, name).astype(np.result_type(array.dtype, np.float32))
    wide = wide.reshape(len(array), -1)
    if pictures and array.dtype == np.uint8:
        return wide / 127.5 - 1
    if pictures and np.abs(wide).max() > 1.001:  # its units would not be those of uint8
        raise ValueError(f"{name} must be uint8 images, or floats in [-1, 1]: got {array.dtype} "
                         f"from {wide.min():g} to {wide.max():g}")  # fmt: skip
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
    m = finite(host(mean, name), f"the mean of {name}").astype(np.float64)
    c = finite(host(covariance, name), f"the covariance of {name}").astype(np.float64)
    if m.ndim != 1 or c.shape != (len(m), len(m)):
        raise ValueError(f"{name} must be a mean [d] and a covariance [d, d], got {m.shape} "
                         f"and {c.shape}")  # fmt: skip
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
    if kind != "uint8" or len(shape) != 4 or 0 in shape:
        raise ValueError(f"{name} must be uint8 [N, C, H, W] and not empty, got {kind} {shape}; "
                         "vcqlib.data.image_sets.to_uint8 converts floats")  # fmt: skip
    if shape[1] == shape[2] > 4 >= shape[3]:
        raise ValueError(f"{name} {shape} must be [N, C, H, W]: move the last axis to the second")
    return x


def codes(x: Any, name: str) -> np.ndarray:
    """Integers [N, T], none negative."""
    array = finite(host(x, name), name)
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.min() < 0:
        raise ValueError(f"{name} must be codes [N, T], integers from 0, got {array.dtype} "
                         f"{array.shape}, the least {array.min()}")  # fmt: skip
    return array


def labels(x: Any, name: str) -> np.ndarray:
    """[N] whole numbers, truth values or strings."""
    array = host(x, name).ravel()
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array):
        array = array.astype(str)
    whole = array.dtype.kind != "f" or (np.isfinite(array) & (array == np.rint(array))).all()
    if array.dtype.kind not in "iubfUST" or not whole:
        raise ValueError(f"{name} must be whole numbers or strings, got {array.dtype}"
                         + ("" if whole else ", not all of them whole"))  # fmt: skip
    return array
