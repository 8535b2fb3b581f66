"""The variable-codebook quantizer: one shared codebook, position t uses its first K_t rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 2**22  # entries of one block of the score matrix (16 MiB in fp32)


class Quantized(NamedTuple):
    """What `VariableCodebookQuantizer.forward` returns."""

    quantized: Tensor  # [B, T, dim], straight-through
    codes: Tensor  # int64 [B, T]
    loss: Tensor  # scalar


@dataclass(frozen=True)
class Usage:
    """How often each row was used at each position."""

    counts: Tensor  # int64 [T, num_codes]
    used: Tensor  # int64 [T], rows used at least once
    perplexity: Tensor  # float64 [T], 2^entropy of the position's own distribution


def _runs(sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (first, last + 1, K) for each run of neighbouring positions with the same K."""
    start = 0
    for t in range(1, len(sizes) + 1):
        if t == len(sizes) or sizes[t] != sizes[start]:
            yield start, t, sizes[start]
            start = t


class VariableCodebookQuantizer(nn.Module):
    """Vector quantizer whose position t takes the nearest of the first K_t rows of one codebook.

    With a uniform schedule this is plain VQ with l2-normalised vectors and codes (LlamaGen). The
    variable codebook changes nothing but the range of the search (VCQ, arXiv 2605.06207, C4, C5).
    Loss: codebook term |sg(z) − e|² plus `beta` times the commitment term |z − sg(e)|², both
    averaged over all entries.

    Args:
        codebook_sizes: K_1..K_T, each from 2 to `num_codes`.
        dim: width d of a code vector.
        num_codes: rows of the codebook, at least max K_t (default). A study gives K_max to every
            arm, so that all have the same parameters.
        beta: weight of the commitment term.
        distance: "cosine" (vectors and codes l2-normalised) or "euclidean".
        balance: remedy for collapse at small K, off by default (ours). Each position's input is
            centred and scaled per dimension over the batch (BatchNorm without learned scale) and
            the first two rows start antipodal. Without it the encoder's output starts with a
            large common mean, all vectors point the same way, and one code wins every image.
    """

    codebook_sizes: Tensor
    counts: Tensor

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        dim: int,
        num_codes: int | None = None,
        beta: float = 0.25,
        distance: str = "cosine",
        balance: bool = False,
    ) -> None:
        super().__init__()
        sizes = [index(k) for k in codebook_sizes]  # refuses 2.9
        if not sizes:
            raise ValueError("codebook_sizes is empty")
        rows = max(sizes) if num_codes is None else int(num_codes)
        for t, k in enumerate(sizes, start=1):
            if not 2 <= k <= rows:
                raise ValueError(f"K_{t} = {k} is outside 2..{rows} (the rows of the codebook)")
        if distance not in ("cosine", "euclidean"):
            raise ValueError(f"distance must be 'cosine' or 'euclidean', got {distance!r}")
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.sizes, self.dim, self.beta, self.distance = sizes, dim, beta, distance
        self.codebook = nn.Parameter(torch.empty(rows, dim))
        self.norm = nn.BatchNorm1d(len(sizes) * dim, affine=False) if balance else None
        self.register_buffer("counts", torch.zeros(len(sizes), rows, dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the rows from a unit Gaussian (normalised if cosine); antipodal pair if balanced."""
        with torch.no_grad():
            self.codebook.normal_(generator=generator)
            if self.distance == "cosine":
                self.codebook.copy_(F.normalize(self.codebook, dim=-1))
            if self.norm is not None:
                self.codebook[1] = -self.codebook[0]

    def rows(self) -> Tensor:
        """The code vectors as used, fp32 [num_codes, dim] (l2-normalised if cosine)."""
        rows = self.codebook.float()
        return F.normalize(rows, dim=-1) if self.distance == "cosine" else rows

    def prepare(self, z: Tensor) -> Tensor:
        """Continuous vectors [B, T, dim] as they are compared with the rows, fp32."""
        if z.ndim != 3 or z.shape[1:] != (len(self.sizes), self.dim):
            raise ValueError(f"z must be [B, {len(self.sizes)}, {self.dim}], got {tuple(z.shape)}")
        z = z.float()
        if self.norm is not None:
            if self.training and len(z) < 2:
                raise ValueError("balance needs a batch of at least 2 in training, got 1")
            z = self.norm(z.flatten(1)).view_as(z)
        return F.normalize(z, dim=-1) if self.distance == "cosine" else z

    @torch.no_grad()
    def _search(self, z: Tensor, rows: Tensor) -> Tensor:
        """Index of the nearest of the first K_t rows, int64 [B, T]; cost Σ K_t per image."""
        codes = torch.empty(z.shape[:2], dtype=torch.int64, device=z.device)
        for first, last, k in _runs(self.sizes):
            part = z[:, first:last].reshape(-1, self.dim)
            table = rows[:k].T  # [dim, k]
            # |z − e|² = |z|² − 2 z·e + |e|², and |z|² is the same for every e
            bias = None if self.distance == "cosine" else -0.5 * rows[:k].square().sum(-1)
            found = []
            for block in part.split(max(1, BLOCK // k)):
                score = block @ table if bias is None else torch.addmm(bias, block, table)
                found.append(score.argmax(-1))
            codes[:, first:last] = torch.cat(found).view(-1, last - first)
        return codes

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z [B, T, dim]. The search runs in fp32 whatever the autocast."""
        with torch.autocast(z.device.type, enabled=False):
            z, rows = self.prepare(z), self.rows()
            codes = self._search(z.detach(), rows.detach())
            chosen = F.embedding(codes, rows)  # [B, T, dim], gradient to the codebook
            loss = F.mse_loss(chosen, z.detach()) + self.beta * F.mse_loss(z, chosen.detach())
            if self.training:
                self.count(codes)
                # value of the code, gradient of z; adding z − sg(z) = 0 keeps the value exact
                quantized = chosen.detach() + (z - z.detach())
            else:
                quantized = chosen
        return Quantized(quantized, codes, loss)

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Codes int64 [B, T] of z [B, T, dim]; counts nothing and moves no statistics."""
        was_training = self.training
        self.eval()
        try:
            with torch.autocast(z.device.type, enabled=False):
                return self._search(self.prepare(z), self.rows())
        finally:
            self.train(was_training)

    def check(self, codes: Tensor) -> None:
        """Raise ValueError naming the first code outside its position's range."""
        if codes.ndim != 2 or codes.shape[1] > len(self.sizes):
            raise ValueError(
                f"codes must be [B, m] with m <= {len(self.sizes)}, got {tuple(codes.shape)}"
            )
        limits = torch.as_tensor(self.sizes[: codes.shape[1]], device=codes.device)
        wrong = ((codes < 0) | (codes >= limits)).nonzero()
        if len(wrong):
            b, t = wrong[0].tolist()
            raise ValueError(
                f"code {int(codes[b, t])} at image {b}, position {t + 1} is outside "
                f"0..{self.sizes[t] - 1}"
            )

    def decode(self, codes: Tensor) -> Tensor:
        """Code vectors of the first m positions: int64 [B, m ≤ T] → fp32 [B, m, dim]."""
        self.check(codes)
        return F.embedding(codes, self.rows())

    @torch.no_grad()
    def mean_vectors(self) -> Tensor:
        """Mean code vector of each position under the counted usage, fp32 [T, dim].

        It stands in for a position whose code is not known (prefix decoding). A position that
        was never counted gives zeros.
        """
        total = self.counts.sum(-1, keepdim=True).clamp(min=1)
        return (self.counts.double() / total).float() @ self.rows()

    @torch.no_grad()
    def count(self, codes: Tensor) -> None:
        """Add codes int64 [B, T] to the usage counts."""
        num_codes = self.counts.shape[1]
        offsets = torch.arange(codes.shape[1], device=codes.device) * num_codes
        flat = torch.bincount((codes + offsets).flatten(), minlength=self.counts.numel())
        self.counts += flat.view_as(self.counts)

    def reset_usage(self) -> None:
        """Forget all counts."""
        self.counts.zero_()

    def usage(self) -> Usage:
        """Counts, rows used and perplexity for each position since the last reset."""
        share = self.counts.double()
        share = share / share.sum(-1, keepdim=True).clamp(min=1)
        entropy = -torch.special.xlogy(share, share).sum(-1)
        return Usage(self.counts.clone(), (self.counts > 0).sum(-1), entropy.exp())
