"""The variable-codebook quantizer: one shared codebook, position t uses its first K_t rows.

This file holds the idea. How the search is made fast is in `search.py`; how rows start, move
without a gradient and are counted is in `codebook.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import must
from .codebook import Codebook
from .guards import Codes, check_codes, check_vectors, evaluating, integers, short, steady
from .search import full_precision, nearest


class Quantized(NamedTuple):
    """What `VariableCodebookQuantizer.forward` returns."""

    quantized: Tensor  # [B, T, dim], straight-through
    codes: Tensor  # int64 [B, T]
    loss: Tensor  # scalar


class VariableCodebookQuantizer(Codebook):
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
        ema: decay of a moving average that moves the rows in place of the gradient, for example
            0.99; 0 (default) trains them by the gradient. The codebook term of the loss is then
            left out, since nothing follows it (van den Oord et al., arXiv 1711.00937, appendix).
        revive: every so many training batches, a dead row takes a vector of the batch; 0
            (default) never. A row k is dead if the positions with the smallest K_t > k, those to
            which it matters most, have not used it since; it takes a vector of one of them.
            Rows that no position may use are left alone.
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        dim: int,
        num_codes: int | None = None,
        beta: float = 0.25,
        distance: str = "cosine",
        balance: bool = False,
        ema: float = 0.0,
        revive: int = 0,
    ) -> None:
        must(0 <= beta < float("inf"), "beta", "0 or more", beta)
        super().__init__(codebook_sizes, dim, num_codes, distance, ema, revive)
        self.beta = beta
        self.norm = nn.BatchNorm1d(len(self.sizes) * dim, affine=False) if balance else None
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the rows from a unit Gaussian (normalised if cosine); antipodal pair if balanced."""
        self.draw(generator, antipodal=self.norm is not None)

    def prepare(self, z: Tensor) -> Tensor:
        """Continuous vectors [B, T, dim] as they are compared with the rows, fp32."""
        check_vectors(z, len(self.sizes), self.dim)
        z = z.float()
        if self.norm is not None:
            must(len(z) > 1 or not self.training, "the batch under balance", "at least 2", len(z))
            z = steady(self.norm, z.flatten(1)).view_as(z)
        if not self.training and not short(z.detach()):  # in training the loss says so
            raise ValueError("z has NaN, infinite or too large entries: no code is nearest to them")
        return F.normalize(z, dim=-1) if self.distance == "cosine" else z

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z [B, T, dim]. The search runs in fp32 whatever the autocast."""
        with full_precision(z.device):
            z = self.prepare(z)
            if self.training:
                self.replace_dead(z.detach())
            rows = self.rows()
            codes = self._search(z.detach(), rows.detach())
            chosen = F.embedding(codes, rows)  # [B, T, dim], gradient to the codebook
            loss = self.beta * F.mse_loss(z, chosen.detach())
            if not self.ema:
                loss = F.mse_loss(chosen, z.detach()) + loss
            if not self.training:
                return Quantized(chosen, codes, loss)
            self.learn(z.detach(), codes, loss)
            # value of the code, gradient of z; adding z − sg(z) = 0 keeps the value exact
            return Quantized(chosen.detach() + (z - z.detach()), codes, loss)

    def _search(self, z: Tensor, rows: Tensor) -> Tensor:
        """The idea: position t looks for its nearest row among the first K_t, int64 [B, T]."""
        return nearest(z, rows, self.sizes, unit=self.distance == "cosine")

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Codes int64 [B, T] of z [B, T, dim]; counts nothing and moves no statistics."""
        with evaluating(self), full_precision(z.device):
            return self._search(self.prepare(z), self.rows())

    def decode(self, codes: Codes) -> Tensor:
        """Code vectors of the first m positions: integers [B, m ≤ T] → fp32 [B, m, dim]."""
        codes = integers(codes, "codes", self.codebook.device)
        check_codes(codes, self.sizes)
        return F.embedding(codes, self.rows())
