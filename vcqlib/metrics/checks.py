"""What the metrics may be given: sets of features or images, of NumPy or of torch.

Each function returns the set as a NumPy array, or refuses it with a ValueError that names it.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def host(x: Any) -> np.ndarray:
    """An array, or a torch tensor on any device, as a NumPy array."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    return np.asarray(x)


def finite(x: np.ndarray, name: str) -> np.ndarray:
    """`x`, which may not be empty and has neither NaN nor infinity."""
    if x.size == 0:
        raise ValueError(f"{name} is empty: shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} has {np.count_nonzero(~np.isfinite(x))} NaN or infinite values")
    return x


def matrix(x: Any, name: str) -> np.ndarray:
    """float64 [N, d]."""
    array = host(x)
    if array.ndim != 2:
        raise ValueError(f"{name} must be [N, d], got shape {array.shape}")
    return finite(array.astype(np.float64), name)


def vector(x: Any, name: str) -> np.ndarray:
    """float64 [N]."""
    return finite(host(x).astype(np.float64).ravel(), name)


def pair(a: Any, b: Any, name_a: str = "a", name_b: str = "b") -> tuple[np.ndarray, np.ndarray]:
    """float64 [N, d] and [M, d]: two sets of one width."""
    x, y = matrix(a, name_a), matrix(b, name_b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{name_a} has {x.shape[1]} features, {name_b} has {y.shape[1]}")
    return x, y


def rows(x: Any, name: str) -> np.ndarray:
    """float32 [N, values]: features, or images of any shape; uint8 becomes [-1, 1]."""
    array = host(x)
    flat = array.reshape(len(array), -1).astype(np.float32)
    return finite(flat / 127.5 - 1 if array.dtype == np.uint8 else flat, name)
