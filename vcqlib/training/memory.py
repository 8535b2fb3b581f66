"""How much memory a step takes, counted before it is made, on tensors that hold nothing.

A trial runs forward and backward on PyTorch's fake tensors: shapes and types alone, no weights and
no products, so that XL is counted in seconds on any machine. All figures are estimates: what the
allocator loses between blocks and what libraries take for themselves is in `MARGIN`.
"""

from __future__ import annotations

import copy
import weakref
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models import codebook, transformer
from ..models.transformer import Attention
from . import distributed

Trial = Callable[[int], Callable[[], Tensor]]  # images → what makes their loss, of `hollow` parts

MARGIN = 0.9  # share of a GPU's memory that a step may plan with
OWN = 2.0e9  # bytes that CUDA, cuBLAS, NCCL and the search for codes take for themselves
STATE = 8  # bytes that AdamW keeps beside each weight and its gradient
GRADIENTS = 6  # bytes of a gradient and of autocast's copy of the weight
COMPILED = 0.6  # of the activations: a compiled block of XL keeps 55 of 98 kB a token, the head all


class _Live(TorchDispatchMode):
    """Bytes of all tensors that are alive, and the most that ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self._see(x.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known.add(storage)
        weakref.finalize(storage, self._gone, size)
        self.now += size
        self.most = max(self.most, self.now)

    def _gone(self, size: int) -> None:
        self.now -= size


def hollow(module: nn.Module) -> nn.Module:
    """A copy on the CPU whose weights hold nothing; inside `trial` alone."""
    memo: dict[int, Any] = {}
    for weight in module.parameters():
        empty = torch.empty(weight.shape, dtype=weight.dtype)
        memo[id(weight)] = nn.Parameter(empty, requires_grad=weight.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
    made = copy.deepcopy(module, memo)
    for part in made.modules():
        if isinstance(part, codebook.Codebook):
            part.revive = 0  # looks at its age, which takes no memory
        if isinstance(part, Attention):
            part.dropout = 0.0  # on a GPU it keeps no scores, with dropout or without
    return made


def _masked(x: Tensor, chance: float) -> Tensor:
    """Dropout that keeps a byte an entry, as on a GPU."""
    return torch.native_dropout(x, chance, True)[0]


def peak(trial: Trial, images: int, bf16: bool = True) -> int:
    """Bytes beside weights and optimiser at the worst moment of a step on so many images.

    Gradients and autocast's copies of the weights are counted, activations as they are kept without
    a compiler. Attention counts as it does on a GPU, which keeps no scores.
    """
    alone = mock.patch.object(distributed, "world", lambda: 1)  # nothing to send to the others
    apart = mock.patch.object(codebook, "_several", lambda: False)
    as_gpu = mock.patch.multiple(transformer, WRITTEN_OUT=0, dropped=_masked)
    with FakeTensorMode(), alone, apart, as_gpu:
        loss = trial(max(2, images))  # a batch norm asks for two
        with _Live() as live:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                value = loss()
            value.backward()
        return live.most


@dataclass(frozen=True)
class Plan:
    """What a GPU has, and what a step keeps on it; bytes."""

    memory: float  # of the GPU
    weights: int  # number, critic included
    average: bool
    share: int = 1  # processes among which weights are sharded
    compiled: bool = False

    def need(self, beside: float) -> float:
        """Bytes that a step takes if `peak` says `beside`, without the compiler's savings."""
        own = self.weights * (4 + STATE + 4 * self.average) / self.share
        grads = min(beside, self.weights * GRADIENTS)
        kept = (beside - grads) * (COMPILED if self.compiled else 1.0)
        return OWN + own + grads / self.share + kept


def free(device: torch.device) -> float | None:
    """Bytes that a GPU has left; None on a CPU, which lends as it likes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def parts(
    trial: Trial, plan: Plan, batch: int, processes: int, bf16: bool = True,
    asked: int | None = None,
) -> int:  # fmt: skip
    """The fewest parts in which a batch fits; `asked`, where that many fit.

    Raises:
        ValueError: the batch does not divide among the processes; one image does not fit; what was
            asked for does not, and then it says what does.
    """
    if batch % processes:
        raise ValueError(
            f"a batch of {batch} does not divide into {processes} processes x 1 accumulated parts: "
            "change batch"
        )
    mine = batch // processes
    cuts = [n for n in range(1, mine + 1) if mine % n == 0]

    def need(n: int) -> float:
        return plan.need(peak(trial, mine // n, bf16))

    if asked and (asked not in cuts or need(asked) <= plan.memory):
        return asked  # what does not divide is refused with the batches
    if (least := need(mine)) > MARGIN * plan.memory:
        raise ValueError(
            f"too little memory: one image at a time takes about {least / 1e9:.1f} GB of "
            f"{plan.memory / 1e9:.1f} GB: choose a smaller model, recompute, or shard over more "
            "processes"
        )
    fewest = cuts[bisect_left(cuts[:-1], True, key=lambda n: need(n) <= MARGIN * plan.memory)]
    if asked:
        raise ValueError(
            f"too little memory: accumulate {asked} takes about {need(asked) / 1e9:.1f} GB of "
            f"{plan.memory / 1e9:.1f} GB: set accumulate to {fewest}, or auto"
        )
    return fewest
