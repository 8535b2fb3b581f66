"""What a killed runner leaves behind: no process, no half-written file, nothing believed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from runner.profiles import Profile
from runner.report import Run
from throwaway import ROOT, Throwaway
from torture.kills import processes


def eventually(condition, seconds: float = 300) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(condition())


def test_a_killed_runner_takes_its_workers_along(tmp_path: Path) -> None:
    book = Throwaway(tmp_path)
    book.chapter("01_first", code="import time\nprint('here', flush=True)\ntime.sleep(300)")
    command = [sys.executable, str(ROOT / "book" / "build.py"), "tiny", "--no-html"]
    runner = subprocess.Popen(
        [*command, "--book", str(book.book)], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert eventually(lambda: (tmp_path / "ran.txt").exists())  # both chapters have begun
    below = psutil.Process(runner.pid).children(recursive=True)
    assert len(below) >= 2  # a worker and its kernel
    runner.kill()
    runner.wait()
    _, alive = psutil.wait_procs(below, timeout=300)
    assert alive == []
    book.chapter("01_first")
    done = book.build()
    assert done.returncode == 0, done.stderr
    assert len(book.executed("01_first").cells) == 6  # with the injected cell


@pytest.fixture
def noted(tmp_path: Path) -> tuple[Path, Profile]:
    """An output folder with one executed chapter."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01.ipynb").write_text("{}")
    profile = Profile("tiny", 1, 1)
    Run(tmp_path, profile).note("01", "key", {}, 1.0)
    return tmp_path, profile


def test_a_notebook_is_current_until_its_key_or_a_byte_changes(noted, capsys) -> None:
    out, profile = noted
    assert Run(out, profile).current("01", "key")
    assert not Run(out, profile).current("01", "other") and not Run(out, profile).current(
        "02", "key"
    )
    (out / "notebooks" / "01.ipynb").write_text("{ }")
    assert not Run(out, profile).current("01", "key")
    assert "01.ipynb was changed or damaged; executed again" in capsys.readouterr().err
    (out / "notebooks" / "01.ipynb").unlink()
    assert not Run(out, profile).current("01", "key")


def test_a_damaged_run_record_is_named_and_everything_is_executed_again(noted, capsys) -> None:
    out, profile = noted
    text = (out / "run.json").read_text()
    (out / "run.json").write_text(text.replace('"seconds": 1.0', '"seconds": 2.0'))
    assert not Run(out, profile).current("01", "key")
    said = capsys.readouterr().err
    assert "run.json is damaged" in said and "executed again" in said and said.count("\n") == 1


def test_a_profile_that_is_no_plain_yaml_is_refused(tmp_path: Path) -> None:
    book = Throwaway(tmp_path)
    for text in ("a: !!python/name:os.system", "threads: [", "- 1", ""):
        (book.book / "profiles" / "tiny.yaml").write_text(text)
        done = book.build()
        assert done.returncode == 2 and done.stderr.startswith("refused: tiny.yaml")
        assert done.stderr.count("\n") == 1


def test_a_target_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    book = Throwaway(tmp_path)
    (tmp_path / "file").write_text("")
    done = book.build("tiny", "--no-html", "--out", os.fspath(tmp_path / "file" / "out"))
    assert done.returncode == 1 and done.stderr.startswith("failed: ")
    assert done.stderr.count("\n") == 1 and "file" in done.stderr


@pytest.mark.parametrize("victim", ["runner", "jupyter-book"])
def test_a_kill_during_jupyter_book_leaves_no_process_and_no_wait(tmp_path, victim) -> None:
    book = Throwaway(tmp_path)
    book.like_the_real_one()
    command = [sys.executable, str(ROOT / "book" / "build.py"), "tiny", "--book", str(book.book)]
    runner = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def pages() -> list[psutil.Process]:
        return [process for name, process in processes(runner) if name == "jupyter-book"]

    assert eventually(lambda: pages() or runner.poll() is not None) and pages()
    time.sleep(1)  # its helper, sphinx-sitemap's, has started
    below = pages()
    (runner if victim == "runner" else below[0]).kill()
    assert runner.wait(timeout=60) == (-9 if victim == "runner" else 1)
    _, alive = psutil.wait_procs(below, timeout=60)
    assert alive == []
    assert book.build().returncode == 0
