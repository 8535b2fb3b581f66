"""Refining groups of sequences that share a prefix: the exact counting behind `entropy`.

All that a plug-in entropy needs is how many sequences share each prefix. One 64-bit key per
sequence holds, from the top, the number of its group, as many further positions as fit, and its
row. Sorting the keys once lines up the groups of every packed position: two neighbours part at the
position of their highest differing bit. Groups of one sequence can never split again and are
dropped, so the work falls to nothing after the cliff.

Memory beside the matrix: at most 32 bytes a sequence (four columns of 64-bit keys). The matrix is
read in blocks of `BLOCK` rows, only at the positions that still matter, so a position-major memmap
is read column by column and a row-major one in a single pass from front to back. Later passes
read only the rows that still share their prefix with another.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 1 << 14  # rows a thread handles at once: one block of a few columns stays in its cache
SAMPLE = 1 << 16  # rows looked at to guess how many bits each position needs
KEY_BITS = 63  # keys are non-negative int64, which NumPy and torch both sort
ROOT = 64  # larger than any bit length: marks where the first group starts


@dataclass(frozen=True)
class Field:
    """`bits` bits of the tokens of one position, above the `shift` lowest."""

    position: int
    shift: int
    bits: int


def refine(codes: Any, rows: Any = None, arrays: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield, position by position, the groups of sequences that share their prefix.

    Args:
        codes: integer array [N, T], NumPy (any strides, memmaps too) or torch on any device.
        rows: the rows to look at, ascending; default all.
        arrays: how to compute (`NumPyArrays` or `TorchArrays`); default by the type of `codes`.

    Yields:
        sizes, parents: integer arrays with one entry for each group of two or more sequences that
        agree up to and including the position: its size, and the size of the group it was part of
        one position before. Ends before position T when every sequence has become unique.

    Raises:
        ValueError: a token that is read is negative or does not fit in 63 bits.
    """
    xp = arrays or (NumPyArrays if isinstance(codes, np.ndarray) else TorchArrays)
    n, length = (codes.shape[0] if rows is None else len(rows)), codes.shape[1]
    group, groups, outer = None, 1, None
    in_file_order = xp.maps_rows(codes)
    position, pending = 0, None  # `pending` bits of `position` are still unread
    while position < length and n > 1:
        index_bits, group_bits = (n - 1).bit_length(), (groups - 1).bit_length()
        room = KEY_BITS - index_bits - group_bits
        widths = _Widths(xp.tokens, codes, rows, n)
        if pending is not None:
            widths.known[position] = pending
        while True:
            fields = _plan(widths, position, length, room)
            keys, most = xp.pack(codes, rows, group, fields, n, index_bits)
            wrong = [f for f, m in zip(fields, most, strict=True) if m >> widths(f.position)]
            if pending is not None:  # its upper bits were seen already, for all rows
                wrong = [f for f in wrong if f.position != position]
            if not wrong:
                break
            widths.known |= {
                f.position: m.bit_length() for f, m in zip(fields, most, strict=True) if f in wrong
            }
        tidy, group = group is not None and not in_file_order, None  # it lives on in the keys
        keys = xp.sort(keys, tidy)
        lengths = xp.differing_bits(keys, index_bits)
        index = xp.index(keys, index_bits)
        del keys
        live, low = lengths, sum(f.bits for f in fields)
        above = low
        for field in fields:
            low -= field.bits
            opens = live > low
            starts = xp.where(opens)
            sizes = xp.sizes(starts, len(live))
            first = live[starts] > above  # children that open their parent's run
            among = xp.sizes(starts[first], len(live)) if outer is None else outer
            del starts
            several = sizes > 1
            if not several.any():
                return
            parents = among[xp.running(first)[several] - 1]
            sizes = sizes[several]
            del first, several, among
            outer = None
            if field.shift == 0:
                yield sizes, parents
            if 2 * int(sizes.sum()) < len(live):
                live = live[xp.shared(opens)]
            above = low
        done = field.shift == 0
        position, pending = field.position + done, (None if done else field.shift)
        outer = None if done else parents
        if position < length:
            del live, opens, sizes, parents
            opens = lengths > low
            keep = xp.shared(opens)
            group = xp.running(opens[keep]) - 1
            groups = int(group[-1]) + 1
            del lengths, opens
            index = index[keep]
            del keep
            rows = index if rows is None else rows[index]
            n = len(rows)
            del index
            if in_file_order:
                rows, group = xp.by_row(rows, group, groups)


class _Widths:
    """Bits that the tokens of a position need, guessed from the first rows unless known."""

    def __init__(self, tokens: Any, codes: Any, rows: Any, n: int) -> None:
        self.tokens, self.codes, self.known = tokens, codes, {}
        self.rows = slice(0, min(n, SAMPLE)) if rows is None else rows[:SAMPLE]

    def __call__(self, position: int) -> int:
        if position not in self.known:
            most = int(self.tokens(self.codes, self.rows, position).max())
            self.known[position] = max(most, 0).bit_length()
        return self.known[position]


def _plan(widths: _Widths, position: int, length: int, room: int) -> list[Field]:
    """Positions that fit into `room` bits; the upper bits of one position if not even that fits."""
    fields: list[Field] = []
    for t in range(position, length):
        bits = widths(t)
        if bits > room:
            return fields or [Field(t, bits - room, room)]
        fields.append(Field(t, 0, bits))
        room -= bits
    return fields


def refuse(value: int, row: int, position: int, dtype: Any) -> None:
    """Raise the error for a token that is negative as int64."""
    what = f"{value} is negative" if value < 0 else f"{value} does not fit in 63 bits"
    raise ValueError(
        f"codes ({dtype}) must hold tokens from 0 to 2^63-1, but the token at row {row}, "
        f"position {position} (both zero-based): {what}"
    )


def mapped_file(array: Any) -> np.memmap | None:
    """The map of a file that `array` is a view of, if it is one."""
    while isinstance(array, np.ndarray):
        if isinstance(array.base, mmap.mmap):
            return array
        array = array.base
    return None


class NumPyArrays:
    """The steps of `refine` on host arrays, over all cores that this process may use."""

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

    @classmethod
    def each(cls, work: Any, n: int, block: int) -> list:
        """Run work(start, stop) over blocks of range(n), in threads if there are several."""
        spans = [(lo, min(lo + block, n)) for lo in range(0, n, block)]
        if len(spans) == 1 or cls.threads == 1:
            return [work(*span) for span in spans]
        with ThreadPoolExecutor(cls.threads) as pool:
            return list(pool.map(lambda span: work(*span), spans))

    @staticmethod
    def tokens(codes: Any, rows: Any, position: int) -> Any:
        """One position of some rows (a slice or an index array), int64."""
        return codes[rows, position].astype(np.int64)

    @classmethod
    def pack(
        cls, codes: Any, rows: Any, group: Any, fields: list[Field], n: int, index_bits: int
    ) -> tuple[Any, list[int]]:
        """Keys [n] int64, and the largest token of each field's position."""
        keys = np.empty(n, np.int64)

        def work(lo: int, hi: int) -> list[int]:
            key = keys[lo:hi]
            key[:] = 0 if group is None else group[lo:hi]
            where = slice(lo, hi) if rows is None else rows[lo:hi]
            most = []
            for field in fields:
                tokens = cls.tokens(codes, where, field.position)
                if tokens.min() < 0:
                    at = int(tokens.argmin())
                    row = lo + at if rows is None else int(rows[lo + at])
                    refuse(int(codes[row, field.position]), row, field.position, codes.dtype)
                most.append(int(tokens.max()))
                if field.shift:
                    tokens >>= field.shift
                tokens &= (1 << field.bits) - 1
                key <<= field.bits
                key |= tokens
            key <<= index_bits
            key |= np.arange(lo, hi)
            return most

        return keys, np.max(cls.each(work, n, BLOCK), axis=0).tolist()

    @classmethod
    def sort(cls, keys: Any, tidy: bool = False) -> Any:
        """Sort in place: one run for each thread, then merge; `tidy` if out of order locally."""
        share = max(-(-len(keys) // cls.threads), BLOCK)
        kind = "stable" if tidy else "quicksort"  # the stable one merges the runs that it finds
        if len(cls.each(lambda lo, hi: keys[lo:hi].sort(kind=kind), len(keys), share)) > 1:
            keys.sort(kind="stable")
        return keys

    @staticmethod
    def index(keys: Any, index_bits: int) -> Any:
        keys &= (1 << index_bits) - 1
        return keys.astype(np.int32) if index_bits < 32 else keys

    @classmethod
    def differing_bits(cls, keys: Any, index_bits: int) -> Any:
        """uint8 [n]: length in bits of what differs from the key before, without the row."""
        lengths = np.empty(len(keys), np.uint8)
        lengths[0] = ROOT

        def work(lo: int, hi: int) -> None:
            lengths[lo + 1 : hi + 1] = np.maximum(
                _exponent(keys[lo + 1 : hi + 1] ^ keys[lo:hi], index_bits, np.float64), 0
            )

        if len(keys) > 1:
            cls.each(work, len(keys) - 1, 4 * BLOCK)
        return lengths

    @staticmethod
    def where(mask: Any) -> Any:
        return np.flatnonzero(mask)

    @staticmethod
    def sizes(starts: Any, end: int) -> Any:
        sizes = np.empty(len(starts), np.int32 if end < 1 << 31 else np.int64)
        np.subtract(starts[1:], starts[:-1], out=sizes[:-1], casting="same_kind")
        sizes[-1] = end - starts[-1]
        return sizes

    @staticmethod
    def running(mask: Any) -> Any:
        return np.cumsum(mask, dtype=np.int32 if len(mask) < 1 << 31 else np.int64)

    @staticmethod
    def shared(opens: Any) -> Any:
        """Which entries of a run structure are in runs of two or more."""
        keep = ~opens
        keep[:-1] |= ~opens[1:]
        return keep

    @staticmethod
    def maps_rows(codes: Any) -> bool:
        """Whether reading by row, in order, saves reading the same page of a file again."""
        return codes.strides[0] > codes.strides[1] and mapped_file(codes) is not None

    @classmethod
    def by_row(cls, rows: Any, group: Any, groups: int) -> tuple[Any, Any]:
        """The same rows with their groups, in ascending order."""
        bits = (groups - 1).bit_length()
        both = (rows.astype(np.int64) << bits) | group
        cls.sort(both)
        group = (both & ((1 << bits) - 1)).astype(group.dtype)
        both >>= bits
        return both.astype(rows.dtype), group


class TorchArrays:
    """The steps of `refine` on the tensor's own device."""

    @staticmethod
    def tokens(codes: Any, rows: Any, position: int) -> Any:
        column = codes[:, position].long()  # first, because some types cannot be indexed
        return column if rows is None else column[rows]

    @staticmethod
    def pack(
        codes: Any, rows: Any, group: Any, fields: list[Field], n: int, index_bits: int
    ) -> tuple[Any, list[int]]:
        import torch

        index = torch.arange(n, device=codes.device)
        keys = torch.zeros_like(index) if group is None else group.clone()
        ranges = []
        for field in fields:
            tokens = TorchArrays.tokens(codes, rows, field.position)
            ranges.append(torch.stack([tokens.min(), tokens.max()]))
            keys <<= field.bits
            keys |= (tokens >> field.shift) & ((1 << field.bits) - 1)
        least, most = torch.stack(ranges).cpu().numpy().T.tolist()
        for field, smallest in zip(fields, least, strict=True):
            if smallest < 0:
                tokens = TorchArrays.tokens(codes, None, field.position)
                row = int(tokens.argmin())
                refuse(smallest, row, field.position, codes.dtype)
        return (keys << index_bits) | index, most

    @staticmethod
    def sort(keys: Any, tidy: bool = False) -> Any:
        return keys.sort().values

    @staticmethod
    def index(keys: Any, index_bits: int) -> Any:
        return keys & ((1 << index_bits) - 1)

    @staticmethod
    def differing_bits(keys: Any, index_bits: int) -> Any:
        import torch

        lengths = torch.full((len(keys),), ROOT, dtype=torch.uint8, device=keys.device)
        lengths[1:] = _exponent(keys[1:] ^ keys[:-1], index_bits, torch.float64).clamp_(min=0)
        return lengths

    @staticmethod
    def where(mask: Any) -> Any:
        return mask.nonzero()[:, 0]

    @staticmethod
    def sizes(starts: Any, end: int) -> Any:
        return starts.diff(append=starts.new_tensor([end]))

    @staticmethod
    def running(mask: Any) -> Any:
        return mask.cumsum(0)

    @staticmethod
    def shared(opens: Any) -> Any:
        keep = ~opens
        keep[:-1] |= ~opens[1:]
        return keep

    @staticmethod
    def maps_rows(codes: Any) -> bool:
        return False


def _exponent(differ: Any, index_bits: int, double: Any) -> Any:
    """Bit lengths of non-negative int64 values without their lowest bits; ≤ 0 if nothing is left.

    The exponent of a double is its highest bit. Clearing the bit below the highest first keeps
    the conversion from rounding up to the next power of two.
    """
    differ = differ >> index_bits
    differ &= ~(differ >> 1)
    real = differ.astype(double) if isinstance(differ, np.ndarray) else differ.to(double)
    return (real.view(differ.dtype) >> 52) - 1022
