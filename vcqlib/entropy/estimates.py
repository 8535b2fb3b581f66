"""Measured conditional entropy of a token matrix: exact plug-in estimates, position by position.

`conditional_entropy(codes)` counts how many of the N sequences share each prefix and returns
H(X_t | X_<t) of the empirical distribution. Entropies are in bits; arrays are indexed from zero,
so entry t belongs to position t + 1 of the prose.

What the estimates can and cannot say. The plug-in sums to at most log2 N whatever the data, since
N sequences cannot show more than log2 N bits. It is a fact about the N sequences. As an estimate of
the source they came from it is biased low, the more so the fewer sequences share a prefix, and
where every prefix is unique it says nothing about the source at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import is_tensor, must
from ..progress import bar
from ..theory.cliff import spent_after
from .inputs import as_labels, as_matrix, tally
from .prefixes import refine

if TYPE_CHECKING:
    import pandas

CHUNK = 1 << 18  # groups summed at once
DENSE = 1 << 16  # group sizes up to this are counted in a table


class Level(NamedTuple):
    """The groups of two or more sequences at one position.

    sizes, often: how many groups of each size there are (int64, sizes ascending).
    cross: Σ n·d(n)·d(m) over these groups, n the size and m the size of the group it was part of
    one position before (d is `gain`): what the standard error needs.
    """

    sizes: np.ndarray
    often: np.ndarray
    cross: float


@dataclass(frozen=True, eq=False)
class PrefixCounts:
    """All that the estimates need: how often each group size occurs, at every position.

    `levels` ends where all sequences have become unique. The counts of disjoint sets of groups
    add up, which is how `vcqlib.entropy.sharded` merges them.
    """

    n: int
    length: int
    levels: tuple[Level, ...]


@dataclass(frozen=True, eq=False)
class ConditionalEntropy:
    """What `conditional_entropy` returns. Arrays are host NumPy, float64 or int64, of shape [T].

    Attributes:
        n_sequences: N.
        bits: plug-in H(X_t | X_<t), in bits. Sums to `total_bits`.
        distinct_prefixes: entry t is the number of different prefixes of length t + 1; never falls.
        unique_share: share of the sequences that no other one agrees with up to and including t.
        total_bits: H(X_1 … X_T) ≤ log2 N, with equality if and only if all sequences differ.
        per_class: the same for the sequences of each label, if labels were given.
    """

    n_sequences: int
    bits: np.ndarray
    distinct_prefixes: np.ndarray
    unique_share: np.ndarray
    total_bits: float
    counts: PrefixCounts = field(repr=False)
    per_class: Mapping[Any, ConditionalEntropy] = field(default_factory=dict, repr=False)

    def cliff(self, epsilon: float = 0.01) -> int:
        """Number of positions after which 1 − epsilon of `total_bits` has been spent.

        0 if the sequences are all equal, for then there is nothing to spend.
        """
        return spent_after(self.bits, epsilon)

    def miller_madow(self) -> np.ndarray:
        """Bias-corrected bits [T]: plug-in + (D_t − D_{t−1}) / (2 N ln 2), D_t distinct prefixes.

        Miller's first-order correction (cells − 1) / 2N of each joint entropy, in bits, applied to
        H(X_1:t) and H(X_1:t−1), with the cells seen in place of all cells. It assumes that every
        cell was seen many times. Where singletons take over (`unique_share` above about a third)
        it is far too small and must not be read as an estimate of the source.
        """
        before = np.concatenate([[1], self.distinct_prefixes[:-1]])
        return self.bits + (self.distinct_prefixes - before) / (2 * self.n_sequences * math.log(2))

    def grassberger(self) -> np.ndarray:
        """Bias-corrected bits [T] after Grassberger (2003, arXiv physics/0307138), eq. 27.

        log n of the plug-in is replaced by G(n) = ψ(⌊n/2⌋ + ½) + ln 2, in each joint entropy. It
        keeps most of its accuracy down to about one sequence per cell, where Miller–Madow has lost
        it. Past the cliff it is meaningless too: with all sequences unique the joint estimate is
        the constant log2 N + 1.83 and its differences are 0 for any source.
        """
        from scipy.special import digamma

        n, joint = self.n_sequences, []
        for sizes, often in _histograms(self.counts):
            rating = (digamma(sizes // 2 + 0.5) + math.log(2)) / math.log(2)
            joint.append(math.log2(n) - float(np.dot(sizes * often, rating)) / n)
        joint += [joint[-1]] * (self.counts.length - len(joint))
        return np.diff(joint, prepend=0.0)

    @cached_property
    def standard_error(self) -> np.ndarray:
        """Jackknife standard error of `bits` [T] over sequences, in closed form from the counts.

        Leaving out one sequence changes only the group it is in at t and the one at t − 1, so all
        N leave-one-out estimates are known without a second count. It is the spread of the plug-in
        under resampling, not its bias: where singletons dominate the bias is larger by far.
        0 for a single sequence.
        """
        n = self.n_sequences
        if n == 1:
            return np.zeros(self.counts.length)
        squares, sums = [n * gain(n) ** 2], [n * gain(n)]
        for sizes, often in _histograms(self.counts):
            added = gain(sizes)
            squares.append(float(np.dot(sizes * often, added**2)))
            sums.append(float(np.dot(sizes * often, added)))
        cross = [level.cross for level in self.counts.levels]
        cross += [0.0] * (len(squares) - 1 - len(cross))
        spread = np.add(squares[1:], squares[:-1]) - 2 * np.array(cross) - np.diff(sums) ** 2 / n
        error = np.zeros(self.counts.length)
        error[: len(spread)] = np.sqrt(np.maximum(spread, 0) / n / (n - 1))
        return error

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end [T] of `bits` ± z · `standard_error`, not below 0."""
        must(0 < level < 1, "level", "between 0 and 1", level)
        margin = NormalDist().inv_cdf((1 + level) / 2) * self.standard_error
        return np.maximum(self.bits - margin, 0.0), self.bits + margin

    def curves(self) -> dict[str, np.ndarray]:
        """All estimates by position, each [T]."""
        return {
            "bits": self.bits, "miller_madow": self.miller_madow(),
            "grassberger": self.grassberger(), "distinct_prefixes": self.distinct_prefixes,
            "unique_share": self.unique_share,
        }  # fmt: skip

    def to_frame(self) -> pandas.DataFrame:
        """One row for each position (one-based), with all curves; a `class` column if labelled."""
        import pandas

        frame = pandas.DataFrame({
            "position": np.arange(1, len(self.bits) + 1), "bits": self.bits,
            "standard_error": self.standard_error, "miller_madow": self.miller_madow(),
            "distinct_prefixes": self.distinct_prefixes, "unique_share": self.unique_share,
        })  # fmt: skip
        if not self.per_class:
            return frame
        parts = {"all": frame} | {label: part.to_frame() for label, part in self.per_class.items()}
        return pandas.concat(parts, names=["class"]).reset_index(level=0).reset_index(drop=True)


def conditional_entropy(codes: Any, labels: Any = None) -> ConditionalEntropy:
    """Exact plug-in H(X_t | X_<t), in bits, of the rows of an integer matrix.

    Groups of sequences that share a prefix are refined position by position, several positions to
    a sort, and sequences that have become unique are dropped (see `prefixes`). The cost is one
    sort of N keys of 64 bits for the first positions, then only what still shares a prefix.
    Extra memory is at most 32 N bytes. A memmap is read in blocks and only where needed: stored
    position-major ([T, N] on disk, given as its transpose), the columns up to the cliff; row-major,
    one pass over the file and then the rows that are not unique yet.

    Args:
        codes: integers [N, T], 1 ≤ N < 2^31 and T ≥ 1, from 0 to 2^63 − 1: NumPy of any strides,
            `np.memmap`, or a torch tensor. CPU tensors are read in place, without a copy; those
            of another device are counted there. No codebook size is needed.
        labels: [N] integers or strings; adds one result for each class as `per_class`.

    Returns:
        A `ConditionalEntropy`. The order of the rows, a relabelling of the tokens, the integer
        type and the strides make no difference to it.

    Raises:
        TypeError, ValueError: what is no integer matrix, a token out of range, a memmap whose file
            was cut, labels that do not fit. Matrices above 2^24 entries, and memmaps, are checked
            where they are read: a bad token after the cliff changes nothing.
    """
    codes = as_matrix(codes)
    result = summarize(count_prefixes(codes))
    if labels is None:
        return result
    labels = as_labels(labels, len(codes))
    names, which = np.unique(labels, return_inverse=True)
    ends = np.cumsum(np.bincount(which))[:-1]
    rows = np.split(np.argsort(which, kind="stable"), ends)
    parts = bar(zip(names.tolist(), rows, strict=True), "classes", total=len(names), delay=2)
    per_class = {name: summarize(count_prefixes(codes, own)) for name, own in parts}
    return ConditionalEntropy(**{**vars(result), "per_class": per_class})


def count_prefixes(codes: Any, rows: Any = None, arrays: Any = None) -> PrefixCounts:
    """Count the groups that share a prefix; arguments as in `vcqlib.entropy.prefixes.refine`."""
    levels, total = [], codes.shape[1]
    if rows is not None and is_tensor(codes):
        import torch

        rows = torch.as_tensor(rows, device=codes.device)
    for sizes, parents in bar(refine(codes, rows, arrays), "positions", total=total, delay=2):
        levels.append(Level(*_histogram(sizes), _cross(sizes, parents)))
        del sizes, parents  # not held while the next position is counted
    n = codes.shape[0] if rows is None else len(rows)
    return PrefixCounts(n, codes.shape[1], tuple(levels))


def summarize(counts: PrefixCounts) -> ConditionalEntropy:
    """The plug-in estimates that follow from the counts."""
    n, length = counts.n, counts.length
    joint, distinct, unique = np.empty(length), np.empty(length, np.int64), np.empty(length)
    for t, (sizes, often) in enumerate(_histograms(counts)):
        bits = np.dot(sizes * often, math.log2(n) - np.log2(sizes)) / n
        joint[t:] = min(bits, math.log2(n))
        distinct[t:] = often.sum()
        unique[t:] = often[0] / n if sizes[0] == 1 else 0.0
    bits = np.diff(joint, prepend=0.0)
    return ConditionalEntropy(n, bits, distinct, unique, float(joint[-1]), counts)


def _histograms(counts: PrefixCounts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Group sizes and how often, singletons included, until after all sequences are unique."""
    for sizes, often, _ in counts.levels:
        if alone := counts.n - int(np.dot(sizes, often)):
            sizes, often = np.r_[1, sizes], np.r_[alone, often]
        yield sizes.astype(np.int64), often.astype(np.int64)
    if len(counts.levels) < counts.length:
        yield np.array([1]), np.array([counts.n])


def gain(sizes: Any) -> Any:
    """d(n) = n log2 n − (n−1) log2 (n−1): what one more sequence adds to a group's n log2 n."""
    n = np.asarray(sizes, np.float64)
    less = np.maximum(n - 1, 1)
    return n * np.log2(n) - less * np.log2(less)


def _histogram(sizes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Distinct sizes, ascending, and how often each occurs (int64)."""
    if not isinstance(sizes, np.ndarray):
        values, often = sizes.unique(return_counts=True)
        return values.cpu().numpy(), often.cpu().numpy()
    return tally(sizes, DENSE)


def _cross(sizes: Any, parents: Any) -> float:
    if not isinstance(sizes, np.ndarray):
        n = [x.double() for x in (sizes, parents)]
        own, above = ((x * x.log2() - (x - 1) * (x - 1).log2()) for x in n)
        return float((n[0] * own * above).sum())
    most, total = int(parents.max()), 0.0
    # fewer logarithms where a table of them is short
    table = gain(np.maximum(np.arange(most + 1), 1)).take if most < len(sizes) else gain
    for lo in range(0, len(sizes), CHUNK):
        own, above = sizes[lo : lo + CHUNK], parents[lo : lo + CHUNK]
        total += float(np.dot(own * table(own), table(above)))
    return total
