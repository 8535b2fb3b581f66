"""Decks of slides, an exercise sheet and a solutions notebook, made from a built book.

Slides and sheet are cut out of the chapters' pages, so that numbers, figures and mathematics are
those of that build. Everything lands in `out/teaching` and needs no network.
"""

from __future__ import annotations

import copy
import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag

from runner.chapters import Chapter

ASSETS = Path(__file__).parent
MATHJAX = "mathjax/tex-svg.js"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<link rel="stylesheet" href="{up}teaching.css">
<script>
window.MathJax = {{options: {{processHtmlClass: "math", ignoreHtmlClass: "page"}}}};
</script><script defer src="{up}{mathjax}"></script>{script}</head><body class="page {kind}">
{body}
</body></html>
"""
# What stands on a slide; the rest of a section is for the speaker.
SHOWN = "figure, .proof:not(.proof-type-proof), .cell_output table, table.table, div.math"
SHOWN += ", .quiz-question"
DROPPED = ".headerlink, .copybtn, .yourself, .cell_input, details.hide, script, .vcq"
GLUED = re.compile(r"\{glue:text\}`([^`:]+)(?::([^`]+))?`")
EXERCISE = re.compile(
    r"(?P<fence>`{3,})\{(?P<kind>exercise|solution|solution-start)\} *(?P<title>[^\n]*)\n"
    r"(?P<body>.*?)\n(?P=fence)(?=\n|$)",
    re.DOTALL,
)
END = re.compile(r"`{3,}\{solution-end\}\n`{3,}")


def teach(chapters: list[Chapter], out: Path) -> Path:
    """Write `out/teaching` from the numbered chapters in `out/html` and `out/notebooks`."""
    folder = out / "teaching"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "mathjax").mkdir(parents=True)
    (folder / "slides").mkdir()
    shutil.copy(out / "html" / "_static" / MATHJAX, folder / MATHJAX)
    shutil.copytree(out / "html" / "_images", folder / "_images")
    shutil.copy(ASSETS / "teaching.css", folder)
    shutil.copy(ASSETS / "slides.js", folder)
    chapters = [chapter for chapter in chapters if chapter.name[:2].isdigit()]
    decks, sheet = {}, []
    for chapter in chapters:
        article = _article(out / "html" / f"{chapter.name}.html")
        name = f"{chapter.name}.html"
        deck = slides(copy.copy(article), "../")
        decks[name] = article.h1.get_text()
        _write(folder / "slides" / name, decks[name], "slides", deck, "../", script=True)
        sheet += [f"<h2>{html.escape(decks[name])}</h2>", *exercises(article)]
    links = "".join(f'<li><a href="{name}">{html.escape(t)}</a></li>' for name, t in decks.items())
    body = f"<main><h1>Slides</h1><ol>{links}</ol></main>"
    _write(folder / "slides" / "index.html", "Slides", "sheet", body, "../")
    body = "<main><h1>Exercises</h1>" + "\n".join(sheet) + "</main>"
    _write(folder / "exercises.html", "Exercises", "sheet", body, "")
    nbformat.write(solutions(chapters, out / "notebooks"), folder / "solutions.ipynb")
    return folder


def _article(page: Path) -> Tag:
    """A chapter's text without what belongs to the page."""
    article = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select_one("article")
    for tag in article.select(DROPPED):
        tag.decompose()
    for tag in article.select("a[href]"):
        tag.unwrap()  # the pages that it leads to are elsewhere
    for tag in article.select("[id]"):
        del tag["id"]
    return article


def slides(article: Tag, up: str) -> str:
    """A deck: title, goals, one slide for each thing to show, summary, quiz."""
    root = article.select_one("section")
    for image in article.select("img"):
        image["src"] = up + image["src"]
    paragraphs = "".join(str(tag) for tag in root.find_all("p", recursive=False)[:1])
    deck = [_slide(article.h1.get_text(), f'<div class="lead">{paragraphs}</div>')]
    goals = root.select_one(".admonition")
    if goals:
        title = goals.select_one(".admonition-title").extract().get_text()
        deck.append(_slide(title, goals.decode_contents()))
    for section in root.find_all("section", recursive=False):
        title = section.h2.get_text()
        if title in ("Exercises", "Further reading"):
            continue
        if title == "Summary":
            deck.append(_slide(title, str(section.ul)))
            continue
        deck += _section(section, title)
    deck[0] = deck[0].replace("h2>", "h1>")
    return "<main>" + "\n".join(deck) + "</main>"


def _section(section: Tag, title: str) -> Iterator[str]:
    """The slides of one section: text since the last thing shown becomes the notes of the next."""
    shown = [tag for tag in section.select(SHOWN) if not tag.find_parent(_is_shown)]
    marks = {id(tag) for tag in shown}
    notes: list[str] = []
    found = False
    for tag in section.find_all(["p", "ul", "ol", *{tag.name for tag in shown}]):
        if id(tag) in marks:
            yield _slide(title, str(tag), "".join(notes))
            notes, found = [], True
        elif not tag.find_parent(lambda parent: id(parent) in marks or parent.name in ("li",)):
            notes.append(str(tag))
    if not found and notes:  # a section of words alone: its first paragraph is the slide
        yield _slide(title, notes[0], "".join(notes[1:]))


def _is_shown(tag: Tag) -> bool:
    classes = set(tag.get("class", []))
    return tag.name == "figure" or bool(classes & {"proof", "quiz-question"})


def _slide(title: str, body: str, notes: str = "") -> str:
    aside = f"<aside>{notes}</aside>" if notes else ""
    return f"<section><h2>{html.escape(title)}</h2><div>{body}</div>{aside}</section>"


def exercises(article: Tag) -> list[str]:
    """The exercises of a chapter, without solutions."""
    return [str(tag) for tag in article.select(".admonition.exercise")]


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


def _write(path: Path, title: str, kind: str, body: str, up: str, script: bool = False) -> None:
    tag = f'<script defer src="{up}slides.js"></script>' if script else ""
    page = PAGE.format(title=html.escape(title), kind=kind, body=body, up=up, mathjax=MATHJAX,
                       script=tag)  # fmt: skip
    path.write_text(page, encoding="utf-8")
