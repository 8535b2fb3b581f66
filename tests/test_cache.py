"""Stages: built once, whole or absent, named by what they depend on."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from vcqlib.study import cache, sources
from vcqlib.theory.cliff import cliff_position

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VCQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def builder(log, text="result"):
    def build(folder):
        log.append(folder)
        (folder / "a.txt").write_text(text)
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "b.txt").write_text("b")

    return build


def process(code, cache_folder):
    """A Python process that has `stage` and `log` (a file to append to)."""
    head = (
        "import sys, time\nfrom pathlib import Path\nfrom vcqlib.study.cache import stage\n"
        f"log = Path({str(cache_folder.parent / 'log')!r})\n"
    )
    environment = os.environ | {"VCQ_CACHE": str(cache_folder), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", head + code], env=environment,
                            stdout=subprocess.PIPE, text=True)  # fmt: skip


def test_built_once_for_each_set_of_inputs():
    log = []
    first = cache.stage("thing", {"x": 1}, builder(log))
    assert cache.stage("thing", {"x": 1}, builder(log)) == first
    assert len(log) == 1 and (first / "a.txt").read_text() == "result"
    for others in (("thing", {"x": 2}), ("other", {"x": 1})):
        assert cache.stage(*others, builder(log)) != first
    assert len(log) == 3
    ours = cache.key("a", {"x": 1, "y": 2}, builder)
    assert ours == cache.key("a", {"y": 2, "x": 1}, builder)
    assert ours != cache.key("a", {"x": 1, "y": 2}, cliff_position)  # code of the library counts


def test_the_root_is_the_clones_whatever_the_working_directory(tmp_path, monkeypatch):
    """A chapter that Jupyter opens in book/ finds what `make book` trained."""
    monkeypatch.delenv("VCQ_CACHE")
    code = "from vcqlib.study import cache; print(cache.root())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ).stdout.strip()
        for place in (ROOT, ROOT / "book", tmp_path)
    }  # fmt: skip
    assert found == {str(ROOT.resolve() / "build" / "cache")}
    monkeypatch.setenv("VCQ_CACHE", "mine")
    monkeypatch.chdir(tmp_path)
    assert cache.root() == tmp_path / "mine"


def test_without_a_clone_the_root_is_the_users(tmp_path, monkeypatch):
    monkeypatch.delenv("VCQ_CACHE")
    monkeypatch.setenv("VCQ_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cache, "LIBRARY", tmp_path / "site-packages" / "vcqlib")
    assert cache.root() == tmp_path / "data"


def test_a_failed_build_leaves_no_result():
    def fail(folder):
        (folder / "a.txt").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.stage("thing", {}, fail)
    folder = cache.stage("thing", {}, builder([]))
    assert (folder / "a.txt").read_text() == "result"


@pytest.mark.parametrize("name", ["a.txt", "sub/b.txt"])
@pytest.mark.parametrize("damage", [lambda p: p.write_text("x"), lambda p: p.unlink()])
def test_a_changed_file_is_named_with_the_remedy(name, damage):
    folder = cache.stage("thing", {}, builder([]))
    damage(folder / name)
    with pytest.raises(ValueError, match=f"{folder / name} is missing or damaged: delete {folder}"):
        cache.stage("thing", {}, builder([]))
    shutil.rmtree(folder)
    cache.stage("thing", {}, builder([]))


def test_processes_at_once_build_once(folder):
    code = """
def build(folder):
    with log.open("a") as f: f.write("built\\n")
    time.sleep(0.3)
    (folder / "a.txt").write_text("result")
print((stage("thing", {}, build) / "a.txt").read_text())
"""
    running = [process(code, folder) for _ in range(4)]
    assert [p.communicate(timeout=120)[0] for p in running] == ["result\n"] * 4
    assert (folder.parent / "log").read_text() == "built\n"


def test_a_killed_process_leaves_nothing_that_counts(folder):
    code = """
def build(folder):
    (folder / "a.txt").write_text("half")
    (folder / ".a.txt.tmp").write_text("temporary")
    print("here", flush=True)
    time.sleep(600)
stage("thing", {}, build)
"""
    running = process(code, folder)
    assert running.stdout.readline() == "here\n"
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stdout.close()
    stage = folder / cache.key("thing", {}, builder)
    assert (stage / "a.txt").exists() and not (stage / "done.json").exists()
    log = []
    assert cache.stage("thing", {}, builder(log)) == stage
    assert len(log) == 1 and not (stage / ".a.txt.tmp").exists()


def test_busy_stages_are_put_off_then_waited_for(folder):
    """While A is held elsewhere, B is done first; the holder lets go only once B is there."""
    held, done = threading.Event(), threading.Event()

    def hold():
        folder.mkdir()
        with FileLock(folder / (cache.key("A", {}, builder) + ".lock")):
            held.set()
            done.wait(60)

    order = []

    def call(name):
        def build(path):
            order.append(name)
            (path / "x").write_text(name)
            if name == "B":
                done.set()

        return lambda: cache.stage(name, {}, build)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    with pytest.raises(cache.Busy), cache.without_waiting():
        call("A")()
    cache.share([call("A"), call("B")])
    thread.join()
    assert order == ["B", "A"]


@pytest.mark.parametrize(
    ("edit", "same"),
    [
        (("# why\n", ""), True),
        (('"""Doc."""', '"""Other words."""'), True),
        (('    """Doc."""\n', ""), True),
        (("x + 1", "x  +  1  # spaced"), True),
        (("x + 1", "x + 2"), False),
        (('"text"', '"other"'), False),
    ],
)
def test_only_code_changes_the_key(edit, same, tmp_path):
    def f():
        pass

    f.__module__, f.__qualname__ = "vcqlib.module", "f"
    source = '# why\ndef f(x):\n    """Doc."""\n    y = "text"\n    return x + 1\n'
    found = []
    for name, text in (("a", source), ("b", source.replace(*edit))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text(text)
        found.append(sources.digests(f, tmp_path / name))
    assert (found[0] == found[1]) == same
