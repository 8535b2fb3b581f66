"""The array operations of `vcqlib.entropy.prefixes`, NumPy on all cores, torch on a device.

Both classes offer the same steps. `codes` is the token matrix [N, T], `rows` the rows still looked
at (None: all), `group` their group numbers, `keys` the packed int64 keys, `opens` a mask of where a
group starts among sorted keys.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from .inputs import mapped_file, refuse

BLOCK = 1 << 14  # rows a thread handles at once: one block of a few columns stays in its cache
ROOT = 64  # larger than any bit length: marks where the first group starts


class Field(NamedTuple):
    """`bits` bits of the tokens of one position, above the `shift` lowest."""

    position: int
    shift: int
    bits: int


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
    def pack(cls, codes: Any, rows: Any, group: Any, fields: list[Field]) -> tuple[Any, list[int]]:
        """Keys [n] int64 (group, fields, index), and the largest token of each field's position."""
        n = len(codes) if rows is None else len(rows)
        index_bits, keys = (n - 1).bit_length(), np.empty(n, np.int64)

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
        return keys.astype(np.int32)  # half the memory; N < 2^31

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
        sizes = np.empty(len(starts), np.int32)
        np.subtract(starts[1:], starts[:-1], out=sizes[:-1], casting="same_kind")
        sizes[-1] = end - starts[-1]
        return sizes

    @staticmethod
    def running(mask: Any) -> Any:
        return np.cumsum(mask, dtype=np.int32)

    @staticmethod
    def maps_rows(codes: Any) -> bool:
        """Whether reading by row, in order, saves reading the same page of a file again."""
        return codes.strides[0] > codes.strides[1] and mapped_file(codes) is not None

    @staticmethod
    def repeated(codes: Any, rows: Any, group: Any, groups: int, position: int) -> bool:
        """Whether the rows of each group are equal from `position` to the end."""
        one = np.empty(groups, rows.dtype)
        one[group] = rows  # some row of each group
        step = max((BLOCK << 5) // (codes.shape[1] - position), 1)
        return all(
            np.array_equal(
                codes[rows[lo : lo + step], position:], codes[one[group[lo : lo + step]], position:]
            )
            for lo in range(0, len(rows), step)
        )

    count = staticmethod(np.bincount)

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
    def pack(codes: Any, rows: Any, group: Any, fields: list[Field]) -> tuple[Any, list[int]]:
        import torch

        n = len(codes) if rows is None else len(rows)
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
        return (keys << (n - 1).bit_length()) | index, most

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
    def repeated(codes: Any, rows: Any, group: Any, groups: int, position: int) -> bool:
        one = rows.new_empty(groups)
        one[group] = rows
        for t in range(position, codes.shape[1]):
            column = TorchArrays.tokens(codes, None, t)
            if not bool((column[rows] == column[one[group]]).all()):
                return False
        return True

    @staticmethod
    def count(group: Any) -> Any:
        return group.bincount()

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
