"""`vcq entropy`: where the bits of anyone's tokens are spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tyro.conf import Positional

from ..files import atomic_path, write_json

if TYPE_CHECKING:
    from ..entropy.estimates import ConditionalEntropy

HEAD, TAIL = 16, 4  # rows of the table that are shown of a long curve


def entropy(
    path: Positional[Path],
    columns: tuple[str, ...] = (),
    labels: Path | None = None,
    sizes: tuple[int, ...] = (),
    epsilon: float = 0.01,
    plot: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure the conditional entropy of tokens, position by position, and where it is spent.

    Reads .npy, .npz, .pt, Parquet, JSON and JSON Lines with {class_id, tokens} (RAR, TiTok), a
    folder with one .npy per image (LlamaGen) or of shards, and the project's own code stores.

    Args:
        path: the tokens: a matrix [N, T], or a file or folder that holds one.
        columns: names of the arrays, columns or keys that hold the tokens, in the order of
            positions ("p*": all that match, by number); default: those known by their names.
        labels: class labels (.npy, .npz, .pt, or a folder of .npy); adds curves for each class to
            the JSON.
        sizes: codebook size K, or K_1 … K_T; default: what is recorded, else the largest token + 1.
        epsilon: the cliff is where all but this share of the bits has been spent.
        plot: write a figure to this file (.png, .svg or .pdf).
        json: write all curves to this file.
    """
    from ..data.token_files import read_labels
    from ..entropy.estimates import conditional_entropy
    from ..entropy.inputs import largest_tokens, read_matrix

    tokens = read_matrix(path, columns)
    codes, classes, said = tokens.codes, tokens.labels, tokens.said()
    if labels is not None:
        classes, each = read_labels(labels, len(codes))
        said = "; ".join(
            filter(None, [said, f"labels: {labels}" + f", {each} rows each" * (each > 1)])
        )
    try:
        observed = [most + 1 for most in largest_tokens(codes)]
        known = _codebook_sizes(sizes or tokens.sizes, observed)
        result = conditional_entropy(codes, classes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    report = _report(result, known, epsilon, assumed=not (sizes or tokens.sizes))
    try:
        if json is not None:
            write_json(json, _record(result, known, epsilon) | {"read": said})
        if plot is not None:
            _save(_figure(result, known, epsilon), plot)
    finally:  # the numbers are seen even if a file cannot be written
        print(f"{path}: {said}\n\n{report}" if said else report)


def _codebook_sizes(sizes: Sequence[int] | None, observed: list[int]) -> list[int]:
    if not sizes:
        return observed
    if len(sizes) not in (1, len(observed)):
        raise ValueError(f"--sizes: got {len(sizes)} values, need 1 or T = {len(observed)}")
    sizes = [*sizes] * (len(observed) // len(sizes))
    for t, (size, seen) in enumerate(zip(sizes, observed, strict=True), start=1):
        if seen > size:
            raise ValueError(f"--sizes: K = {size}, but position {t} holds the token {seen - 1}")
    return sizes


def _report(result: ConditionalEntropy, sizes: list[int], epsilon: float, assumed: bool) -> str:
    n, length = result.n_sequences, len(result.bits)
    last = int(np.searchsorted(result.distinct_prefixes, result.distinct_prefixes[-1])) + 1
    shown = [t for t in range(last) if t < HEAD or t >= last - TAIL]
    capacity = "log2 max+1" if assumed else "capacity"
    lines = [f"{'position':>8}  {'bits':>8}  {capacity:>10}  {'prefixes':>12}  {'unique':>7}"]
    before = -1
    for t in shown:
        if t > before + 1:
            lines.append(f"{'…':>8}")
        lines.append(
            f"{t + 1:>8}  {result.bits[t]:>8.3f}  {math.log2(sizes[t]):>10.2f}  "
            f"{result.distinct_prefixes[t]:>12,}  {result.unique_share[t]:>7.1%}"
        )
        before = t
    if last < length:
        rest = f"{last + 1}–{length}" if last + 1 < length else f"{length}"
        lines.append(f"{rest:>8}  {0:>8.3f}  no prefix is split any more")
    cliff = result.cliff(epsilon)
    lines.append(
        f"\nN = {n:,} sequences, T = {length}: {result.total_bits:.3f} bits of at most log2 N = "
        f"{math.log2(n):.3f}"
    )
    lines.append(
        f"cliff: {1 - epsilon:.4g} of the bits are spent after {cliff} of {length} positions"
    )
    ideal = _ideal_cliff(n, sizes)
    if ideal is not None:
        lines[-1] += f"; codes that used every size in full would need {ideal}"
    if result.per_class:
        cliffs = [part.cliff(epsilon) for part in result.per_class.values()]
        span = f"{min(cliffs)} to {max(cliffs)}"
        lines.append(f"within each of {len(cliffs)} classes: after {span} positions")
    return "\n".join(lines)


def _ideal_cliff(n: int, sizes: list[int]) -> int | None:
    """t* of `theory.cliff_position`; None if never reached or a position never varies."""
    from ..theory.cliff import cliff_position

    return cliff_position(n, sizes) if min(sizes) >= 2 else None


def _record(result: ConditionalEntropy, sizes: list[int], epsilon: float) -> dict[str, Any]:
    low, high = result.interval()
    curves = {
        "bits": result.bits,
        "bits_low_95": low,
        "bits_high_95": high,
        "miller_madow": result.miller_madow(),
        "grassberger": result.grassberger(),
        "distinct_prefixes": result.distinct_prefixes,
        "unique_share": result.unique_share,
    }
    record = {name: values.tolist() for name, values in curves.items()}
    record |= {
        "sequences": result.n_sequences,
        "positions": len(result.bits),
        "total_bits": result.total_bits,
        "cliff": result.cliff(epsilon),
        "epsilon": epsilon,
        "codebook_sizes": sizes,
    }
    if result.per_class:
        classes = result.per_class.items()
        record["per_class"] = {str(name): _record(part, sizes, epsilon) for name, part in classes}
    return record


def _save(figure: Any, path: Path) -> None:
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _figure(result: ConditionalEntropy, sizes: list[int], epsilon: float) -> Any:
    from ..chapters import figures
    from ..theory.cliff import expected_conditional_entropy

    curves = {"measured": result.bits, "capacity": np.log2(np.array(sizes, float))}
    if min(sizes) >= 2:
        curves["ideal codes"] = expected_conditional_entropy(result.n_sequences, sizes)
    return figures.positions(
        curves,
        dashed=("capacity", "ideal codes"),
        marks={f"cliff: {result.cliff(epsilon)}": max(result.cliff(epsilon), 1)},
        log_x=len(sizes) > 32,
    )
