"""The page checks find what they are there to find: each is given pages with that fault."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from browser import launched, visit
from pages import broken_links, images_without_alt, outside_loads

GOOD = """<!doctype html><html lang="en"><head><title>Page</title>{head}</head>
<body><main><h1 id="top">Page</h1>{body}</main></body></html>"""


def write(folder: Path, body: str, head: str = "", name: str = "index.html") -> None:
    (folder / name).write_text(GOOD.format(head=head, body=body))


def picture(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, 10)).save(file, format="png")
    return file.getvalue()


def test_a_good_page_has_no_fault(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"")
    link = '<a href="#top">top</a> <a href="two.html#top">two</a> <a href="https://x.org">x</a>'
    write(tmp_path, link + '<img src="a%20b.png" alt="a picture">')
    write(tmp_path, "", name="two.html")
    assert broken_links(tmp_path) == outside_loads(tmp_path) == images_without_alt(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="three.html">x</a>', "index.html: three.html does not exist"),
        ('<a href="#nowhere">x</a>', "index.html: #nowhere has no such anchor"),
        ('<img src="none.png" alt="a thing">', "index.html: none.png does not exist"),
        ('<script src="none.js"></script>', "index.html: none.js does not exist"),
    ],
)
def test_broken_links_are_found(tmp_path: Path, body: str, fault: str) -> None:
    write(tmp_path, body)
    assert broken_links(tmp_path) == [fault]


@pytest.mark.parametrize(
    "head",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<script src="//cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="https://cdn.example.org/x.css">',
        "<style>@import 'https://cdn.example.org/x.css';</style>",
        "<style>p {background: url(https://cdn.example.org/x.png)}</style>",
    ],
)
def test_loads_from_outside_are_found(tmp_path: Path, head: str) -> None:
    write(tmp_path, "", head)
    assert len(outside_loads(tmp_path)) == 1


@pytest.mark.parametrize("alt", ["", 'alt=""', 'alt="_images/f.png"', 'alt="f.png"'])
def test_images_without_words_are_found(tmp_path: Path, alt: str) -> None:
    write(tmp_path, f'<img src="_images/f.png" {alt}>')
    assert len(images_without_alt(tmp_path)) == 1


def test_the_browser_finds_what_a_reader_would(tmp_path: Path) -> None:
    (tmp_path / "f.png").write_bytes(picture(900))
    write(
        tmp_path,
        '<p style="width: 900px">wide</p><p style="color: #ccc; background: #fff">faint</p>'
        '<script>console.error("a fault"); missing();</script><img src="gone.png" alt="gone">'
        '<script>fetch("https://example.org/data.json").catch(() => 0);</script>'
        f'<article><pre style="overflow: auto">{"too long a line " * 4}</pre>'
        '<div class="cell_output"><img src="f.png" alt="a figure" style="width: 300px"></div>'
        '<div style="overflow: auto; width: 60px"><table><tr><td>immeasurable</td></tr></table>'
        "</div></article>",
    )
    with launched() as browser:
        seen = visit(browser, tmp_path, "index.html")
    troubles = " ".join(seen.troubles)
    assert "a fault" in troubles
    assert "missing is not defined" in troubles
    assert "gone.png" in troubles
    assert "outside: https://example.org/data.json" in troubles
    assert any("color-contrast" in fault for fault in seen.violations)
    tables = [fault for fault in seen.sideways if "TABLE" in fault]
    assert [fault[:7] for fault in tables] == ["1280 px", "390 px:"]
    assert [fault[:7] for fault in seen.sideways if "PRE" in fault] == ["390 px:"]
    assert seen.small == ["a figure: 900 px shown on 300 px"]
    assert "page is 900 px wide" in seen.wide[-1] or len(seen.wide) > 1
