"""The book's pages, what each chapter's parameters cell declares, and when a chapter is stale."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from vcqlib.checks import unknown_name
from vcqlib.data.image_folder import walk
from vcqlib.data.image_sets import own_files
from vcqlib.files import user_path

PARAMETERS, INJECTED = "parameters", "injected-parameters"


class Refused(ValueError):
    """A request that is refused before anything runs; the message is one line for the user."""


def suggest(kind: str, name: str, valid: Iterable[str]) -> Refused:
    """`unknown chapter 'x': did you mean …`, with the nearest valid names."""
    return Refused(str(unknown_name(kind, name, valid)))


@dataclass(frozen=True)
class Chapter:
    """One notebook of the book; `name` is its file name without `.ipynb`."""

    name: str
    path: Path

    def read(self) -> nbformat.NotebookNode:
        return nbformat.read(self.path, as_version=4)

    def declared(self) -> dict[str, Any]:
        """Parameter names with their defaults; a default that is no literal is given as None."""
        import papermill  # 0.5 s, not needed by every command

        found = papermill.inspect_notebook(str(self.path))
        return {name: _literal(entry["default"]) for name, entry in found.items()}

    def overrides(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters that this chapter declares with another default value."""
        declared = self.declared()
        return {
            name: value
            for name, value in sorted(parameters.items())
            if name in declared and repr(declared[name]) != repr(value)
        }

    def key(self, parameters: dict[str, Any], fingerprint: str) -> str:
        """Hash of what the outputs depend on: code, parameters, library and data, not prose."""
        cells = [cell for cell in self.read().cells if cell.cell_type == "code"]
        code = [[cell.source, PARAMETERS in cell.metadata.get("tags", [])] for cell in cells]
        files = {name: list(_state(value)) for name, value in parameters.items()}
        text = json.dumps([code, parameters, files, fingerprint], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Book:
    """The sources: `folder` holds _toc.yml and the pages, its parent _config.yml and vcqlib."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder.parent

    def pages(self) -> dict[str, Path | None]:
        """Name -> file of every page in _toc.yml, in order; None where the file is missing."""
        toc = yaml.safe_load((self.folder / "_toc.yml").read_text(encoding="utf-8"))
        pages = {}
        for name in _toc_names(toc):
            paths = [self.folder / (name + suffix) for suffix in (".ipynb", ".md")]
            pages[name] = next((path for path in paths if path.exists()), None)
        return pages

    def chapters(self) -> list[Chapter]:
        """The notebooks among the pages that exist."""
        pages = self.pages().items()
        return [Chapter(name, path) for name, path in pages if path and path.suffix == ".ipynb"]

    def select(self, names: list[str]) -> list[Chapter]:
        """Chapters by name, by file, or by the part before the underscore (`03`); none: all.

        All means the whole book: a page that is missing is refused then.
        """
        missing = [name for name, path in self.pages().items() if path is None]
        if missing and not names:
            raise Refused(f"_toc.yml names {missing[0]!r}, but {self.folder} has no such page")
        known = {chapter.name: chapter for chapter in self.chapters()}
        wanted = set(known) if not names else set()
        for name in names:
            stem = Path(name).name.removesuffix(".ipynb")
            hits = {key for key in known if stem in (key, key.split("_")[0])}
            if not hits:
                raise suggest("chapter", name, known)
            wanted |= hits
        return [chapter for name, chapter in known.items() if name in wanted]

    def fingerprint(self) -> str:
        """Hash of the library's sources, the data manifest and the results that chapters show."""
        digest = hashlib.sha256()
        data = self.root / "data"
        files = sorted((self.root / "vcqlib").rglob("*.py"))
        files += [data / "MANIFEST.json", *sorted((data / "results").rglob("*"))]
        for path in files:
            if path.is_file() and path.name != "torture.json":  # read by no chapter
                digest.update(f"{path.relative_to(self.root)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def _toc_names(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for entry in node:
            yield from _toc_names(entry)
    elif isinstance(node, dict):
        for key in ("root", "file"):
            if key in node:
                yield node[key]
        for key in ("parts", "chapters", "sections"):
            yield from _toc_names(node.get(key, []))


def _literal(source: str) -> Any:
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return None


def _state(value: Any) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of the user's own files: `folder:/path`, `file:/path`, `/path.npy`, …

    Paths may stand in a list. A folder may also be named as it is (tokens, a file an image).
    """
    if isinstance(value, list | tuple):
        for item in value:
            yield from _state(item)
    if not isinstance(value, str) or not value:
        return
    path = user_path(own_files(value) or value.removeprefix("file:"))
    for place in walk(path) if path.is_dir() else [path]:
        if place.is_file():  # no link to nowhere
            name = place.relative_to(path) if place != path else path.name
            yield str(name), place.stat().st_size, place.stat().st_mtime_ns
