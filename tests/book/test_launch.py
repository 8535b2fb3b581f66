"""Every notebook carries the set-up cell of Colab, and it does nothing elsewhere."""

from __future__ import annotations

import re

import nbformat
import pytest

import launch
from throwaway import ROOT

FILES = sorted((ROOT / "book").glob("*.ipynb"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_cell_follows_the_address_in_the_configuration(path) -> None:  # noqa: ANN001
    cells = nbformat.read(path, as_version=4).cells
    found = [i for i, cell in enumerate(cells) if cell.id == launch.CELL]
    assert found == [1], "run `python book/launch.py write`"
    assert cells[1].source == launch.setup()
    assert cells[1].metadata.tags == ["remove-cell"]


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    code = re.sub(r"^    [!%].*$", "    raise AssertionError", launch.setup(), flags=re.MULTILINE)
    exec(compile(code, "setup", "exec"), {})
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    with pytest.raises(AssertionError):
        exec(compile(code, "setup", "exec"), {})
