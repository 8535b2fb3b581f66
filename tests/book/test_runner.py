"""The runner on a throwaway book: what it refuses, what it executes again, how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import build
from runner import profiles
from runner.chapters import Chapter, Refused
from runner.stage import merge
from throwaway import ROOT, Throwaway

BOTH = ["01_first", "02_second"]


@pytest.fixture
def book(tmp_path: Path) -> Throwaway:
    return Throwaway(tmp_path)


@pytest.fixture
def built(book: Throwaway) -> Throwaway:
    """A book whose chapters have been executed once."""
    assert book.build().returncode == 0
    assert book.executions() == BOTH
    return book


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tin"], "unknown profile 'tin': did you mean 'tiny'?"),
        (["tiny", "--only", "01_frist"], "unknown chapter '01_frist': did you mean '01_first'?"),
        (["tiny", "--only", "99"], "unknown chapter '99': known: 01_first, 02_second"),
        (
            ["tiny", "--only", "01", "-p", "n_image", "5"],
            "unknown parameter of 01_first 'n_image': did you mean 'n_images' or 'k_max'?",
        ),
        (
            ["tiny", "--only", "02", "-p", "n_images", "5"],
            "unknown parameter of 02_second 'n_images': known: k_max",
        ),
        (
            ["tiny", "-p", "kmax", "5"],
            "unknown parameter of the chapters 'kmax': did you mean 'k_max'?",
        ),
        (["tiny", "--jobs", "0"], "--jobs must be at least 1, not 0"),
        (
            ["tiny", "-p", "k_max", "[1, 2"],
            "-p k_max: '[1, 2' is neither a Python literal nor YAML",
        ),
        (
            ["tiny", "-p", "k_max", "2024-01-01"],
            "-p k_max: '2024-01-01' is a date, which no chapter takes",
        ),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(
    book: Throwaway, arguments: list[str], message: str
) -> None:
    with pytest.raises(Refused) as refused:
        build.build(build.arguments([*arguments, "--book", str(book.book)]))
    assert str(refused.value) == message
    assert book.executions() == []


def test_a_refusal_is_one_line_and_status_2(book: Throwaway) -> None:
    done = book.build("tin")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "refused: unknown profile 'tin': did you mean 'tiny'?\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("n_images: 16", "n_image: 16"), "unknown parameter in tiny.yaml 'n_image'"),
        (("{k_max: 32}", "{k_mix: 32}"), "unknown parameter of 02_second in tiny.yaml 'k_mix'"),
        (("02_second:", "02_secnd:"), "unknown chapter in tiny.yaml '02_secnd'"),
        (
            ("timeout: 60", "timeout: soon"),
            "tiny.yaml: timeout must be a positive number, not 'soon'",
        ),
        (
            ("timeout: 60", "timeot: 60"),
            "unknown entry in tiny.yaml 'timeot': did you mean 'timeout'?",
        ),
        (("budget_s", "budget"), "unknown entry of 02_second in tiny.yaml 'budget'"),
    ],
)
def test_a_wrong_profile_is_refused(book: Throwaway, change: tuple[str, str], message: str) -> None:
    path = book.book / "profiles" / "tiny.yaml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(Refused) as refused:
        build.build(build.arguments(["tiny", "--book", str(book.book)]))
    assert str(refused.value).startswith(message)
    assert book.executions() == []


def test_a_page_that_is_missing_is_refused(book: Throwaway) -> None:
    (book.book / "notes.md").unlink()
    with pytest.raises(Refused, match="_toc.yml names 'notes'"):
        build.build(build.arguments(["tiny", "--book", str(book.book)]))


def test_parameters_reach_the_chapters_that_declare_them(built: Throwaway) -> None:
    injected = [built.executed(name).cells[2] for name in BOTH]
    assert injected[0].source == "# Parameters\nn_images = 16\n"
    assert injected[1].source == "# Parameters\nk_max = 32\n"
    assert [cell["id"] for cell in injected] == ["injected-parameters"] * 2
    # A value equal to the chapter's own default is not injected.
    assert built.build("tiny", "--no-html", "-p", "n_images", "8").returncode == 0
    tags = [cell.metadata.get("tags", []) for cell in built.executed("01_first").cells]
    assert ["injected-parameters"] not in tags


def test_nothing_changed_nothing_executed(built: Throwaway) -> None:
    done = built.build()
    assert done.returncode == 0
    assert built.executions() == []
    assert "0 of 2 chapters to execute" in done.stdout
    assert built.build("tiny", "--no-html", "--force").returncode == 0
    assert built.executions() == BOTH


def test_what_outputs_depend_on_executes_again(built: Throwaway) -> None:
    built.library.write_text("ONE = 2\n")
    assert built.build().returncode == 0
    assert built.executions() == BOTH
    (built.root / "data").mkdir()
    (built.root / "data" / "MANIFEST.json").write_text("{}")
    assert built.build().returncode == 0
    assert built.executions() == BOTH
    built.chapter("01_first", code="k_max + 2")
    assert built.build().returncode == 0
    assert built.executions() == ["01_first"]
    assert built.build("tiny", "--no-html", "-p", "n_images", "17").returncode == 0
    assert built.executions() == ["01_first"]
    (built.out / "notebooks" / "02_second.ipynb").unlink()
    assert built.build("tiny", "--no-html", "-p", "n_images", "17").returncode == 0
    assert built.executions() == ["02_second"]


def test_the_users_own_file_is_data_too(book: Throwaway) -> None:
    codes = book.root / "codes.npy"
    codes.write_bytes(b"one")
    chapter = Chapter("01_first", book.book / "01_first.ipynb")
    (book.root / "link").symlink_to(book.root / "nowhere")
    (book.root / "loop").symlink_to(book.root)
    (book.root / "again").symlink_to(".")
    values = (str(codes), [f"file:{codes}", "kjv"], str(book.root), f"folder:{book.root}",
              f"parquet:{book.root}?label=x")  # fmt: skip
    for value in values:
        before = chapter.key({"k_max": value}, "")
        assert before == chapter.key({"k_max": value}, "")
        codes.write_bytes(codes.read_bytes() + b"more")
        assert before != chapter.key({"k_max": value}, "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("None", None),
        ("1e-3", 0.001),
        ("true", True),
        ("(2, 4)", [2, 4]),
        ("[shakespeare, kjv]", ["shakespeare", "kjv"]),
        ("folder:/data/my images", "folder:/data/my images"),
    ],
)
def test_a_parameter_reads_as_python_or_yaml(text: str, value: object) -> None:
    assert profiles.parse("name", text) == value


def test_code_edited_during_a_build_is_not_shown_with_older_outputs(built: Throwaway) -> None:
    executed = built.executed("01_first")
    built.chapter("01_first", code="k_max + 2")
    source = Chapter("01_first", built.book / "01_first.ipynb").read()
    with pytest.raises(Refused, match="'# Chapter first' was changed while it was executed"):
        merge(source, executed)


def test_a_failing_chapter_is_named_and_the_others_still_run(book: Throwaway) -> None:
    book.chapter("01_first", code="# this one\nraise RuntimeError('no such thing')")
    done = book.build("tiny")
    partial = book.out / "failed" / "01_first.ipynb"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "01_first failed in cell 5 of 6 (c03: # this one)",
        "    RuntimeError: no such thing",
        f"    partial notebook: {partial}",
        "1 of 2 chapters failed; no HTML",
    ]
    assert "no such thing" in partial.read_text()
    assert not (book.out / "html").exists()
    assert book.executions() == BOTH  # both began, and the second is not executed again
    book.chapter("01_first")
    assert book.build().returncode == 0
    assert book.executions() == ["01_first"]
    assert not partial.exists()


def sleeping(book: Throwaway) -> Path:
    """Give the book a chapter that sleeps; returns the file in which its kernel leaves its id."""
    pid = book.root / "pid.txt"
    book.chapter(
        "01_first",
        code=f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)",
    )
    return pid


def test_a_chapter_past_its_time_limit_is_ended(book: Throwaway) -> None:
    pid = sleeping(book)
    path = book.book / "profiles" / "tiny.yaml"
    path.write_text(path.read_text().replace("timeout: 60", "timeout: 12"))
    done = book.build("tiny", "--no-html", "--only", "01")
    assert done.returncode == 1
    assert "01_first failed in cell 5 of 6 (c03: import os, pathlib, time)" in done.stderr
    assert "stopped: time limit of 12 s" in done.stderr
    with pytest.raises(ProcessLookupError):  # the kernel is gone, too
        os.kill(int(pid.read_text()), 0)


def test_two_builds_of_one_profile_wait_for_each_other(book: Throwaway) -> None:
    book.chapter("01_first", code="import time\ntime.sleep(4)")
    command = [sys.executable, str(ROOT / "book" / "build.py"), "tiny", "--no-html"]
    command += ["--book", str(book.book)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=book.root)
    while not (book.out / "logs").exists():
        assert first.poll() is None
        time.sleep(0.05)
    second = book.build()
    assert first.wait(60) == 0
    assert second.returncode == 0
    assert "another build works in" in second.stderr
    assert "0 of 2 chapters to execute" in second.stdout
    assert book.executions() == BOTH


def test_an_ended_build_leaves_no_process_behind(book: Throwaway) -> None:
    pid = sleeping(book)
    command = [sys.executable, str(ROOT / "book" / "build.py"), "tiny", "--no-html"]
    command += ["--book", str(book.book)]
    build = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=book.root)
    while not (pid.exists() and pid.read_text()):
        assert build.poll() is None
        time.sleep(0.1)
    build.send_signal(signal.SIGTERM)
    assert build.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_record_of_a_run(built: Throwaway) -> None:
    record = json.loads((built.out / "run.json").read_text())
    assert record["profile"] == "tiny"
    assert record["chapters"]["02_second"]["parameters"] == {"k_max": 32}
    assert all(record["chapters"][name]["seconds"] > 0 for name in BOTH)
    assert {"Python", "commit", "processor", "torch"} <= set(record["machine"])


def pages(book: Throwaway) -> dict[str, bytes]:
    """Every file of the built book but the page of run statistics and its source."""
    html = book.out / "html"
    files = {str(path.relative_to(html)): path for path in html.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "notes." not in name}


def test_html_follows_prose_and_repeats_to_the_byte(book: Throwaway) -> None:
    book.like_the_real_one()
    done = book.build("tiny")
    assert done.returncode == 0, done.stderr
    first = pages(book)
    assert b'There are <span class="pasted-text">32</span>' in first["02_second.html"]
    assert b'A line up to <span class="pasted-text">32</span>.' in first["02_second.html"]
    assert b'alt="a line"' in first["02_second.html"]
    assert "02_second" in (book.out / "html" / "notes.html").read_text()  # the statistics
    assert book.build("tiny", "--force").returncode == 0
    (book.out / "html.key").unlink()
    assert book.build("tiny").returncode == 0
    assert pages(book) == first
    book.executions()
    book.chapter("01_first", prose="Other words.")
    assert book.build("tiny").returncode == 0
    assert book.executions() == []  # prose is no reason to execute
    second = pages(book)
    assert b"Other words." in second["01_first.html"]
    assert second["02_second.html"] == first["02_second.html"]
    leftovers = {path.suffix for path in book.out.rglob("*") if path.is_file()}
    assert not leftovers & {".pickle", ".doctree"}


def test_a_warning_fails_the_whole_book_but_not_one_chapter(book: Throwaway) -> None:
    book.like_the_real_one()
    book.chapter("01_first", prose="See [](#nowhere) and {numref}`fig-nowhere`.")
    done = book.build("tiny")
    assert done.returncode == 1
    assert "WARNING" in done.stderr
    assert not (book.out / "html").exists()
    alone = book.build("tiny", "--only", "01", "-p", "k_max", "9")
    assert alone.returncode == 0, alone.stderr
    page = book.out / "chapter" / "html" / "01_first.html"
    assert '<span class="pasted-text">9</span>' in page.read_text()
