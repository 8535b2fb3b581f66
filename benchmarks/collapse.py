"""Remedies against collapse at small K, side by side on real images.

    .venv/bin/python benchmarks/collapse.py            # about ten minutes on one core
    .venv/bin/python benchmarks/collapse.py --small    # seconds, to see that it runs

The tokenizer of the CPU profile (mlp, T = 16, K up to 256, d = 8) on 3,000 images of Fashion-MNIST
for 400 steps, three seeds, with plain training and each remedy. Nothing but the remedy differs;
the loss is the same in all but EMA, where the rows need no gradient.

    oppose      the second row starts as the opposite of the first
    rows first  all rows start as vectors of the first batch, each at the position it matters to
    revive      dead rows take vectors of the batch every 20 steps
    ema         rows follow a moving average (decay 0.99) and not the gradient
    balance     the library's remedy: vectors centred and scaled over the batch, and `oppose`
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from measure import arguments, finish

from vcqlib import VariableCodebookQuantizer, codebook_sizes
from vcqlib.data.batches import batch_indices
from vcqlib.data.image_sets import load_images, to_float
from vcqlib.models.tokenizer import PRESETS, Tokenizer, TokenizerConfig

REMEDIES = {
    "plain": {},
    "oppose": {},
    "rows first": {},
    "revive": {"revive": 20},
    "ema": {"ema": 0.99},
    "ema, revive": {"ema": 0.99, "revive": 20},
    "balance": {"balance": True},
    "balance, revive": {"balance": True, "revive": 20},
    "balance, ema": {"balance": True, "ema": 0.99},
}


def trained(name: str, sizes: list[int], images: torch.Tensor, steps: int, seed: int) -> Tokenizer:
    """A tokenizer trained with one of the remedies."""
    torch.manual_seed(seed)
    config = TokenizerConfig(
        tuple(sizes), max(sizes), images.shape[-1], images.shape[1], balance="balance" in name,
        **PRESETS["mlp"],
    )  # fmt: skip
    model = Tokenizer(config)
    options = REMEDIES[name]
    model.quantizer = VariableCodebookQuantizer(sizes, config.code_dim, config.num_codes, **options)
    rows = model.quantizer.codebook.data
    if name == "oppose":
        rows[1] = -rows[0]
    if name == "rows first":
        with torch.no_grad():
            first = images[batch_indices(len(images), 128, 0, seed)]
            model.quantizer.place(model.quantizer.prepare(model.encoder(to_float(first))))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for step in range(steps):
        x = to_float(images[batch_indices(len(images), 128, step, seed)])
        output = model.train()(x)
        optimiser.zero_grad()
        (F.mse_loss(output.images, x) + output.loss).backward()
        optimiser.step()
    return model.eval()


@torch.no_grad()
def measured(model: Tokenizer, images: torch.Tensor) -> dict:
    """Usage of the positions and error of the reconstruction on held-out images."""
    model.quantizer.reset_usage()
    error = 0.0
    for part in images.split(1000):
        x = to_float(part)
        codes = model.encode(x)
        model.quantizer.count(codes)
        error += F.mse_loss(model.decode(codes), x).item() * len(part) / len(images)
    usage, capacity = model.quantizer.usage(), sum(math.log2(k) for k in model.quantizer.sizes)
    bits = usage.perplexity.log2()
    small = [t for t, k in enumerate(model.quantizer.sizes) if k <= 4]
    return {
        "bits at t = 1": float(bits[0]),
        "small positions with a dead code": sum(
            int(usage.used[t]) < model.quantizer.sizes[t] for t in small
        ),
        "bits, share of capacity": float(bits.sum()) / capacity,
        "held-out MSE": error,
    }


def main() -> None:
    options = arguments(__doc__)
    n, steps, seeds = (300, 4, 1) if options.small else (3000, 400, 3)
    images = load_images("fashion-mnist", "train", n).images
    test = load_images("fashion-mnist", "test", min(n, 2000)).images
    table = []
    for schedule in ("doubling", "loglinear"):
        sizes = codebook_sizes(schedule, 16, 256).tolist()
        for name in REMEDIES:
            runs = [measured(trained(name, sizes, images, steps, s), test) for s in range(seeds)]
            row = {"schedule": schedule, "remedy": name}
            row |= {key: sum(run[key] for run in runs) / seeds for key in runs[0]}
            row["bits at t = 1, by seed"] = ", ".join(f"{r['bits at t = 1']:.2f}" for r in runs)
            table.append(row)
            print(row, flush=True)
    settings = {
        "dataset": "fashion-mnist", "images": n, "steps": steps, "batch": 128, "seeds": seeds,
        "tokenizer": "mlp", "code_dim": 8, "held_out": len(test),
    }  # fmt: skip
    finish("collapse", options, settings, table, [])


if __name__ == "__main__":
    main()
