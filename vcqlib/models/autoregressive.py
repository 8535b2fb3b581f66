"""The AR model: a LlamaGen-style Transformer over codes, with a class token in front.

The variable codebook does not touch training: the cross-entropy runs over the whole vocabulary.
Only sampling masks the logits beyond K_t (LlamaGen, arXiv 2406.06525; VCQ, arXiv 2605.06207, C5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codebook import check_codes
from .search import runs
from .transformer import Block, Cache, Linear, project, rotary_table


@dataclass(frozen=True)
class ARConfig:
    """Shape of the AR model.

    restricted_head (ours, off by default): position t predicts only its first K_t codes, in
    training too. The rest is never sampled, so it need not be computed.
    """

    codebook_sizes: tuple[int, ...]
    vocabulary: int
    classes: int
    width: int = 128
    layers: int = 3
    heads: int = 4
    dropout: float = 0.1
    label_dropout: float = 0.1
    restricted_head: bool = False

    def __post_init__(self) -> None:
        if not self.codebook_sizes or max(self.codebook_sizes) > self.vocabulary:
            raise ValueError(
                f"vocabulary {self.vocabulary} is smaller than the largest codebook size"
                if self.codebook_sizes
                else "codebook_sizes is empty"
            )
        for name in ("classes", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    @property
    def length(self) -> int:
        """Number of positions T."""
        return len(self.codebook_sizes)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ARConfig:
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown AR setting {sorted(unknown)[0]!r}")
        return cls(**{**values, "codebook_sizes": tuple(values["codebook_sizes"])})


# Sizes by name. B, L and XL count 112.6M, 342.9M and 685.5M parameters at vocabulary 16384.
PRESETS: dict[str, dict] = {
    "nano": {"width": 32, "layers": 1, "heads": 2},
    "tiny": {"width": 128, "layers": 3, "heads": 4},
    "small": {"width": 384, "layers": 6, "heads": 6},
    "B": {"width": 768, "layers": 12, "heads": 12},
    "L": {"width": 1024, "layers": 24, "heads": 16},
    "XL": {"width": 1280, "layers": 32, "heads": 20},
}


def guidance_scales(scale: float, length: int, kind: str = "constant", power: float = 1.75):
    """Guidance scale at each position: constant, or 1 + (scale − 1) ½(1 − cos π(t/T)^power)."""
    if kind == "constant":
        return [scale] * length
    if kind == "cosine":
        ramp = [0.5 * (1 - math.cos(math.pi * (t / length) ** power)) for t in range(length)]
        return [1 + (scale - 1) * r for r in ramp]
    raise ValueError(f"guidance must be 'constant' or 'cosine', got {kind!r}")


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Keep the `top_k` largest logits (0: all) and the smallest set of mass `top_p`; [B, V]."""
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p < 1:
        ordered, order = logits.sort(descending=True, dim=-1)
        mass = ordered.softmax(-1)
        before = mass.cumsum(-1) - mass  # mass of the strictly better ones
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(drop, -math.inf)
    return logits


def draw(logits: Tensor, u: Tensor) -> Tensor:
    """Codes int64 [B] from logits [B, K] by numbers u [B], uniform in [0, 1): inverse CDF."""
    mass = logits.softmax(-1).cumsum(-1)
    # a little below 1, so that rounding cannot reach past the last code with a chance above 0
    aim = u[:, None] * (1 - 2**-22) * mass[:, -1:]
    return torch.searchsorted(mass, aim, right=True)[:, 0]


def _uniform(
    batch: int, length: int, generator: torch.Generator | Sequence | None, device: torch.device
) -> Tensor:
    """The numbers that choose the codes, uniform in [0, 1), fp32 [B, T]."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.rand(batch, length, generator=generator, device=device)
    if len(generator) != batch:
        raise ValueError(f"one generator a row is {batch}, got {len(generator)}")
    return torch.stack([torch.rand(length, generator=g, device=device) for g in generator])


class _OwnLoss(torch.autograd.Function):
    """Sum of the cross-entropies over the first K_t columns of the head, nats.

    Gradients are made on the way: no logits are kept, and autograd would fill a gradient of the
    whole head for each of the slices.
    """

    @staticmethod
    def forward(
        ctx, hidden: Tensor, weight: Tensor, codes: Tensor, sizes: Sequence[int], wanted: bool
    ) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        if wanted:
            grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        for first, last, k in runs(sizes):
            h, w = hidden[:, first:last].flatten(0, 1), weight[:k]
            target = codes[:, first:last].flatten()[:, None]
            log_chances = (h @ w.T).float().log_softmax(-1)
            total -= log_chances.gather(-1, target).sum()
            if wanted:
                slope = log_chances.exp_()  # of the loss by the logits: chance, less 1 if target
                slope.scatter_add_(-1, target, -torch.ones_like(slope[:, :1]))
                slope = slope.to(h.dtype)
                grad_hidden[:, first:last] = (slope @ w).view(-1, last - first, h.shape[1])
                grad_weight[:k] += slope.T @ h
        if wanted:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return slope * grad_hidden, slope * grad_weight, None, None, None


class ARModel(nn.Module):
    """Predicts code t from the class and the codes before it."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.config = c = config
        hidden = 11 * c.width // 4
        self.class_embedding = nn.Embedding(c.classes + 1, c.width)  # last row: no class
        self.code_embedding = nn.Embedding(c.vocabulary, c.width)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, hidden, c.dropout) for _ in range(c.layers)
        )
        self.norm = nn.RMSNorm(c.width)
        self.head = Linear(c.width, c.vocabulary)
        table = rotary_table(c.length, c.width // c.heads)
        self.register_buffer("table", table, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    @property
    def null_label(self) -> int:
        """The label that stands for 'no class'."""
        return self.config.classes

    def _trunk(self, x: Tensor, start: int = 0, caches: Sequence[Cache] | None = None) -> Tensor:
        table = self.table[:, start : start + x.shape[1]]
        for i, block in enumerate(self.blocks):
            x = block(x, table, causal=True, cache=caches[i] if caches else None)
        return self.norm(x)

    def check(self, codes: Tensor, labels: Tensor) -> None:
        """Raise ValueError unless codes [B, T] and labels [B] are in range; names the first.

        `logits` and `loss` call it on a CPU, `train_ar` once for all codes.
        """
        if codes.ndim != 2 or codes.shape[1] != self.config.length:
            raise ValueError(f"codes must be [B, {self.config.length}], got {tuple(codes.shape)}")
        if labels.shape != codes.shape[:1]:
            raise ValueError(f"labels must be [{len(codes)}], got {tuple(labels.shape)}")
        check_codes(codes, self.config.codebook_sizes)
        self._check_labels(labels)

    def _check_labels(self, labels: Tensor) -> None:
        wrong = ((labels < 0) | (labels > self.null_label)).nonzero()
        if len(wrong):
            i = int(wrong[0])
            raise ValueError(f"label {int(labels[i])} at row {i} is outside 0..{self.null_label}")

    def _hidden(self, codes: Tensor, labels: Tensor) -> Tensor:
        """What the head reads, [B, T, width]: class token first, each code one position later."""
        # a GPU would have to wait for the answer, and compiled code has no place for it
        if codes.device.type == "cpu" and not torch.compiler.is_compiling():
            self.check(codes, labels)
        first = self.class_embedding(labels)[:, None]
        x = torch.cat([first, self.code_embedding(codes[:, :-1])], dim=1)
        return self._trunk(self.dropout(x))

    def logits(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, T, V] of every position given the class and the codes before it.

        Args:
            codes: int64 [B, T]; the last column is a target only and is never read.
            labels: int64 [B], 0..classes − 1, or `null_label`.

        With a restricted head, logits beyond K_t are −inf.
        """
        logits = self.head(self._hidden(codes, labels))
        if self.config.restricted_head:
            logits = logits.masked_fill(self._beyond(logits.device), -math.inf)
        return logits

    def loss(
        self, codes: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean cross-entropy over all positions and the whole vocabulary, scalar, nats.

        With a restricted head over the first K_t codes, the only columns that are computed. In
        training mode a share `label_dropout` of the labels is replaced by `null_label`.
        """
        if self.training and self.config.label_dropout:
            chance = torch.rand(labels.shape, generator=generator, device=labels.device)
            labels = labels.masked_fill(chance < self.config.label_dropout, self.null_label)
        if self.config.restricted_head:
            hidden = self._hidden(codes, labels)
            sizes, wanted = self.config.codebook_sizes, torch.is_grad_enabled()
            total = _OwnLoss.apply(hidden, self.head.weight, codes, sizes, wanted)
            return total / codes.numel()
        return F.cross_entropy(self.logits(codes, labels).flatten(0, 1).float(), codes.flatten())

    def position_losses(self, codes: Tensor, labels: Tensor, own: bool = False) -> Tensor:
        """Cross-entropy of each code, nats [B, T].

        own: renormalise over the first K_t entries, which is what sampling does.
        """
        return self._position_losses(codes, labels, (own,))[0]

    def both_losses(self, codes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`position_losses` over the full vocabulary and over the first K_t, from one pass."""
        full, own = self._position_losses(codes, labels, (False, True))
        return full, own

    @torch.no_grad()
    def _position_losses(
        self, codes: Tensor, labels: Tensor, kinds: Sequence[bool]
    ) -> list[Tensor]:
        logits, losses = self.logits(codes, labels).float(), []
        for own in kinds:
            if own:
                logits = logits.masked_fill(self._beyond(logits.device), -math.inf)
            losses.append(F.cross_entropy(logits.transpose(1, 2), codes, reduction="none"))
        return losses

    def _beyond(self, device: torch.device) -> Tensor:
        """True where entry v lies beyond K_t, bool [T, V]."""
        sizes = torch.as_tensor(self.config.codebook_sizes, device=device)
        return torch.arange(self.config.vocabulary, device=device) >= sizes[:, None]

    def _check_request(self, labels: Tensor, prefix: Tensor | None) -> None:
        """Raise ValueError for labels or a prefix that `generate` cannot use."""
        self._check_labels(labels)
        if prefix is None:
            return
        n, length = len(labels), self.config.length
        if prefix.ndim != 2 or len(prefix) != n or prefix.shape[1] > length:
            raise ValueError(f"prefix must be [{n}, m <= {length}], got {tuple(prefix.shape)}")
        check_codes(prefix, self.config.codebook_sizes)

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        cfg_scale: float = 1.0,
        guidance: str = "constant",
        guidance_power: float = 1.75,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Sample codes int64 [B, T] for labels int64 [B], with a preallocated KV cache.

        Order: guidance, temperature, mask beyond K_t, top-k, top-p, draw.

        Args:
            temperature: 0 takes the most likely code.
            cfg_scale: classifier-free guidance; 1 runs the conditional model alone.
            guidance: "constant", or "cosine" with `guidance_power`.
            generator: one for the batch, or one for each row: then a row's sample does not depend
                on the other rows (up to rounding in the logits).
            prefix: int64 [B, m] codes to keep; the rest is sampled.
        """
        if not temperature >= 0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        if top_k < 0:
            raise ValueError(f"top_k must be 0 (all) or more, got {top_k}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        if not math.isfinite(cfg_scale):
            raise ValueError(f"cfg_scale must be a finite number, got {cfg_scale}")
        self._check_request(labels, prefix)
        c, batch, device, guided = self.config, len(labels), labels.device, cfg_scale != 1.0
        scales = guidance_scales(cfg_scale, c.length, guidance, guidance_power)
        chances = _uniform(batch, c.length, generator, device)
        was_training = self.training
        self.eval()
        kept = 0 if prefix is None else prefix.shape[1]
        codes = torch.empty(batch, c.length, dtype=torch.int64, device=device)
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, self.null_label)])
        x = self.class_embedding(labels)[:, None]  # [B or 2B, 1 + kept, width]
        if kept:
            codes[:, :kept] = prefix
            seen = prefix.repeat(2 if guided else 1, 1)
            x = torch.cat([x, self.code_embedding(seen)[:, : c.length - 1]], dim=1)
        shape = (len(labels), c.heads, c.length, c.width // c.heads)
        caches = [Cache(shape, x) for _ in self.blocks]
        for t in range(kept, c.length):
            x = self._trunk(x, 0 if t == kept else t, caches)[:, -1]
            # the first K_t logits only: the others would be masked
            logits = project(x, self.head.weight[: c.codebook_sizes[t]]).float()
            if guided:
                conditional, free = logits.chunk(2)
                logits = free + scales[t] * (conditional - free)
            if temperature == 0:
                codes[:, t] = logits.argmax(-1)
            else:
                logits = filter_logits(logits / temperature, top_k, top_p)
                codes[:, t] = draw(logits, chances[:, t])
            x = self.code_embedding(codes[:, t].repeat(2 if guided else 1))[:, None]
        self.train(was_training)
        return codes
