"""The nearest of the first K_t rows, fast and in bounded memory: what the quantizer's search costs.

Scores are made in blocks that stay in the cache, and the largest of a long row of scores is found
chunk by chunk. Nothing here knows of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 2**20  # entries of one block of the score matrix (4 MiB in fp32: it stays in the cache)
GPU_BLOCK = 2**26  # the same on a GPU, where each block costs launches (256 MiB)
SHORT = 2**16  # entries of a score matrix for which one argmax costs less than several calls
CHUNK = 128  # columns whose largest score is found at once; argmax alone is ten times slower


def runs(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (first, last + 1, K) for each run of neighbouring positions with the same K."""
    start = 0
    for t in range(1, len(sizes) + 1):
        if t == len(sizes) or sizes[t] != sizes[start]:
            yield start, t, sizes[start]
            start = t


@torch.no_grad()
def nearest(z: Tensor, rows: Tensor, sizes: Sequence[int], unit: bool) -> Tensor:
    """Number of the nearest of the first K_t rows, int64 [B, T]; cost Σ K_t per image.

    Args:
        z: vectors [B, T, d].
        rows: [K, d]; of equally near ones the first is taken.
        sizes: K_1..K_T.
        unit: rows are of length 1, so that the largest product is the nearest.
    """
    if torch.compiler.is_compiling():  # one call, which no compiler looks into
        return torch.ops.vcqlib.nearest(z, rows, list(sizes), unit)
    search = _by_runs if z.device.type == "cpu" else _by_groups
    return search(z, rows, sizes, unit)


@torch.library.custom_op("vcqlib::nearest", mutates_args=())
def _opaque(z: Tensor, rows: Tensor, sizes: Sequence[int], unit: bool) -> Tensor:
    with full_precision(z.device):
        return nearest(z, rows, sizes, unit)


@_opaque.register_fake
def _(z: Tensor, rows: Tensor, sizes: Sequence[int], unit: bool) -> Tensor:
    return z.new_empty(z.shape[:2], dtype=torch.int64)


def groups(sizes: Sequence[int]) -> list[list[int]]:
    """Positions whose K_t lie between the same powers of two, sorted by K_t: 14 groups at most
    for K_max = 16384, and less than twice the work of Σ K_t."""
    found: dict[int, list[int]] = {}
    for t in sorted(range(len(sizes)), key=lambda t: sizes[t]):
        found.setdefault((sizes[t] - 1).bit_length(), []).append(t)
    return list(found.values())


@lru_cache(maxsize=16)  # made anew, each of these would have the host wait for the device
def _plan(sizes: tuple[int, ...], device: torch.device) -> list[tuple]:
    """Of each group: its positions, its smallest and its largest K_t, and what lies beyond K_t."""
    found = []
    for positions in groups(sizes):
        first, least, most = positions[0], sizes[positions[0]], sizes[positions[-1]]
        where: slice | Tensor = slice(first, first + len(positions))
        if positions != list(range(first, first + len(positions))):
            where = torch.tensor(positions, device=device)
        limits = torch.tensor([sizes[t] for t in positions], device=device)[:, None]
        beyond = torch.arange(least, most, device=device) >= limits  # [positions, most − least]
        found.append((where, len(positions), least, most, beyond))
    return found


def _by_groups(z: Tensor, rows: Tensor, sizes: Sequence[int], unit: bool) -> Tensor:
    """A few large products: a group of positions shares one, and what is beyond K_t is masked."""
    codes = torch.empty(z.shape[:2], dtype=torch.int64, device=z.device)
    for where, count, least, most, beyond in _plan(tuple(sizes), z.device):
        table, bias = rows[:most].T, None if unit else -0.5 * rows[:most].square().sum(-1)
        step = max(1, GPU_BLOCK // (count * most))
        for start in range(0, len(z), step):
            part = z[start : start + step, where].reshape(-1, z.shape[-1])
            scores = part @ table if bias is None else torch.addmm(bias, part, table)
            scores = scores.view(-1, count, most)
            if least < most:
                scores[..., least:].masked_fill_(beyond, -torch.inf)
            codes[start : start + step, where] = scores.argmax(-1)
    return codes


def _by_runs(z: Tensor, rows: Tensor, sizes: Sequence[int], unit: bool) -> Tensor:
    """Neighbouring positions of one K_t together, in blocks that stay in the cache."""
    codes = torch.empty(z.shape[:2], dtype=torch.int64, device=z.device)
    widest = max(sizes) + CHUNK
    scores = z.new_empty(max(widest, min(BLOCK, codes.numel() * widest)))
    for first, last, k in runs(sizes):
        part = z[:, first:last].reshape(-1, z.shape[-1])
        # |z − e|² = |z|² − 2 z·e + |e|², and |z|² is the same for every e
        bias = None if unit else -0.5 * rows[:k].square().sum(-1)
        found = _largest(part, rows[:k].T, bias, scores)
        codes[:, first:last] = found.view(-1, last - first)
    return codes


def _largest(part: Tensor, table: Tensor, bias: Tensor | None, scores: Tensor) -> Tensor:
    """Column of the largest score of each row of part [n, d] against table [d, k], int64 [n].

    Works in the memory of `scores`, in blocks: memory from the system for each of them would cost
    more than the products.
    """
    k, n = table.shape[1], len(part)
    chunked = min(n * k, BLOCK) > SHORT and k > 2 * CHUNK
    width = -(-k // CHUNK) * CHUNK if chunked else k
    block = min(n, max(1, len(scores) // width))
    scores = scores[: block * width].view(block, width)
    if width > k:
        scores[:, k:] = -torch.inf
    found = []
    for rows in part.split(block):
        score = scores[: len(rows)]
        inside = score[:, :k] if width > k else score
        if bias is None:
            torch.mm(rows, table, out=inside)
        else:
            torch.addmm(bias, rows, table, out=inside)
        if not chunked:
            found.append(score.argmax(-1))
            continue
        chunks = score.view(len(rows), -1, CHUNK)
        best = chunks.amax(-1).argmax(-1)  # the first of equals, as argmax
        inner = chunks[torch.arange(len(rows), device=rows.device), best].argmax(-1)
        found.append(best * CHUNK + inner)
    return torch.cat(found) if len(found) > 1 else found[0]


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast, and no TF32 where a training script allows it: equal codes on every device.

    In compiled code only the search, which is compiled by nobody, does without TF32.
    """
    if torch.compiler.is_compiling():
        return torch.autocast(device.type, enabled=False)
    return _ieee(device)


@contextmanager
def _ieee(device: torch.device) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before
