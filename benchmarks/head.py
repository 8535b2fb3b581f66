"""The restricted head beside the full one: what it saves, and what it does to held-out bits.

    .venv/bin/python benchmarks/head.py            # about eight minutes on one core
    .venv/bin/python benchmarks/head.py --small    # seconds, to see that it runs

The AR model of the CPU profile on the log-linear codes of 3,000 images of Fashion-MNIST, trained
for 1,000 steps with the full head and with the restricted one: same weights at the start, same
batches, same dropout, two seeds. Held-out bits are renormalised over the first K_t codes, which is
what sampling uses, for both. Uniform codebooks need no run: there the two heads are the same.

The operations that a step saves follow from the shapes, at the sizes of the large profiles too.
How long a step takes with either head is in benchmarks/training.py.
"""

from __future__ import annotations

import torch
from measure import arguments, finish
from training import VOCABULARY, operations

from vcqlib import codebook_sizes
from vcqlib.models.autoregressive import PRESETS, ARConfig, ARModel
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment
from vcqlib.study.stages import evaluation_steps
from vcqlib.training.autoregressive import train_ar
from vcqlib.training.inference import position_bits
from vcqlib.training.recipe import Recipe


def curve(e: Experiment, seed: int, restricted: bool, steps: int) -> list[dict]:
    """Train once; held-out bits per image at the evaluated steps."""
    store, test = e.codes, e.test_codes
    rows, labels = torch.from_numpy(store.codes.astype("int64")), torch.from_numpy(store.labels)
    held_out = torch.from_numpy(test.codes[:2000].astype("int64"))
    held_out_labels = torch.from_numpy(test.labels[:2000])
    torch.manual_seed(seed)
    config = ARConfig(
        e.sizes, e.c.codes.k_max, int(labels.max()) + 1, restricted_head=restricted,
        **PRESETS[e.c.ar.ar],
    )  # fmt: skip
    model, points = ARModel(config), []

    def evaluate(model: ARModel, step: int) -> None:
        own, full = (
            position_bits(model, held_out, held_out_labels, own).sum().item()
            for own in (True, False)
        )
        train = position_bits(model, rows[:2000], labels[:2000], True).sum().item()
        points.append({"step": step, "held_out_own": own, "held_out": full, "train_own": train})

    recipe = Recipe(
        steps, 64, lr=2e-3, betas=(0.9, 0.96), weight_decay=0.03, seed=seed
    )  # that of the profile
    train_ar(model, rows, labels, recipe, None, evaluation_steps(steps), evaluate)
    return points


def main() -> None:
    options = arguments(__doc__)
    n, steps, seeds = (300, 8, 1) if options.small else (3000, 1000, 2)
    trained = {"tokenizer_steps": 40 if options.small else 3000, "ar_steps": steps}
    e = Experiment(Configuration.of({"n_images": n} | trained))
    table = []
    for seed in range(seeds):
        for name, restricted in (("full", False), ("restricted", True)):
            points = curve(e, seed, restricted, steps)
            best = min(points, key=lambda point: point["held_out_own"])
            table.append({
                "head": name, "seed": seed, "best step": best["step"],
                "held-out bits, best": best["held_out_own"],
                "held-out bits, last": points[-1]["held_out_own"],
                "training bits, last": points[-1]["train_own"],
                "bits beyond K_t, first": points[0]["held_out"] - points[0]["held_out_own"],
                "bits beyond K_t, last": points[-1]["held_out"] - points[-1]["held_out_own"],
            })  # fmt: skip
            print(table[-1], flush=True)
    mean = codebook_sizes("loglinear", 256, VOCABULARY).mean()
    saved = {
        size: 100 * (1 - operations(size, 256, 1, mean) / operations(size, 256, 1))
        for size in ("small", "B", "L", "XL")
    }
    settings = {
        "dataset": "fashion-mnist", "images": n, "steps": steps, "batch": 64, "ar": e.c.ar.ar,
        "schedule": "loglinear", "positions": len(e.sizes), "k_max": e.c.codes.k_max,
        "held_out": 2000,
        "operations saved in a step, %, T = 256, K = 16384": saved,
    }  # fmt: skip
    finish("head", options, settings, table, [])


if __name__ == "__main__":
    main()
