"""Faults of built pages that can be seen without a browser: links, anchors, loads, alt texts."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

# What makes a browser fetch something, as opposed to a link that a reader may follow.
LOADS = {
    "script": "src",
    "img": "src",
    "source": "src",
    "iframe": "src",
    "embed": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
}
LOADING_RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "manifest"}
CSS_LOAD = re.compile(r"""@import\s+['"]([^'"]+)|url\(\s*['"]?([^'")]+)""")


def load(folder: Path) -> dict[str, BeautifulSoup]:
    """Every page under `folder`, parsed, by its path within it."""
    files = sorted(path for path in folder.rglob("*.html") if "_static" not in path.parts)
    return {
        str(path.relative_to(folder)): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in files
    }


def outside_loads(folder: Path) -> list[str]:
    """What pages and style sheets would load from another host."""
    faults = []
    for name, page in load(folder).items():
        found = [tag.get(where) for kind, where in LOADS.items() for tag in page(kind)]
        for tag in page("link"):
            if LOADING_RELATIONS & set(tag.get("rel", [])):
                found.append(tag.get("href"))
        for tag in page("style"):
            found += [a or b for a, b in CSS_LOAD.findall(tag.get_text())]
        faults += [f"{name} loads {address}" for address in found if _is_outside(address)]
    for sheet in folder.rglob("*.css"):
        addresses = [a or b for a, b in CSS_LOAD.findall(sheet.read_text("utf-8"))]
        faults += [f"{sheet.name} loads {address}" for address in addresses if _is_outside(address)]
    return faults


def broken_links(folder: Path) -> list[str]:
    """Links, images, scripts and styles that point to a missing file or anchor of the book."""
    pages = load(folder)
    anchors = {
        name: {tag.get("id") for tag in page(id=True)} | {tag.get("name") for tag in page("a")}
        for name, page in pages.items()
    }
    faults = []
    for name, page in pages.items():
        targets = [tag.get("href") for tag in page(["a", "link"]) if tag.get("href")]
        targets += [tag.get(where) for kind, where in LOADS.items() for tag in page(kind)]
        for target in filter(None, targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (folder / name).parent / unquote(parts.path) if parts.path else folder / name
            if not path.exists():
                faults.append(f"{name}: {target} does not exist")
                continue
            other = str(path.resolve().relative_to(folder.resolve()))
            fragment = unquote(parts.fragment)
            if fragment and other in anchors and fragment not in anchors[other]:
                faults.append(f"{name}: {target} has no such anchor")
    return sorted(set(faults))


def images_without_alt(folder: Path) -> list[str]:
    """Images with no alt text, or with one that says nothing, such as the file's name."""
    faults = []
    for name, page in load(folder).items():
        for image in page("img"):
            alt = (image.get("alt") or "").strip()
            source = image.get("src", "")
            decorative = image.get("aria-hidden") == "true"
            if not decorative and (len(alt) < 4 or alt in source or alt.startswith("_images")):
                faults.append(f"{name}: {source} has alt text {alt!r}")
    return faults


def _is_outside(address: str | None) -> bool:
    return bool(address) and (bool(urlsplit(address).netloc) or address.startswith("http"))
