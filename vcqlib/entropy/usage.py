"""How the tokens of each position are spread, one position at a time: usage, dead, copied.

What H(X_t | X_<t) cannot show. Past the cliff every position follows from the ones before in the
data at hand, whatever it is worth; the distribution of a position by itself still tells a
position that never varies, or that repeats another one, from one that carries something.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..progress import bar
from .inputs import as_matrix, check_range, is_tensor, tally

AT_ONCE = 1 << 28  # bytes of columns held at once
DENSE = 1 << 24  # tokens below this are counted in a table
KEPT = 1 << 24  # counts gathered before they are added up
SAMPLE = 1 << 12  # rows in which two columns must agree before all rows are compared
SURE = 20  # bits: a copy is named if chance would make one in 2^20 data sets look so

Part = tuple[np.ndarray, np.ndarray]  # different tokens, how often each occurs


@dataclass(frozen=True, eq=False)
class TokenUsage:
    """What `usage` returns; arrays are host NumPy of shape [T].

    Attributes:
        n_sequences: N.
        largest: int64, largest token of each position.
        used: int64, different tokens of each position.
        bits: plug-in entropy H(X_t) of the position by itself, in bits.
        pooled_used: different tokens over all positions, as one codebook has rows.
        pooled_bits: entropy of all tokens together, in bits.
        copies: (t, s), one-based, s < t: position t is position s under other names.
    """

    n_sequences: int
    largest: np.ndarray
    used: np.ndarray
    bits: np.ndarray
    pooled_used: int
    pooled_bits: float
    copies: tuple[tuple[int, int], ...]

    @property
    def perplexity(self) -> np.ndarray:
        """2^H(X_t): the size of a codebook that, used evenly, would hold as much, float64 [T]."""
        return np.exp2(self.bits)

    @property
    def corrected_bits(self) -> np.ndarray:
        """H(X_t) after Miller and Madow: plus (tokens seen − 1) / (2 N ln 2), float64 [T]."""
        return self.bits + (self.used - 1) / (2 * self.n_sequences * math.log(2))

    @property
    def effective_size(self) -> float:
        """2^mean H(X_t): geometric mean of the perplexities."""
        return float(np.exp2(self.bits.mean()))


def usage(codes: Any) -> TokenUsage:
    """Count the tokens of every position of an integer matrix [N, T].

    Every token is read, in a few passes over a large file. Arguments and errors as
    `vcqlib.conditional_entropy`.
    """
    codes = as_matrix(codes)
    if is_tensor(codes):
        codes = codes.cpu().numpy()
    n, length = codes.shape
    largest, used = np.zeros(length, np.int64), np.zeros(length, np.int64)
    bits, sure = np.zeros(length), np.zeros(length, bool)
    alike: dict[bytes, list[int]] = defaultdict(list)
    parts: list[Part] = []
    for t, column in _columns(codes):
        check_range(column[:, None], position=t)
        values, counts = tally(column, DENSE)
        parts.append((values, counts))
        if sum(len(part[0]) for part in parts) > KEPT:
            parts = [merged(parts)]
        largest[t], used[t] = values[-1], len(values)
        bits[t] = _entropy(counts)
        sure[t] = _arrangements(counts) > SURE + 2 * math.log2(length)
        if sure[t]:
            alike[_partition(column[:SAMPLE]).tobytes()].append(t)
    copies = tuple(sorted(_copies(codes, alike.values())))
    pooled = merged(parts)[1]
    return TokenUsage(n, largest, used, bits, len(pooled), _entropy(pooled), copies)


def _columns(codes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each column, contiguous, several read at a time."""
    n, length = codes.shape
    step = max(AT_ONCE // (n * codes.itemsize), 1)
    for lo in bar(range(0, length, step), "usage", delay=2):
        yield from enumerate(np.ascontiguousarray(codes[:, lo : lo + step].T), start=lo)


def _entropy(counts: np.ndarray) -> float:
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0  # no minus zero


def _arrangements(counts: np.ndarray) -> float:
    """log2 of the number of ways to part N sequences into groups of these sizes.

    N! / (Π c! Π m!), m groups of each size c. A column that has nothing to do with another one
    of the same group sizes parts the sequences as that one does with the inverse of this chance.
    """
    from scipy.special import gammaln

    often = np.unique(counts, return_counts=True)[1]
    ways = gammaln(counts.sum() + 1) - gammaln(counts + 1).sum() - gammaln(often + 1).sum()
    return float(ways / math.log(2))


def _partition(column: np.ndarray) -> np.ndarray:
    """For each row the first row with the same token: equal for columns that differ in names."""
    _, first, which = np.unique(column, return_index=True, return_inverse=True)
    return first[which]


def _copies(codes: np.ndarray, groups: Any) -> Iterator[tuple[int, int]]:
    """(t, s) one-based for columns of a group that equal an earlier one in all rows."""
    for group in groups:
        originals: list[tuple[int, np.ndarray]] = []
        for t in group if len(group) > 1 else ():
            parts = _partition(codes[:, t])
            match = next((s for s, other in originals if np.array_equal(parts, other)), None)
            if match is None:
                originals.append((t, parts))
            else:
                yield t + 1, match + 1


def merged(parts: Sequence[Part]) -> Part:
    """The counts of all parts together."""
    values, where = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.bincount(where, np.concatenate([part[1] for part in parts]))  # exact below 2^53
    return values, counts.astype(np.int64)
