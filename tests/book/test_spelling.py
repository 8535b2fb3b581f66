"""The prose of chapters, pages and documents has no known misspelling (codespell's list)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from throwaway import ROOT

# Not words: fenced code, inline code and roles, mathematics, addresses, cell and figure names.
CODE = re.compile(
    r"^(`{3,})(?!\{).*?^\1|\{[\w:]+\}`[^`]*`|`[^`]*`|\$[^$]*\$|https?://\S+|\(\S+\.ipynb\)",
    re.DOTALL | re.MULTILINE,
)
PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "book").glob("*.md"))
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


def prose(path: Path) -> str:
    """What a reader reads: Markdown cells, captions and alt texts of a notebook, or a page."""
    if path.suffix == ".md":
        return CODE.sub(" ", path.read_text("utf-8"))
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        shown = cell.metadata.get("mystnb", {})
        parts += [cell.source] if cell.cell_type == "markdown" else []
        parts += [shown.get("figure", {}).get("caption", ""), shown.get("image", {}).get("alt", "")]
    return CODE.sub(" ", "\n\n".join(parts))


def misspelt(folder: Path) -> list[str]:
    """`file:line: word ==> correction` for every file of a folder."""
    command = [sys.executable, "-m", "codespell_lib", "--builtin", "clear,rare,code", str(folder)]
    command += ["--ignore-words", str(ROOT / "tests" / "book" / "words.txt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode in (0, 65), done.stderr
    return sorted(line.replace(f"{folder}/", "") for line in done.stdout.splitlines())


def test_all_prose_is_spelt_right(tmp_path: Path) -> None:
    assert len(CHAPTERS) > 10 and len(PAGES) > 5
    for path in [*PAGES, *CHAPTERS]:
        (tmp_path / f"{path.parent.name}-{path.stem}.txt").write_text(prose(path))
    assert misspelt(tmp_path) == []


@pytest.mark.parametrize("text", ["It is teh cliff.", "A seperate codebook."])
def test_a_misspelling_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert len(misspelt(tmp_path)) == 1
