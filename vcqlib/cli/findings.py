"""What a diagnosis says, as rows of text: for the terminal and for the page alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..entropy.diagnosis import Diagnosis
    from ..entropy.twins import Twins


def facts(d: Diagnosis, pictures: Twins | None) -> Iterator[tuple[str, str, str]]:
    """(what, value, what it is held against) of the whole matrix."""
    entropy, seen, k = d.entropy, d.usage, max(d.sizes)
    spread = "" if min(d.sizes) == k else f"{min(d.sizes):,} to "
    guess = ", from the largest tokens: --sizes says it better" if d.sizes_from == "assumed" else ""
    yield "sequences", f"{d.n:,}", f"log2 N = {math.log2(d.n):.3f} bits at most"
    yield "positions", f"{d.length:,}", f"codebook {spread}{k:,} ({d.sizes_from}{guess})"
    yield "bits told", f"{entropy.total_bits:.3f}", "by a whole sequence (plug-in)"
    ideal = "cannot all differ" if d.cliff is None else f"could all differ after t* = {d.cliff}"
    yield "cliff", f"{d.measured_cliff}", f"positions tell 99 %; ideal codes {ideal}"
    if d.class_cliffs:
        low, high = min(d.class_cliffs), max(d.class_cliffs)
        many = len(d.class_cliffs)
        yield "in a class", f"{low} to {high}", f"positions tell 99 % ({many} classes)"
    even = float(np.exp2(d.ideal_unigram.mean()))
    yield (
        "effective K", f"{seen.effective_size:,.1f}",
        f"even codes a position; uniform codes show {even:,.1f} at this N",
    )  # fmt: skip
    yield (
        "codes used", f"{seen.pooled_used:,}",
        f"of {k:,} at any position; perplexity of all tokens {2**seen.pooled_bits:,.1f}",
    )  # fmt: skip
    yield "dead", f"{len(d.dead)}", "positions that never vary"
    yield "copies", f"{len(seen.copies)}", "positions that repeat another one"
    yield "duplicates", f"{d.duplicates:,}", "sequences that equal an earlier one"
    if pictures is not None:
        same, looked = sum(pictures.equal), len(pictures.groups)
        first = "" if looked == pictures.total else f"of the {looked} largest "
        yield (
            "equal codes", f"{pictures.total:,}",
            f"groups of pictures; {first}{same} equal to the pixel, {looked - same} not",
        )  # fmt: skip
    if d.held_out is not None:
        test, train = float(d.held_out.test.sum()), float(d.held_out.train.sum())
        yield (
            "held out", f"{test:.1f}",
            f"bits a sequence for a small AR model; {train:.1f} for those it was trained on",
        )  # fmt: skip


def columns(d: Diagnosis) -> dict[str, list[str]]:
    """The table of positions: heading -> cells."""

    def bits(values: Any, known: Any = True) -> list[str]:
        where = np.broadcast_to(known, len(values))
        return [f"{max(v, 0):.3f}" if k else "–" for v, k in zip(values, where, strict=True)]

    table = {
        "position": [str(t) for t in range(1, d.length + 1)],
        "K": [f"{k:,}" for k in d.sizes],
        "used": [f"{u:,}" for u in d.usage.used],
        "(ideal)": [f"{u:,.0f}" for u in d.ideal_used],
        "perplexity": [f"{p:,.1f}" for p in d.usage.perplexity],
        "alone": bits(d.usage.bits),
        # no estimate of the source where most tokens are new
        "alone*": bits(d.usage.corrected_bits, d.usage.used <= d.n / 3),
        "bits": bits(d.entropy.bits),
        # nor where most sequences are unique already
        "bits*": bits(d.entropy.grassberger(), d.entropy.unique_share <= 1 / 3),
        "ideal": bits(d.ideal),
    }
    return table if d.held_out is None else table | {"held out": bits(d.held_out.test)}


def alternatives(d: Diagnosis) -> dict[str, list[str]]:
    """The table of other codebooks: heading -> cells."""
    return {
        "ideal codes of": [a.name for a in d.alternatives],
        "t*": ["never" if a.cliff is None else str(a.cliff) for a in d.alternatives],
        "99 % told": [str(a.spent) for a in d.alternatives],
        "bits": [f"{a.bits:,.1f}" for a in d.alternatives],
        "rate": [f"{a.share:.0%}" for a in d.alternatives],
    }


NOTHING = "Nothing stands out: the codes are spread, and told, as ideal ones would be."
LEGEND = (
    "alone: H(X_t). bits: H(X_t | X_<t), plug-in. *: corrected for bias (Miller–Madow; and, where",
    "sequences still share prefixes, Grassberger). ideal: independent uniform codes at this N.",
)
