"""The variable-codebook quantizer: one shared codebook, position t uses its first K_t rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import index
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..theory.schedules import LARGEST

BLOCK = 2**20  # entries of one block of the score matrix (4 MiB in fp32: it stays in the cache)
SHORT = 2**16  # entries of a score matrix for which one argmax costs less than several calls
CHUNK = 128  # columns whose largest score is found at once; argmax alone is ten times slower


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


def runs(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (first, last + 1, K) for each run of neighbouring positions with the same K."""
    start = 0
    for t in range(1, len(sizes) + 1):
        if t == len(sizes) or sizes[t] != sizes[start]:
            yield start, t, sizes[start]
            start = t


def check_codes(codes: Tensor, sizes: Sequence[int]) -> None:
    """Raise ValueError unless codes are integers [B, m ≤ T], each below its position's size.

    The message names the first that is not, its image from 0 and its position from 1.
    """
    if codes.ndim != 2 or codes.shape[1] > len(sizes):
        raise ValueError(f"codes must be [B, m] with m <= {len(sizes)}, got {tuple(codes.shape)}")
    if codes.is_floating_point():
        raise ValueError(f"codes must be integers, got {codes.dtype}")
    limits = torch.as_tensor(sizes[: codes.shape[1]], device=codes.device)
    wrong = ((codes < 0) | (codes >= limits)).nonzero()
    if len(wrong):
        b, t = wrong[0].tolist()
        raise ValueError(
            f"code {int(codes[b, t])} at image {b}, position {t + 1} is outside 0..{sizes[t] - 1}"
        )


def _nearest(part: Tensor, table: Tensor, bias: Tensor | None, scores: Tensor) -> Tensor:
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
def _full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, and no TF32 where a training script allows it: equal codes on every device."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before


def _over_ranks(x: Tensor) -> Tensor:
    """Sum of x over all processes of a distributed run; x itself otherwise."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x


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
        ema: decay of a moving average that moves the rows in place of the gradient, for example
            0.99; 0 (default) trains them by the gradient. The codebook term of the loss is then
            left out, since nothing follows it (van den Oord et al., arXiv 1711.00937, appendix).
        revive: every so many training batches, a dead row takes a vector of the batch; 0
            (default) never. A row k is dead if the positions with the smallest K_t > k, those to
            which it matters most, have not used it since; it takes a vector of one of them.
            Rows that no position may use are left alone.
    """

    counts: Tensor  # int64 [T, num_codes]
    ema_uses: Tensor  # fp32 [num_codes]: moving average of the uses of each row in a batch
    ema_sums: Tensor  # fp32 [num_codes, dim]: the same of the sum of its vectors
    home: Tensor  # int64 [num_codes]: smallest K_t that covers the row, 0 if none does
    recent: Tensor  # int64 [num_codes]: uses at home positions since the last revival
    age: Tensor  # int64 []: training batches seen

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
        super().__init__()
        sizes = [index(k) for k in codebook_sizes]  # refuses 2.9
        if not sizes:
            raise ValueError("codebook_sizes is empty")
        rows = max(sizes) if num_codes is None else int(num_codes)
        for t, k in enumerate(sizes, start=1):
            if not 2 <= k <= rows:
                raise ValueError(f"K_{t} = {k} is outside 2..{rows} (the rows of the codebook)")
        if rows > LARGEST:
            raise ValueError(f"num_codes must be at most 2^32, got {rows}")
        if distance not in ("cosine", "euclidean"):
            raise ValueError(f"distance must be 'cosine' or 'euclidean', got {distance!r}")
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be 0 or more, got {beta}")
        if not 0 <= ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {ema}")
        if revive < 0:
            raise ValueError(f"revive must be 0 (never) or a number of batches, got {revive}")
        self.sizes, self.dim, self.beta, self.distance = sizes, dim, beta, distance
        self.ema, self.revive = ema, revive
        self.codebook = nn.Parameter(torch.empty(rows, dim))
        self.norm = nn.BatchNorm1d(len(sizes) * dim, affine=False) if balance else None
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
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the rows from a unit Gaussian (normalised if cosine); antipodal pair if balanced."""
        with torch.no_grad():
            self.codebook.normal_(generator=generator)
            if self.distance == "cosine":
                self.codebook.copy_(F.normalize(self.codebook, dim=-1))
            if self.norm is not None:
                self.codebook[1] = -self.codebook[0]
            if self.ema:  # each row starts as if one vector had been seen at its place
                self.ema_uses.fill_(1)
                self.ema_sums.copy_(self.codebook)

    def rows(self) -> Tensor:
        """The code vectors as used, fp32 [num_codes, dim] (l2-normalised if cosine)."""
        rows = self.codebook.float()
        return F.normalize(rows, dim=-1) if self.distance == "cosine" else rows

    def prepare(self, z: Tensor) -> Tensor:
        """Continuous vectors [B, T, dim] as they are compared with the rows, fp32."""
        if z.ndim != 3 or z.shape[1:] != (len(self.sizes), self.dim):
            raise ValueError(f"z must be [B, {len(self.sizes)}, {self.dim}], got {tuple(z.shape)}")
        z = z.float()
        if not self.training and not torch.isfinite(z).all():  # in training the loss says so
            raise ValueError("z has NaN or infinite entries: no code is nearest to them")
        if self.norm is not None:
            if self.training and len(z) < 2:
                raise ValueError("balance needs a batch of at least 2 in training, got 1")
            z = self.norm(z.flatten(1)).view_as(z)
        return F.normalize(z, dim=-1) if self.distance == "cosine" else z

    @torch.no_grad()
    def _search(self, z: Tensor, rows: Tensor) -> Tensor:
        """Index of the nearest of the first K_t rows, int64 [B, T]; cost Σ K_t per image."""
        codes = torch.empty(z.shape[:2], dtype=torch.int64, device=z.device)
        widest = max(self.sizes) + CHUNK
        scores = z.new_empty(max(widest, min(BLOCK, codes.numel() * widest)))
        for first, last, k in runs(self.sizes):
            part = z[:, first:last].reshape(-1, self.dim)
            # |z − e|² = |z|² − 2 z·e + |e|², and |z|² is the same for every e
            bias = None if self.distance == "cosine" else -0.5 * rows[:k].square().sum(-1)
            found = _nearest(part, rows[:k].T, bias, scores)
            codes[:, first:last] = found.view(-1, last - first)
        return codes

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z [B, T, dim]. The search runs in fp32 whatever the autocast."""
        with _full_precision(z.device):
            z = self.prepare(z)
            if self.revive and self.training:
                self._revive(z.detach())
            rows = self.rows()
            codes = self._search(z.detach(), rows.detach())
            chosen = F.embedding(codes, rows)  # [B, T, dim], gradient to the codebook
            loss = self.beta * F.mse_loss(z, chosen.detach())
            if not self.ema:
                loss = F.mse_loss(chosen, z.detach()) + loss
            if self.training:
                self.count(codes)
                self._learn(z.detach(), codes)
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
            with _full_precision(z.device):
                return self._search(self.prepare(z), self.rows())
        finally:
            self.train(was_training)

    @torch.no_grad()
    def _learn(self, z: Tensor, codes: Tensor) -> None:
        """After a training batch: the moving average of the rows, and the uses for revival."""
        flat = codes.flatten()
        if self.ema:
            uses = _over_ranks(torch.bincount(flat, minlength=len(self.codebook)).float())
            sums = torch.zeros_like(self.ema_sums).index_add_(0, flat, z.flatten(0, 1))
            self.ema_uses.lerp_(uses, 1 - self.ema)
            self.ema_sums.lerp_(_over_ranks(sums), 1 - self.ema)
            mean = self.ema_sums / self.ema_uses[:, None]
            # a row without vectors stays where it is: its mean would be 0 / 0 in the end
            self.codebook.copy_(torch.where(uses[:, None] > 0, mean, self.codebook))
        if self.revive:
            at_home = self.home[codes] == torch.as_tensor(self.sizes, device=codes.device)
            uses = torch.zeros_like(self.recent).index_add_(0, flat, at_home.flatten().long())
            self.recent += _over_ranks(uses)
            self.age += 1

    @torch.no_grad()
    def _revive(self, z: Tensor) -> None:
        """Before every `revive`-th batch z [B, T, dim], prepared: give dead rows a vector of it."""
        age = int(self.age)
        if age == 0 or age % self.revive:
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
        """
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
        if dist.is_available() and dist.is_initialized():  # all ranks take those of the first
            for tensor in (self.codebook, *((self.ema_uses, self.ema_sums) if self.ema else ())):
                dist.broadcast(tensor, 0)

    def decode(self, codes: Tensor) -> Tensor:
        """Code vectors of the first m positions: int64 [B, m ≤ T] → fp32 [B, m, dim]."""
        check_codes(codes, self.sizes)
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
        offsets = torch.arange(codes.shape[1], device=codes.device) * self.counts.shape[1]
        flat = (codes + offsets).flatten()
        # in place: a bincount of its own would take T · num_codes entries more for each batch
        self.counts.view(-1).index_add_(0, flat, torch.ones_like(flat))

    def reset_usage(self) -> None:
        """Forget all counts."""
        self.counts.zero_()

    def usage(self) -> Usage:
        """Counts, rows used and perplexity for each position since the last reset."""
        share = self.counts.double()
        share = share / share.sum(-1, keepdim=True).clamp(min=1)
        entropy = -torch.special.xlogy(share, share).sum(-1)
        return Usage(self.counts.clone(), (self.counts > 0).sum(-1), entropy.exp())
