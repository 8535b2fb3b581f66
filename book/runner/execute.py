"""Executes stale chapters, several side by side, each in a process of its own with a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import nbformat

from runner.chapters import INJECTED, Chapter
from vcqlib.files import atomic_path

STOP_GRACE_S = 15.0  # for a kernel to shut down after SIGTERM


@dataclass(frozen=True)
class Failure:
    """A chapter that did not run through, with what a reader of the terminal needs to know."""

    chapter: str
    where: str
    error: str
    partial: Path

    def __str__(self) -> str:
        lines = self.error.strip().splitlines() or ["no message"]
        shown = lines[:1] + ["…"] * (len(lines) > 4) + lines[1:][-3:]
        text = "\n".join(f"    {line[:200]}" for line in shown)
        return (
            f"{self.chapter} failed in {self.where}\n{text}\n    partial notebook: {self.partial}"
        )


@dataclass
class Running:
    """One chapter in execution."""

    chapter: Chapter
    process: subprocess.Popen
    log: TextIO
    files: dict[str, Path]
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def progress(self) -> tuple[int, int, str]:
        """Cell, number of cells, and the last line of the stage's own progress bar."""
        try:
            cell, total = map(int, self.files["progress"].read_text().split())
        except (OSError, ValueError):
            cell, total = 0, 0
        try:
            stage = self.files["stage"].read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            stage = ""
        return cell, total, stage

    def close(self) -> None:
        self.log.close()
        self.process.stdin.close()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Executor:
    """Executes chapters into `out/notebooks`; `timeout` in seconds and `threads` per chapter."""

    root: Path
    out: Path
    threads: int
    timeout: float
    jobs: int = 2

    def run(
        self,
        work: list[tuple[Chapter, dict[str, Any]]],
        done: Callable[[Chapter, float], None],
        show: Callable[[list[Running]], None] = lambda running: None,
    ) -> list[Failure]:
        """Execute every (chapter, parameters); call `done(chapter, seconds)` for each success."""
        waiting, running, failures = list(work), [], []
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    running.append(self._start(*waiting.pop(0)))
                show(running)
                time.sleep(0.2)
                for task in list(self._finished(running)):
                    running.remove(task)
                    failure = self._collect(task)
                    if failure:
                        failures.append(failure)
                        print(failure, file=sys.stderr, flush=True)
                    else:
                        done(task.chapter, task.seconds)
        finally:
            for task in running:  # only after an interruption
                task.stop()
                task.close()
        return failures

    def _start(self, chapter: Chapter, parameters: dict[str, Any]) -> Running:
        logs = self.out / "logs"
        for folder in (logs, self.out / "failed"):
            folder.mkdir(parents=True, exist_ok=True)
        files = {
            name: logs / f"{chapter.name}.{name}"
            for name in ("job", "outcome", "progress", "stage")
        }
        for path in files.values():
            path.unlink(missing_ok=True)
        files["output"] = self.out / "failed" / f"{chapter.name}.ipynb"  # until it has succeeded
        job = {
            "source": str(chapter.path),
            "parameters": parameters,
            "cwd": os.getcwd(),
            **{name: str(files[name]) for name in ("output", "outcome", "progress")},
        }
        files["job"].write_text(json.dumps(job), encoding="utf-8")
        threads = {f"{name}_NUM_THREADS": str(self.threads) for name in ("OMP", "MKL", "OPENBLAS")}
        environment = {
            "VCQ_CACHE": str(self.root / "build" / "cache"),
            **os.environ,
            **threads,
            "VCQ_PROGRESS": str(files["stage"]),
            "PYTHONHASHSEED": "0",
            "IPYTHONDIR": str(logs / "ipython"),  # the user's own start-up files stay out
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        log = open(logs / f"{chapter.name}.log", "w", encoding="utf-8")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py")), str(files["job"])],
            stdin=subprocess.PIPE,  # never written to: its end tells the worker that we are gone
            stdout=log,
            stderr=log,
            env=environment,
        )
        return Running(chapter, process, log, files)

    def _finished(self, running: list[Running]) -> Iterator[Running]:
        for task in running:
            if task.seconds > self.timeout and task.process.poll() is None:
                task.stop()
            if task.process.poll() is not None:
                yield task

    def _collect(self, task: Running) -> Failure | None:
        """Move a finished notebook into place, or say what went wrong."""
        task.close()
        partial = task.files["output"]
        try:
            outcome = json.loads(task.files["outcome"].read_text(encoding="utf-8"))
        except (OSError, ValueError):  # the process was ended, or ended itself
            late = task.seconds > self.timeout
            reason = f"time limit of {self.timeout:g} s" if late else "the process died; see"
            log = "" if late else f" {task.log.name} (exit {task.process.returncode})"
            outcome = {"cell": task.progress()[0] - 1, "error": f"stopped: {reason}{log}"}
        if not outcome and not _whole(partial):
            outcome = {"cell": None, "error": f"{partial} was not written whole: is the disk full?"}
        if not outcome:
            notebook = clean(nbformat.read(partial, as_version=4))
            target = self.out / "notebooks" / partial.name
            with atomic_path(target) as temporary:
                nbformat.write(notebook, temporary)
            partial.unlink()
            return None
        where = _describe(partial, outcome["cell"])
        return Failure(task.chapter.name, where, outcome["error"], partial)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs from run to run: papermill's records, times, the injected cell's id."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
        if INJECTED in cell.metadata.get("tags", []):
            cell["id"] = INJECTED
    return notebook


def _whole(path: Path) -> bool:
    """Whether this is a notebook to its end."""
    try:
        nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError):
        return False
    return True


def _describe(partial: Path, index: int | None) -> str:
    """`cell 7 of 12 (c06: first line of its code)`."""
    if index is None or index < 0 or not _whole(partial):
        return "start-up"
    notebook = nbformat.read(partial, as_version=4)
    # papermill has put a note above the notebook and one above the failing cell.
    marks = ["papermill-error-cell-tag" in cell.metadata.get("tags", []) for cell in notebook.cells]
    cells = [cell for cell, mark in zip(notebook.cells, marks, strict=True) if not mark]
    index = min(index, len(cells) - 1)
    first = (cells[index].source.strip().splitlines() or [""])[0]
    return f"cell {index + 1} of {len(cells)} ({cells[index].get('id', '')}: {first[:60]})"
