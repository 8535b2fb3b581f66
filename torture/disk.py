"""Full and read-only disks, vanished files, full shared memory: one line, nothing corrupted."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from torture import jobs
from torture.tally import Tally, refusal, unclear
from vcqlib import conditional_entropy
from vcqlib.cli import app as cli
from vcqlib.data.code_store import open_codes, write_codes
from vcqlib.data.image_sets import load_images
from vcqlib.data.vendored import data_root, read_vendored
from vcqlib.files import load_tensors, read_record, save_tensors, write_record

SMALL, LARGE = 96 << 10, 256 << 20  # bytes


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """Every case once, `count` times over; 0: once, without the chapters."""
    jobs.warm_up()
    for turn in range(max(count, 1)):
        place = folder / str(turn)
        for name in ("disk", "rest"):
            (place / name).mkdir(parents=True)
        _full(tally, place / "disk", place / "rest", chapters=count > 0)
        _read_only(tally, place / "disk", place / "rest", chapters=count > 0)
        _vanished(tally, place / "rest")
        _shared_memory(tally, place / "rest")


@contextlib.contextmanager
def small_disk(folder: Path, size: int = SMALL, options: str = "") -> Iterator[bool]:
    """A file system of `size` bytes at `folder`; without the right to mount, a limit on files."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield True
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield False
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _full(tally: Tally, disk: Path, rest: Path, chapters: bool) -> None:
    jobs.must(jobs.stages_of, rest / "undisturbed", "tokenizer")
    expected = jobs.finished_stages(rest / "undisturbed")
    with small_disk(disk) as mounted:
        tally.facts["full disk"] = "tmpfs of 96 KiB" if mounted else "limit of 96 KiB on every file"
        for what, write, read in _files(disk):
            write(1)
            problem = refusal(lambda write=write: write(100_000), str(disk))
            if not problem and read() != 1:
                problem = "what was there before is gone"
            if not problem and (left := list(disk.rglob(".*"))):
                problem = f"{left[0].name} was left behind"
            tally.count(f"full disk: {what}", problem)
        table = rest / "t.npy"
        np.save(table, np.arange(40_000).reshape(-1, 2) % 7)
        if mounted:
            (disk / "filler").write_bytes(bytes(SMALL - _used(disk)))
            tally.count("full disk: vcq entropy --json", _cli(table, disk / "r.json", "r.json"))
            (disk / "filler").unlink()
        message = jobs.message_of(jobs.stages_of, disk / "cache", "tokenizer")
        ours = message is not None and not message.startswith("bare ")
        problem = unclear(message) if ours else str(message)
        tally.count("full disk: training", problem)
        if chapters:
            done = jobs.build(disk / "out", rest / "cache", "smoke", "--only", "01", "--no-html")
            tally.count("full disk: chapter", _build_problem(done))
        if mounted:  # space again: the stage is computed from what is there
            subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(disk)], check=True)
            shutil.rmtree(disk / "out", ignore_errors=True)
            jobs.message_of(jobs.stages_of, disk / "cache", "tokenizer")
            problem = jobs.differences(expected, jobs.finished_stages(disk / "cache"))
            tally.count("full disk: training after space was made, compared", problem)


def _files(disk: Path):
    """(what, write(n) a value of about n times 8 bytes, read() → n of what is there)."""
    record, codes, tensors = disk / "a.json", disk / "store", disk / "a.safetensors"

    def write_store(n: int) -> None:
        write_codes(codes, np.zeros((n, 1), int), np.zeros(n, int), [4])

    yield (
        "record",
        lambda n: write_record(record, {"n": ["12345678"] * n}),
        lambda: len(read_record(record)["n"]),
    )
    yield "code store", write_store, lambda: len(open_codes(codes).codes)
    yield (
        "tensors",
        lambda n: save_tensors(tensors, {"x": torch.zeros(n, dtype=torch.float64)}),
        lambda: len(load_tensors(tensors)[0]["x"]),
    )


def _used(disk: Path) -> int:
    usage = os.statvfs(disk)
    return (usage.f_blocks - usage.f_bfree) * usage.f_bsize


def _cli(table: Path, target: Path, *names: str) -> str:
    """What is wrong with how `vcq entropy --json` fails."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main(["entropy", str(table), "--json", str(target)])
    return unclear(said.getvalue(), *names) if status == 2 else f"exit code {status}"


def _build_problem(build: subprocess.Popen) -> str:
    message = build.communicate(timeout=300)[1]
    if build.returncode == 0:
        return "the build succeeded"
    return f"a traceback: {message[-300:]}" if "Traceback" in message else ""


def _read_only(tally: Tally, disk: Path, rest: Path, chapters: bool) -> None:
    with small_disk(disk, LARGE) as mounted:
        if not mounted:
            tally.say("read-only target: not tried, this user may not mount")
            return
        values = list(_files(disk))
        for _, write, _ in values:
            write(1)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for what, write, read in values:
            problem = refusal(lambda write=write: write(2), str(disk))
            tally.count(f"read-only: {what}", problem or ("" if read() == 1 else "changed"))
        tally.count(
            "read-only: vcq entropy --json", _cli(rest / "t.npy", disk / "r.json", "r.json")
        )
        problem = jobs.refused_by(jobs.stages_of, disk / "cache", "tokenizer", names=(str(disk),))
        tally.count("read-only: training", problem)
        if chapters:
            done = jobs.build(disk / "out", rest / "cache", "smoke", "--only", "01", "--no-html")
            tally.count("read-only: chapter", _build_problem(done))


def _vanished(tally: Tally, rest: Path) -> None:
    data = rest / "data"
    (data / "text").mkdir(parents=True)
    shutil.copy(data_root() / "MANIFEST.json", data)
    before = os.environ.get("VCQ_DATA")
    os.environ["VCQ_DATA"] = str(data)
    try:
        problem = refusal(lambda: read_vendored("text/kjv.txt.xz"), "kjv.txt.xz", "git checkout")
        tally.count("vanished: vendored data", problem)
    finally:
        os.environ.pop("VCQ_DATA")
        if before is not None:
            os.environ["VCQ_DATA"] = before

    (rest / "pictures").mkdir()
    for i in range(6):
        Image.new("L", (8, 8), i).save(rest / "pictures" / f"{i}.png")
    (rest / "pictures" / "2.png").unlink()
    (rest / "pictures" / "2.png").symlink_to(rest / "gone.png")
    problem = refusal(lambda: load_images(f"folder:{rest / 'pictures'}", "train"), "2.png")
    tally.count("vanished: picture", problem)

    np.save(rest / "cut.npy", np.zeros((50_000, 2), np.uint16))
    codes = np.load(rest / "cut.npy", mmap_mode="r")
    os.truncate(rest / "cut.npy", 1000)
    tally.count("cut short: mapped tokens", refusal(lambda: conditional_entropy(codes), "cut.npy"))
    tally.count(
        "vanished: tokens, vcq entropy", _cli(rest / "gone.npy", rest / "r.json", "gone.npy")
    )

    jobs.must(jobs.stages_of, rest / "cache", "tokenizer")
    next((rest / "cache").glob("tokenizer-*/weights.safetensors")).unlink()
    problem = jobs.refused_by(
        jobs.stages_of, rest / "cache", "tokenizer", names=("weights.safetensors", "delete")
    )
    tally.count("vanished: weights of a finished stage", problem)


def _shared_memory(tally: Tally, rest: Path) -> None:
    """Training and encoding while /dev/shm is full, in a mount namespace of its own."""
    script = (
        "mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 4096 /dev/zero > /dev/shm/full && "
        'exec "$@"'
    )
    code = (
        "from torture import jobs; from pathlib import Path; import sys; "
        "jobs.stages(Path(sys.argv[1]), 'codes', [jobs.TINY])"
    )
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code]
    done = subprocess.run(
        [*command, str(rest / "no-shm")], capture_output=True, text=True, cwd=jobs.ROOT
    )
    if done.returncode and "unshare" in done.stderr:
        tally.say("full shared memory: not tried, this user may not make a namespace")
        return
    jobs.must(jobs.stages_of, rest / "with-shm", "codes")
    problem = done.stderr[-300:] if done.returncode else ""
    listings = [jobs.finished_stages(rest / name) for name in ("with-shm", "no-shm")]
    tally.count(
        "full shared memory: training and encoding, compared",
        problem or jobs.differences(*listings),
    )
