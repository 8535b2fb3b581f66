"""Chapters executed again with other parameters, and with the large profiles in miniature."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from rerun import BOOK, Rerun

pytestmark = [pytest.mark.rerun, pytest.mark.timeout(1200)]
# The large profiles' own parameters with everything that costs overridden: two steps of the
# smallest models on drawn images, so that their YAML and the chapters' code paths are executed.
MINIATURE = {
    "dataset": "synthetic:32x3",
    "image_size": 32,
    "n_images": 256,
    "length": 8,
    "k_max": 16,
    "tokenizer": "mlp",
    "tokenizer_steps": 2,
    "ar": "nano",
    "ar_steps": 2,
    "ar_batch": 16,
    "n_samples": 256,
    "n_simulated": 2000,
    "n_windows": 64,
    "text_chars": 50_000,
    "collapse_steps": 2,
    "collapse_seeds": 2,
    "n_probe": 48,
    "n_live": 2000,
    "device": "cpu",
}


@pytest.mark.parametrize("profile", ["gpu", "paper"])
def test_the_large_profiles_run_in_miniature(profile: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BOOK.folder / "build.py"), profile, "--no-html"]
    command += ["--out", str(tmp_path)]
    for name, value in MINIATURE.items():
        command += ["-p", name, str(value)]
    environment = {**os.environ, "VCQ_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for chapter in BOOK.chapters():
        executed = nbformat.read(tmp_path / "notebooks" / f"{chapter.name}.ipynb", as_version=4)
        assert Rerun(executed).prose.startswith("#")  # every number that the prose quotes is there
