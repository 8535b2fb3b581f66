"""Where a result comes from: hardware, versions, commit, folder; and whether it comes out again."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

CLONE = Path(__file__).resolve().parents[2]


def hardware(device: torch.device) -> dict:
    """Processor, cores, load, memory and GPU of this machine; no host name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # above `cores`: the times are of a busy machine
        "memory_gib": round(memory),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.machine()


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def commit() -> str:
    """The clone's commit, with a + if vcqlib has uncommitted changes; "unknown" outside one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(CLONE), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "vcqlib")
        return git("rev-parse", "HEAD")[:12] + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def default_results() -> Path:
    """data/results of the clone."""
    return CLONE / "data" / "results"


def elsewhere(record: Mapping, device: torch.device) -> str:
    """Processor (or GPU) and torch of a record, and the present ones; empty if they are equal."""
    here = {"hardware": hardware(device), "versions": versions()}
    there, now = (
        f"{x['hardware'].get('gpu', x['hardware']['processor'])}, torch {x['versions']['torch']}"
        for x in (record, here)
    )
    return "" if there == now else f"recorded on {there}; now on {now}"


@dataclass(frozen=True)
class Comparison:
    """A record against its recomputation."""

    rows: tuple[tuple[str, float, float, float], ...]  # name, recorded, now, tolerance
    elsewhere: str = ""  # where and where, if it was recorded on something else

    @property
    def failed(self) -> list[str]:
        return [name for name, old, new, tolerance in self.rows
                if not abs(new - old) <= tolerance * abs(old) + 1e-9]  # fmt: skip

    def __str__(self) -> str:
        lines = [self.elsewhere] if self.elsewhere else []
        lines += [f"{'':>14} {'recorded':>10} {'now':>10} {'change':>8} {'allowed':>8}"]
        for name, old, new, tolerance in self.rows:
            change = (new - old) / old if old else new
            lines.append(f"{name:>14} {old:>10.4f} {new:>10.4f} {change:>+8.2%} {tolerance:>8.0%}")
        return "\n".join(lines)
