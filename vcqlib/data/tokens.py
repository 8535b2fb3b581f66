"""What every reader of token files agrees on: which part of a container holds the tokens.

A name is known in any case of its letters. What no name decides is refused with a line that lists
what there is; `columns` (on the command line `--columns`) then says which, in the order of
positions: several arrays or columns are joined, as the scales of VAR are, coarse to fine.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from ..checks import holds_integers, int64, naming, printable, unknown_name
from .npy import check_memory

LABEL_NAMES = ("labels", "label", "class_id", "class_ids", "y")
CODE_NAMES = ("codes", "tokens", "indices", "idx", "input_ids")
PIECE = 1 << 21  # tokens gathered before they are narrowed to 16 or 32 bits
LISTED = 12  # names that an error lists

Blocks = Iterator[tuple[object, np.ndarray]]  # (name for errors, tokens [m, T])


@dataclass(frozen=True)
class Tokens:
    """What a reader found; `vcqlib.entropy.inputs` judges whether it is a matrix of tokens.

    codes: [N, T], any integer type; labels: [N] or None; sizes: K_1..K_T if recorded.
    columns: names of what holds the codes, in the order of positions; () for a bare matrix.
    labels_from: name of what holds the labels. left_out: names of what was not read.
    """

    codes: np.ndarray
    labels: np.ndarray | None = None
    sizes: tuple[int, ...] | None = None
    columns: tuple[str, ...] = ()
    labels_from: str = ""
    left_out: tuple[str, ...] = ()

    def labelled(self, labels: np.ndarray, name: str) -> Tokens:
        """The same with labels [N], which lie in what is called `name`."""
        return replace(self, labels=labels, labels_from=name)

    def said(self) -> str:
        """What was read and what was not, in words; "" for a bare matrix."""
        parts = (("tokens", self.columns), ("labels", (self.labels_from,) * bool(self.labels_from)))
        told = [f"{what}: {_listed(names)}" for what, names in parts if names]
        return "; ".join(told + [f"left out: {_listed(self.left_out)}"] * bool(self.left_out))


def _listed(names: Sequence[str]) -> str:
    """Names, shortened where there are many."""
    names = [printable(name) for name in names]
    if len(names) <= LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:2])} … {names[-1]} ({len(names)})"


def natural(name: str) -> list[str | int]:
    """Sort key by which p2 comes before p10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def label_name(names: Collection[str]) -> str | None:
    """The first of the names of labels that is there."""
    return next((name for known in LABEL_NAMES for name in names if name.lower() == known), None)


def known_codes(names: Iterable[str]) -> list[str]:
    """Those names that say that they are tokens."""
    return [name for name in names if name.lower() in CODE_NAMES]


def choose(
    path: Path,
    held: Mapping[str, object],
    columns: Sequence[str],
    known: Iterable[str],
    likely: Sequence[list[str]],
) -> list[str]:
    """What holds the tokens, in the order of positions; ValueError if nothing decides.

    Those asked for in `columns`; else the one of the `known` that is named as tokens; else the only
    `likely` one that is not named as labels. held: name → what it is, for messages.
    """
    if columns:
        return named(columns, held, path)
    sure = [[name] for name in known_codes(known)]
    sure = sure or [names for names in likely if names[0].lower() not in LABEL_NAMES]
    if len(sure) != 1:
        raise ambiguous(path, held)
    return sure[0]


def ambiguous(path: Path, held: Mapping[str, object]) -> ValueError:
    """The error where no name decides; `held`: name → what it is."""
    shown = [f"{printable(name)} {what}" for name, what in held.items()]
    return ValueError(
        f"{path}: what of it holds the tokens? It has {_listed(shown) or 'nothing'}. Name it with "
        "--columns (columns=…); several, such as scales from coarse to fine, are joined in this "
        "order as positions (batches of rows: concatenate them first)"
    )


def named(columns: Sequence[str], held: Collection[str], path: Path) -> list[str]:
    """The names asked for; one with * stands for all that match, p2 before p10."""
    found: list[str] = []
    for column in columns:
        matches = [column] if column in held else [n for n in held if fnmatchcase(n, column)]
        if not matches:
            raise ValueError(f"{path}: {unknown_name('column', column, held)}")
        for name in sorted(matches, key=natural):
            if name in found:
                raise ValueError(f"{path}: --columns names {name} twice")
            found.append(name)
    return found


def join(arrays: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """One array as it is; of several the rows, each flattened, side by side: [N, T]."""
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    for name, array in arrays.items():
        if not holds_integers(array):
            raise ValueError(f"{path}: {name} must hold integers, got {array.dtype}")
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: the columns differ in length: {lengths}")
    return np.concatenate([a.reshape(len(a), -1) for a in arrays.values()], axis=1)


def gather(blocks: Blocks, path: Path) -> np.ndarray:
    """Stack named blocks [m, T] of equal T into one matrix, narrowed piece by piece."""
    pieces: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    length = entries = 0

    def narrow() -> None:
        piece = np.concatenate(waiting)
        waiting.clear()
        fits = [d for d in (np.uint16, np.uint32) if int(piece.max()) <= np.iinfo(d).max]
        pieces.append(piece.astype(fits[0]) if fits and int(piece.min()) >= 0 else piece)
        # pieces and, at the end, their concatenation
        check_memory(2 * sum(piece.nbytes for piece in pieces), path)

    for name, block in blocks:
        with naming(name):
            waiting.append(int64(block, "tokens"))
        length = length or block.shape[1]
        if block.shape[1] != length or not length:
            raise ValueError(f"{name}: {block.shape[1]} tokens where others have {length}")
        entries += block.size
        if entries >= PIECE:
            narrow()
            entries = 0
    if waiting:
        narrow()
    if not pieces:
        raise ValueError(f"{path}: holds no sequences")
    return np.concatenate(pieces)
