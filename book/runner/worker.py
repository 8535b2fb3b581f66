"""One chapter in a process of its own: `python worker.py JOB.json`, started by runner.execute.

The job names source, output, parameters and working folder; the outcome is written to the file
that the job names, so that nothing needs to be read from this process's terminal output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import papermill
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError


def reporting_engine(progress: Path) -> type[NBClientEngine]:
    """papermill's own engine, which also notes `cell total` in a file before each cell."""

    class Reporting(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            start = nb_man.cell_start

            def cell_start(cell: Any, cell_index: int | None = None, **more: Any) -> None:
                progress.write_text(f"{(cell_index or 0) + 1} {len(nb_man.nb.cells)}")
                start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    return Reporting


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Execute; return {} or where and how the chapter failed."""
    papermill_engines.register("reporting", reporting_engine(Path(job["progress"])))
    try:
        papermill.execute_notebook(
            job["source"],
            job["output"],
            job["parameters"],
            engine_name="reporting",
            kernel_name="python3",
            progress_bar=False,
            cwd=job["cwd"],
        )
    except PapermillExecutionError as error:
        return {"cell": error.cell_index, "error": f"{error.ename}: {error.evalue}"}
    except Exception as error:
        return {"cell": None, "error": f"{type(error).__name__}: {error}"}
    return {}


def end_with_runner() -> None:
    """Wait until the runner's end of our input closes; if it was killed, end with it."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    # A timed-out chapter gets SIGTERM: leaving through an exception shuts its kernel down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=end_with_runner, daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    outcome = main(job)
    Path(job["outcome"]).write_text(json.dumps(outcome), encoding="utf-8")
