"""`vcq entropy`: where the bits of anyone's tokens are spent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from ..checks import naming, printable
from ..data.token_files import read_labels
from ..entropy.estimates import ConditionalEntropy, conditional_entropy
from ..entropy.inputs import checked_sizes, largest_tokens, read_matrix
from ..files import write_json
from ..theory.cliff import cliff_position, expected_conditional_entropy
from .output import after, save_figure, table

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
    tokens = read_matrix(path, columns)
    codes, classes, said = tokens.codes, tokens.labels, tokens.said()
    if labels is not None:
        classes, each = read_labels(labels, len(codes))
        given = f"labels: {labels}" + f", {each} rows each" * (each > 1)
        said = f"{said}; {given}" if said else given
    with naming(path):
        largest = largest_tokens(codes)
        stated = sizes or tokens.sizes
        known = checked_sizes(stated, largest) if stated else [most + 1 for most in largest]
        result = conditional_entropy(codes, classes)
    report = _report(result, known, epsilon, assumed=not stated)
    try:
        if json is not None:
            write_json(json, _record(result, known, epsilon) | {"read": said})
        if plot is not None:
            save_figure(_figure(result, known, epsilon), plot)
    finally:  # the numbers are seen even if a file cannot be written
        print(f"{printable(str(path))}: {said}\n\n{report}" if said else report)


def _report(result: ConditionalEntropy, sizes: list[int], epsilon: float, assumed: bool) -> str:
    n, length = result.n_sequences, len(result.bits)
    last = int(np.searchsorted(result.distinct_prefixes, result.distinct_prefixes[-1])) + 1
    columns = {
        "position": [str(t + 1) for t in range(last)],
        "bits": [f"{bits:.3f}" for bits in result.bits[:last]],
        "log2 max+1" if assumed else "capacity": [f"{math.log2(k):.2f}" for k in sizes[:last]],
        "prefixes": [f"{many:,}" for many in result.distinct_prefixes[:last]],
        "unique": [f"{share:.1%}" for share in result.unique_share[:last]],
    }
    lines = table(columns, HEAD, TAIL)
    if last < length:
        lines.append(f"{after(last, length)}  {0:.3f}  no prefix is split any more")
    cliff = result.cliff(epsilon)
    lines.append(
        f"\nN = {n:,} sequences, T = {length}: {result.total_bits:.3f} bits of at most log2 N = "
        f"{math.log2(n):.3f}"
    )
    ideal = cliff_position(n, sizes) if min(sizes) >= 2 else None
    full = "" if ideal is None else f"; codes that used every size in full would need {ideal}"
    lines.append(
        f"cliff: {1 - epsilon:.4g} of the bits are spent after {cliff} of {length} positions{full}"
    )
    if result.per_class:
        cliffs = [part.cliff(epsilon) for part in result.per_class.values()]
        span = f"{min(cliffs)} to {max(cliffs)}"
        lines.append(f"within each of {len(cliffs)} classes: after {span} positions")
    return "\n".join(lines)


def _record(result: ConditionalEntropy, sizes: list[int], epsilon: float) -> dict[str, Any]:
    low, high = result.interval()
    curves = {**result.curves(), "bits_low_95": low, "bits_high_95": high}
    record = {name: values.tolist() for name, values in curves.items()} | {
        "sequences": result.n_sequences, "positions": len(result.bits),
        "total_bits": result.total_bits, "cliff": result.cliff(epsilon), "epsilon": epsilon,
        "codebook_sizes": sizes,
    }  # fmt: skip
    if result.per_class:
        classes = result.per_class.items()
        record["per_class"] = {str(name): _record(part, sizes, epsilon) for name, part in classes}
    return record


def _figure(result: ConditionalEntropy, sizes: list[int], epsilon: float) -> Any:
    from ..chapters import figures

    curves = {"measured": result.bits, "capacity": np.log2(np.array(sizes, float))}
    if min(sizes) >= 2:
        curves["ideal codes"] = expected_conditional_entropy(result.n_sequences, sizes)
    marks = {f"cliff: {result.cliff(epsilon)}": max(result.cliff(epsilon), 1)}
    dashed = ("capacity", "ideal codes")
    return figures.positions(curves, dashed=dashed, marks=marks, log_x=len(sizes) > 32)
