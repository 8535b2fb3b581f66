"""The same sizes K_1..K_T as stages of `ResidualVQ` and as positions of one variable codebook.

`ResidualVQ` with a tuple of sizes is the nearest public relative: stage t quantizes what the
stages before have left over of one vector, with a codebook of its own. The variable codebook gives
position t a vector of its own and the first K_t rows of one codebook. Both hold Σ log2 K_t bits,
and both give a matrix of codes [N, T] that the same measure reads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

import vcqlib

DIM = 8
SIZES = tuple(vcqlib.codebook_sizes("doubling", length=8, k_max=64).tolist())


class Stages(nn.Module):
    """ResidualVQ on one vector: [B, DIM] → [B, DIM], codes [B, T], loss."""

    def __init__(self) -> None:
        super().__init__()
        self.width = DIM
        self.vq = ResidualVQ(dim=DIM, num_quantizers=len(SIZES), codebook_size=SIZES)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, codes, losses = self.vq(z[:, None])
        return quantized[:, 0], codes[:, 0], losses.sum()


class Positions(nn.Module):
    """A variable codebook on T vectors: [B, T · DIM] → the same, codes [B, T], loss."""

    def __init__(self) -> None:
        super().__init__()
        self.width = len(SIZES) * DIM
        self.vq = vcqlib.VariableCodebookQuantizer(SIZES, dim=DIM, balance=True)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, codes, loss = self.vq(z.view(len(z), len(SIZES), DIM))
        return quantized.flatten(1), codes, loss


def train(layer: Stages | Positions, images: Tensor, steps: int) -> tuple[Tensor, float]:
    """Codes [N, T] of images [N, 64] and the error of their reconstruction."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, layer.width))
    decoder = nn.Sequential(nn.Linear(layer.width, 128), nn.GELU(), nn.Linear(128, 64))
    model = nn.ModuleList([encoder, layer, decoder])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        x = images[torch.randint(len(images), (128,))]
        quantized, _, loss = layer(encoder(x))
        loss = loss + F.mse_loss(decoder(quantized), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        quantized, codes, _ = layer(encoder(images))
        return codes, F.mse_loss(decoder(quantized), images).item()


def main(steps: int = 300) -> dict[str, tuple[Tensor, float]]:
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16  # [N, 64]
    n = len(images)
    print(f"K_t: {SIZES}, {vcqlib.cumulative_capacity(SIZES)[-1]:.0f} bits; {n:,} images")
    print(f"ideal codes differ after t* = {vcqlib.cliff_position(n, SIZES)} positions")
    found = {}
    for name, layer in {"residual stages": Stages(), "positions": Positions()}.items():
        codes, error = found[name] = train(layer, images, steps)
        result = vcqlib.conditional_entropy(codes)
        told = " ".join(f"{bits:.2f}" for bits in result.bits)
        print(f"{name:<16} error {error:.4f}; 99 % told after {result.cliff()}; bits {told}")
    return found


if __name__ == "__main__":
    main()
