"""Executed notebooks and pages -> a staging folder -> HTML through Jupyter Book."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat

from runner.chapters import INJECTED, PARAMETERS, Book, Chapter, Refused
from runner.lectures import lectures, tables
from runner.profiles import Profile
from runner.yourself import box
from vcqlib.chapters import page_model

STATISTICS = "<!-- run statistics -->"  # where appendix_environment.md gets its tables

# Jupyter Book in a session of its own, which ends with the runner: the end of its input says so.
START = """\
import os, signal, threading
def end_with_runner():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end_with_runner, daemon=True).start()
from jupyter_book.cli.main import main
main()
"""

RELEASED = "1795392000"  # 2026-11-23: pages must not differ from one day to the next


def merge(source: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The source as it is now, with the outputs and the injected cell of its execution.

    Prose and cell metadata may have changed since; the code cells are the same, in order. If
    someone has edited code while the book was being executed, the chapter is refused.
    """
    staged = copy.deepcopy(source)
    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    injected = [cell for cell in ran if INJECTED in cell.metadata.get("tags", [])]
    ran = [cell for cell in ran if INJECTED not in cell.metadata.get("tags", [])]
    code = [cell for cell in staged.cells if cell.cell_type == "code"]
    if [cell.source for cell in code] != [cell.source for cell in ran]:
        title = next((cell.source.partition("\n")[0] for cell in source.cells), "a chapter")
        raise Refused(f"the code of {title!r} was changed while it was executed: build once more")
    for cell, result in zip(code, ran, strict=True):
        cell.outputs, cell.execution_count = result.outputs, result.execution_count
    for index, cell in enumerate(staged.cells):
        if PARAMETERS in cell.metadata.get("tags", []):
            staged.cells[index + 1 : index + 1] = injected
            for given in (cell, *injected):  # the box below them says all that they say
                given.metadata["tags"] = [*given.metadata["tags"], "remove-cell"]
            break
    return staged


def insert(notebook: nbformat.NotebookNode, text: str) -> nbformat.NotebookNode:
    """Put Markdown below the parameters, the injected ones included."""
    tags = [set(cell.metadata.get("tags", [])) for cell in notebook.cells]
    places = [i for i, found in enumerate(tags) if found & {PARAMETERS, INJECTED}]
    cell = nbformat.v4.new_markdown_cell(text, id="run-it-yourself")
    notebook.cells.insert(max(places) + 1, cell)
    return notebook


def stage(
    book: Book,
    profile: Profile,
    out: Path,
    values: dict[Chapter, dict[str, Any]],
    statistics: str,
) -> Path:
    """Lay out `out/stage`: what Jupyter Book reads. Names equal those in the sources' folder.

    `values` has the chapters of this build, each with the parameters that it was given.
    """
    folder = out / "stage"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(book.folder / "_assets", folder / "_assets")
    for bibliography in book.folder.glob("*.bib"):
        shutil.copy(bibliography, folder)
    shutil.copy(book.folder / "_toc.yml", folder)
    ready, plan = {chapter.name: chapter for chapter in values}, lectures(book)
    if "draw" in ready:  # its notebook has made them; they are too large for the page itself
        for name in page_model.DRAWN:
            place = folder / "_assets" / page_model.file_name(name)
            place.write_text(page_model.script(name), encoding="utf-8")
    for name, page in book.pages().items():
        if name in ready:
            chapter = ready[name]
            executed = nbformat.read(out / "notebooks" / f"{name}.ipynb", as_version=4)
            text = box(book, profile, chapter, values[chapter])
            staged = insert(merge(chapter.read(), executed), text)
            nbformat.write(staged, folder / f"{name}.ipynb")
        elif page and page.suffix == ".md":
            text = page.read_text(encoding="utf-8").replace(STATISTICS, statistics)
            text = tables(text, plan)
            (folder / page.name).write_text(text, encoding="utf-8")
        else:  # a few chapters alone: stand-ins keep numbers and links as they are in the book
            text = f"# {_title(page) or name}\n\nThis chapter is not part of this build."
            cell = nbformat.v4.new_markdown_cell(text, id="absent")
            nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / f"{name}.ipynb")
    return folder


def html(book: Book, out: Path, strict: bool) -> Path | None:
    """Build `out/html` from `out/stage` unless it is up to date; None if Jupyter Book objects.

    `strict`: any warning is an error, every reference has to resolve. A single chapter cannot be
    strict, since it refers to pages that are not there.
    """
    target, key_file = out / "html", out / "html.key"
    key = _key(book, out / "stage", strict)
    if target.exists() and key_file.exists() and key_file.read_text() == key:
        return target
    work = jupyter_book(book, out, "html", ["-W", "-n"] if strict else [])
    if work is None:
        return None
    key_file.unlink(missing_ok=True)  # first: an interruption must not leave an older page's key
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)
    shutil.rmtree(out / "jupyter-book")
    key_file.write_text(key)
    return target


def jupyter_book(book: Book, out: Path, builder: str, options: list[str]) -> Path | None:
    """Run Jupyter Book on `out/stage`; its output folder, or None after saying what it objects to.

    The log is `out/logs/BUILDER.log`.
    """
    work = out / "jupyter-book"  # always from nothing, so that no stale page survives
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-c", START, "build", str(out / "stage"), "--builder", builder]
    command += ["--config", str(book.root / "_config.yml"), "--path-output", str(work)]
    command += ["--keep-going", *options]
    log = out / "logs" / f"{builder}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as said:  # a pipe would stay open in what it started
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": RELEASED},
            start_new_session=True,
        )
        try:
            process.wait()
        finally:  # sphinx-sitemap's helper outlives a Jupyter Book that was killed
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdin.close()
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    log.write_text(text, encoding="utf-8")
    if process.returncode:
        found = [line for line in text.splitlines() if "WARNING" in line or "ERROR" in line]
        for line in found or text.splitlines()[-12:]:
            print(f"    {line}", file=sys.stderr)
        print(f"Jupyter Book failed; its log: {log}", file=sys.stderr)
        return None
    return work / "_build" / builder


def _title(page: Path | None) -> str | None:
    """The first heading of a notebook."""
    cells = nbformat.read(page, as_version=4).cells if page else []
    found = re.search(r"^# (.+)$", "\n".join(cell.source for cell in cells), re.MULTILINE)
    return found and found[1]


def _key(book: Book, folder: Path, strict: bool) -> str:
    """Hash of all that the pages are made from."""
    digest = hashlib.sha256(f"{version('jupyter-book')} {strict}".encode())
    extensions = [*(book.folder / "_ext").glob("*.py"), *(book.root / "vcqlib").rglob("*.py")]
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in [book.root / "_config.yml", *sorted(extensions), *sorted(files)]:
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
