"""The nearest of the first K_t rows, fast and in bounded memory: what the quantizer's search costs.

Scores are made in blocks that stay in the cache, and the largest of a long row of scores is found
chunk by chunk. Nothing here knows of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

BLOCK = 2**20  # entries of one block of the score matrix (4 MiB in fp32: it stays in the cache)
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


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, and no TF32 where a training script allows it: equal codes on every device."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before
