"""For every test: no network, and few threads (the machine may have two cores)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"
sys.path[:0] = [str(OFFLINE), str(Path(__file__).parent / "book"), str(OFFLINE.parents[1] / "book")]

from network_guard import install  # noqa: E402

os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections beyond this machine, here and in every Python process a test starts."""
    install()
    inherited = os.environ.get("PYTHONPATH", "")
    if str(OFFLINE) not in inherited.split(os.pathsep):
        paths = [str(OFFLINE), *filter(None, [inherited])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
