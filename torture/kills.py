"""kill -9 at seeded moments; the next run has to end as an undisturbed one does, bit for bit."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import time
from pathlib import Path

import psutil

from torture import jobs
from torture.tally import Tally

# what is killed: share of all kills, stage, arms, stages that are there already
STAGES = {
    "tokenizer training": (0.22, "tokenizer", 1, ()),
    "AR training": (0.22, "ar", 1, ("tokenizer", "codes")),
    "encoding": (0.14, "codes", 1, ("tokenizer",)),
    "study of 3 arms": (0.14, "metrics", 3, ()),
}
# share, arguments, and the process that has to be there before the kill
BUILDS = {
    "papermill chapter": (0.14, ("--only", "05", "--no-html"), "kernel"),
    "book build": (0.06, ("--only", "01"), "runner"),
    "Jupyter Book of a build": (0.08, ("--only", "01"), "jupyter-book"),
}
MARKS = {"worker": "worker.py", "kernel": "ipykernel", "jupyter-book": "jupyter_book"}
IN_A_ROW = 3  # kills before a run is let through and compared


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """`count` kills in all, spread over everything that writes; below 20 none of the runner."""
    rng = random.Random(seed)
    jobs.warm_up()
    for what, (share, until, arms, ready) in STAGES.items():
        _stages(tally, what, _part(count, share), until, arms, ready, rng, folder / what)
    for what, (share, arguments, during) in BUILDS.items() if count >= 20 else ():
        _builds(tally, what, _part(count, share), arguments, during, rng, folder / what)


def _part(count: int, share: float) -> int:
    return max(1, round(count * share))


def _stages(
    tally: Tally, what: str, kills: int, until: str, arms: int, ready: tuple[str, ...],
    rng: random.Random, folder: Path,
) -> None:  # fmt: skip
    work = [
        jobs.TINY.changed(schedule=name) for name in ("loglinear", "uniform", "doubling")[:arms]
    ]
    reference = folder / "undisturbed"
    jobs.start(jobs.stages, reference, until, work).join()
    prepared = {name for name in reference.iterdir() if name.name.split("-")[0] in ready}
    expected = jobs.finished_stages(reference)

    def fresh(place: Path) -> None:
        place.mkdir(parents=True)
        for source in prepared:
            if source.is_dir():
                shutil.copytree(source, place / source.name)

    fresh(folder / "timed")
    start = time.monotonic()
    jobs.start(jobs.stages, folder / "timed", until, work).join()
    lasting = time.monotonic() - start
    resumed = 0
    while kills > 0:
        place = folder / f"killed{kills}"
        fresh(place)
        row = min(kills, IN_A_ROW)
        for _ in range(row):
            victim = jobs.start(jobs.stages, place, until, work)
            victim.join(rng.uniform(0.02, 0.95) * lasting)
            victim.kill()
            victim.join()
            resumed += any(place.rglob("step-*.safetensors"))
            tally.count(f"kill -9 during {what}")
        last = jobs.start(jobs.stages, place, until, work)
        last.join(20 * lasting + 60)
        if last.is_alive():
            last.kill()
        problem = "" if last.exitcode == 0 else f"the next run ended with {last.exitcode}"
        problem = problem or jobs.differences(expected, jobs.finished_stages(place))
        tally.count(f"{what} after kills, compared", problem)
        shutil.rmtree(place)
        kills -= row
    tally.facts[f"{what}: kills with a checkpoint on disk"] = resumed
    tally.say(
        f"{what}: undisturbed {lasting:.1f} s; {resumed} kills had a checkpoint to go on from"
    )
    shutil.rmtree(folder)


def _builds(
    tally: Tally, what: str, kills: int, arguments: tuple[str, ...], during: str,
    rng: random.Random, folder: Path,
) -> None:  # fmt: skip
    arguments = (*jobs.CHAPTER[:1], *arguments, *_declared(arguments))
    first = jobs.build(folder / "undisturbed", folder / "cache0", *arguments)
    _wait_for(during, first)
    start = time.monotonic()
    error = first.communicate()[1]
    lasting = time.monotonic() - start  # of the phase that is disturbed, and what follows
    expected = jobs.pages(folder / "undisturbed")
    if first.returncode or not expected:
        tally.count(f"{what}, undisturbed", f"ended with {first.returncode}: {error[-300:]}")
        return
    killed = dict.fromkeys(("runner", *MARKS), 0)
    while kills > 0:
        place = folder / f"killed{kills}"
        row = min(kills, IN_A_ROW)
        for _ in range(row):
            victim = jobs.build(place / "out", place / "cache", *arguments)
            _wait_for(during, victim)
            time.sleep(rng.uniform(0.05, 0.9) * lasting)
            target = _kill(victim, rng)
            killed[target] += 1
            try:
                message = victim.communicate(timeout=300)[1]  # of a runner that outlives its worker
                problem = "a traceback" if "Traceback" in message and target != "kernel" else ""
            except subprocess.TimeoutExpired:
                victim.kill()
                problem = "the runner hangs"
            tally.count(f"kill -9 of {target} during {what}", problem)
        last = jobs.build(place / "out", place / "cache", *arguments)
        error = last.communicate(timeout=600)[1]
        problem = f"the next build failed: {error[-300:]}" if last.returncode else ""
        problem = problem or jobs.differences(expected, jobs.pages(place / "out"))
        tally.count(f"{what} after kills, compared", problem)
        shutil.rmtree(place)
        kills -= row
    shown = ", ".join(f"{number} {name}" for name, number in killed.items() if number)
    tally.facts[f"{what}: killed"] = shown
    tally.say(f"{what}: undisturbed {lasting:.1f} s; killed {shown}")
    shutil.rmtree(folder, ignore_errors=True)


def _declared(arguments: tuple[str, ...]) -> tuple[str, ...]:
    return jobs.CHAPTER[1:] if "05" in arguments else ()


def processes(runner: subprocess.Popen) -> list[tuple[str, psutil.Process]]:
    """The runner itself and what works below it, by name; nothing once it has ended."""
    found = []
    with contextlib.suppress(psutil.Error):
        found = [("runner", psutil.Process(runner.pid))]
        for process in found[0][1].children(recursive=True):
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                found += [(name, process) for name, mark in MARKS.items() if mark in line]
    return found


def _wait_for(name: str, runner: subprocess.Popen) -> None:
    """Until a process of this name works below the runner, or the runner has ended."""
    while runner.poll() is None and name not in dict(processes(runner)):
        time.sleep(0.05)


def _kill(runner: subprocess.Popen, rng: random.Random) -> str:
    """kill -9 of the runner or of a process below it, chosen by the seed; its name."""
    target, process = rng.choice(processes(runner) or [("runner", runner)])
    try:
        process.kill()
    except psutil.Error:  # it ended by itself meanwhile
        target = "runner"
        runner.kill()
    return target
