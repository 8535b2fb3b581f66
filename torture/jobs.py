"""Small pieces of real work that the parts disturb: stages, chapters and the book."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from torture.tally import OURS, unclear
from vcqlib.files import read_record, sha256_file
from vcqlib.study import measures
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment, prepare
from vcqlib.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
TINY = Configuration.of({
    "dataset": "digits", "n_images": 300, "length": 4, "k_max": 16, "tokenizer": "mlp-tiny",
    "tokenizer_steps": 120, "tokenizer_batch": 32, "ar": "nano", "ar_steps": 120, "ar_batch": 32,
    "n_samples": 100, "device": "cpu",
})  # fmt: skip
READ: dict[str, Callable[[Experiment], object]] = {
    "tokenizer": lambda e: e.tokenizer,
    "codes": lambda e: e.codes,
    "ar": lambda e: e.ar,
    "samples": lambda e: e.samples(),
    "metrics": measures.metrics,
}
CHAPTER = ("smoke", "-p", "tokenizer", "mlp-tiny", "-p", "n_images", "300")
FORK = multiprocessing.get_context("fork")


def _often(recipe: Recipe) -> None:
    object.__setattr__(recipe, "checkpoint_minutes", 1e-5)


def stages(cache: Path, until: str, arms: list[Configuration]) -> None:
    """Compute a stage of every arm below `cache`, with a checkpoint after nearly every step."""
    os.environ["VCQ_CACHE"] = str(cache)
    Recipe.__post_init__ = _often
    warnings.filterwarnings("error", message=".*(readable|damaged)")  # a file was half-written
    prepare(map(Experiment, arms), READ[until])


def stages_of(cache: Path, until: str) -> None:
    """The stages of the one tiny arm; for a process of its own, like `stages`."""
    stages(cache, until, [TINY])


def warm_up() -> None:
    """Import and load what every job needs, so that a fork of this process starts at once."""
    import sklearn.model_selection  # noqa: F401
    import torch

    torch.set_num_threads(1)  # a fork takes no threads along
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    torch.optim.AdamW([parameter], fused=True).step()
    tiny = Experiment(TINY)
    assert len(tiny.images) and len(tiny.validation) and len(tiny.test)


def start(work: Callable[..., None], *arguments: object) -> multiprocessing.Process:
    """Run `work` in a process of its own, forked: torch has been imported already."""

    def quiet() -> None:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        work(*arguments)

    process = FORK.Process(target=quiet)
    process.start()
    return process


def finished_stages(cache: Path) -> dict[str, str]:
    """File -> SHA-256 of all finished stages' results, held against the files themselves."""
    found = {}
    for done in sorted(cache.glob("*/done.json")):
        files = read_record(done)["files"]
        for name in files.keys() - {"run.json"}:  # which holds this run's time
            digest = files[name]
            path = done.parent / name
            if sha256_file(path) != digest:
                raise ValueError(f"{path} is damaged")
            found[f"{done.parent.name}/{name}"] = digest
    return found


def build(out: Path, cache: Path, *arguments: str, **popen: object) -> subprocess.Popen:
    """Start the book's runner in a process group of its own, offline."""
    command = [sys.executable, str(ROOT / "book" / "build.py"), *arguments, "--out", str(out)]
    environment = {
        **os.environ,
        "VCQ_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "tests" / "offline"),
    }
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **(pipes | popen))


def pages(out: Path) -> dict[str, str]:
    """File -> SHA-256 of executed notebooks and pages, but for the one with this run's times."""
    found = {}
    for folder in ("notebooks", "html"):
        for path in sorted((out / folder).rglob("*")):
            name = str(path.relative_to(out))
            if path.is_file() and "appendix_environment" not in name:
                found[name] = sha256_file(path)
    return found


def differences(a: dict[str, str], b: dict[str, str]) -> str:
    """ "" if two listings are equal, else the first names in which they differ."""
    wrong = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    return f"{len(wrong)} files differ: {', '.join(wrong[:3])}" if wrong else ""


def message_of(work: Callable[..., object], *arguments: object, limit: float = 300) -> str | None:
    """What `work`, in a process of its own, says when it fails; None if it does not.

    An error that is none of ours, a death or a hang starts with "bare".
    """
    ours, theirs = FORK.Pipe(duplex=False)

    def watched() -> None:
        try:
            work(*arguments)
            theirs.send(None)
        except OURS as error:
            theirs.send(str(error))
        except BaseException as error:
            theirs.send(f"bare {type(error).__name__}: {error}")

    process = start(watched)
    theirs.close()
    try:
        return ours.recv() if ours.poll(limit) else f"bare hang of {limit} s"
    except EOFError:
        process.join()
        return f"bare death with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def refused_by(work: Callable[..., object], *arguments: object, names: tuple[str, ...] = ()) -> str:
    """As `tally.refusal`, in a process of its own."""
    message = message_of(work, *arguments)
    if message is None:
        return "accepted"
    return message[:300] if message.startswith("bare ") else unclear(message, *names)


def must(work: Callable[..., object], *arguments: object) -> None:
    """Run `work` in a process of its own; its failure is an error here."""
    message = message_of(work, *arguments)
    if message is not None:
        raise RuntimeError(message)


def warned_stages_of(cache: Path, until: str) -> None:
    """As `stages_of`, where a checkpoint is expected to be named as damaged."""
    said: list[str] = []
    warnings.showwarning = lambda message, *_: said.append(str(message))
    os.environ["VCQ_CACHE"] = str(cache)
    prepare([Experiment(TINY)], READ[until])
    if not any("step-" in line and "damaged" in line for line in said):
        raise RuntimeError(f"no warning names the damaged checkpoint: {said}")
