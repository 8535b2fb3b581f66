"""A page with one interactive figure and nothing else, for the browser tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from browser import AXE, AXE_RUN, PHONE, WIDE
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


def check_readable(page: Page) -> None:
    """Axe finds nothing in light and dark, and the figures fit a phone and a finger."""
    page.add_script_tag(content=AXE.read_text("utf-8"))
    for theme, paint in {"light": "#fff; color: #222", "dark": "#14181e; color: #ced6dd"}.items():
        page.add_style_tag(content=f"body {{ background: {paint} }}")
        page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        found = page.evaluate(AXE_RUN)
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []
    page.set_viewport_size({"width": PHONE, "height": 844})
    assert page.evaluate(WIDE, PHONE) == []
    heights = page.eval_on_selector_all(
        ".vcq input:not([type=checkbox]), .vcq select, .vcq button",
        "all => all.map(e => e.getBoundingClientRect().height)",
    )
    assert min(heights) >= 36  # large enough for a finger
