"""`vcq cliff` and `vcq schedule`: closed forms, printed in an instant, without any data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from ..checks import must
from ..files import write_json
from ..theory import cliff as theory
from ..theory.schedules import codebook_sizes
from .output import after, save_figure, table

LARGEST = 2**63 - 1  # sequences: more than any file holds
LONGEST = 100_000  # positions
SIZE = arg(aliases=["-k", "--k-max"])
SPENT = 5e-4  # bits: prints as 0.000 or 0.001


@dataclass(frozen=True)
class Growth:
    """How K_t grows, beyond the name of the schedule."""

    k_min: int = 2  # the smallest K_t
    ramp: int | None = None  # position at which K is reached; default: the last
    power: float = 1.0  # exponent of the log-linear ramp
    of: str = "loglinear"  # the schedule that `matched` and `reversed` refer to


Grown = Annotated[Growth, arg(name="")]


def schedule(
    name: Positional[str],
    length: int,
    k: Annotated[int, SIZE],
    growth: Grown = Growth(),  # noqa: B008 (frozen)
) -> None:
    """Print the codebook sizes K_1 … K_T of a schedule in one line, as --sizes takes them.

    Args:
        name: uniform, doubling, loglinear, linear, quadratic, cosine; or a control: matched,
            reversed.
        length: positions T.
        k: rows of the codebook, and the largest K_t.
    """
    print(*_scheduled(name, length, k, growth))


def cliff(
    n: Annotated[int, arg(aliases=["-n"])],
    k: Annotated[int | None, SIZE] = None,
    sizes: tuple[int, ...] = (),
    schedule: str = "uniform",
    length: int | None = None,
    growth: Grown = Growth(),  # noqa: B008 (frozen)
    plot: Path | None = None,
    json: Path | None = None,
) -> None:
    """Where N sequences can all be told apart: t*, capacity, and the entropy of ideal codes.

    `vcq cliff -n 1281167 -k 16384` for one codebook; `--schedule loglinear --length 256` for one
    that grows along the sequence; `--sizes 2 4 8 16` for any other.

    Args:
        n: sequences N, for instance the images of a training set.
        k: codebook size K; with a schedule the largest one.
        sizes: K_1 … K_T themselves, in place of K.
        schedule: as in `vcq schedule`.
        length: positions T; default: until nothing is left to tell (uniform and doubling only).
        plot: write a figure to this file (.png, .svg or .pdf).
        json: write the curves to this file.
    """
    must(1 <= n <= LARGEST, "-n", "from 1 to 2^63-1", n)
    known = list(sizes) or _sizes(n, k, schedule, length, growth)
    if sizes and (k or length or schedule != "uniform" or growth != Growth()):
        raise ValueError("--sizes goes without -k, --length and --schedule: it says it all")
    curves = {
        "capacity": theory.cumulative_capacity(known),
        "bits": theory.expected_conditional_entropy(n, known),
        "distinct_prefixes": theory.expected_distinct_prefixes(n, known),
    }
    position = theory.cliff_position(n, known)
    if json is not None:
        lists = {name: values.tolist() for name, values in curves.items()}
        about = {"n": n, "codebook_sizes": known, "cliff": position, "log2_n": math.log2(n)}
        write_json(json, lists | about)
    if plot is not None:
        from ..chapters import figures

        shown = {"ideal codes": curves["bits"], "capacity": [*map(math.log2, known)]}
        marks = {f"t* = {position}": max(position, 1)} if position is not None else {}
        figure = figures.positions(shown, dashed=("capacity",), marks=marks, log_x=len(known) > 32)
        save_figure(figure, plot)
    print(_report(n, known, curves, position, length or (len(sizes) or None)))


def _scheduled(name: str, length: int, k: int, growth: Growth) -> list[int]:
    must(1 <= length <= LONGEST, "--length", f"from 1 to {LONGEST:,}", length)
    return codebook_sizes(name, length, k, **asdict(growth)).tolist()


def _sizes(n: int, k: int | None, name: str, length: int | None, growth: Growth) -> list[int]:
    if k is None:
        raise ValueError("give the codebook size, -k 16384, or --sizes K_1 … K_T")
    if length is not None:
        return _scheduled(name, length, k, growth)
    if name not in ("uniform", "doubling"):
        _scheduled(name, 1, k, growth)  # an unknown name, or K out of range, is said first
        raise ValueError(f"--schedule {name} depends on the number of positions: give --length")
    # each position at least halves what is shared: after log2 N + 11 less than SPENT is left
    return _scheduled(name, math.ceil(math.log2(n)) + 12, k, growth)


def _report(
    n: int, sizes: list[int], curves: dict[str, Any], cliff: int | None, length: int | None
) -> str:
    left = np.flatnonzero(curves["bits"] >= SPENT)
    last = max(int(left[-1]) + 1 if left.size else 1, cliff or 1)
    columns = {
        "position": [str(t + 1) for t in range(last)],
        "K_t": [f"{k:,}" for k in sizes[:last]],
        "capacity": [f"{bits:.2f}" for bits in curves["capacity"][:last]],
        "bits": [f"{bits:.3f}" for bits in curves["bits"][:last]],
        "prefixes": [f"{many:,.0f}" for many in curves["distinct_prefixes"][:last]],
    }
    lines = table(columns, last)
    if length and last < length:
        lines.append(f"{after(last, length)}  nothing left to tell: N ideal codes differ by now")
    lines.append(f"\nN = {n:,} sequences: at most log2 N = {math.log2(n):.3f} bits in all")
    if cliff is None:
        lines.append(f"no cliff: the {len(sizes)} positions hold {curves['capacity'][-1]:.3f} bits,"
                     " too few for N sequences to differ")  # fmt: skip
    else:
        rest = f"; {length - cliff} of {length} positions come after it" if length else ""
        lines.append(f"cliff: t* = {cliff}, where all sequences can differ{rest}")
    return "\n".join(lines)
