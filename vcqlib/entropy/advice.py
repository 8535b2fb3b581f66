"""What follows from a diagnosis: each rule with the theory that it rests on.

| rule | says | holds because |
|---|---|---|
| few | N is too small to see a position's distribution | uniform codes themselves show less |
| short | the sequences cannot all differ | pigeonhole: Π K_t < N |
| dead | a position never varies | what it adds is at most H(X_t) = 0 |
| faint | a position hardly varies | the same bound, against uniform codes at this N |
| copy | a position repeats another one | H(X_t given X_s) = 0 |
| unused | tokens are spread over few codes | Σ H(X_t), not Σ log2 K_t, bounds what is told |
| same | sequences occur more than once | H(X_1 … X_T) = log2 N only if all differ |
| cliff | most positions come after the cliff | the bits of all positions sum to log2 N at most |
| late | the bits last longer than independent positions would | the positions inform one another |
| memorised | a model knows its own sequences better | the gap of its cross-entropies is memory |
| unlearned, noise | a model learns little or nothing | held-out cross-entropy against Σ H(X_t) |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from ..theory.cliff import cliff_position, expected_distinct_prefixes

if TYPE_CHECKING:
    from .diagnosis import Diagnosis

ENOUGH = 50  # sequences below which nothing is said about single positions
BLURRED = 0.1  # bits that uniform codes fall short of log2 K for want of sequences
FAINT = 0.1  # share of the entropy that uniform codes would show
MISSING = 1.0  # bits short of uniform codes: half of the codebook
COPIES = 1e-3  # share of sequences that occur before
MEMORISED = 0.1  # share of the held-out bits by which the training sequences are better known
NOISE = 0.97  # share of the positions' own entropies that a model cannot do without


@dataclass(frozen=True)
class Advice:
    """What was found, why it matters, and what can be done."""

    rule: str
    finding: str
    reason: str
    remedy: str


def advise(d: Diagnosis) -> Iterator[Advice]:
    """The rules that apply, the most basic first."""
    for rule in (_few, _short, _dead, _faint, _copy, _unused, _same, _cliff, _model):
        yield from rule(d)


def _few(d: Diagnosis) -> Iterator[Advice]:
    k = max(d.sizes)
    shown = d.ideal_unigram[d.sizes.index(k)]
    if math.log2(k) - shown > BLURRED:
        yield Advice(
            "few",
            f"N = {d.n:,} is small for K = {k:,}: even uniform codes would show only "
            f"{shown:.2f} of log2 K = {math.log2(k):.2f} bits at one position.",
            "A position shows at most log2 N bits, and some (K − 1) / (2 N ln 2) too few where N "
            "is larger than K. Uniform codes at this N, the measure of all here, suffer alike.",
            f"Diagnose {10 * k:,} sequences or more to know the entropies of single positions.",
        )


def _short(d: Diagnosis) -> Iterator[Advice]:
    if d.cliff is not None:
        return
    cells, k = math.prod(d.sizes), max(d.sizes)
    yield Advice(
        "short",
        f"T = {d.length} leaves room for {cells:,} codes, for {d.n:,} sequences: at least "
        f"{d.n - cells:,} of them must equal another one.",
        "Π K_t < N (pigeonhole): there is no cliff, for not all sequences can be told apart.",
        f"{cliff_position(d.n, k)} positions with K = {k:,}, or {d.length} with "
        f"K = {_root(d.n, d.length):,}, are the fewest that can tell them apart.",
    )


def _root(n: int, length: int) -> int:
    """Smallest K ≥ 2 with K^length ≥ n, exact below 2^53."""
    return next(k for k in count(max(int(n ** (1 / length)) - 1, 2)) if k**length >= n)


def _dead(d: Diagnosis) -> Iterator[Advice]:
    if d.dead:
        yield Advice(
            "dead",
            f"{_positions(d.dead)}: the same token in all {d.n:,} sequences.",
            "H(X_t | X_<t) ≤ H(X_t) = 0: they tell nothing, and an AR model spends a step on each.",
            "Drop them; or, where the tokenizer is still trained, keep codes from collapsing "
            "(`balance` and `revive` of VariableCodebookQuantizer, k-means starts, restarts).",
        )


def _faint(d: Diagnosis) -> Iterator[Advice]:
    faint = (d.usage.bits < FAINT * d.ideal_unigram) & (d.usage.used > 1)
    if d.n >= ENOUGH and faint.any():
        yield Advice(
            "faint",
            f"{_positions(np.flatnonzero(faint) + 1)}: nearly always the same token, below "
            f"{FAINT:.0%} of what uniform codes would show.",
            "A position adds at most H(X_t) bits, whatever its codebook size.",
            "Give them smaller codebooks or drop them, or keep their codes alive in training.",
        )


def _copy(d: Diagnosis) -> Iterator[Advice]:
    if d.usage.copies:
        pairs = [f"{t} of {s}" for t, s in d.usage.copies]
        shown = ", ".join(pairs[:6]) + (" …" if len(pairs) > 6 else "")
        yield Advice(
            "copy",
            f"Positions that repeat an earlier one under other names: {shown}.",
            "H(X_t | X_s) = 0 in every sequence, too often to be chance: a model learns a table "
            "of names and nothing about images.",
            "Drop them, and look for the cause: shared queries, or an encoder that ignores the "
            "position.",
        )


def _unused(d: Diagnosis) -> Iterator[Advice]:
    living = np.ones(d.length, bool)
    living[[t - 1 for t in d.dead]] = False
    if d.n < ENOUGH or not living.any():
        return
    short = float((d.ideal_unigram - d.usage.bits)[living].mean())
    if short >= MISSING:
        own, even = (2 ** bits[living].mean() for bits in (d.usage.bits, d.ideal_unigram))
        one = min(d.sizes) == max(d.sizes)
        smaller = (f"A codebook of about {own:,.0f} codes could" if one
                   else f"Codebooks of {2**-short:.0%} of these sizes could")  # fmt: skip
        yield Advice(
            "unused",
            f"{d.usage.pooled_used:,} of {max(d.sizes):,} codes occur at all. A position uses as "
            f"many as {own:,.0f} even codes, where uniform ones would show {even:,.0f}: "
            f"{short:.2f} bits less.",
            "Σ H(X_t) bounds what a sequence can tell, and Σ log2 K_t only if codes are used "
            "evenly.",
            f"{smaller} hold as much; or keep codes alive (restarts, a moving average, fewer "
            "dimensions, normalised vectors).",
        )


def _same(d: Diagnosis) -> Iterator[Advice]:
    expected = d.n - float(expected_distinct_prefixes(d.n, d.sizes)[-1])
    if d.cliff is not None and d.duplicates > max(COPIES * d.n, 2 * expected + 8):
        yield Advice(
            "same",
            f"{d.duplicates:,} of {d.n:,} sequences ({d.duplicates / d.n:.1%}) equal an earlier "
            f"one; ideal codes would have {expected:,.0f}.",
            f"All sequences together tell {d.entropy.total_bits:.3f} bits, not log2 N = "
            f"{math.log2(d.n):.3f}: repeats weigh double in training and are what a model "
            "memorises first.",
            "Look at the pictures behind them (--images): equal pictures belong out of the "
            "training set, different ones are a loss of the tokenizer.",
        )


def _cliff(d: Diagnosis) -> Iterator[Advice]:
    at, total = d.measured_cliff, d.entropy.total_bits
    after = d.length - at
    if d.n < ENOUGH or not at:
        return
    if at >= 2 * d.independent_cliff + 2:
        alone = float(d.usage.bits[:at].sum())
        yield Advice(
            "late",
            f"The bits last {at} positions; with the same tokens, positions that know nothing of "
            f"one another would have told 99 % after {d.independent_cliff}.",
            f"By themselves the first {at} positions hold {alone:.1f} bits, together they tell "
            f"{total:.1f}: the rest is what they say about one another, which a model can learn.",
            "None needed for the cliff."
            + ("" if d.held_out else " --model-steps says how much of it a small model learns."),
        )
    elif 2 * after >= d.length:
        yield Advice(
            "cliff",
            f"99 % of all bits are told after {at} of {d.length} positions. In these "
            f"{d.n:,} sequences the other {after} follow from the ones before.",
            f"The conditional entropies of N sequences sum to at most log2 N = "
            f"{math.log2(d.n):.2f} bits, whatever the tokenizer; these positions tell "
            f"{total / at:.1f} bits each until they are spent.",
            _growth(d),
        )


def _growth(d: Diagnosis) -> str:
    """How much later the cliff of ideal codes would come with a codebook that grows."""
    own = d.cliff or d.length
    later = [a for a in d.alternatives if (a.cliff or 0) > own]
    if not later:
        return (
            "No codebook of this length and size that grows would postpone it and still tell all "
            "sequences apart. More sequences would, by one position for each factor of K."
        )
    whole = " of a uniform codebook's bits"
    ways = "; ".join(
        f"{a.name}: t* = {a.cliff} at {a.share:.0%}{whole if a is later[0] else ''}" for a in later
    )
    return (
        "If held-out loss turns while training loss falls, let the codebook grow along the "
        f"sequence. Ideal codes have t* = {own} now; {ways}. The bits it gives up cost "
        "reconstruction; whether that pays, the book's scorecard judges."
    )


def _model(d: Diagnosis) -> Iterator[Advice]:
    if d.held_out is None:
        return
    held, train = float(d.held_out.test.sum()), float(d.held_out.train.sum())
    alone, each = float(d.usage.corrected_bits.sum()), held / d.length
    where = (
        f"Extrapolated at {each:.2f} held-out bits a position, log2 N / h puts the cliff of "
        f"{d.n:,} sequences at position {math.ceil(math.log2(d.n) / each)}."
        if each > 0
        else "Nothing is left to tell."
    )
    if held - train > MEMORISED * held:
        yield Advice(
            "memorised",
            f"The model needs {train:.1f} bits for a sequence that it was trained on and "
            f"{held:.1f} for another one.",
            "The difference is what it knows about its own training set alone. " + where,
            "More sequences, fewer passes, more dropout; or a codebook that postpones the cliff.",
        )
    if held > alone:
        yield Advice(
            "unlearned",
            f"The model needs {held:.1f} bits for a held-out sequence, more than the "
            f"{alone:.1f} that the positions hold by themselves.",
            "It has not even learned how often each token occurs: its figure bounds nothing.",
            "Train it longer (--model-steps) before reading its curve.",
        )
    elif held > NOISE * alone:
        yield Advice(
            "noise",
            f"Given all positions before, the model needs {held:.1f} of the {alone:.1f} bits "
            "that the positions hold by themselves.",
            "To this model the positions are nearly independent. " + where,
            "Train it longer before concluding; if it stays, the order of the tokens carries no "
            "structure that is easy to learn.",
        )


def _positions(numbers: Sequence[int]) -> str:
    """ "Position 3", "Positions 1–4, 9 (5 in all)": runs of one-based numbers, at most eight."""
    numbers = [int(t) for t in numbers]
    starts = [t for t in numbers if t - 1 not in numbers]
    ends = [t for t in numbers if t + 1 not in numbers]
    runs = [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]
    shown = ", ".join(runs[:8]) + (" …" if len(runs) > 8 else "")
    many = len(numbers) > 1
    return f"Position{'s' * many} {shown}" + (f" ({len(numbers)} in all)" if many else "")
