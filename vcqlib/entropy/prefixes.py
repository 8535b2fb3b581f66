"""Refining groups of sequences that share a prefix: the exact counting behind `entropy`.

All that a plug-in entropy needs is how many sequences share each prefix. One 64-bit key per
sequence holds, from the top, the number of its group, as many further positions as fit, and its
row. Sorting the keys once lines up the groups of every packed position: two neighbours part at the
position of their highest differing bit. Groups of one sequence can never split again and are
dropped, so the work falls to nothing after the cliff. Once a pass splits no group, the rest is
compared row by row: data that holds its sequences more than once end there. What is read and held
meanwhile, `conditional_entropy` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .backends import Field, NumPyArrays, TorchArrays

SAMPLE = 1 << 16  # rows looked at to guess how many bits each position needs
KEY_BITS = 63  # keys are non-negative int64, which NumPy and torch both sort


def refine(codes: Any, rows: Any = None, arrays: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield, position by position, the groups of sequences that share their prefix.

    codes: integer array [N, T], NumPy (any strides, memmaps too) or torch on any device. rows: the
    rows to look at, ascending; default all. arrays: how to compute (`NumPyArrays`, `TorchArrays`).

    Yields sizes and parents: integers with one entry for each group of two or more sequences that
    agree up to and including the position: its size, and the size of the group it was part of one
    position before. Ends before position T when every sequence has become unique. ValueError if a
    token that is read is negative or does not fit in 63 bits.
    """
    xp = arrays or (NumPyArrays if isinstance(codes, np.ndarray) else TorchArrays)
    n, length = (codes.shape[0] if rows is None else len(rows)), codes.shape[1]
    group, groups, outer = None, 1, None
    in_file_order = xp.maps_rows(codes)
    position, pending = 0, None  # `pending` bits of `position` are still unread
    while position < length and n > 1:
        before, index_bits = (n, groups), (n - 1).bit_length()
        room = KEY_BITS - index_bits - (groups - 1).bit_length()
        fields, keys = _pack(xp, codes, rows, group, position, pending, room)
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
            outer, shared = None, int(sizes.sum())
            if field.shift:  # the next pass reads the rest of this position
                outer = parents
            else:
                yield sizes, parents
            del sizes, parents
            if 2 * shared < len(live):
                live = live[_shared(opens)]
            above = low
        done = field.shift == 0
        position, pending = field.position + done, (None if done else field.shift)
        if position < length:
            del live, opens
            opens = lengths > low
            keep = _shared(opens)
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
            if done and (n, groups) == before and xp.repeated(codes, rows, group, groups, position):
                sizes = xp.count(group)
                yield from ((sizes, sizes) for _ in range(position, length))
                return


def _shared(opens: Any) -> Any:
    """Which entries of a run structure are in runs of two or more."""
    keep = ~opens
    keep[:-1] |= ~opens[1:]
    return keep


def _pack(
    xp: Any, codes: Any, rows: Any, group: Any, position: int, pending: int | None, room: int
) -> tuple[list[Field], Any]:
    """The next fields that fit into `room` bits, and the keys that hold them.

    How many bits a position needs is guessed from the first rows; packing finds the largest token
    of all rows, and is repeated with that where the guess was too low.
    """
    sample = slice(0, SAMPLE) if rows is None else rows[:SAMPLE]
    widths: dict[int, int] = {} if pending is None else {position: pending}

    def width(t: int) -> int:
        if t not in widths:
            widths[t] = max(int(xp.tokens(codes, sample, t).max()), 0).bit_length()
        return widths[t]

    while True:
        fields = _plan(width, position, codes.shape[1], room)
        keys, most = xp.pack(codes, rows, group, fields)
        wider = {f.position: m.bit_length() for f, m in zip(fields, most, strict=True)}
        if pending is not None:
            wider[position] = pending  # its upper bits are in the groups already
        if all(width(t) >= bits for t, bits in wider.items()):
            return fields, keys
        widths |= wider


def _plan(width: Callable[[int], int], position: int, length: int, room: int) -> list[Field]:
    """Positions that fit into `room` bits; the upper bits of one position if not even that fits."""
    fields: list[Field] = []
    for t in range(position, length):
        bits = width(t)
        if bits > room:
            return fields or [Field(t, bits - room, room)]
        fields.append(Field(t, 0, bits))
        room -= bits
    return fields
