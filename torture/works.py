"""Work that must not be lost: checkpoints, stores and records under kills, locks, studies, keys."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import test_codes as stores
import test_distributed as processes
import test_sources as keys
import test_work_lost as lost
import torch
from numpy.random import Generator

from torture.jobs import ROOT
from torture.tally import Tally
from vcqlib.cli import app as cli
from vcqlib.data.code_store import open_codes, write_codes
from vcqlib.files import held, load_tensors, read_record, save_tensors, write_record
from vcqlib.study import plan
from vcqlib.study.samples import read_samples


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """Every kind below, some of them less often."""
    torch.set_num_threads(1)
    tally.kinds({
        "checkpoints damaged in any order": (20, _checkpoints),
        "kill -9 at any step of writing a file or a store": (20, _killed),
        "several holders of one folder, some killed": (2, _holders),
        "a study whose arms fail": (20, _study),
        "keys of stages after a change of the code": (2, _keys),
        "one process, and two that share the work, compared": (0.2, _two),
    }, count, seed, folder)  # fmt: skip


def _checkpoints(rng: Generator, place: Path) -> str:
    """The newest whole one is continued from; what is damaged is set aside and outranks nothing."""
    steps = np.cumsum(rng.integers(1, 10 ** rng.integers(1, 9), rng.integers(1, 6))).tolist()
    for step in steps:
        lost.checkpoints(place, step % 97, keep=9).save(step)
    whole = set(steps)
    for step in rng.permutation(steps)[: rng.integers(0, len(steps) + 1)].tolist():
        path = place / f"step-{step:08d}.safetensors"
        if rng.random() < 0.5:
            lost.DAMAGE[rng.choice(list(lost.DAMAGE))](path)
        else:
            data = bytearray(path.read_bytes())
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
        whole.discard(step)
    for junk in ("step-9.tmp", ".step-00000099.safetensors.x.safetensors", "step-x.safetensors"):
        (place / junk).write_bytes(b"half")
    run, right = lost.checkpoints(place, -1), max(whole, default=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run.resume()
    if found != right or (right and run.parts["model"].weight.item() != right % 97):
        return f"{steps}, whole {sorted(whole)}: continues from {found}"
    after = [right + 1, right + 2, right + 3]
    for step in after:
        run.save(step)
    again = lost.checkpoints(place)
    if again.resume() != after[-1]:
        return f"{steps}, whole {sorted(whole)}: then from {again.last}"
    left = sorted(place.glob("step-*[0-9].safetensors"))
    kept = len(left) == 2 or (place / f"step-{after[-2]:08d}.safetensors").exists()
    return "" if kept else f"{[path.name for path in left]} are left"


def _killed(rng: Generator, place: Path) -> str:
    """The old content or the new one, whole; a kill leaves no more than hidden scratch beside."""
    kind = str(rng.choice(["store", "record", "tensors"]))
    shape = rng.integers(1, 40), rng.integers(1, 5)
    seeds = [int(x) for x in rng.permutation(9)[:3]]

    def write(value: int) -> None:
        if kind == "store":
            codes = np.random.default_rng(value).integers(0, 9, shape)
            write_codes(place / "x", codes, codes[:, 0], [9] * shape[1], {"value": value})
        elif kind == "record":
            write_record(place / "x.json", {"value": value, "more": ["é"] * 1000})
        else:
            save_tensors(place / "x.safetensors", {"value": torch.full(tuple(shape), value)})

    def read() -> int:
        if kind == "store":
            store = open_codes(place / "x")
            codes = np.random.default_rng(store.info["value"]).integers(0, 9, shape)
            assert np.array_equal(store.codes, codes) and np.array_equal(store.labels, codes[:, 0])
            return store.info["value"]
        if kind == "record":
            return read_record(place / "x.json")["value"]
        return int(load_tensors(place / "x.safetensors")[0]["value"].unique().item())

    write(seeds[0])
    fine = {seeds[0]}
    for value in seeds[1:]:
        fine.add(value)
        stores.killed_at(int(rng.integers(1, 30)), lambda value=value: write(value))
        found = read()
        if found not in fine:
            return f"{kind}: {found} where one of {fine} is right"
        fine = {found}
    write(11)
    beside = [p.name for p in [*place.rglob("*")] if p.is_file() and p.name[0] != "."]
    most = 3 if kind == "store" else 1
    return "" if read() == 11 and len(beside) == most else f"{kind}: {beside} are there"


def _holders(rng: Generator, place: Path) -> str:
    """Never two at once, whoever is killed; the last of them gets it."""
    folder, log, children = place / "run", place / "log", []

    def hold(name: int, pause: float) -> None:
        with held(folder), open(log, "a") as file:
            os.write(file.fileno(), f"in {name}\n".encode())
            time.sleep(pause)
            os.write(file.fileno(), f"out {name}\n".encode())

    for name in range(4):
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                hold(name, 0.3)
            os._exit(0)
        children.append(child)
    time.sleep(rng.uniform(0, 0.8))
    killed = children[rng.integers(4)]
    os.kill(killed, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    hold(9, 0)
    lines = [line.split() for line in log.read_text().splitlines()]
    for (what, name), (then, other) in zip(lines, lines[1:], strict=False):
        if what == "in" and (then, other) != ("out", name) and int(name) != children.index(killed):
            return f"two at once: {lines}"
    inside = {name for what, name in lines if what == "in"}
    return "" if len(inside) >= 4 and lines[-1] == ["out", "9"] else f"somebody waited: {lines}"


FAILURES = (ValueError("a value"), ImportError("no module named x"), FileNotFoundError(2, "gone"),
            torch.OutOfMemoryError("CUDA out of memory"), FloatingPointError("loss is nan"),
            MemoryError(), OSError(28, "No space left on device"), ZeroDivisionError("division"),
            ModuleNotFoundError("No module named 'torchvision'"), TypeError("a type"),
            RuntimeError("out of\nmemory"))  # fmt: skip


def _study(rng: Generator, place: Path) -> str:
    """All arms but those that fail are computed, and those are named at the end."""
    runs = [SimpleNamespace(name=f"arm{i}") for i in range(rng.integers(1, 7))]
    failing = {
        run.name: FAILURES[rng.integers(len(FAILURES))] for run in runs if rng.random() < 0.4
    }
    busy = {run.name for run in runs if rng.random() < 0.3}

    def record(run: SimpleNamespace, _: Path) -> None:
        if run.name in busy:
            busy.discard(run.name)
            raise plan.cache.Busy("another process has it")
        if run.name in failing:
            raise failing[run.name]

    said, done = io.StringIO(), []
    with mock.patch.object(plan, "_record", record), contextlib.redirect_stderr(said):
        try:
            for run in plan.compute(runs, place):
                done.append(run.name)
            ended = ""
        except ValueError as error:
            ended = str(error)
    if set(done) != {run.name for run in runs} - failing.keys() or len(done) != len(set(done)):
        return f"{failing}: computed {done}"
    missing = [
        name for name in failing if name not in ended or f"{name} failed" not in said.getvalue()
    ]
    return f"{missing} are not named" if missing else ""


def _keys(rng: Generator, place: Path) -> str:
    """What says nothing changes no key; a statement in what runs changes that of its stage."""
    copy = Path(shutil.copytree(keys.sources.LIBRARY, place / "vcqlib"))
    before = keys.digests(copy)
    stage = str(rng.choice(list(keys.STAGES)))
    module = str(rng.choice(list(before[stage])))
    path = keys.path_of(module, copy)
    text = path.read_text("utf-8")
    lines = text.splitlines()
    tree = keys.ast.parse(text)
    path.write_text("# a note\n\n\n" + keys.ast.unparse(tree) + "\n# the end\n", "utf-8")
    if keys.digests(copy) != before:
        return f"{module}: another layout of the same code changes a key"
    start = keys.sources.Place(*_start(keys.STAGES[stage]))
    bodies = [node for place_, nodes in keys.sources.reach(start, copy).items() for node in nodes
              if place_.module == module and isinstance(node, keys.ast.FunctionDef)]  # fmt: skip
    if not bodies:
        return ""
    names = {node.name for node in bodies}
    tops = [node for node in keys.ast.walk(tree)
            if isinstance(node, keys.ast.FunctionDef) and node.name in names]  # fmt: skip
    at = tops[rng.integers(len(tops))].body[-1].lineno - 1
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    lines.insert(at, f"{indent}print({int(rng.integers(99))})")
    path.write_text("\n".join(lines), "utf-8")
    after = keys.digests(copy)
    if after[stage].get(module) == before[stage][module]:
        return f"{module}, line {at + 1}: a statement more leaves the key of {stage} as it was"
    return ""


def _start(function: object) -> list[str]:
    return [function.__module__.partition(".")[2], *function.__qualname__.split(".")]


def _two(rng: Generator, place: Path) -> str:
    """Codes, samples and their order: the same from one process and from two, in any batches."""
    n, batch, samples = (int(rng.integers(*span)) for span in ((20, 60), (1, 30), (1, 40)))
    first = ["train tokenizer --held-out 0 --dataset digits --length 3 --k-max 8 --tokenizer "
             f"mlp-tiny --n-images {n} --tokenizer-steps 3 --tokenizer-batch 8 --device cpu "
             "--out t", "encode --tokenizer-folder t --out c --device cpu",
             "train ar --codes-folder c --ar nano --ar-steps 3 --ar-batch 8 --device cpu --out a",
             f"sample --ar-folder a --tokenizer-folder t --n-samples {samples} --device cpu "
             f"--batch {batch} --out s.npz"]  # fmt: skip
    second = [f"encode --tokenizer-folder t --out c2 --device cpu --batch {batch}",
              first[-1].replace("s.npz", "s2.npz")]  # fmt: skip
    (place / "lines").write_text("\n".join(second))
    (place / "script.py").write_text(processes.SCRIPT)
    with contextlib.chdir(place), contextlib.redirect_stdout(io.StringIO()):
        for line in first:
            if cli.main(line.split()):
                return f"refused: {line}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   "--nproc-per-node", "2", "script.py", "lines"]  # fmt: skip
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(command, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": path})  # fmt: skip
    if done.returncode:
        return done.stderr[-400:]
    one, two = open_codes(place / "c"), open_codes(place / "c2")
    if not (np.array_equal(one.codes, two.codes) and np.array_equal(one.labels, two.labels)):
        return f"{n} images in batches of {batch}: other codes"
    a, b = read_samples(place / "s.npz"), read_samples(place / "s2.npz")
    same = torch.equal(a.codes, b.codes) and torch.equal(a.labels, b.labels)
    return "" if same else f"{samples} samples in batches of {batch}: others"
