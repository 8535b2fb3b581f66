"""Sampling beside Hugging Face's `LlamaForCausalLM.generate`, and both beside the machine's limit.

    .venv/bin/python benchmarks/sampling.py            # about a minute on two idle cores
    .venv/bin/python benchmarks/sampling.py --small    # seconds, to see that it runs

Models of equal layers, width, heads, feed-forward width, vocabulary (16384) and dtype with random
weights; every sequence starts from one token; temperature 1, no filter, uniform codebooks. The log-
linear line is ours alone: it computes only the first K_t logits.

The floor of a sequence is what no implementation with these weights can beat: for each step the
larger of reading all weights once at the measured bandwidth and of multiplying at the measured
matmul rate, plus reading the keys and values so far. Bandwidth and rate are measured in turns with
the models, and the best of each counts. The small model stays further from its floor than B: its
step is some 400 calls of a few microseconds each, which take as long as reading its weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import arguments, best_seconds, devices, finish, goal, limits, rates
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from vcqlib import codebook_sizes
from vcqlib.models.autoregressive import PRESETS, ARConfig, ARModel

VOCABULARY = 16384
PEER = "LlamaForCausalLM.generate"


def peer(size: str, length: int, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    """The Llama of the same shape."""
    p = PRESETS[size]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=p["width"], intermediate_size=11 * p["width"] // 4,
        num_hidden_layers=p["layers"], num_attention_heads=p["heads"], hidden_act="gelu",
        max_position_embeddings=length + 1, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def ours(size: str, schedule: str, length: int) -> ARModel:
    sizes = tuple(codebook_sizes(schedule, length, VOCABULARY).tolist())
    return ARModel(ARConfig(sizes, VOCABULARY, 1000, **PRESETS[size])).eval()


def floor_seconds(model: ARModel, batch: int, bandwidth: float, rate: float) -> float:
    """The least time for `batch` sequences."""
    c = model.config
    blocks, width = sum(p.numel() for p in model.blocks.parameters()), c.width
    size, seconds = model.head.weight.element_size(), 0.0
    for t, k in enumerate(c.codebook_sizes, start=1):
        weights = blocks + k * width
        cache = 2 * c.layers * width * batch * t  # keys and values of the positions so far
        seconds += max(weights * size / bandwidth, 2 * weights * batch / rate)
        seconds += cache * size / bandwidth
    return seconds


def cases(
    size: str, length: int, batch: int, device: str, dtype: torch.dtype
) -> tuple[dict[str, Callable], dict[str, ARModel]]:
    """Calls that sample `batch` sequences, and the model that sets the floor of each."""
    uniform, growing = (
        ours(size, schedule, length).to(device, dtype) for schedule in ("uniform", "loglinear")
    )
    llama = peer(size, length).to(device, dtype)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    start = labels[:, None]
    options = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": True, "top_k": 0}
    calls = {
        "vcqlib, uniform": lambda: uniform.generate(labels),
        "vcqlib, log-linear": lambda: growing.generate(labels),
        PEER: lambda: llama.generate(start, attention_mask=torch.ones_like(start), **options),
    }
    assert calls[PEER]().shape == (batch, length + 1)
    return calls, {"vcqlib, uniform": uniform, "vcqlib, log-linear": growing, PEER: uniform}


def main() -> None:
    options = arguments(__doc__)
    logging.set_verbosity_error()
    # size, positions, batch, repeats
    plan = [("small", 64, 1, 8), ("B", 16, 1, 8), ("small", 16, 64, 6), ("B", 8, 64, 5)]
    if options.small:
        plan = [("nano", 8, 1, 2), ("nano", 8, 4, 2)]
    table, goals, ceilings = [], [], {}
    for device in ("cpu", "cuda"):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        for size, length, batch, repeats in plan:
            title, reached, share = f"{size}, batch {batch}", None, None
            if device in devices():
                calls, models = cases(size, length, batch, device, dtype)
                seconds = best_seconds(calls | limits(device, dtype), repeats)
                bandwidth, rate = rates(seconds, device)
                ceilings[f"{device}, {title}"] = {
                    "read GB/s": bandwidth / 1e9, "matmul GFLOP/s": rate / 1e9
                }  # fmt: skip
                shares = {
                    name: 100 * floor_seconds(models[name], batch, bandwidth, rate) / value
                    for name, value in seconds.items()
                }
                reached = seconds[PEER] / seconds["vcqlib, uniform"]
                share = shares["vcqlib, uniform"]
                for name, value in seconds.items():
                    table.append({
                        "device": device, "size": size, "positions": length, "batch": batch,
                        "case": name, "ms a step": 1e3 * value / length,
                        "codes/s": batch * length / value,
                        "peer / this": seconds[PEER] / value,
                        "% of the floor's speed": shares[name],
                    })  # fmt: skip
                del calls, models
            target = 1.0 if device == "cpu" else 3.0 if batch == 1 else 1.5
            goals.append(goal(f"{title}: peer's time over ours", device, target, reached))
            goals.append(goal(f"{title}: share of the floor's speed", device, 60.0, share, "%"))
    settings = {"vocabulary": VOCABULARY, "dtype": "float32 (CPU), bfloat16 (CUDA)",
                "limits": ceilings}  # fmt: skip
    finish("sampling", options, settings, table, goals, ("torch", "transformers"))


if __name__ == "__main__":
    main()
