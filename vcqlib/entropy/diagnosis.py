"""A diagnosis of anyone's tokenizer from its codes alone: the numbers, and what follows from them.

`diagnose` holds a token matrix against ideal codes of the same N and codebook sizes (independent,
uniform): what they would show at N sequences is what a measured number is compared with, never
log2 K itself, which N sequences may be too few to show. `advice` says what follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..theory import cliff as theory
from ..theory.schedules import LARGEST, codebook_sizes
from .advice import Advice, advise
from .estimates import ConditionalEntropy, conditional_entropy
from .inputs import checked_sizes
from .usage import TokenUsage, usage

SPENT = 0.01  # the cliff is where all but this share of the bits has been told


@dataclass(frozen=True)
class Alternative:
    """A codebook of the same length and largest size, and what ideal codes of it would do."""

    name: str
    sizes: tuple[int, ...] = field(repr=False)
    cliff: int | None  # t*: positions after which N sequences can all differ; None: never
    spent: int  # positions after which ideal codes have told 99 % of their bits
    bits: float  # what all positions hold, Σ log2 K_t
    share: float  # of what the uniform codebook holds


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Cross-entropy of an AR model at each position, bits [T], on sequences it saw and did not."""

    train: np.ndarray
    test: np.ndarray
    train_sequences: int
    test_sequences: int


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` returns. Arrays are host NumPy of shape [T]; bits throughout.

    Attributes:
        sizes: K_1..K_T; sizes_from: "given", "recorded" or "assumed" (from the largest tokens).
        usage: each position by itself; entropy: each position given the ones before.
        cliff: t* of codes that used every size in full; None if they could not all differ.
        ideal_used, ideal_unigram: tokens and entropy that uniform codes would show at this N.
        ideal: H(X_t | X_<t) of ideal codes at this N.
        dead: one-based positions whose token never varies, and not by chance.
        held_out: of a small AR model, where one was trained.
    """

    sizes: tuple[int, ...]
    sizes_from: str
    usage: TokenUsage
    entropy: ConditionalEntropy
    cliff: int | None
    ideal_used: np.ndarray
    ideal_unigram: np.ndarray
    ideal: np.ndarray
    dead: tuple[int, ...]
    alternatives: tuple[Alternative, ...]
    held_out: HeldOut | None = None
    advice: tuple[Advice, ...] = ()

    def with_model(self, held_out: HeldOut) -> Diagnosis:
        """The same with what a model needs for these codes, and what follows from that."""
        found = replace(self, held_out=held_out)
        return replace(found, advice=tuple(advise(found)))

    @property
    def n(self) -> int:
        return self.entropy.n_sequences

    @property
    def length(self) -> int:
        return len(self.sizes)

    @property
    def duplicates(self) -> int:
        """Sequences that an earlier one equals."""
        return self.n - int(self.entropy.distinct_prefixes[-1])

    @property
    def measured_cliff(self) -> int:
        """Positions after which 99 % of the bits of these sequences are told."""
        return self.entropy.cliff(SPENT)

    @property
    def independent_cliff(self) -> int:
        """The same if the positions, each spread as it is, knew nothing of one another."""
        told = np.cumsum(self.usage.bits) >= (1 - SPENT) * self.entropy.total_bits
        return int(np.argmax(told)) + 1

    @property
    def class_cliffs(self) -> list[int]:
        """The same within each class; empty without labels."""
        return [part.cliff(SPENT) for part in self.entropy.per_class.values()]

    def to_dict(self) -> dict[str, Any]:
        """All numbers and the advice, for JSON."""
        curves = {
            "used": self.usage.used,
            "perplexity": self.usage.perplexity,
            "unigram_bits": self.usage.bits,
            "unigram_corrected": self.usage.corrected_bits,
            "ideal_used": self.ideal_used,
            "ideal_unigram": self.ideal_unigram,
            **self.entropy.curves(),
            "ideal_bits": self.ideal,
        }
        if self.held_out:
            curves |= {"model_train": self.held_out.train, "model_held_out": self.held_out.test}
        return {name: curve.tolist() for name, curve in curves.items()} | {
            "sequences": self.n, "positions": self.length,
            "codebook_sizes": self.sizes, "codebook_sizes_from": self.sizes_from,
            "total_bits": self.entropy.total_bits, "cliff": self.measured_cliff,
            "ideal_cliff": self.cliff, "class_cliffs": self.class_cliffs,
            "effective_size": self.usage.effective_size, "codebook_used": self.usage.pooled_used,
            "codebook_perplexity": 2**self.usage.pooled_bits, "dead": self.dead,
            "copies": self.usage.copies, "duplicates": self.duplicates,
            "alternatives": [asdict(a) for a in self.alternatives],
            "advice": [asdict(advice) for advice in self.advice],
        }  # fmt: skip


def diagnose(
    codes: Any,
    labels: Any = None,
    sizes: Sequence[int] = (),
    recorded: Sequence[int] | None = None,
) -> Diagnosis:
    """Measure a token matrix and say what follows.

    Args:
        codes: integers [N, T], as `vcqlib.conditional_entropy` takes them.
        labels: [N]; adds the cliff within each class.
        sizes: codebook size K, or K_1..K_T; default: `recorded`, else a guess from the largest
            tokens (see `guessed_sizes`).
        recorded: K_1..K_T as a file states them.

    Raises as `conditional_entropy`, and ValueError for a size below 2 or a token that occurs.
    """
    entropy = conditional_entropy(codes, labels)
    seen = usage(codes)
    origin = "given" if len(sizes) else "assumed" if recorded is None else "recorded"
    sizes = sizes if len(sizes) else guessed_sizes(seen.largest) if recorded is None else recorded
    known = tuple(checked_sizes(sizes, seen.largest.tolist(), least=2))
    n = seen.n_sequences
    used, alone = (
        {k: float(expected(n, [k])[0]) for k in set(known)}
        for expected in (theory.expected_distinct_prefixes, theory.expected_conditional_entropy)
    )
    # chance would make a whole position constant with K^(1 − N), at any of T positions
    certain = [(n - 1) * math.log2(k) > 10 + math.log2(len(known)) for k in known]
    found = Diagnosis(
        sizes=known,
        sizes_from=origin,
        usage=seen,
        entropy=entropy,
        cliff=theory.cliff_position(n, known),
        ideal_used=np.array([used[k] for k in known]),
        ideal_unigram=np.array([alone[k] for k in known]),
        ideal=theory.expected_conditional_entropy(n, known),
        dead=tuple((np.flatnonzero((seen.used == 1) & certain) + 1).tolist()),
        alternatives=_alternatives(n, len(known), max(known)),
    )
    return replace(found, advice=tuple(advise(found)))


def guessed_sizes(largest: np.ndarray) -> tuple[int, ...]:
    """Codebook sizes from the largest token of each position, int64 [T].

    One shared codebook of (largest token + 1) rows; but K_t = largest token so far + 1 where the
    largest tokens, read as numbers of bits, never fall along the sequence and rise at least once,
    which is how a growing codebook shows.
    """
    bits = [int(most).bit_length() for most in largest]
    running = np.maximum.accumulate(largest) if bits == sorted(bits) else largest.max()
    return tuple(max(int(k) + 1, 2) for k in np.broadcast_to(running, largest.shape))


def _alternatives(n: int, length: int, k: int) -> tuple[Alternative, ...]:
    """Uniform, doubling and log-linear codebooks of at most k rows (capped at 2^32)."""
    k = min(k, LARGEST)
    schedules = {"uniform": ("uniform", None), "doubling": ("doubling", None)}
    if length >= 8:
        schedules[f"log-linear to {length // 4}"] = ("loglinear", length // 4)
    schedules[f"log-linear to {length}"] = ("loglinear", None)
    found = []
    for name, (schedule, ramp) in schedules.items():
        sizes = codebook_sizes(schedule, length, k, ramp=ramp).tolist()
        spent = theory.spent_after(theory.expected_conditional_entropy(n, sizes), SPENT)
        bits = float(theory.cumulative_capacity(sizes)[-1])
        t_star, share = theory.cliff_position(n, sizes), bits / (length * math.log2(k))
        found.append(Alternative(name, tuple(sizes), t_star, spent, bits, share))
    return tuple(found)
