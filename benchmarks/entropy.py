"""Time and peak memory of the entropy engine at ImageNet size, beside the usual ways.

    .venv/bin/python benchmarks/entropy.py            # about two minutes on two idle cores
    .venv/bin/python benchmarks/entropy.py --small    # seconds, to see that it runs

Each case runs in a process of its own on N = 1,281,167 sequences of T = 256 tokens (uint16), as
stored, and reports the best of several repeats. Extra memory is the growth of the process's peak
resident size over the call (Linux), in columns of N 64-bit keys; for files, anonymous memory only.

Peers: pandas and polars group-by on the first four positions only (their frames built beforehand);
a Python dictionary trie over all positions, on a subsample, scaled by N; and the floor, reading
once the columns up to where every sequence is unique. Writes data/results/bench_entropy.json.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from machine import hardware  # noqa: E402

from vcqlib import codebook_sizes, conditional_entropy  # noqa: E402
from vcqlib.files import write_record  # noqa: E402

K, FIRST, TRIE = 16384, 4, 4000
CASES = {
    "uniform": "vcqlib, K = 16384, row-major",
    "uniform position-major": "vcqlib, K = 16384, position-major",
    "loglinear": "vcqlib, log-linear to 16384, row-major",
    "loglinear position-major": "vcqlib, log-linear to 16384, position-major",
    "zipf": "vcqlib, Zipf(1) over 50257, row-major",
    "shakespeare": "vcqlib, Shakespeare in GPT-2 tokens, T = 64, disjoint windows",
    "shakespeare every offset": "vcqlib, the same text, a window at every token",
    "uniform torch": "vcqlib's torch path on this CPU, K = 16384",
    "uniform file": "vcqlib, K = 16384, row-major file",
    "uniform file position-major": "vcqlib, K = 16384, position-major file",
    "uniform pandas": "pandas group-by, 4 positions, K = 16384",
    "uniform pandas unsorted": "pandas group-by with sort=False, 4 positions, K = 16384",
    "loglinear pandas": "pandas group-by, 4 positions, log-linear",
    "uniform polars": "polars group-by, 4 positions, K = 16384",
    "loglinear polars": "polars group-by, 4 positions, log-linear",
    "uniform trie": f"Python trie, {TRIE} sequences, scaled to N",
    "uniform floor": "read the needed columns once, row-major",
    "uniform position-major floor": "read the needed columns once, position-major",
    "loglinear position-major floor": "read the needed columns once, log-linear, position-major",
}


def simulated(kind: str, n: int, length: int) -> np.ndarray:
    """Tokens [n, length], uint16, row-major."""
    rng = np.random.default_rng(0)
    if kind == "uniform":
        return rng.integers(0, K, (n, length), np.uint16)
    codes = np.empty((n, length), np.uint16)
    if kind == "loglinear":
        for t, size in enumerate(codebook_sizes("loglinear", length, K).tolist()):
            codes[:, t] = rng.integers(0, size, n, np.uint16)
        return codes
    share = 1 / np.arange(1, 50258)  # Zipf, drawn through a table of 2^20 quantiles
    middle = (np.arange(1 << 20) + 0.5) / (1 << 20)
    table = np.searchsorted(np.cumsum(share) / share.sum(), middle).astype(np.uint16)
    for lo in range(0, n, 1 << 15):
        block = codes[lo : lo + (1 << 15)]
        block[:] = table[rng.integers(0, 1 << 20, block.shape, np.int32)]
    return codes


def tokens(case: str, n: int, length: int) -> np.ndarray:
    kind = case.split()[0]
    if kind != "shakespeare":
        codes = simulated(kind, n, length)
        return np.asfortranarray(codes) if "position-major" in case else codes
    from vcqlib.data.texts import load_text, text_tokenizer, windows

    text = text_tokenizer("gpt2").encode(load_text("shakespeare")).astype(np.uint16)
    if "offset" in case:
        return np.lib.stride_tricks.sliding_window_view(text, 64)
    return windows(text, len(text) // 64, 64).astype(np.uint16)


def entropies(joint: list[float]) -> np.ndarray:
    return np.diff(joint, prepend=0.0)


def by_pandas(codes: np.ndarray, sort: bool = True) -> Callable[[], np.ndarray]:
    import pandas as pd

    names = [f"p{t}" for t in range(FIRST)]
    frame = pd.DataFrame({name: codes[:, t].copy() for t, name in enumerate(names)})

    def run() -> np.ndarray:
        joint = []
        for t in range(1, FIRST + 1):
            p = frame.groupby(names[:t], sort=sort).size().to_numpy() / len(frame)
            joint.append(-(p * np.log2(p)).sum())
        return entropies(joint)

    return run


def by_polars(codes: np.ndarray) -> Callable[[], np.ndarray]:
    import polars as pl

    names = [f"p{t}" for t in range(FIRST)]
    frame = pl.DataFrame({name: codes[:, t].copy() for t, name in enumerate(names)})

    def run() -> np.ndarray:
        joint = []
        for t in range(1, FIRST + 1):
            p = frame.group_by(names[:t]).len()["len"].to_numpy() / len(frame)
            joint.append(-(p * np.log2(p)).sum())
        return entropies(joint)

    return run


def by_trie(codes: np.ndarray) -> Callable[[], np.ndarray]:
    rows = codes[:TRIE].tolist()

    def run() -> np.ndarray:
        root: list = [0, {}]
        counts: list[list] = [[] for _ in rows[0]]
        for row in rows:
            node = root
            for t, token in enumerate(row):
                child = node[1].get(token)
                if child is None:
                    child = node[1][token] = [0, {}]
                    counts[t].append(child)
                child[0] += 1
                node = child
        n = len(rows)
        joint = [-sum(c / n * math.log2(c / n) for c, _ in level) for level in counts]
        return entropies(joint)

    return run


def floor(codes: np.ndarray) -> Callable[[], np.ndarray]:
    needed = int((conditional_entropy(codes).unique_share < 1).sum()) + 1

    def run() -> np.ndarray:
        if codes.strides[0] < codes.strides[1]:
            return np.array([codes[:, t].max() for t in range(needed)])
        return np.array([b[:, :needed].max() for b in np.array_split(codes, 100)])

    return run


def prepare(codes: np.ndarray, case: str, folder: Path) -> Callable[[], np.ndarray]:
    """A function that computes the entropies once; what it needs beforehand is built here."""
    conditional_entropy(codes[:100])  # what is loaded on first use is not part of the case
    if "unsorted" in case:
        return by_pandas(codes, sort=False)
    for name, make in (("pandas", by_pandas), ("polars", by_polars), ("trie", by_trie)):
        if name in case:
            return make(codes)
    if "floor" in case:
        return floor(codes)
    if "file" in case:
        major = "position-major" in case
        np.save(folder / "codes.npy", codes.T if major else codes)
        del codes
        codes = np.load(folder / "codes.npy", mmap_mode="r")
        codes = codes.T if major else codes
    if "torch" in case:
        import torch

        from vcqlib.entropy.backends import TorchArrays
        from vcqlib.entropy.estimates import count_prefixes, summarize

        tensor = torch.from_numpy(codes)
        return lambda: summarize(count_prefixes(tensor, arrays=TorchArrays)).bits
    return lambda: conditional_entropy(codes).bits


def memory(key: str) -> int:
    """Bytes of one line of /proc/self/status: VmHWM, VmRSS, RssAnon."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def extra_memory(run: Callable, mapped: bool) -> int:
    """Growth of the peak resident size; if a file is mapped, of anonymous memory, sampled."""
    if mapped:
        before, seen, done = memory("RssAnon"), [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.001):
                seen.append(memory("RssAnon"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        run()
        done.set()
        watcher.join()
        return max(seen) - before
    with suppress(OSError, AttributeError):  # glibc: give back what building the case has freed
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    run()
    return memory("VmHWM") - before


def measure(case: str, n: int, length: int) -> dict:
    """Run one case in this process."""
    with tempfile.TemporaryDirectory() as folder:
        codes = tokens(case, n, length)
        rows = len(codes)
        run = prepare(codes, case, Path(folder))
        del codes
        extra = extra_memory(run, "file" in case)
        seconds, busy = [], []
        repeats = 1 if "trie" in case else 3 if "pandas" in case or "torch" in case else 7
        for _ in range(repeats):
            start, cpu = time.perf_counter(), time.process_time()
            bits = run()
            seconds.append(time.perf_counter() - start)
            busy.append(time.process_time() - cpu)
    scale = n / min(TRIE, n) if "trie" in case else 1.0
    return {
        "seconds": min(seconds) * scale,
        "median_seconds": sorted(seconds)[len(seconds) // 2] * scale,
        "cpu_seconds": min(busy) * scale,  # over all cores: what a busy machine leaves unchanged
        "repeats": repeats,
        "scaled_by": scale,
        "sequences": rows,
        "extra_columns": extra * scale / (8 * rows),
        "first_bits": [] if "floor" in case else [float(b) for b in bits[:FIRST]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="N = 20,000 and T = 64, not saved")
    parser.add_argument("--only", default="", help="cases whose name contains this; not saved")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case, in a process of its own
    arguments = parser.parse_args()
    n, length = (20_000, 64) if arguments.small else (1_281_167, 256)
    if arguments.case:
        print(json.dumps(measure(arguments.case, n, length)))
        return
    record = {
        "settings": {"sequences": n, "positions": length, "tokens": "uint16", "seed": 0},
        "hardware": hardware(),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in ("numpy", "pandas", "polars", "torch")},
        "cases": {},
    }
    print(f"{'case':64} {'seconds':>9} {'cpu':>9} {'× vcqlib':>10} {'extra, columns':>15}")
    for case, title in CASES.items():
        if arguments.only not in case:
            continue
        command = [sys.executable, __file__, "--case", case, *["--small"] * arguments.small]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{case}: {done.stderr.strip().splitlines()[-1]}")
        result = json.loads(done.stdout) | {"title": title}
        record["cases"][case] = result
        ratio = result["seconds"] / record["cases"].get(case.split()[0], result)["seconds"]
        print(
            f"{title:64} {result['seconds']:9.3f} {result['cpu_seconds']:9.3f} {ratio:10.1f} "
            f"{result['extra_columns']:15.1f}",
            flush=True,
        )
    if not (arguments.small or arguments.only):
        path = ROOT / "data/results/bench_entropy.json"
        write_record(path, record)
        print(f"\nwritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
