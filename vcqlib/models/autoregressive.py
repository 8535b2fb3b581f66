"""The AR model: a LlamaGen-style Transformer over codes, with a class token in front.

The variable codebook does not touch training: the cross-entropy runs over the whole vocabulary.
Only sampling masks the logits beyond K_t (LlamaGen, arXiv 2406.06525; VCQ, arXiv 2605.06207, C5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import must
from ..settings import Flag, settings
from .guards import (
    Codes,
    Count,
    ModelConfig,
    Share,
    check_codes,
    check_labels,
    evaluating,
    integers,
)  # fmt: skip
from .sampler import guidance_scales, sample, uniform
from .saved import Saved
from .search import runs
from .transformer import Block, Cache, Dropout, Linear, rotary_table


@settings
class ARConfig(ModelConfig):
    """Shape of the AR model.

    restricted_head (ours, off by default): position t predicts only its first K_t codes, in
    training too. The rest is never sampled, so it need not be computed.
    """

    vocabulary: Count
    classes: Count
    width: Count = 128
    layers: Count = 3
    heads: Count = 4
    dropout: Share = 0.1
    label_dropout: Share = 0.1
    restricted_head: Flag = False
    attention_dropout: Share | None = None  # as `dropout`

    def __post_init__(self) -> None:
        largest = max(self.codebook_sizes)
        must(
            self.vocabulary >= largest, "vocabulary", f"at least K_max = {largest}", self.vocabulary
        )


# Sizes by name. B, L and XL count 112.6M, 342.9M and 685.5M parameters at vocabulary 16384.
PRESETS: dict[str, dict] = {
    "nano": {"width": 32, "layers": 1, "heads": 2},
    "tiny": {"width": 128, "layers": 3, "heads": 4},
    "small": {"width": 384, "layers": 6, "heads": 6},
    "B": {"width": 768, "layers": 12, "heads": 12},
    "L": {"width": 1024, "layers": 24, "heads": 16},
    "XL": {"width": 1280, "layers": 32, "heads": 20},
}


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


class ARModel(nn.Module, Saved):
    """Predicts code t from the class and the codes before it."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.config = c = config
        hidden = 11 * c.width // 4
        self.class_embedding = nn.Embedding(c.classes + 1, c.width)  # last row: no class
        self.code_embedding = nn.Embedding(c.vocabulary, c.width)
        self.dropout = Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, hidden, c.dropout, c.attention_dropout) for _ in range(c.layers)
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

    def check(self, codes: Codes, labels: Codes, first: int = 0) -> tuple[Tensor, Tensor]:
        """Codes [B, T] and labels [B], integers of any width, as int64; all in range.

        `logits` and `loss` look at the values on a CPU, `train_ar` once at those of all codes.

        Raises:
            ValueError: wrong shapes, floats, or out of range; names the first.
        """
        device = self.head.weight.device
        codes, labels = integers(codes, "codes", device), integers(labels, "labels", device)
        good = codes.ndim == 2 and codes.shape[1] == self.config.length
        must(good, "codes", f"[B, {self.config.length}]", tuple(codes.shape))
        must(labels.shape == codes.shape[:1], "labels", f"[{len(codes)}]", tuple(labels.shape))
        check_codes(codes, self.config.codebook_sizes, first)
        check_labels(labels, self.null_label, first)
        return codes, labels

    def _read(self, codes: Codes, labels: Codes) -> tuple[Tensor, Tensor]:
        """As `check`, but on a GPU, and in compiled code, without a look at the values."""
        device = self.head.weight.device
        if device.type == "cpu" and not torch.compiler.is_compiling():
            return self.check(codes, labels)
        return integers(codes, "codes", device), integers(labels, "labels", device)

    def _hidden(self, codes: Tensor, labels: Tensor) -> Tensor:
        """What the head reads, [B, T, width]: class token first, each code one position later."""
        first = self.class_embedding(labels)[:, None]
        x = torch.cat([first, self.code_embedding(codes[:, :-1])], dim=1)
        return self._trunk(self.dropout(x))

    def logits(self, codes: Codes, labels: Codes) -> Tensor:
        """Logits [B, T, V] of every position given the class and the codes before it.

        Args:
            codes: integers [B, T]; the last column is a target only and is never read.
            labels: integers [B], 0..classes − 1, or `null_label`.

        With a restricted head, logits beyond K_t are −inf.
        """
        return self._logits(*self._read(codes, labels))

    def _logits(self, codes: Tensor, labels: Tensor) -> Tensor:
        logits = self.head(self._hidden(codes, labels))
        if self.config.restricted_head:
            logits = logits.masked_fill(self._beyond(logits.device), -math.inf)
        return logits

    def loss(self, codes: Codes, labels: Codes, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy over all positions and the whole vocabulary, scalar, nats.

        With a restricted head over the first K_t codes, the only columns that are computed. In
        training mode a share `label_dropout` of the labels is replaced by `null_label`.
        """
        return self._loss(*self._read(codes, labels), generator)

    def _loss(
        self, codes: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        if self.training and self.config.label_dropout:
            chance = torch.rand(labels.shape, generator=generator, device=labels.device)
            labels = labels.masked_fill(chance < self.config.label_dropout, self.null_label)
        if self.config.restricted_head:
            hidden = self._hidden(codes, labels)
            sizes, wanted = self.config.codebook_sizes, torch.is_grad_enabled()
            total = _OwnLoss.apply(hidden, self.head.weight, codes, sizes, wanted)
            return total / codes.numel()
        return F.cross_entropy(self._logits(codes, labels).flatten(0, 1).float(), codes.flatten())

    def forward(self, codes: Codes, labels: Codes) -> Tensor:
        """The loss, so that compiling and several GPUs find it."""
        return self.loss(codes, labels)

    def position_losses(self, codes: Codes, labels: Codes, own: bool = False) -> Tensor:
        """Cross-entropy of each code, nats [B, T].

        own: renormalise over the first K_t entries, which is what sampling does.
        """
        return self.both_losses(codes, labels)[own]

    @torch.no_grad()
    def both_losses(self, codes: Codes, labels: Codes) -> tuple[Tensor, Tensor]:
        """`position_losses` over the full vocabulary and over the first K_t, from one pass."""
        codes, labels = self._read(codes, labels)
        logits = self._logits(codes, labels).float()
        masked = logits.masked_fill(self._beyond(logits.device), -math.inf)
        full, own = (
            F.cross_entropy(x.flatten(0, 1), codes.flatten(), reduction="none").view_as(codes)
            for x in (logits, masked)
        )
        return full, own

    def _beyond(self, device: torch.device) -> Tensor:
        """True where entry v lies beyond K_t, bool [T, V]."""
        sizes = torch.as_tensor(self.config.codebook_sizes, device=device)
        return torch.arange(self.config.vocabulary, device=device) >= sizes[:, None]

    @torch.no_grad()
    def generate(
        self,
        labels: Codes,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        cfg_scale: float = 1.0,
        guidance: str = "constant",
        guidance_power: float = 1.75,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prefix: Codes | None = None,
        compiled: bool = False,
    ) -> Tensor:
        """Sample codes int64 [B, T] for labels [B], integers, with a preallocated KV cache.

        On a GPU the host only starts the work of each position and never waits for its outcome.

        Order: guidance, temperature, mask beyond K_t, top-k, top-p, draw.

        Args:
            temperature: 0 takes the most likely code.
            cfg_scale: classifier-free guidance; 1 runs the conditional model alone.
            guidance: "constant", or "cosine" with `guidance_power`.
            generator: one for the batch, or one for each row: then a row's sample does not depend
                on the other rows (up to rounding in the logits).
            prefix: integers [B, m], codes to keep; the rest is sampled.
            compiled: compile the work of a position, once for all of them.

        Raises:
            ValueError: a setting, label or code out of range; guidance by a model that never
                learned the label `null_label`; logits that are not finite.
        """
        c = self.config
        must(temperature >= 0, "temperature", "0 or more", temperature)
        must(top_k >= 0, "top_k", "0 (all) or more", top_k)
        must(0 < top_p <= 1, "top_p", "in (0, 1]", top_p)
        must(math.isfinite(cfg_scale), "cfg_scale", "a finite number", cfg_scale)
        if cfg_scale != 1 and not c.label_dropout:
            raise ValueError(
                f"cfg_scale {cfg_scale} needs a model trained with label dropout, this one had "
                "none: use cfg_scale 1, or train with label_dropout 0.1"
            )
        labels = integers(labels, "labels", self.head.weight.device)
        check_labels(labels, self.null_label)
        prefix = labels.new_empty(len(labels), 0) if prefix is None else prefix
        prefix = integers(prefix, "prefix", labels.device)
        good = prefix.ndim == 2 and len(prefix) == len(labels) and prefix.shape[1] <= c.length
        must(good, "prefix", f"[{len(labels)}, m <= {c.length}]", tuple(prefix.shape))
        check_codes(prefix, c.codebook_sizes)
        scales = guidance_scales(cfg_scale, c.length, guidance, guidance_power)
        chances = uniform(len(labels), c.length, generator, labels.device)
        how = (temperature, top_k, top_p)
        fixed = compiled or labels.device.type != "cpu"
        with evaluating(self):
            codes, sane = sample(self, labels, scales, how, chances, prefix, fixed, compiled)
        if not sane.all():
            t = int((~sane).nonzero()[0])
            raise ValueError(
                f"the logits of position {t + 1} are not finite: the weights are damaged, or "
                f"cfg_scale {cfg_scale} is too large or temperature {temperature} too small"
            )
        return codes
