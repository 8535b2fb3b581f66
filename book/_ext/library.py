"""The library's docstrings as pages. They are written as plain text with a little Markdown, which
autodoc would misread as reStructuredText: this turns the one into the other."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import library_map
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # vcqlib of this very clone
FROM_CODE = {
    "<!-- every module -->": library_map.reference,
    "<!-- rooms -->": lambda: library_map.raw(library_map.rooms_drawing()),
    "<!-- way -->": lambda: library_map.raw(library_map.way_drawing()),
    "<!-- tasks -->": library_map.tasks,
    "<!-- what each module is -->": library_map.every_module,
}
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def prose(line: str) -> str:
    """`code` -> ``code``; a bar, a star or an underscore at a word's end is that character."""
    pieces = re.split(r"(``?[^`]+``?)", line)
    for i, piece in enumerate(pieces):
        if i % 2:
            pieces[i] = CODE.sub(r"``\1``", piece)
        else:
            pieces[i] = re.sub(r"[|*]|(?<=\w)_(?!\w)", r"\\\g<0>", piece)
    return "".join(pieces)


def table(rows: list[str]) -> list[str]:
    """A Markdown table as a `list-table`."""
    cells = [re.split(r"(?<!\\)\|", row.strip().strip("|")) for row in rows]
    lines = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in cells[:1] + cells[2:]:
        for i, cell in enumerate(row):
            lines.append(("   * - " if i == 0 else "     - ") + prose(cell.strip()))
    return [*lines, ""]


def restructure(what: str, lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText; what is indented in a module's is code."""
    found: list[str] = []
    in_code = False
    for bar, group in groupby(lines, key=lambda line: line.lstrip().startswith("|")):
        block = list(group)
        if bar and len(block) > 2:
            found += table(block)
            continue
        for line in block:
            code = what == "module" and line.startswith("    ")
            if code and not in_code:
                found += ["::", ""]
            in_code = code or (in_code and not line)
            found.append(line if code else prose(line))
    return found


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = restructure(what, lines)


def complete(app: Sphinx, page: str, source: list[str]) -> None:
    """Put what is made from the code where the page says so."""
    for place, made in FROM_CODE.items():
        if place in source[0]:
            source[0] = source[0].replace(place, made())


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
