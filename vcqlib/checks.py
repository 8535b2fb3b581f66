"""Answers that every room needs about a single value, and one line for what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from operator import index
from typing import Any


def unknown_name(kind: str, value: object, known: Iterable[str]) -> ValueError:
    """The error for an unknown name: the nearest known ones, or else all."""
    known = sorted(printable(str(name)) for name in known)
    shown = repr(value) if len(repr(value)) <= 120 else f"{repr(value)[:100]}…"
    near = get_close_matches(str(value)[:80].lower(), known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(f"unknown {kind} {shown}: {hint or 'known: ' + (', '.join(known) or 'none')}")


def must(holds: object, name: str, what: str, value: object) -> None:
    """Raise ValueError `NAME must be WHAT, got VALUE` unless it holds."""
    if not holds:
        raise ValueError(f"{name} must be {what}, got {value}")


def integer(value: object, name: str, least: int | None = None) -> int:
    """`value` as a Python integer: any integer type counts, NumPy's too; bool and float do not.

    Raises TypeError if it is no integer, ValueError if it is below `least`; both name it.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def is_tensor(value: Any) -> bool:
    """Whether this is a torch tensor, found out without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch"


def holds_integers(array: Any) -> bool:
    """Whether an array or tensor is of an integer type, signed or not; bool is none."""
    if is_tensor(array):
        kinds = str(array.dtype).removeprefix("torch.")
        return kinds.startswith(("int", "uint"))
    return array.dtype.kind in "iu"


def printable(text: str) -> str:
    """`text` with escapes for what would leave the line or steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """What an error says, on one line of a length that fits one."""
    return " ".join(str(error).split())[:200] or type(error).__name__
