"""What a lecturer takes from a built book: slides, sheets, a solutions notebook.

All of it is cut out of the pages of that build, or computed from `data/results`, and lies beside
them: `html/slides`, `html/handouts`. It needs no network.
"""

from __future__ import annotations

import hashlib
import html
import re
import shutil
from pathlib import Path

import nbformat
from bs4 import Tag

from runner.chapters import Book, Chapter
from runner.lectures import PLAN, Pages, cut, deck, lectures, title
from vcqlib.chapters import worksheet

ASSETS = Path(__file__).parent
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
{styles}
<script>
window.MathJax = {{options: {{processHtmlClass: "math", ignoreHtmlClass: "page"}}}};
</script><script defer src="../_static/mathjax/tex-svg.js"></script>
{scripts}</head><body class="page {kind}">
{body}
</body></html>
"""
WORKSHEET = """<p>Every ratio that this book has measured between a variable codebook and its
controls, and no verdict. Cover what you remember of the book, apply the rule line by line, and
write its verdict into the box. A ratio below 1 is on the side of the claim; only for C8 it is one
above 1, and there the paper gives a ratio, 1.62. A claim that was tried several times gets the most
cautious of its verdicts.</p>"""
NAVIGATION = """<nav aria-label="Slides"><output></output>
<button type="button" data-by="-1" aria-label="one slide back">◀</button>
<button type="button" data-by="1" aria-label="one slide on">▶</button></nav>"""
GLUED = re.compile(r"\{glue:text\}`([^`:]+)(?::([^`]+))?`")
EXERCISE = re.compile(
    r"(?P<fence>`{3,})\{(?P<kind>exercise|solution|solution-start)\} *(?P<title>[^\n]*)\n"
    r"(?P<body>.*?)\n(?P=fence)(?=\n|$)",
    re.DOTALL,
)
END = re.compile(r"`{3,}\{solution-end\}\n`{3,}")


def teach(book: Book, chapters: list[Chapter], out: Path) -> None:
    """Write `out/html/slides` and `out/html/handouts` unless they are up to date.

    A book without lectures has neither.
    """
    plan, key, key_file = lectures(book), _key(book, out), out / "teaching.key"
    slides, handouts = (out / "html" / name for name in ("slides", "handouts"))
    current = key_file.exists() and key_file.read_text(encoding="utf-8") == key
    if not plan or (current and slides.exists() and handouts.exists()):
        return
    key_file.unlink(missing_ok=True)
    pages = Pages(out / "html", [*book.pages()])
    for folder in (slides, handouts):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(ASSETS / "teaching.css", folder)
    shutil.copy(ASSETS / "slides.js", slides)
    for minutes, lecture in plan.items():
        body, kinds = deck(lecture, pages)
        body = f"<main>{body}</main>{NAVIGATION}"
        _write(slides / f"{minutes}.html", f"{minutes} minutes", "slides", body, kinds)
    numbered = [chapter for chapter in chapters if chapter.name[:2].isdigit()]
    sheet = []
    for chapter in numbered:
        article = pages.article(chapter.name)
        sheet += [f"<h2>{html.escape(title(article.h1))}</h2>", *exercises(article, chapter.name)]
    _write(handouts / "exercises.html", "Exercises", "sheet",
           "<main><h1>Exercises</h1>" + "\n".join(sheet) + "</main>")  # fmt: skip
    nbformat.write(solutions(numbered, out / "notebooks"), handouts / "solutions.ipynb")
    _worksheet(book, pages, handouts)
    key_file.write_text(key, encoding="utf-8")


def _key(book: Book, out: Path) -> str:
    """Hash of what the pages are made from: the book's pages, the plan, records, this code."""
    digest = hashlib.sha256(book.fingerprint().encode())
    files = [out / "html.key", book.folder / PLAN, *sorted(ASSETS.glob("*.*"))]
    for path in files:
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _worksheet(book: Book, pages: Pages, folder: Path) -> None:
    """The ratios of all records, whatever the profile, with the rule as chapter 10 states it."""
    (scorecard,) = book.select(["10_scorecard"])
    studies = scorecard.declared()["studies"]
    rule = pages.article(scorecard.name).select("#the-rule > p, #the-rule > ol")
    said = "".join(str(cut(part, scorecard.name)) for part in rule)
    names = ("worksheet", "Worksheet"), ("worksheet_solved", "Worksheet, solved")
    for (name, heading), tables in zip(names, worksheet.sheets(studies), strict=True):
        body = f"<main><h1>{heading}</h1>{WORKSHEET}<h2>The rule</h2>{said}"
        _write(folder / f"{name}.html", heading, "sheet", f"{body}{tables}</main>")


def exercises(article: Tag, page: str) -> list[str]:
    """The exercises of a chapter, without solutions."""
    return [str(cut(tag, page)) for tag in article.select(".admonition.exercise")]


def solutions(chapters: list[Chapter], executed: Path) -> nbformat.NotebookNode:
    """Exercises, solutions, code and its results, in one notebook; the code goes on from the
    chapter that it stands in."""
    v4, cells = nbformat.v4, []
    for chapter in chapters:
        notebook = nbformat.read(executed / f"{chapter.name}.ipynb", as_version=4)
        glue = {
            output.metadata.scrapbook.name: _text(output.data)
            for cell in notebook.cells
            for output in cell.get("outputs", [])
            if "scrapbook" in output.get("metadata", {})
        }
        title = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)[1]
        note = f"Code continues `book/{chapter.path.name}`: run that chapter first."
        cells.append(v4.new_markdown_cell(f"# {title}\n\n{note}"))
        inside = False  # between solution-start and solution-end
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cells += [cell] if inside else []
                continue
            text = GLUED.sub(lambda m, g=glue: format(g.get(m[1], m[0]), m[2] or ""), cell.source)
            if inside:
                before, ended, text = _until_end(text)
                cells += [v4.new_markdown_cell(before)] if before else []
                inside = not ended
            for block in EXERCISE.finditer(text):
                body = re.sub(r"^:\w+:.*\n?", "", block["body"], flags=re.MULTILINE).strip()
                label = re.search(r":label: (\S+)", block["body"])
                name = block["title"] if label else "Solution"
                cells.append(v4.new_markdown_cell(f"### {name}\n\n{body}".strip()))
                if block["kind"] == "solution-start":
                    before, ended, _ = _until_end(text[block.end() :])
                    cells += [v4.new_markdown_cell(before)] if before else []
                    inside = not ended
    for number, cell in enumerate(cells):
        cell["id"] = f"s{number:03d}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _until_end(text: str) -> tuple[str, bool, str]:
    """Text before the end of a solution, whether there is one, and the text after it."""
    parts = END.split(text, maxsplit=1)
    return parts[0].strip(), len(parts) == 2, parts[1] if len(parts) == 2 else ""


def _text(data: dict[str, str]) -> object:
    """A glued value as it can be formatted: a number, or text without its quotes."""
    text = next(text for kind, text in data.items() if kind.endswith("text/plain"))
    try:
        return float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        return text.strip("'")


def _write(path: Path, title: str, kind: str, body: str, figures: list[str] | None = None) -> None:
    """A page of slides or a sheet; `figures`: kinds of the interactive figures on it, on slides."""
    sheets, scripts = ["teaching.css"], []
    if figures is not None:
        sheets = ["../_static/pygments.css", "../_static/vcq.css", "teaching.css"]
        scripts = ["slides.js", *(f"../_static/{name}.js" for name in ("vcq", *figures))]
    page = PAGE.format(
        title=html.escape(title), kind=kind, body=body,
        styles="\n".join(f'<link rel="stylesheet" href="{name}">' for name in sheets),
        scripts="\n".join(f'<script defer src="{name}"></script>' for name in scripts),
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")
