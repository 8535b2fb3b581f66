"""A training step of the AR model beside Hugging Face's Llama and the machine's matmul ceiling.

    .venv/bin/python benchmarks/training.py            # about four minutes on two idle cores
    .venv/bin/python benchmarks/training.py --small    # seconds, to see that it runs

Forward, backward, clipping and fused AdamW on random codes. `tiny` is the study's AR model with its
vocabulary of 256, on one core as there; the others have 16384. On the CPU in fp32 and without
torch.compile, ours with what `Run` sets there; "torch's products" leaves that out, "bf16" adds
autocast, and "compiled" compiles the blocks, as `--ar-compile` does. On CUDA in bf16 autocast,
compiled, both models. The ceiling is that of torch as it comes; "fast" that of oneDNN.

Operations of a step: 6 for each weight of blocks and head and each token, and 6 · layers · width
for each token and position before it (attention, causal). Label dropout is off, and dropout too
where the case does not name it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from measure import MULTIPLY, arguments, best_seconds, devices, finish, goal, limits, rates
from sampling import VOCABULARY, peer

from vcqlib import codebook_sizes
from vcqlib.models.autoregressive import PRESETS, ARConfig, ARModel
from vcqlib.training.run import fast_products, keep_memory

FAST = "multiply, fast"


def ours(
    size: str, schedule: str, length: int, vocabulary: int = VOCABULARY,
    restricted: bool = False, dropout: float = 0.0,
) -> ARModel:  # fmt: skip
    sizes = tuple(codebook_sizes(schedule, length, vocabulary).tolist())
    plain = {"dropout": dropout, "label_dropout": 0.0, "restricted_head": restricted}
    return ARModel(ARConfig(sizes, vocabulary, 1000, **plain, **PRESETS[size]))


def step(
    model: torch.nn.Module, loss: Callable[[], torch.Tensor], device: str, bf16: bool = False,
    products: Callable[[], AbstractContextManager] = nullcontext,
) -> Callable:  # fmt: skip
    """A function that makes one step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if device == "cuda":
        model.compile()

    def run() -> None:
        with products():
            with torch.autocast(device, torch.bfloat16, enabled=bf16 or device == "cuda"):
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


def cases(size: str, length: int, batch: int, device: str, vocabulary: int) -> dict[str, Callable]:
    g = torch.Generator().manual_seed(0)
    fast = {"products": fast_products} if device == "cpu" else {}
    kinds: dict[str, tuple[dict, dict]] = {
        "vcqlib, uniform": ({}, fast),
        "vcqlib, log-linear": ({"schedule": "loglinear"}, fast),
        "vcqlib, log-linear, restricted head":
            ({"schedule": "loglinear", "restricted": True}, fast),
        "vcqlib, uniform, dropout": ({"dropout": 0.1}, fast),
    }  # fmt: skip
    if device == "cpu":
        kinds["vcqlib, uniform, torch's products"] = {}, {}
        kinds["vcqlib, uniform, bf16"] = {}, {"bf16": True}
        kinds["vcqlib, uniform, bf16, compiled"] = {}, {"bf16": True}
    calls = {}
    for name, (shape, how) in kinds.items():
        shape = {"schedule": "uniform"} | shape
        model = ours(size, length=length, vocabulary=vocabulary, **shape).to(device).train()
        for block in model.blocks:
            block.compiled = name.endswith("compiled")
        limits = torch.tensor(model.config.codebook_sizes)
        codes = (torch.rand(batch, length, generator=g) * limits).long().to(device)
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        wrapped = Loss(model)
        calls[name] = step(wrapped, lambda m=wrapped, c=codes, y=labels: m(c, y), device, **how)
    llama = peer(size, length, vocabulary).to(device).train()
    # given as shifted already, so that the peer makes as many predictions as ours
    seen, next_one = torch.randint(vocabulary, (2, batch, length), generator=g).to(device)
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


def ceiling_of_ours(device: str, dtype: torch.dtype) -> dict[str, Callable]:
    """The machine's matmul with what `Run` sets, as a case."""
    multiply = limits(device, dtype)[MULTIPLY]

    def run() -> None:
        with fast_products():
            multiply()

    return {FAST: run} if device == "cpu" else {}


def main() -> None:
    options = arguments(__doc__)
    keep_memory()
    # size, positions, vocabulary, batch, repeats, goal: share of the matmul ceiling in per cent
    plan = {"cpu": [("tiny", 16, 256, 64, 30, 75.0), ("small", 64, VOCABULARY, 16, 4, 50.0),
                    ("B", 128, VOCABULARY, 4, 3, 50.0)],
            "cuda": [("L", 256, VOCABULARY, 64, 10, 50.0),
                     ("XL", 256, VOCABULARY, 32, 10, 50.0)]}  # fmt: skip
    if options.small:
        plan = {kind: [("nano", 8, VOCABULARY, 2, 2, 50.0)] for kind in plan}
    table, goals, ceilings = [], [], {}
    for device, sizes in plan.items():
        for size, length, vocabulary, batch, repeats, wanted in sizes:
            reached = share = None
            if device in devices():
                torch.set_num_threads(1 if size == "tiny" else options.threads)
                calls = cases(size, length, batch, device, vocabulary)
                dtype = torch.float32 if device == "cpu" else torch.bfloat16
                measured = calls | limits(device, dtype) | ceiling_of_ours(device, dtype)
                seconds = best_seconds(measured, repeats)
                fast = seconds.pop(FAST, seconds[MULTIPLY]) / seconds[MULTIPLY]
                _, rate = rates(seconds, device)
                ceilings[f"{device}, {size}"] = {
                    "matmul GFLOP/s": rate / 1e9, "fast matmul GFLOP/s": rate / fast / 1e9
                }  # fmt: skip
                mean = codebook_sizes("loglinear", length, vocabulary).mean()
                work = operations(size, length, batch, vocabulary)
                reduced = operations(size, length, batch, mean)
                for name, value in seconds.items():
                    table.append({
                        "device": device, "size": size, "positions": length,
                        "vocabulary": vocabulary, "batch": batch,
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
            goals.append(goal(f"{size}: share of the matmul ceiling", device, wanted, share, "%"))
    settings = {"dtype": "float32 (CPU), bf16 (CUDA)",
                "limits": ceilings}  # fmt: skip
    finish("training", options, settings, table, goals, ("torch", "transformers"))


if __name__ == "__main__":
    main()
