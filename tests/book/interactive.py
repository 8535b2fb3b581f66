"""A page with one interactive figure and nothing else, for the browser tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from throwaway import ROOT
from vcqlib.chapters import figures, interactives

ASSETS = ROOT / "book" / "_assets"


def interactive_page(folder: Path, kind: str, config: Mapping[str, Any]) -> Path:
    """Write the page into `folder`, its scripts and styles taken from the book's own folder."""
    static, _ = figures.axes(size=(2.0, 1.0))
    shown = interactives.show(kind, config, static, "an empty frame", "the static version")
    body = shown.html.replace("_static/", f"{ASSETS.as_uri()}/")
    page = folder / f"{kind}.html"
    page.write_text(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{kind}</title>
        <meta name="viewport" content="width=device-width, initial-scale=1"></head>
        <body><main><h1>{kind}</h1>{body}</main></body></html>""",
        encoding="utf-8",
    )
    return page
