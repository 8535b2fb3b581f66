"""What the benchmarks share: timing, peak memory, the machine's own limits, records and tables."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import machine  # noqa: E402

from vcqlib.files import write_record  # noqa: E402

NOT_MEASURED = "not measured"


def arguments(doc: str) -> argparse.Namespace:
    """The options that every benchmark takes; sets the number of threads."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, not saved")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def hardware() -> dict:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else NOT_MEASURED
    return machine.hardware() | {"gpu": gpu}


def best_seconds(runs: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Fastest of several repeats of each; the cases take turns, so that all see the same load.

    The first repeat warms up: ask for two at least.
    """
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            _wait()
            start = time.perf_counter()
            run()
            _wait()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(key: str) -> int:
    """Bytes of one line of /proc/self/status."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def extra_bytes(run: Callable, device: str) -> int:
    """Peak memory of a call beyond what was held before it (Linux; on CUDA its own count)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with suppress(OSError, AttributeError):  # glibc: give back what was freed
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


READ, MULTIPLY = "read", "multiply"
READ_BYTES, READS = 256 << 20, 32  # far larger than the caches; as long as the models take
SIDES = {"cpu": 2048, "cuda": 8192}  # of the square matrices


def limits(device: str, dtype: torch.dtype) -> dict[str, Callable]:
    """The machine's own limits, as cases that take turns with the others in `best_seconds`."""
    x = torch.ones(READ_BYTES // dtype.itemsize, dtype=dtype, device=device)
    a = torch.ones(SIDES[device], SIDES[device], dtype=dtype, device=device)
    return {READ: lambda: [x.sum() for _ in range(READS)], MULTIPLY: lambda: a @ a}


def rates(seconds: dict[str, float], device: str) -> tuple[float, float]:
    """Bytes read and operations multiplied a second; takes the two cases out of `seconds`."""
    read = READS * READ_BYTES / seconds.pop(READ)
    return read, 2 * SIDES[device] ** 3 / seconds.pop(MULTIPLY)


def goal(what: str, device: str, target: float, reached: float | None, unit: str = "×") -> dict:
    """A line of the table of goals; `reached` None: not measured."""
    return {"what": what, "device": device, "goal": target, "reached": reached, "unit": unit}


def _text(value: object) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show(rows: list[dict]) -> None:
    """Print rows as a table; the first row names the columns."""
    table = [list(rows[0])] + [[_text(row.get(key)) for key in rows[0]] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print(flush=True)


def finish(
    name: str, options: argparse.Namespace, settings: dict, rows: list[dict], goals: list[dict],
    packages: tuple[str, ...] = ("torch",),
) -> None:  # fmt: skip
    """Print both tables; write data/results/bench_NAME.json unless the sizes were tiny."""
    show(rows)
    if goals:
        show(goals)
    if options.small:
        return
    record = {
        "settings": settings | {"threads": options.threads},
        "hardware": HARDWARE,
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "columns": list(rows[0]),
        "rows": rows,
        "goals": goals,
    }
    path = ROOT / f"data/results/bench_{name}.json"
    write_record(path, record)
    print(f"written to {path.relative_to(ROOT)}")


HARDWARE = hardware()  # before anything is loaded on the machine
