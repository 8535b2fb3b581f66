"""Chapters executed again with other parameters, and with the large profiles in miniature."""

from __future__ import annotations

from pathlib import Path

import papermill
import pytest

from rerun import BOOK, Rerun, declared
from runner import profiles
from runner.chapters import Chapter

pytestmark = [pytest.mark.rerun, pytest.mark.timeout(1200)]
# The large profiles' own parameters with everything that costs overridden: two steps of the
# smallest models on drawn images, so that their YAML and the chapters' code paths are executed.
MINIATURE = {
    "dataset": "synthetic:32x3",
    "n_images": 64,
    "length": 8,
    "k_max": 16,
    "tokenizer": "mlp",
    "tokenizer_steps": 2,
    "ar": "nano",
    "ar_steps": 2,
    "n_samples": 16,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of the tests stay out of the book's cache, and are shared among them."""
    monkeypatch.setenv("VCQ_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


@pytest.mark.parametrize("chapter", BOOK.chapters(), ids=lambda chapter: chapter.name)
@pytest.mark.parametrize("name", ["gpu", "paper"])
def test_the_large_profiles_run_in_miniature(name: str, chapter: Chapter, tmp_path: Path) -> None:
    profile = profiles.load(name, BOOK.folder / "profiles")
    own = profile.for_chapter(chapter, declared(chapter, MINIATURE))
    executed = papermill.execute_notebook(
        str(chapter.path), str(tmp_path / "out.ipynb"), own, progress_bar=False, cwd=str(BOOK.root)
    )
    assert Rerun(executed).prose.startswith("#")  # every glued number is there
