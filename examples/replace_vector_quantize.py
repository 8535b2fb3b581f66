"""The variable quantizer in the place of `vector_quantize_pytorch.VectorQuantize`.

`VariableVectorQuantize` takes the arguments that most programs give to VectorQuantize and returns
the same three things, so that one line of the model changes:

    vq = VectorQuantize(dim=8, codebook_size=64, accept_image_fmap=True)
    vq = VariableVectorQuantize(dim=8, codebook_size=sizes, accept_image_fmap=True)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

import vcqlib


class VariableVectorQuantize(nn.Module):
    """VectorQuantize whose position t takes the nearest of the first codebook_size[t] rows.

    Args:
        dim: width of a vector.
        codebook_size: K_1..K_T. The number of positions is fixed: T vectors, or a map of H · W = T.
        decay: of the moving average that moves the codes, as in VectorQuantize.
        commitment_weight: of the loss, as in VectorQuantize.
        use_cosine_sim: compare directions, not distances.
        accept_image_fmap: take and return maps [B, dim, H, W]; indices are [B, H, W].
    """

    def __init__(
        self,
        dim: int,
        codebook_size: Sequence[int],
        decay: float = 0.8,
        commitment_weight: float = 1.0,
        use_cosine_sim: bool = False,
        accept_image_fmap: bool = False,
    ) -> None:
        super().__init__()
        self.fmap = accept_image_fmap
        self.quantizer = vcqlib.VariableCodebookQuantizer(
            codebook_size,
            dim,
            beta=commitment_weight,
            distance="cosine" if use_cosine_sim else "euclidean",
            ema=decay,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, dim] or [B, dim, H, W] → quantized like x, indices [B, T] or [B, H, W], loss."""
        z = x.flatten(2).mT if self.fmap else x  # [B, T, dim]
        quantized, indices, loss = self.quantizer(z)
        if self.fmap:
            quantized, indices = quantized.mT.view_as(x), indices.view(len(x), *x.shape[2:])
        return quantized, indices, loss

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Code vectors [B, T, dim] of indices [B, T]; a map [B, dim, H, W] of [B, H, W]."""
        rows = self.quantizer.decode(indices.flatten(1))
        return rows.mT.unflatten(2, indices.shape[1:]) if self.fmap else rows


class Autoencoder(nn.Module):
    """A small convolutional tokenizer of 8 × 8 digits; `vq` is either quantizer."""

    def __init__(self, vq: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1), nn.GELU(), nn.Conv2d(32, 8, 1), nn.BatchNorm2d(8)
        )  # [B, 1, 8, 8] → [B, 8, 4, 4]
        self.vq = vq
        self.decoder = nn.Sequential(
            nn.Conv2d(8, 32, 1), nn.GELU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, indices, loss = self.vq(self.encoder(x))
        return self.decoder(quantized), indices, loss


def train(vq: nn.Module, images: Tensor, steps: int) -> tuple[Tensor, float]:
    """Codes int64 [N, 16] of all images, and the error of their reconstruction."""
    torch.manual_seed(0)
    model = Autoencoder(vq)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        x = images[torch.randint(len(images), (128,))]
        rebuilt, _, commit_loss = model(x)
        loss = F.mse_loss(rebuilt, x) + commit_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        rebuilt, indices, _ = model(images)
    return indices.flatten(1), F.mse_loss(rebuilt, images).item()


def main(steps: int = 300) -> dict[str, vcqlib.ConditionalEntropy]:
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16  # [N, 1, 8, 8]
    sizes = vcqlib.codebook_sizes("loglinear", length=16, k_max=64)
    layers = {
        "VectorQuantize": VectorQuantize(dim=8, codebook_size=64, accept_image_fmap=True),
        "variable": VariableVectorQuantize(dim=8, codebook_size=sizes, accept_image_fmap=True),
    }
    measured = {}
    for name, vq in layers.items():
        codes, error = train(vq, images, steps)
        measured[name] = result = vcqlib.conditional_entropy(codes)
        print(
            f"{name:<15} error {error:.4f}; {result.total_bits:.2f} bits told, 99 % of them after "
            f"{result.cliff()} of 16 positions"
        )
    return measured


if __name__ == "__main__":
    main()
