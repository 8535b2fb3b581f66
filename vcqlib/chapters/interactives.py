"""Interactive figures: what a notebook hands to the book's scripts, and what paper shows instead.

A figure is a container with its settings as JSON and a static Matplotlib version inside. The
scripts (`book/_assets/vcq.js` and one for each kind) draw into it; on paper, and where scripts are
switched off, the static version is shown. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..checks import one_of

KINDS = ("cells", "decoder", "draw", "explorer", "prefixes", "results", "sampler")
LARGEST_TILE = 64  # pixels: pictures of a sprite are shown about this large


@dataclass(frozen=True)
class Interactive:
    """HTML that a notebook shows as the result of a cell."""

    kind: str
    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"<interactive figure: {self.kind}>"


def show(
    kind: str, config: Mapping[str, Any], static: Figure, alt: str, caption: str
) -> Interactive:
    """An interactive figure.

    kind: one of `KINDS`, the name of its script. config: what the script reads, as JSON, without
    NaN and infinity; NumPy arrays and tensors are welcome. static: the figure for paper and for
    pages without scripts; alt: what is to be seen on it; caption: a sentence below it.
    """
    one_of(KINDS, "kind", kind)
    tight = {"default": methodcaller("tolist"), "separators": (",", ":")}
    text = json.dumps(config, allow_nan=False, **tight)
    picture = io.BytesIO()
    static.savefig(picture, format="png", dpi=100, metadata={"Software": None})
    return Interactive(
        kind,
        f"""<link rel="stylesheet" href="_static/vcq.css">
<div class="vcq vcq-{kind}" data-config="{html.escape(text)}"><figure class="vcq-static">
<img alt="{html.escape(alt)}" src="{_data(picture, "png")}">
<figcaption>{html.escape(caption)}</figcaption></figure></div>
<script src="_static/vcq.js" defer></script><script src="_static/{kind}.js" defer></script>""",
    )


def sprite(images: np.ndarray) -> str:
    """Many small pictures in one, as a data address: uint8 [rows, columns, C, H, W], C 1 or 3.

    Pictures larger than `LARGEST_TILE` are made smaller.
    """
    pixels = np.asarray(images)
    if pixels.ndim != 5 or pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        raise ValueError(
            f"images must be uint8 [rows, columns, 1 or 3, H, W], got {pixels.dtype}{pixels.shape}"
        )
    rows, columns, channels, height, width = pixels.shape
    sheet = pixels.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    if (shrink := max(height, width) / LARGEST_TILE) > 1:
        size = (columns * round(width / shrink), rows * round(height / shrink))
        picture = picture.resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, format="webp", quality=80, method=6)
    return _data(file, "webp")


def _data(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
