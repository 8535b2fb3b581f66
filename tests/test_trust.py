"""A slice of each part of `make torture`, the page it writes, and what no source may contain."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcqlib.files import read_record

ROOT = Path(__file__).resolve().parents[1]
SLICES = {"kills": 4, "disk": 0, "flips": 2, "determinism": 1, "fuzz": 12, "hostile": 1,
          "load": 200_000, "continuity": 1, "statistics": 8, "readers": 8, "walks": 6, "works": 5,
          "outputs": 4}  # fmt: skip
OF_OURS = ("vcqlib", "book", "benchmarks", "data", "torture", "tests")


@pytest.mark.parametrize("part", SLICES)
def test_nothing_is_lost(part: str, tmp_path: Path) -> None:
    record = tmp_path / "torture.json"
    command = [sys.executable, "-m", "torture", "--only", part, "--count", str(SLICES[part])]
    command += ["--minutes", "0.05", "--record", str(record)]
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=one)
    assert record.exists(), done.stderr[-2000:]
    (run,) = read_record(record)["runs"]
    assert run["lost"] == [] and done.returncode == 0
    assert run["part"] == part and sum(run["tried"].values()) >= 3


def test_the_page_shows_the_record_as_it_is() -> None:
    sys.path.insert(0, str(ROOT))
    from torture.report import page

    shown = (ROOT / "book" / "appendix_trust.md").read_text(encoding="utf-8")
    assert shown == page(), "build it again: python -m torture.report"
    assert "Lost: **nothing**" in shown  # in the latest run of each kind
    assert "<!--" not in shown and "appendix_trust" in (ROOT / "book" / "_toc.yml").read_text()


def sources() -> Iterator[tuple[Path, ast.AST]]:
    """Every Python file of ours, and the code cells of every chapter."""
    import nbformat

    for folder in OF_OURS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                plain = re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", cell.source)  # Colab's set-up
                yield path, ast.parse(plain)


def problems(path: Path, tree: ast.AST) -> Iterator[str]:
    """What a source may not contain: pickles, shells, YAML with tags, tensors with code."""
    makes_traps = {"torture", "tests"} & set(path.parts)  # which try hostile pickles
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and not makes_traps:
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            for name in names & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}:
                yield f"{path}:{node.lineno} imports {name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        where = f"{path}:{node.lineno} {called}"
        if given.get("shell", "False") != "False" or called in ("os.system", "os.popen"):
            yield f"{where} uses a shell"
        if called == "torch.load" and given.get("weights_only") != "True":
            yield f"{where} without weights_only=True"
        if called in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            yield f"{where} unpickles"
        if called.startswith("yaml.") and "load" in called and called != "yaml.safe_load":
            yield f"{where} reads tags"
        if called in ("torch.save", "eval", "exec") and not makes_traps:
            yield where


def test_no_source_unpickles_or_runs_a_shell() -> None:
    found = [problem for path, tree in sources() for problem in problems(path, tree)]
    assert found == []


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from dill import loads", "subprocess.run('ls', shell=True)",
     "torch.load('x')", "torch.load('x', weights_only=False)", "np.load('x', allow_pickle=True)",
     "yaml.load(text, Loader=yaml.Loader)", "yaml.unsafe_load(text)", "os.system('ls')",
     "torch.save(model, 'x')", "eval(text)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert len(list(problems(Path("vcqlib/x.py"), ast.parse(code)))) == 1


def test_imports_open_no_connection() -> None:
    """Every module of ours, in a process where making a socket ends it."""
    files = [path.relative_to(ROOT) for path in (ROOT / "vcqlib").rglob("[a-z]*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in files]
    code = (
        "import importlib, socket, os\n"
        "def refuse(*_, **__): os._exit(77)\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        f"for name in {sorted(modules)!r}: importlib.import_module(name)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
