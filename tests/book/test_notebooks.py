"""The committed chapters: clean, executable by papermill, and in step with the profiles."""

from __future__ import annotations

import re

import nbformat
import pytest

from runner import profiles
from runner.chapters import Book
from throwaway import ROOT

BOOK = Book(ROOT / "book")
FILES = sorted(BOOK.folder.glob("*.ipynb"))
PROFILES = ("smoke", "cpu", "gpu", "paper")


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    found = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_no_outputs_and_no_traces_of_an_execution(notebook: nbformat.NotebookNode) -> None:
    for cell in code(notebook):
        assert (cell.outputs, cell.execution_count) == ([], None)
        assert not {"papermill", "execution", "ExecuteTime"} & set(cell.metadata)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


def test_one_cell_of_literal_parameters(notebook: nbformat.NotebookNode) -> None:
    tagged = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        # `name = value  # meaning, range`: what a reader of the page needs to change it
        assert re.match(r"\w+ = .+?  # \w", line) or line.startswith("#"), line


def test_cells_are_short_and_have_ids_of_their_own(notebook: nbformat.NotebookNode) -> None:
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert [cell.id for cell in code(notebook) if len(cell.source.splitlines()) > 40] == []


def test_figures_have_a_name_a_caption_and_an_alt_text(notebook: nbformat.NotebookNode) -> None:
    for cell in code(notebook):
        shown = cell.metadata.get("mystnb", {})
        if "figure" in shown:
            assert shown["figure"]["name"], cell.id
            assert len(shown["figure"]["caption"]) > 20, cell.id
        if shown:  # a figure within a solution may do without a caption
            assert len(shown["image"]["alt"]) > 20, cell.id


def test_the_table_of_contents_and_the_folder_agree() -> None:
    pages = BOOK.pages()
    assert [name for name, path in pages.items() if path is None] == []
    assert {path.stem for path in FILES} <= set(pages)
    assert {path.stem for path in BOOK.folder.glob("*.md")} <= set(pages)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_name_what_chapters_declare(name: str) -> None:
    chapters = BOOK.select([])
    profile = profiles.load(name, BOOK.folder / "profiles")
    profiles.check(profile, BOOK, chapters, set())
    text = (BOOK.folder / "profiles" / f"{name}.yaml").read_text()
    assert text.startswith(f"# {name}")  # what it costs and should reach
    if name in ("smoke", "cpu"):
        assert all(profile.budget(chapter.name) for chapter in chapters)


def test_the_cpu_budget_is_what_the_readme_promises() -> None:
    profile = profiles.load("cpu", BOOK.folder / "profiles")
    budgets = [entry["budget_s"] for entry in profile.chapters.values()]
    assert sum(budgets) / 2 <= 25 * 60  # two chapters run side by side
