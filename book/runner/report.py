"""What varies from run to run: build/PROFILE/run.json, and the page of the book that shows it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from runner.profiles import Profile
from vcqlib.files import read_record, sha256_file, write_record

PACKAGES = ["torch", "torchvision", "numpy", "pandas", "matplotlib", "scikit-learn", "papermill"]
PACKAGES += ["jupyter-book", "sphinx-book-theme"]


class Run:
    """The record of one output folder: per chapter its key, parameters and time."""

    def __init__(self, out: Path, profile: Profile) -> None:
        self.path = out / "run.json"
        self.record: dict[str, Any] = {"chapters": {}}
        try:
            self.record = read_record(self.path)
        except FileNotFoundError:
            pass
        except ValueError as error:
            print(f"{error}; every chapter is executed again", file=sys.stderr)
        self.record["profile"] = profile.name

    def current(self, chapter: str, key: str) -> bool:
        """Whether the chapter was executed under this key and its notebook is as it was then."""
        entry = self.record["chapters"].get(chapter, {})
        notebook = self._notebook(chapter)
        if entry.get("key") != key or not notebook.exists():
            return False
        if sha256_file(notebook) != entry.get("sha256"):
            print(f"{notebook} was changed or damaged; executed again", file=sys.stderr)
            return False
        return True

    def _notebook(self, chapter: str) -> Path:
        return self.path.parent / "notebooks" / f"{chapter}.ipynb"

    def note(self, chapter: str, key: str, parameters: dict[str, Any], seconds: float) -> None:
        """Store one finished execution."""
        self.record["chapters"][chapter] = {
            "key": key,
            "sha256": sha256_file(self._notebook(chapter)),
            "parameters": parameters,
            "seconds": round(seconds, 1),
            "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
        write_record(self.path, self.record)

    def note_machine(self, root: Path) -> None:
        self.record["machine"] = machine(root)

    def statistics(self, profile: Profile, names: list[str]) -> str:
        """The tables of the environment page, as Markdown."""
        lines = [f"Profile: `{profile.name}`.", "", "| chapter | time | budget | executed |"]
        lines += ["|---|--:|--:|---|"]
        for name in names:
            entry = self.record["chapters"][name]
            budget = profile.budget(name)
            shown = f"{budget:g} s" if budget else "none"
            lines.append(f"| {name} | {entry['seconds']:.1f} s | {shown} | {entry['finished']} |")
        lines += ["", "| environment | value |", "|---|---|"]
        facts = self.record.get("machine", {})
        return "\n".join(lines + [f"| {name} | {value} |" for name, value in sorted(facts.items())])


def machine(root: Path) -> dict[str, str]:
    """Versions, hardware and commit of this run."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "commit": _say(["git", "-C", str(root), "describe", "--always", "--dirty"]) or "unknown",
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{_processor()}, {_cores()} cores",
        "memory": f"{memory:.0f} GiB",
        "GPU": _say(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) or "none",
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _cores() -> int:
    """Cores that this process may use; macOS knows only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _say(command: list[str]) -> str:
    """The first line that a command prints, or nothing."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""
