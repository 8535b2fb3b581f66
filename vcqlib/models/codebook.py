"""The codebook's rows: how they start, how they move without a gradient, how often they were used.

The quantizer of `quantizer.py` is built on it; what it adds is the idea.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import integer, must
from ..theory.schedules import LARGEST
from .guards import Codes, check_codes, check_vectors, integers, short


@dataclass(frozen=True)
class Usage:
    """How often each row was used at each position."""

    counts: Tensor  # int64 [T, num_codes]
    used: Tensor  # int64 [T], rows used at least once
    perplexity: Tensor  # float64 [T], 2^entropy of the position's own distribution


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def _over_ranks(x: Tensor) -> Tensor:
    """Sum of x over all processes of a distributed run; x itself otherwise."""
    if _several():
        dist.all_reduce(x)
    return x


class Codebook(nn.Module):
    """One table of rows for all positions; position t may use the first K_t. See its subclass."""

    counts: Tensor  # int64 [T, num_codes]
    ema_uses: Tensor  # fp32 [num_codes]: moving average of the uses of each row in a batch
    ema_sums: Tensor  # fp32 [num_codes, dim]: the same of the sum of its vectors
    home: Tensor  # int64 [num_codes]: smallest K_t that covers the row, 0 if none does
    recent: Tensor  # int64 [num_codes]: uses at home positions since the last revival
    age: Tensor  # int64 []: training batches seen

    def __init__(
        self, codebook_sizes: Sequence[int], dim: int, num_codes: int | None, distance: str,
        ema: float, revive: int,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = [integer(k, f"K_{t}") for t, k in enumerate(codebook_sizes, start=1)]
        must(sizes, "codebook_sizes", "K_1 … K_T", "none")
        rows = max(sizes) if num_codes is None else integer(num_codes, "num_codes")
        for t, k in enumerate(sizes, start=1):
            if not 2 <= k <= rows:
                raise ValueError(f"K_{t} = {k} is outside 2..{rows} (the rows of the codebook)")
        must(rows <= LARGEST, "num_codes", "at most 2^32", rows)
        must(distance in ("cosine", "euclidean"), "distance", "cosine or euclidean", repr(distance))
        dim, revive = integer(dim, "dim", least=1), integer(revive, "revive")
        must(0 <= ema < 1, "ema", "in [0, 1)", ema)
        must(revive >= 0, "revive", "0 (never) or a number of batches", revive)
        self.sizes, self.dim, self.distance = sizes, dim, distance
        self.ema, self.revive = ema, revive
        self.codebook = nn.Parameter(torch.empty(rows, dim))
        self.register_buffer("counts", torch.zeros(len(sizes), rows, dtype=torch.int64))
        if ema:
            self.codebook.requires_grad_(False)
            self.register_buffer("ema_uses", torch.empty(rows))
            self.register_buffer("ema_sums", torch.empty(rows, dim))
        home = torch.zeros(rows, dtype=torch.int64)
        for k in sorted(set(sizes), reverse=True):
            home[:k] = k
        self.register_buffer("home", home, persistent=False)
        if revive:
            self.register_buffer("recent", torch.zeros_like(home))
            self.register_buffer("age", torch.zeros((), dtype=torch.int64))

    def rows(self) -> Tensor:
        """The code vectors as used, fp32 [num_codes, dim] (l2-normalised if cosine)."""
        rows = self.codebook.float()
        if not self.training and not short(rows.detach()):
            raise ValueError("the codebook has NaN, infinite or too large entries: train it anew")
        return F.normalize(rows, dim=-1) if self.distance == "cosine" else rows

    # --- how the rows start and move ----------------------------------------------------------

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None, antipodal: bool) -> None:
        """Rows from a unit Gaussian (normalised if cosine); `antipodal`: row 1 opposite row 0."""
        self.codebook.normal_(generator=generator)
        if self.distance == "cosine":
            self.codebook.copy_(F.normalize(self.codebook, dim=-1))
        if antipodal:
            self.codebook[1] = -self.codebook[0]
        if self.ema:  # each row starts as if one vector had been seen at its place
            self.ema_uses.fill_(1)
            self.ema_sums.copy_(self.codebook)

    @torch.no_grad()
    def learn(self, z: Tensor, codes: Tensor, loss: Tensor) -> None:
        """After a training batch: counts, the moving average of the rows, the uses for revival.

        Nothing moves if the batch's loss is not finite, in this process or, for what all share, in
        another one: one such batch would stay in the averages for ever.
        """
        flat, sane = codes.flatten(), loss.detach().isfinite()
        self._count(codes, sane)
        if self.ema or self.revive:
            sane = _over_ranks((~sane).float()) == 0
        if self.ema:
            uses = torch.bincount(flat, minlength=len(self.codebook)).float()
            uses = _over_ranks(uses) * sane
            sums = torch.zeros_like(self.ema_sums)
            sums = _over_ranks(sums.index_add_(0, flat, torch.where(sane, z, 0).flatten(0, 1)))
            self.ema_uses.lerp_(uses, (1 - self.ema) * sane)
            self.ema_sums.lerp_(sums, (1 - self.ema) * sane)
            mean = self.ema_sums / self.ema_uses[:, None]
            # a row without vectors stays where it is: its mean would be 0 / 0 in the end
            self.codebook.copy_(torch.where(uses[:, None] > 0, mean, self.codebook))
        if self.revive:
            at_home = self.home[codes] == torch.as_tensor(self.sizes, device=codes.device)
            uses = torch.zeros_like(self.recent).index_add_(0, flat, at_home.flatten().long())
            self.recent += _over_ranks(uses) * sane
            self.age += sane

    @torch.no_grad()
    def replace_dead(self, z: Tensor) -> None:
        """Before every `revive`-th batch z [B, T, dim], prepared: give dead rows a vector of it."""
        age = int(self.age) if self.revive else 0
        if age == 0 or age % self.revive or _over_ranks((~short(z)).float()):
            return
        self.place(z, self.recent == 0, seed=age)  # a resumed run draws the same
        self.recent.zero_()

    @torch.no_grad()
    def place(self, z: Tensor, chosen: Tensor | None = None, seed: int = 0) -> None:
        """Move rows onto vectors of a batch, each onto one of the positions it matters most to.

        Args:
            z: prepared vectors [B, T, dim]; if they are too few, some rows stay.
            chosen: the rows to move, bool [num_codes]; default all (a start from data).
            seed: of the choice among the vectors.

        Raises:
            ValueError: vectors of another shape, or not finite.
        """
        check_vectors(z, len(self.sizes), self.dim)
        if not short(z):
            raise ValueError("z has NaN, infinite or too large entries: no row can stand there")
        chosen = self.home > 0 if chosen is None else chosen & (self.home > 0)
        generator = torch.Generator().manual_seed(seed)
        for k in self.home[chosen].unique().tolist():
            rows = (chosen & (self.home == k)).nonzero()[:, 0]
            pool = z[:, [t for t, size in enumerate(self.sizes) if size == k]].flatten(0, 1)
            drawn = torch.randperm(len(pool), generator=generator)[: len(rows)].to(z.device)
            rows = rows[: len(drawn)]
            self.codebook[rows] = pool[drawn].to(self.codebook.dtype)
            if self.ema:
                self.ema_uses[rows], self.ema_sums[rows] = 1.0, pool[drawn]
        if _several():  # all ranks take those of the first
            for tensor in (self.codebook, *((self.ema_uses, self.ema_sums) if self.ema else ())):
                dist.broadcast(tensor, 0)

    # --- how often they were used -------------------------------------------------------------

    def count(self, codes: Codes) -> None:
        """Add codes [B, m ≤ T], integers, to the usage counts.

        Raises:
            ValueError: as `decode`.
        """
        codes = integers(codes, "codes", self.counts.device)
        check_codes(codes, self.sizes)
        self._count(codes, torch.ones((), dtype=torch.bool, device=codes.device))

    @torch.no_grad()
    def _count(self, codes: Tensor, wanted: Tensor) -> None:
        offsets = torch.arange(codes.shape[1], device=codes.device) * self.counts.shape[1]
        flat = (codes + offsets).flatten()
        # in place: a bincount of its own would take T · num_codes entries more for each batch
        self.counts.view(-1).index_add_(0, flat, wanted.to(flat).expand_as(flat))

    def reset_usage(self) -> None:
        """Forget all counts."""
        self.counts.zero_()

    def usage(self) -> Usage:
        """Counts, rows used and perplexity for each position since the last reset."""
        share = self.counts.double()
        share = share / share.sum(-1, keepdim=True).clamp(min=1)
        entropy = -torch.special.xlogy(share, share).sum(-1)
        return Usage(self.counts.clone(), (self.counts > 0).sum(-1), entropy.exp())

    @torch.no_grad()
    def mean_vectors(self) -> Tensor:
        """Mean code vector of each position under the counted usage, fp32 [T, dim].

        It stands in for a position whose code is not known (prefix decoding). A position that
        was never counted gives zeros.
        """
        total = self.counts.sum(-1, keepdim=True).clamp(min=1)
        return (self.counts.double() / total).float() @ self.rows()
