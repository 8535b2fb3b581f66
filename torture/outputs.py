"""What is said, and where it goes: the numbers are written, whatever happens to the output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from numpy.random import Generator

from torture.tally import Tally, unclear
from vcqlib import conditional_entropy
from vcqlib.cli import app as cli

ENCODINGS = ("ascii", "latin-1", "cp437", "cp1252", "koi8-r", "utf-8", "utf-16", "utf-7",
             "shift_jis", "ascii:strict", "utf-8:surrogateescape")  # fmt: skip
LOCALES = ({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
           {"LC_ALL": "nonsense"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}, {"COLUMNS": "1"},
           {"COLUMNS": "wide"}, {"PYTHONWARNINGS": "error"}, {"TERM": ""}, {"HOME": "/nowhere"},
           {"FORCE_COLOR": "1"}, {"PYTHONUNBUFFERED": "1"}, {"LINES": "0"})  # fmt: skip
NAMES = ("a b", "é", "日本", "a\nb", "a\tb", "\x1b[31m", "-a", "--json", "'", '"', "$HOME", "*",
         "~", "%s", "{0}", "\udcff", "a" * 120, ".hidden", "a.npy", "[0]", "?", "…", "con",
         "😀")  # fmt: skip


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """Every kind below, some of them less often."""
    tally.kinds({
        "terminals, pipes and files behind the output": (3, _output),
        "JSON into files, links, pipes and devices": (3, _json),
        "names of files that are hard to say": (20, _names),
    }, count, seed, folder)  # fmt: skip


def _codes(rng: Generator, place: Path) -> tuple[Path, float]:
    codes = rng.integers(0, 3, (rng.integers(2, 40), rng.integers(1, 60)))
    np.save(place / "codes.npy", codes)
    return place / "codes.npy", conditional_entropy(codes).total_bits


def _written(path: Path, bits: float) -> str:
    found = json.loads(path.read_text())["total_bits"] if path.is_file() else "nothing"
    return "" if found == bits else f"{found} is written where {bits} is right"


def _vcq(place: Path, *words: object, environment: dict[str, str], **options: object):
    command = [sys.executable, "-m", "vcqlib", *map(str, words)]
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": root} | environment, cwd=place,
                            **options)  # fmt: skip


def _output(rng: Generator, place: Path) -> str:
    """Any encoding and locale; a reader that goes away after some bytes; a disk that is full."""
    codes, bits = _codes(rng, place)
    environment = {"PYTHONIOENCODING": str(rng.choice(ENCODINGS))} if rng.random() < 0.7 else {}
    environment |= LOCALES[rng.integers(len(LOCALES))]
    sink = str(rng.choice(["pipe", "short pipe", "full", "null", "file", "closed"]))
    words = ["entropy", codes, "--json", place / "o.json"]
    error = {"stderr": subprocess.PIPE}
    if sink in ("full", "null"):
        with open(f"/dev/{sink}", "wb") as out:
            process = _vcq(place, *words, environment=environment, stdout=out, **error)
    elif sink == "file":
        with open(place / "said", "wb") as out:
            process = _vcq(place, *words, environment=environment, stdout=out, **error)
    elif sink == "closed":
        process = _vcq(place, *words, environment=environment, preexec_fn=lambda: os.close(1),
                       **error)  # fmt: skip
    else:
        process = _vcq(place, *words, environment=environment, stdout=subprocess.PIPE, **error)
        if sink == "short pipe":
            process.stdout.read(int(rng.integers(0, 300)))
            process.stdout.close()
        else:
            threading.Thread(target=process.stdout.read).start()
    said = process.stderr.read().decode(errors="replace")
    status, expected = process.wait(), 2 if sink == "full" else 0
    problem = _written(place / "o.json", bits)
    if status != expected or "Traceback" in said or len(said.splitlines()) > (status == 2):
        problem = problem or f"exit code {status}: {said[-300:]}"
    return problem and f"{sink}, {environment}: {problem}"


def _json(rng: Generator, place: Path) -> str:
    """The target is written into, never replaced by something else; nothing is left beside it."""
    codes, bits = _codes(rng, place)
    kind = str(rng.choice(["file", "old", "link", "dangling", "deep", "fifo", "/dev/stdout",
                           "/dev/fd/1", "folder", "dots"]))  # fmt: skip
    target, real = place / "o.json", place / "o.json"
    out = subprocess.PIPE
    if kind == "old":
        target.write_text("{}" * 9999)
    elif kind in ("link", "dangling"):
        real = place / "far" / "x.json"
        if kind == "link":
            real.parent.mkdir()
            real.write_text("{}")
        target.symlink_to(real)
    elif kind == "deep":
        target = real = place / "a" / "b" / "c.json"
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind.startswith("/dev"):
        target = Path(kind)
    elif kind == "folder":
        target.mkdir()
    elif kind == "dots":
        target = place / "x" / ".." / "o.json"
    before = target.is_symlink(), target.is_fifo()
    process = _vcq(place, "entropy", codes, "--json", target, environment={}, stdout=out,
                   stderr=subprocess.PIPE)  # fmt: skip
    piped = target.read_text() if kind == "fifo" else ""
    said, error = (text.decode() for text in process.communicate())
    if kind == "folder":
        fine = process.returncode == 2 and not unclear(error, "vcq")
        return "" if fine else f"{kind}: exit code {process.returncode}: {error[-300:]}"
    if process.returncode or error:
        return f"{kind}: exit code {process.returncode}: {error[-300:]}"
    if kind.startswith("/dev"):
        piped = said[said.index("{") : said.rindex("}") + 1]
    if piped:
        (place / "piped").write_text(piped)
        real = place / "piped"
    if (target.is_symlink(), target.is_fifo()) != before:
        return f"{kind}: the target has become something else"
    hidden = [path.name for path in place.rglob(".*")]
    return _written(real, bits) or (f"{hidden} is left" if hidden else "")


def _names(rng: Generator, place: Path) -> str:
    """A file of any name is read; what is said of it is one line."""
    name = "".join(rng.choice(NAMES, rng.integers(1, 3)))[:200]
    suffix = str(rng.choice([".npy", ".NPY", ".npz", ".json", ".txt", ""]))
    path = place / f"{name}{suffix}"
    kind = suffix.lower() if suffix else ""
    codes = rng.integers(0, 3, (9, 3))
    content = io.BytesIO()
    if path.suffix.lower() == ".npz":
        np.savez(content, codes=codes)
    elif path.suffix.lower() == ".json":
        content.write(json.dumps(codes.tolist()).encode())
    else:
        np.save(content, codes)
    bad = rng.random() < 0.5
    path.write_bytes(content.getvalue()[: 40 if bad else None])
    known = path.suffix.lower() in (".npy", ".npz", ".json")
    said, told, out = io.StringIO(), io.StringIO(), place / "out.json"
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
        status = cli.main(["entropy", str(path), "--json", str(out)])
    if "\x1b" in told.getvalue() + said.getvalue():
        return f"{path.name!r}: the terminal is steered: {said.getvalue()!r}"
    if known and not bad:
        problem = _written(out, conditional_entropy(codes).total_bits)
        return problem and f"{path.name!r}: {problem} {said.getvalue()}"
    if status != 2:
        return f"{path.name!r}, {kind}: exit code {status}"
    problem = unclear(said.getvalue(), "vcq")
    return problem and f"{path.name!r}: {problem}"
