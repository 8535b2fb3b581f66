"""Several processes, on one node or more: the same script under torchrun.

Each process takes its part of every batch, gradients are averaged (DDP) or the weights are also
sharded (FSDP2), and only the first process writes files. Without torchrun there is one process,
and every function here does nothing. The run folder has to lie where all nodes see it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..checks import must
from ..models.transformer import Block


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def processes(device: str = "auto") -> Iterator[torch.device]:
    """Join the group that torchrun announces, if it does; yields this process's device.

    device: "auto" takes a GPU if there is one, "cpu" (gloo) or "cuda" (NCCL).
    """
    must(device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda", repr(device))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: no GPU is visible; use --device cpu")
    gpu = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cpu")
    if gpu:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(place)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield place  # alone, or already in the group
        return
    dist.init_process_group("nccl" if gpu else "gloo", device_id=place if gpu else None)
    try:
        yield place
    finally:
        dist.destroy_process_group()


@torch.no_grad()
def equal(module: nn.Module) -> nn.Module:
    """The module, with the first process's parameters and buffers in all of them.

    DDP leaves buffers and FSDP leaves all as each process drew them; what is not wrapped, too.
    """
    for tensor in (*module.parameters(), *module.buffers()) if world() > 1 else ():
        dist.broadcast(tensor, 0)
    return module


def wrap(network: nn.Module, shard: bool = False, bf16: bool = False) -> nn.Module:
    """The network whose forward and backward work across processes; alone, the network itself.

    All processes start with the first one's weights.

    Args:
        shard: FSDP2, in place: one unit a Transformer block and one for the rest.
        bf16: of sharded blocks, weights are gathered in bf16 and gradients added in fp32. The rest,
            and what is passed from block to block, stays in fp32.
    """
    if world() == 1:
        return network
    for module in equal(network).modules():  # weights and names stay
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SharedBatchNorm
    device = next(network.parameters()).device
    if not shard:
        places = [device.index] if device.type == "cuda" else None
        # buffers are equal everywhere (batch statistics) or counted anew after training (usage)
        return nn.parallel.DistributedDataParallel(
            network, places, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (world(),))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None,
        cast_forward_inputs=False,
    )  # fmt: skip
    for module in list(network.modules()):
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    return fully_shard(network, mesh=mesh)


@contextmanager
def last_part(network: nn.Module, last: bool) -> Iterator[None]:
    """Average gradients across processes only in the last accumulated part of a batch."""
    if hasattr(network, "set_requires_gradient_sync"):  # FSDP2
        network.set_requires_gradient_sync(last)
        yield
    elif last or not isinstance(network, nn.parallel.DistributedDataParallel):
        yield
    else:
        with network.no_sync():
            yield


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Inside the block, methods other than `forward` find the weights outside of the blocks."""
    if not hasattr(network, "unshard"):
        yield
        return
    network.unshard()
    try:
        yield
    finally:
        network.reshard()


def mean(values: Tensor) -> Tensor:
    """The mean over all processes, of equal shape; no gradient."""
    if world() > 1:
        values = values.detach().clone()
        dist.all_reduce(values)
        values /= world()
    return values


def average_gradients(module: nn.Module) -> None:
    """Replace each gradient by its mean over all processes (for a module that is not wrapped)."""
    for parameter in module.parameters() if world() > 1 else ():
        if parameter.grad is not None:
            parameter.grad = mean(parameter.grad)


def barrier() -> None:
    """Wait until every process has come here."""
    if world() > 1:
        dist.barrier()


def share(n: int) -> range:
    """This process's neighbouring ones of n pieces of work, in the order of the processes."""
    return range(n * rank() // world(), n * (rank() + 1) // world())


def every(value: Any) -> list[Any]:
    """What each process gives, in their order, in all of them."""
    found = [value] * world()
    if world() > 1:
        dist.all_gather_object(found, value)
    return found


def parts(n: int, batch: int) -> list[range]:
    """This process's share in parts of at most `batch`: as many in every process.

    Sharded weights are gathered in every pass, which all processes have to make together.
    """
    mine, most = share(n), -(-n // world())
    count = -(-most // batch)
    ends = [mine.start + len(mine) * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


def joined(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, in their order, in every process."""
    return np.concatenate(every(rows))


def agree(value: int, what: str) -> int:
    """Raise ValueError if `value` is not the same in all processes."""
    found = every(value)
    must(len(set(found)) == 1, what, "the same in all processes",
         f"{found}: put the run folder on a disk that all nodes share")  # fmt: skip
    return value


def most(value: int) -> int:
    """The largest of all processes' values."""
    return max(every(value))


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor in full, on the CPU (all processes have to call); others as they are."""
    return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A full tensor, sharded as `reference` is (if it is, and has this shape)."""
    if not hasattr(reference, "placements") or tensor.shape != reference.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh = reference.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, reference.placements)


class SharedBatchNorm(nn.BatchNorm1d):
    """The quantizer's BatchNorm with the statistics of all processes' parts.

    `nn.SyncBatchNorm` works on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce  # the one with a gradient

        centre = all_reduce(x.mean(0) / world())
        variance = all_reduce((x - centre).square().mean(0) / world())
        with torch.no_grad():
            n = len(x) * world()
            self.running_mean.lerp_(centre.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        return (x - centre) * (variance + self.eps).rsqrt()
