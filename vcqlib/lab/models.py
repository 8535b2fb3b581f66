"""The two models of the lab, and twins of them that `torch.func.vmap` can run in stacks.

vmap runs one program for all models of a stack, so nothing in it may depend on a model's own data
or sizes. Two things of the library do: the search among the first K_t rows, and the checks of codes
that name the first wrong one. The twins mask the rows instead, and leave the checks out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.autoregressive import ARConfig, ARModel
from ..models.quantizer import VariableCodebookQuantizer
from ..settings import Whole, setting, settings

FIDELITY = 10.0  # weight of the squared error, which is small where the quantizer's loss is not


@settings
class Shape:
    """Sizes of the models, the same for every arm."""

    length: Whole = setting(8, "positions T", ge=1)
    k_max: Whole = setting(64, "rows of the codebook, vocabulary of the AR model", ge=2)
    code_dim: Whole = setting(2, "width of a code vector", ge=1)
    hidden: Whole = setting(64, "width of the tokenizer's layers", ge=1, le=4096)
    width: Whole = setting(32, "width of the AR model", ge=2)
    layers: Whole = setting(1, "layers of the AR model", ge=1)
    heads: Whole = setting(2, "heads of the AR model", ge=1)


class PointTokenizer(nn.Module):
    """Points in the plane to T codes and back: two small networks around the quantizer."""

    quantizer_type = VariableCodebookQuantizer

    def __init__(self, sizes: Sequence[int], shape: Shape) -> None:
        super().__init__()
        wide = shape.length * shape.code_dim
        self.encoder = _mlp(2, shape.hidden, wide)
        self.quantizer = self.quantizer_type(sizes, shape.code_dim, shape.k_max, balance=True)
        self.decoder = _mlp(wide, shape.hidden, 2)

    def vectors(self, points: Tensor) -> Tensor:
        """What is quantized: [B, 2] → [B, T, code_dim]."""
        return self.encoder(points).unflatten(1, (-1, self.quantizer.dim))

    def loss(self, points: Tensor) -> Tensor:
        """Squared error of the reconstruction, by its weight, plus the quantizer's loss; scalar."""
        quantized, _, loss = self.quantizer(self.vectors(points))
        return FIDELITY * F.mse_loss(self.decoder(quantized.flatten(1)), points) + loss

    @torch.no_grad()
    def encode(self, points: Tensor) -> Tensor:
        """Codes int64 [B, T] of points [B, 2]."""
        return self.quantizer.encode(self.vectors(points))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Points [B, 2] of codes [B, T]."""
        return self.decoder(self.quantizer.decode(codes).flatten(1))


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


def ar_config(sizes: Sequence[int], classes: int, shape: Shape) -> ARConfig:
    """The AR model of an arm; no dropout, so that nothing hinders memorising."""
    return ARConfig(
        tuple(sizes), shape.k_max, classes, shape.width, shape.layers, shape.heads,
        dropout=0.0, label_dropout=0.0,
    )  # fmt: skip


class MaskedQuantizer(VariableCodebookQuantizer):
    """The quantizer with K_t as a mask over all rows, which may differ from model to model."""

    beyond: Tensor  # bool [T, num_codes]

    def __init__(self, sizes: Sequence[int], *args, **kwargs) -> None:
        super().__init__(sizes, *args, **kwargs)
        rows = torch.arange(len(self.codebook))
        self.register_buffer("beyond", rows >= torch.as_tensor(sizes)[:, None], persistent=False)

    def _search(self, z: Tensor, rows: Tensor) -> Tensor:
        return (z.detach() @ rows.detach().T).masked_fill(self.beyond, -torch.inf).argmax(-1)

    def count(self, codes: Tensor) -> None:
        """Nothing: usage is counted after training."""


class StackedTokenizer(PointTokenizer):
    """Twin of `PointTokenizer`."""

    quantizer_type = MaskedQuantizer


class StackedAR(ARModel):
    """Twin of `ARModel`."""

    def check(self, codes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As they are: the codes are checked before training."""
        return codes, labels
