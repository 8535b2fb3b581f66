"""Many small models in one stack, beside the same models one at a time.

    .venv/bin/python benchmarks/lab.py            # about two minutes
    .venv/bin/python benchmarks/lab.py --small    # seconds, to see that it runs

The tokenizer and the AR model of the lab, with their batches. A step is forward pass, backward
pass, clipping and AdamW, as `Stack` takes it; one at a time it is the plain loop over the library's
own modules.
"""

from __future__ import annotations

import torch
from measure import arguments, best_seconds, finish, goal

from vcqlib.lab.models import PointTokenizer, Shape, StackedAR, StackedTokenizer, ar_config
from vcqlib.lab.stack import CLIP, Stack, seeded
from vcqlib.models.autoregressive import ARModel
from vcqlib.theory.schedules import codebook_sizes

SHAPE = Shape()
SIZES = codebook_sizes("loglinear", SHAPE.length, SHAPE.k_max).tolist()


def loop(model: torch.nn.Module, inputs: tuple, steps: int) -> None:
    """The plain training loop of one model."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(*inputs).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()


def main() -> None:
    options = arguments(__doc__)
    counts, steps, repeats = ((1, 2), 2, 2) if options.small else ((1, 5, 25, 50), 10, 6)
    config, draw = ar_config(SIZES, 5, SHAPE), torch.Generator().manual_seed(0)
    points = torch.randn(128, 2, generator=draw)
    codes = torch.stack([torch.randint(k, (16,), generator=draw) for k in SIZES], 1)
    labels = torch.randint(5, (16,), generator=draw)
    kinds = {
        "tokenizer": (lambda: StackedTokenizer(SIZES, SHAPE), lambda: PointTokenizer(SIZES, SHAPE),
                      (points,)),
        "AR model": (lambda: StackedAR(config), lambda: ARModel(config), (codes, labels)),
    }  # fmt: skip
    rows, goals = [], []
    for what, (twin, real, inputs) in kinds.items():
        cases = {0: lambda r=real, i=inputs: loop(r(), i, steps)}
        for count in counts:
            stack = Stack([seeded(twin, i) for i in range(count)], 1e-3, (0.9, 0.99))
            many = [x.expand(count, *x.shape) for x in inputs]
            cases[count] = lambda s=stack, m=many: [s.train(*m) for _ in range(steps)]
        seconds = best_seconds(cases, repeats)
        alone = seconds.pop(0)
        for count, taken in seconds.items():
            each = {
                "model": what, "device": "cpu", "stacked": count,
                "ms a step and model": 1e3 * taken / steps / count,
                "one at a time": 1e3 * alone / steps, "times as fast": alone * count / taken,
            }  # fmt: skip
            rows.append(each)
        best = max(row["times as fast"] for row in rows if row["model"] == what)
        goals += [goal(f"{what}: a stack over one at a time", "cpu", 1.0, best),
                  goal(f"{what}: a stack over one at a time", "cuda", 1.0, None)]  # fmt: skip
    settings = {"steps": steps, "points": 128, "sequences": 16, "sizes": SIZES}
    finish("lab", options, settings, rows, goals)


if __name__ == "__main__":
    main()
