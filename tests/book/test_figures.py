"""Figures are as wide as they say, whatever stands in them, and so is their text."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vcqlib.chapters import figures

LONG = "a name that is longer than the axis it describes"
PICTURES = np.zeros((10, 1, 8, 8), np.uint8)
CURVES = {"uniform": np.arange(9.0), "loglinear": np.arange(9.0)}
DOTS = {"uniform": [(1, 1.1, 0.9, 1.3), (2, 0.8, 0.7, 0.9)]}


def slanted() -> Figure:
    figure = figures.image_grid({LONG[:12]: PICTURES, "uniform": PICTURES}, [LONG[-10:]] * 10)
    for ax in figure.axes[:10]:
        ax.set_title(ax.get_title(), rotation=35, rotation_mode="anchor", ha="left")
    return figure


def labelled() -> Figure:
    figure, ax = figures.axes(2, 1)
    for panel in ax:
        panel.set_yticks([0, 1], [LONG[:24], "short"])
        panel.set_xlabel(LONG)
    return figure


DRAWN: dict[str, Callable[[], Figure]] = {
    "positions": lambda: figures.positions(CURVES, marks={"loglinear, t* = 9": 9}),
    "lines": lambda: figures.lines(range(1, 10), CURVES, "x", "y", log_x=True),
    "heatmap": lambda: figures.heatmap(np.eye(3), "abc", "def", "x", "y", "z", ".0f"),
    "slanted": slanted,
    "labelled": labelled,
    "regimes": lambda: figures.regimes({"one": DOTS, "two": DOTS}, "N"),
    "forest": lambda: figures.forest([(LONG[:24], "uniform", [0.8, 1.1], 0.9, 0.7, 1.2)]),
}


def inches(figure: Figure) -> float:
    """Width of the image that a notebook makes, cut around all that is drawn."""
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return Image.open(file).width / figures.DPI


@pytest.mark.parametrize("name", DRAWN)
def test_an_image_is_no_wider_than_a_figure_with_its_margins(name: str) -> None:
    assert inches(DRAWN[name]()) <= figures.WIDTH + 2 * 0.1  # Matplotlib's margin around the cut


@pytest.mark.parametrize("name", DRAWN)
def test_no_text_is_smaller_than_declared(name: str) -> None:
    figure = DRAWN[name]()
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()]
    assert sizes and min(sizes) >= figures.TEXT
