"""Answers that every room needs about a single value, and one line for what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from operator import index
from typing import Any

import numpy as np


def unknown_name(kind: str, value: object, known: Iterable[str]) -> ValueError:
    """The error for an unknown name: the nearest known ones, or else all."""
    known = sorted(printable(str(name)) for name in known)
    near = get_close_matches(str(value)[:80].lower(), known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    hint = hint or f"known: {', '.join(known) or 'none'}"
    return ValueError(f"unknown {kind} {shown(value)}: {hint}")


def one_of(known: Collection, kind: str, value: Any) -> None:
    """Raise the error of `unknown_name` unless the value is known."""
    if value not in known:
        raise unknown_name(kind, value, known)


def must(holds: object, name: str, what: str, value: object) -> None:
    """Raise ValueError `NAME must be WHAT, got VALUE` unless it holds."""
    if not holds:
        got = shown(value) if isinstance(value, int) else value
        raise ValueError(f"{name} must be {what}, got {got}")


def integer(value: object, name: str, least: int | None = None, most: int | None = None) -> int:
    """`value` as a Python integer: any integer type counts, NumPy's too; bool and float do not.

    Raises TypeError if it is no integer, ValueError if it is out of range; both name it.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {shown(value)}") from None
    must(least is None or number >= least, name, f"at least {least}", number)
    must(most is None or number <= most, name, f"at most {most}", number)
    return number


def real(value: Any, name: str) -> float:
    """`value` as a finite float; TypeError if it is no number, ValueError if it is not finite."""
    try:
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {shown(value)}") from None
    must(math.isfinite(number), name, "finite", value)
    return number


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Inside, what is wrong with a value is a ValueError that begins with `where`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def is_tensor(value: Any) -> bool:
    """Whether this is a torch tensor, found out without importing torch."""
    return any(base.__module__.partition(".")[0] == "torch" for base in type(value).__mro__)


def host(x: Any, name: str) -> np.ndarray:
    """An array, or a torch tensor on any device, as a NumPy array (bf16 as float32)."""
    if is_tensor(x):
        x = x if str(x.layout) == "torch.strided" else x.to_dense()
        x = x.float() if x.is_floating_point() and x.itemsize < 4 else x
        return x.numpy(force=True)
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has {np.ma.count_masked(x)} masked entries: fill or drop them")
    try:
        return np.asarray(x)
    except ValueError:
        raise ValueError(f"{name} is no array: its rows differ in length") from None


def holds_integers(array: Any) -> bool:
    """Whether an array or tensor is of an integer type, signed or not; bool is none."""
    if is_tensor(array):
        return str(array.dtype).removeprefix("torch.").startswith(("int", "uint"))
    return array.dtype.kind in "iu"


def int64(array: Any, name: str) -> Any:
    """NumPy's integers of any width as int64; TypeError for others, ValueError beyond its range."""
    if not holds_integers(array):
        raise TypeError(f"{name} must be integers, got {array.dtype} {array.shape}")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8:
        must(array.max(initial=0) < 1 << 63, name, "from 0 to 2^63-1", array.max(initial=0))
    return array.astype("int64", copy=False)


def shown(value: Any) -> str:
    """repr on one line, of a length that fits one."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 120 else f"{text[:100]}… ({type(value).__name__})"


def printable(text: str) -> str:
    """`text` with escapes for what would leave the line or steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """What an error says, on one line of a length that fits one."""
    return " ".join(str(error).split())[:200] or type(error).__name__
