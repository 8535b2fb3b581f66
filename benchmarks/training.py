"""A training step of the AR model beside Hugging Face's Llama and the machine's matmul ceiling.

    .venv/bin/python benchmarks/training.py            # about two minutes on two idle cores
    .venv/bin/python benchmarks/training.py --small    # seconds, to see that it runs

Forward, backward, clipping and fused AdamW on random codes, vocabulary 16384. On
the CPU in fp32 and without torch.compile; on CUDA in bf16 autocast, compiled, both models.

Operations of a step: 6 for each weight of blocks and head and each token, and 6 · layers · width
for each token and position before it (attention, causal). Dropout and label dropout are off.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import arguments, best_seconds, devices, finish, goal, limits, rates
from sampling import VOCABULARY, peer

from vcqlib import codebook_sizes
from vcqlib.models.autoregressive import PRESETS, ARConfig, ARModel


def ours(size: str, schedule: str, length: int, restricted: bool = False) -> ARModel:
    sizes = tuple(codebook_sizes(schedule, length, VOCABULARY).tolist())
    plain = {"dropout": 0.0, "label_dropout": 0.0, "restricted_head": restricted}
    return ARModel(ARConfig(sizes, VOCABULARY, 1000, **plain, **PRESETS[size]))


def step(model: torch.nn.Module, loss: Callable[[], torch.Tensor], device: str) -> Callable:
    """A function that makes one step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if device == "cuda":
        model.compile()

    def run() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return run


class Loss(torch.nn.Module):
    """`ARModel.loss` as a forward pass."""

    def __init__(self, model: ARModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.model.loss(codes, labels)


def cases(size: str, length: int, batch: int, device: str) -> dict[str, Callable]:
    g = torch.Generator().manual_seed(0)
    schedules = {
        "vcqlib, uniform": ("uniform", False),
        "vcqlib, log-linear": ("loglinear", False),
        "vcqlib, log-linear, restricted head": ("loglinear", True),
    }
    calls = {}
    for name, (schedule, restricted) in schedules.items():
        model = ours(size, schedule, length, restricted).to(device).train()
        limits = torch.tensor(model.config.codebook_sizes)
        codes = (torch.rand(batch, length, generator=g) * limits).long().to(device)
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        wrapped = Loss(model)
        calls[name] = step(wrapped, lambda m=wrapped, c=codes, y=labels: m(c, y), device)
    llama = peer(size, length).to(device).train()
    # given as shifted already, so that the peer makes as many predictions as ours
    seen, next_one = torch.randint(VOCABULARY, (2, batch, length), generator=g).to(device)
    batch_of = {"input_ids": seen, "labels": next_one, "shift_labels": next_one}
    calls["LlamaForCausalLM"] = step(llama, lambda: llama(**batch_of, use_cache=False).loss, device)
    return calls


def operations(size: str, length: int, batch: int, columns: float = VOCABULARY) -> float:
    """Operations of one step; `columns` of the head for each position, on average."""
    with torch.device("meta"):
        model = ours(size, "uniform", length)
    c, blocks = model.config, sum(p.numel() for p in model.blocks.parameters())
    attention = 12 * c.layers * c.width * (length + 1) / 2
    return batch * length * (6 * (blocks + columns * c.width) + attention)


def main() -> None:
    options = arguments(__doc__)
    plan = {"cpu": [("small", 64, 16, 4), ("B", 128, 4, 3)],
            "cuda": [("L", 256, 64, 10), ("XL", 256, 32, 10)]}  # fmt: skip
    if options.small:
        plan = {"cpu": [("nano", 8, 2, 2)], "cuda": [("nano", 8, 2, 2)]}
    table, goals, ceilings = [], [], {}
    for device, sizes in plan.items():
        for size, length, batch, repeats in sizes:
            reached = share = None
            if device in devices():
                calls = cases(size, length, batch, device)
                dtype = torch.float32 if device == "cpu" else torch.bfloat16
                seconds = best_seconds(calls | limits(device, dtype), repeats)
                _, rate = rates(seconds, device)
                ceilings[f"{device}, {size}"] = {"matmul GFLOP/s": rate / 1e9}
                mean = codebook_sizes("loglinear", length, VOCABULARY).mean()
                work = operations(size, length, batch)
                reduced = operations(size, length, batch, mean)
                for name, value in seconds.items():
                    table.append({
                        "device": device, "size": size, "positions": length, "batch": batch,
                        "case": name,
                        "tokens/s": batch * length / value, "seconds a step": value,
                        "peer / this": seconds["LlamaForCausalLM"] / value,
                        "% of the matmul ceiling":
                            100 * (reduced if "restricted" in name else work) / value / rate,
                    })  # fmt: skip
                reached = seconds["LlamaForCausalLM"] / seconds["vcqlib, uniform"]
                share = 100 * work / seconds["vcqlib, uniform"] / rate
                del calls
            goals.append(goal(f"{size}: peer's time over ours", device, 1.0, reached))
            goals.append(goal(f"{size}: share of the matmul ceiling", device, 50.0, share, "%"))
    settings = {"vocabulary": VOCABULARY, "dtype": "float32 (CPU), bf16 (CUDA)",
                "limits": ceilings}  # fmt: skip
    finish("training", options, settings, table, goals, ("torch", "transformers"))


if __name__ == "__main__":
    main()
