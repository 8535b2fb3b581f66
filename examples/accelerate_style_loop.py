"""A training loop in the style of `accelerate`, which runs with it and without it.

    main()                                               # plain torch
    a = accelerate.Accelerator()
    main(prepare=a.prepare, backward=a.backward)         # several GPUs, mixed precision

The quantizer is a layer like any other: its loss comes back from `forward`, its running
statistics are buffers, and in eval mode it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vcqlib


class Autoencoder(nn.Module):
    """8 × 8 digits as T codes; `forward` returns the loss, as trainers expect."""

    def __init__(self, sizes: list[int], dim: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 128), nn.GELU(), nn.Linear(128, len(sizes) * dim),
            nn.Unflatten(1, (len(sizes), dim)),
        )  # fmt: skip
        self.quantizer = vcqlib.VariableCodebookQuantizer(sizes, dim, balance=True)
        self.decoder = nn.Sequential(
            nn.Flatten(), nn.Linear(len(sizes) * dim, 128), nn.GELU(), nn.Linear(128, 64)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        quantized, codes, loss = self.quantizer(self.encoder(images))
        error = F.mse_loss(self.decoder(quantized), images)
        return {"loss": error + loss, "error": error, "codes": codes}


def main(
    epochs: int = 12,
    prepare: Callable[..., Any] = lambda *things: things,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> tuple[vcqlib.ConditionalEntropy, list[float]]:
    torch.manual_seed(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    sizes = vcqlib.codebook_sizes("loglinear", length=12, k_max=64).tolist()
    model = Autoencoder(sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    # a last batch of one image would leave nothing to centre over
    loader = DataLoader(TensorDataset(images), batch_size=128, shuffle=True, drop_last=True)
    model, optimizer, loader = prepare(model, optimizer, loader)
    errors = []
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for (batch,) in loader:
            outputs = model(batch)
            backward(outputs["loss"])
            optimizer.step()
            optimizer.zero_grad()
            total += outputs["error"].item() / len(loader)
        errors.append(total)
        if epoch % 4 == 3:
            print(f"epoch {epoch + 1:>2}: error {total:.4f}")
    model.eval()
    with torch.no_grad():
        device = next(model.parameters()).device
        result = vcqlib.conditional_entropy(model(images.to(device))["codes"])
    print(f"99 % of {result.total_bits:.2f} bits are told after {result.cliff()} of 12 positions")
    return result, errors


if __name__ == "__main__":
    main()
