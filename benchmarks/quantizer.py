"""The quantizer beside vector-quantize-pytorch, and variable codebooks beside uniform ones.

    .venv/bin/python benchmarks/quantizer.py            # about a minute on two idle cores
    .venv/bin/python benchmarks/quantizer.py --small    # seconds, to see that it runs

One forward pass over 8192 vectors (32 images of 256 positions), codebook of 16384 rows, cosine
distance, fp32. In training the peer updates its codebook by a moving average, which ours does with
`ema`; ours is timed both ways. Extra memory is the peak beyond what was held before the call.
"""

from __future__ import annotations

import torch
from measure import arguments, best_seconds, devices, extra_bytes, finish, goal
from vector_quantize_pytorch import VectorQuantize

from vcqlib import VariableCodebookQuantizer, codebook_sizes


def modules(length: int, rows: int, dim: int) -> dict[str, torch.nn.Module]:
    uniform, variable = [rows] * length, codebook_sizes("loglinear", length, rows).tolist()
    ours = VariableCodebookQuantizer(uniform, dim)
    peer = VectorQuantize(dim, rows, use_cosine_sim=True)
    peer._codebook.embed.copy_(ours.rows().detach()[None])
    return {
        "uniform": ours,
        "uniform, EMA": VariableCodebookQuantizer(uniform, dim, ema=0.99),
        "log-linear": VariableCodebookQuantizer(variable, dim),
        "vector-quantize-pytorch": peer,
    }


def main() -> None:
    options = arguments(__doc__)
    images, length, rows = (4, 16, 512) if options.small else (32, 256, 16384)
    table, goals = [], []
    for device in ("cpu", "cuda"):
        for dim in (8, 14):
            z = torch.randn(images, length, dim, generator=torch.Generator().manual_seed(0))
            for mode in ("training", "eval"):
                seconds, extra = {}, {}
                if device in devices():
                    x = z.to(device)
                    cases = {
                        name: module.to(device).train(mode == "training")
                        for name, module in modules(length, rows, dim).items()
                    }
                    with torch.no_grad():
                        calls = {name: lambda m=m, x=x: m(x) for name, m in cases.items()}
                        extra = {n: extra_bytes(call, device) for n, call in calls.items()}
                        seconds = best_seconds(calls, 10)
                peer = "vector-quantize-pytorch"
                table += [
                    {
                        "device": device, "d": dim, "mode": mode, "case": name,
                        "milliseconds": 1e3 * seconds[name], "extra MiB": extra[name] / 2**20,
                        "peer / this": seconds[peer] / seconds[name],
                    }
                    for name in seconds
                ]  # fmt: skip

                def ratio(measured: dict, a: str, b: str) -> float | None:
                    return measured[a] / measured[b] if measured else None

                ours = "uniform, EMA" if mode == "training" else "uniform"
                speed = 10.0 if mode == "training" else 8.0
                goals += [
                    goal(f"d = {dim}, {mode}: peer's time over ours", device, speed,
                         ratio(seconds, peer, ours)),
                    goal(f"d = {dim}, {mode}: peer's extra memory over ours", device, 10.0,
                         ratio(extra, peer, ours)),
                    goal(f"d = {dim}, {mode}: our uniform over our log-linear", device, 3.0,
                         ratio(seconds, "uniform", "log-linear")),
                ]  # fmt: skip
    settings = {"vectors": images * length, "positions": length, "rows": rows, "dtype": "float32"}
    finish("quantizer", options, settings, table, goals, ("torch", "vector-quantize-pytorch"))


if __name__ == "__main__":
    main()
