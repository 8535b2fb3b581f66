"""The Transformer block that tokenizer and AR model share.

RMSNorm, rotary positions, QK-norm and GEGLU, no biases, as in LlamaGen and its successors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache as once
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WRITTEN_OUT = 256  # positions up to which attention on a CPU is written out


def rotary_table(length: int, head_dim: int, base: float = 10000.0) -> Tensor:
    """What `rotate` multiplies with: (cos, cos) and (−sin, sin), fp32 [2, length, head_dim]."""
    if head_dim % 2:
        raise ValueError(f"rotary positions need an even head width, got {head_dim}")
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn each pair of channels of x [B, heads, T, head_dim] by its position's angle."""
    cos, sin = table.to(x.dtype)
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def dropped(x: Tensor, chance: float) -> Tensor:
    """x with each entry set to 0 with this chance, the others divided by 1 − chance.

    On a CPU a random number of 64 bits serves four entries, so that the chance is a multiple of
    2^-16; `F.dropout` draws a number for each, which takes four times as long.
    """
    if x.device.type != "cpu":
        return F.dropout(x, chance)
    if not chance:
        return x
    bits = torch.randint(-(2**63), 2**63 - 1, (x.numel() // 4 + 1,)).view(torch.int16)
    least = round(chance * 2**16) - 2**15
    keep = torch.ge(bits[: x.numel()].view(x.shape), least, out=torch.empty_like(x))  # 0 or 1
    return x * keep.mul_(1 / (1 - chance))


class Dropout(nn.Dropout):
    """Dropout that calls `dropped`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropped(x, self.p) if self.training else x


def attend(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float = 0.0, seen: Tensor | None = None
) -> Tensor:
    """Softmax attention of q on k and v [B, heads, T, head_dim], in the shape of q.

    seen: bool [T], the keys that count; default all of them (up to each query's own, if causal).

    Short sequences on a CPU are written out: PyTorch's own takes 1 to 2 times as long to train in
    fp32, 2 to 10 times in bf16, and 25 times under `training.processor.fast_products` at T = 16.
    """
    if seen is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen.expand(1, 1, 1, -1))
    if q.device.type != "cpu" or q.shape != k.shape or k.shape[2] > WRITTEN_OUT:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=dropout)
    length, width = q.shape[-2:]
    ahead = q.new_full((length, length), -torch.inf if causal else 0.0).triu(1)
    queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))  # [B · heads, T, head_dim]
    scores = torch.baddbmm(ahead.expand(len(keys), -1, -1), queries, keys.mT, alpha=width**-0.5)
    return (dropped(scores.softmax(-1), dropout) @ values).view(q.shape)


def project(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] times the transpose of weight [out, in]: [..., out].

    A few rows on a CPU, as in sampling, go through a batched product over four parts of the
    weight. It uses all cores, where the plain product of one row uses one: 3 to 5 times as fast at
    1 row, 1.4 times at 64 (MKL, 2 cores). Training takes the plain product.
    """
    few = x.shape[:-1].numel() <= 64 and x.device.type == "cpu" and not torch.is_grad_enabled()
    if not few or len(weight) < 64:
        return F.linear(x, weight)
    quarter = len(weight) // 4
    rows = x.flatten(0, -2)  # [n, in]
    parts = weight[: 4 * quarter].view(4, quarter, -1)
    if len(rows) <= 4:
        y = torch.bmm(parts, rows.T.expand(4, -1, -1)).flatten(0, 1).T  # [n, 4 · quarter]
    else:
        y = torch.bmm(rows.expand(4, -1, -1), parts.mT).transpose(0, 1).flatten(1)
    if 4 * quarter < len(weight):
        y = torch.cat([y, F.linear(rows, weight[4 * quarter :])], dim=-1)
    return y.contiguous().view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """A linear layer without bias that calls `project`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight)


class Here(NamedTuple):
    """The position that is worked on, told by tensors: every one of them is the same work."""

    position: Tensor  # int64 [1]
    seen: Tensor  # bool [T], True up to it


class Cache:
    """Keys and values of the positions seen so far, preallocated for the whole sequence."""

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor, empty: bool = True) -> None:
        fresh = like.new_empty if empty else like.new_zeros  # what `seen` leaves out is multiplied
        self.keys, self.values = fresh(shape), fresh(shape)  # [B, heads, T, head_dim]
        self.length = 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [B, heads, t, head_dim]; return all of them so far."""
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def put(self, k: Tensor, v: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v [B, heads, 1, head_dim] at a position, int64 [1]; return all T of them.

        No number of the host goes in, so that one compiled step serves all positions.
        """
        self.keys.index_copy_(2, position, k)
        self.values.index_copy_(2, position, v)
        return self.keys, self.values


class Attention(nn.Module):
    """Multi-head attention with rotary positions and RMS-normalised queries and keys."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.q_norm = nn.RMSNorm(width // heads)
        self.k_norm = nn.RMSNorm(width // heads)

    def forward(
        self, x: Tensor, table: Tensor, causal: bool = False, cache: Cache | None = None,
        here: Here | None = None,
    ) -> Tensor:  # fmt: skip
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, T, head_dim] each
        q, k = rotate(self.q_norm(q), table), rotate(self.k_norm(k), table)
        q, k = q.to(v.dtype), k.to(v.dtype)
        if here is not None:
            k, v = cache.put(k, v, here.position)
        elif cache is not None:
            # a single new position may see all earlier ones: no mask is needed
            if cache.length and q.shape[2] > 1:
                raise ValueError(f"a filled cache takes one position at a time, got {q.shape[2]}")
            causal = causal and q.shape[2] > 1
            k, v = cache.extend(k, v)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, causal, dropout, here.seen if here else None)
        return self.out(y.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """Gated feed-forward: out(gelu(gate(x)) · up(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden)
        self.out = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(F.gelu(gate) * up)


class Block(nn.Module):
    """Pre-norm Transformer block: attention, then feed-forward, each added to x [B, T, width].

    attention_dropout: of the attention's weights; default as `dropout`.
    """

    recompute = False  # keep x alone for the backward pass, and compute the rest once more
    compiled = False  # one compiled function for all blocks of a kind

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float = 0.0,
        attention_dropout: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        dropped = dropout if attention_dropout is None else attention_dropout
        self.attention = Attention(width, heads, dropped)
        self.mlp_norm = nn.RMSNorm(width)
        self.mlp = GEGLU(width, hidden)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, table: Tensor, causal: bool = False, cache: Cache | None = None,
        here: Here | None = None,
    ) -> Tensor:  # fmt: skip
        compute = _compiled() if self.compiled and cache is None else Block._compute
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(compute, self, x, table, causal, use_reentrant=False)
        return compute(self, x, table, causal, cache, here)

    def _compute(
        self, x: Tensor, table: Tensor, causal: bool, cache: Cache | None = None,
        here: Here | None = None,
    ) -> Tensor:  # fmt: skip
        attended = self.attention(self.attention_norm(x), table, causal, cache, here)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


@once
def _compiled() -> Callable[..., Tensor]:
    """A block's work, compiled when first called: hooks of DDP and FSDP stay outside of it."""
    return torch.compile(Block._compute)
