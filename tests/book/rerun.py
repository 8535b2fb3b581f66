"""Executes a chapter with given parameters and reads what its page would say."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill

from runner.chapters import Book
from throwaway import ROOT

BOOK = Book(ROOT / "book")
GLUED = re.compile(r"\{glue:text\}`([^`:]+)(?::([^`]+))?`")


@dataclass(frozen=True)
class Rerun:
    """An executed chapter: the numbers that its prose quotes, its captions and its outputs."""

    notebook: nbformat.NotebookNode

    @property
    def glue(self) -> dict[str, Any]:
        """Name -> value of everything the chapter glued."""
        values = {}
        for cell in self.notebook.cells:
            for output in cell.get("outputs", []):
                name = output.get("metadata", {}).get("scrapbook", {}).get("name")
                if name:
                    values[name] = _value(output["data"])
        return values

    @property
    def prose(self) -> str:
        """The Markdown cells as a reader sees them, with the glued values in place."""
        cells = [cell.source for cell in self.notebook.cells if cell.cell_type == "markdown"]
        return self._filled("\n\n".join(cells))

    @property
    def captions(self) -> dict[str, str]:
        """Figure name -> caption, with the glued values in place."""
        figures = [cell.metadata.get("mystnb", {}).get("figure") for cell in self.notebook.cells]
        return {figure["name"]: self._filled(figure["caption"]) for figure in figures if figure}

    def _filled(self, text: str) -> str:
        glue = self.glue
        return GLUED.sub(lambda found: format(glue[found[1]], found[2] or ""), text)


def rerun(name: str, folder: Path, **parameters: Any) -> Rerun:
    """Execute chapter `name` (`03` will do) through papermill into `folder`."""
    (chapter,) = BOOK.select([name])
    unknown = set(parameters) - set(chapter.declared())
    assert not unknown, f"{chapter.name} does not declare {sorted(unknown)}"
    path = folder / f"{chapter.name}.ipynb"
    executed = papermill.execute_notebook(
        str(chapter.path), str(path), parameters, progress_bar=False, cwd=str(ROOT)
    )
    return Rerun(executed)


def _value(data: dict[str, str]) -> Any:
    text = next(text for kind, text in data.items() if kind.endswith("text/plain"))
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
