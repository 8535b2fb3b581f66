"""The lectures of `book/teaching.yaml`: their tables in the book, and slides cut out of its pages.

What a slide shows stands in a chapter; numbers, figures and mathematics are those of the build.
"""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

from runner.chapters import Book, Refused, suggest

PLAN = "teaching.yaml"
# What ends the words around a thing: the next thing of its kind.
SHOWN = "figure, .proof, .vcq, .cell_input, table, .quiz-question"
DROPPED = ".headerlink, .copybtn, script, link"
REFERENCES = {"fig": "{numref}", "ex": "{numref}", "thm": "{prf:ref}", "def": "{prf:ref}"}


@dataclass(frozen=True)
class Slide:
    """A thing of the book under a title, or a bet that a later slide answers."""

    title: str = ""
    show: str = ""
    bet: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Block:
    """So many minutes of a lecture: a row of its table."""

    minutes: int
    what: str
    slides: tuple[Slide, ...]


@dataclass(frozen=True)
class Lecture:
    minutes: int
    title: str
    about: str
    homework: tuple[str, ...]
    blocks: tuple[Block, ...]

    @property
    def slides(self) -> list[Slide]:
        return [slide for block in self.blocks for slide in block.slides]

    def table(self) -> str:
        """A heading, a link to its slides, its blocks and its homework, in MyST Markdown."""
        lines = [f"## {self.minutes} minutes: {self.title}", ""]
        lines += [f'{self.about} <a href="slides/{self.minutes}.html">Slides</a>.', ""]
        lines += ["| minutes | what | with |", "|--:|---|---|"]
        for block in self.blocks:
            things = dict.fromkeys(_reference(slide.show) for slide in block.slides if slide.show)
            lines.append(f"| {block.minutes} | {block.what} | {', '.join(things)} |")
        homework = ", ".join(map(_reference, self.homework))
        return "\n".join([*lines, "", f"Homework: {homework}."])


def lectures(book: Book) -> dict[int, Lecture]:
    """The lectures by minutes, checked; empty for a book without one.

    Raises:
        Refused: minutes that do not add up, a slide that is neither bet nor thing, a bet whose
            answer is shown before it or never.
    """
    path = book.folder / PLAN
    plan = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {}
    for minutes, entry in plan.items():
        try:
            blocks = [Block(**b | {"slides": tuple(Slide(**s) for s in b["slides"])})
                      for b in entry["blocks"]]  # fmt: skip
            lecture = Lecture(**entry | {"minutes": minutes, "blocks": tuple(blocks)})
        except (KeyError, TypeError) as error:
            raise Refused(f"{PLAN}, lecture {minutes}: {error}") from None
        _check(lecture)
        found[minutes] = lecture
    return found


def _check(lecture: Lecture) -> None:
    name = f"{PLAN}, lecture {lecture.minutes}"
    total = sum(block.minutes for block in lecture.blocks)
    if total != lecture.minutes:
        raise Refused(f"{name}: its blocks add up to {total} minutes")
    slides = lecture.slides
    for thing in [*lecture.homework, *(slide.show for slide in slides if slide.show)]:
        if " " not in thing and thing.split("-")[0] not in REFERENCES:
            raise suggest(f"kind of label in {name}:", thing, REFERENCES)
    for i, slide in enumerate(slides):
        if bool(slide.title and slide.show) == bool(slide.bet and slide.answer):
            raise Refused(f"{name}: {slide} must have title and show, or bet and answer")
        before, after = ([s.show for s in part] for part in (slides[:i], slides[i:]))
        if slide.bet and (slide.answer in before or slide.answer not in after):
            when = "before its bet" if slide.answer in before else "by no slide"
            raise Refused(f"{name}: {slide.answer!r} is shown {when}, {slide.bet!r}")


def tables(text: str, plan: dict[int, Lecture]) -> str:
    """A page with the lectures in the place of `<!-- lectures -->`."""
    return text.replace(
        "<!-- lectures -->", "\n\n".join(lecture.table() for lecture in plan.values())
    )


def _reference(thing: str) -> str:
    page, _, selector = thing.partition(" ")
    if selector:  # with its ending: a function of the library may be called like a page
        return f"[]({page}.ipynb)"
    return f"{REFERENCES[thing.split('-')[0]]}`{thing}`"


class Pages:
    """The pages of a built book, each parsed once."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names
        self._parsed: dict[str, Tag] = {}

    def article(self, name: str) -> Tag:
        if name not in self._parsed:
            text = (self.folder / f"{name}.html").read_text(encoding="utf-8")
            self._parsed[name] = BeautifulSoup(text, "html.parser").select_one("article")
        return self._parsed[name]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Label → page."""
        found = {}
        for name in self.names:
            text = (self.folder / f"{name}.html").read_text(encoding="utf-8")
            kinds = "|".join(REFERENCES)
            found |= dict.fromkeys(re.findall(rf' id="((?:{kinds})-[^"]+)"', text), name)
        return found

    def find(self, thing: str, where: str) -> tuple[str, Tag]:
        """Page and tag of what a slide shows. Refused, with its name, if the book lacks it."""
        page, _, selector = thing.partition(" ")
        if not selector:
            page, selector = self.labels.get(thing, ""), f'[id="{thing}"]'
            if not page:
                raise suggest(f"label in {where}:", thing, self.labels)
        elif page not in self.names:
            raise suggest(f"page in {where}:", page, self.names)
        if (tag := self.article(page).select_one(selector)) is None:
            raise Refused(f"{where}: page {page!r} has nothing that is {selector!r}")
        return page, tag


def deck(lecture: Lecture, pages: Pages) -> tuple[str, list[str]]:
    """The slides as HTML, one `<section>` each, and the kinds of interactive figures in them."""
    where = f"{PLAN}, lecture {lecture.minutes}"
    lead = f"<p>{lecture.minutes} minutes: {html.escape(lecture.title)}.</p>"
    lead += "<p><small>Arrow keys, the buttons below or a swipe turn the page; N shows the notes."
    lead += "</small></p>"
    made = [_slide("The entropy cliff", lead, kind="lead").replace("h2>", "h1>")]
    kinds: dict[str, None] = {}
    bets = 0
    for slide in lecture.slides:
        if slide.bet:
            bets += 1
            made.append(_slide(f"Bet {bets}", f"<p>{html.escape(slide.bet)}</p>", kind="bet"))
            continue
        page, tag = pages.find(slide.show, where)
        body = cut(tag, page)
        names = body.get("class", [])
        kinds |= {name.removeprefix("vcq-"): None for name in names if name.startswith("vcq-")}
        more = f'<a class="source" href="../{page}.html#{_anchor(tag)}">in the book</a>'
        if notes := "".join(str(cut(part, page)) for part in _around(tag)):
            label = f"Notes to slide {len(made) + 1}"
            more += f'<aside tabindex="0" aria-label="{label}">{notes}</aside>'
        made.append(_slide(slide.title, str(body), more))
    links = []
    for label in lecture.homework:
        page, tag = pages.find(label, where)
        name = html.escape(title(tag.select_one(".admonition-title")))
        links.append(f'<li><a href="../{page}.html#{label}">{name}</a></li>')
    made.append(_slide("Homework", f"<ul>{''.join(links)}</ul>"))
    return "\n".join(made), [*kinds]


def _slide(title: str, body: str, more: str = "", kind: str = "thing") -> str:
    """A slide; `more`: what stands outside of its body."""
    head = f'<section class="{kind}"><h2>{html.escape(title)}</h2>'
    return f'{head}<div class="body">{body}</div>{more}</section>'


def cut(tag: Tag, page: str) -> Tag:
    """A copy that works in the folder of the slides: no ids, addresses as seen from there."""
    made = copy.copy(tag)
    for part in made.select(DROPPED):
        part.decompose()
    for part in [made, *made.find_all(True)]:
        del part["id"]
        for name in ("href", "src"):
            if part.get(name) and not urlsplit(part[name]).scheme:
                inside = part[name].startswith("#")
                part[name] = f"../{page}.html{part[name]}" if inside else f"../{part[name]}"
        if part.get("data-config"):
            part["data-config"] = part["data-config"].replace('"_static/', '"../_static/')
    return made


def title(heading: Tag) -> str:
    """Its text without the sign of its link."""
    return heading.get_text().removesuffix("#").strip()


def _anchor(tag: Tag) -> str:
    """The nearest id at or above a tag that is one of a kind."""
    section = tag.find_parent("section")
    return tag.get("id") or section["id"]


def _around(tag: Tag) -> Iterator[Tag]:
    """The words of a thing's section from the thing before it to the one after it."""
    outer = tag
    while outer.parent.name != "section":
        outer = outer.parent
    before = []
    for part in outer.find_previous_siblings():
        if part.name in ("h2", "h3") or _shows(part):
            break
        before.insert(0, part)
    yield from (part for part in before if part.name in ("p", "ul", "ol", "div"))
    for part in outer.find_next_siblings():
        if part.name == "section" or _shows(part):
            return
        if part.name in ("p", "ul", "ol", "div"):
            yield part


def _shows(tag: Tag) -> bool:
    return (
        bool(tag.select(SHOWN))
        or tag.name in ("figure", "table")
        or "proof" in tag.get("class", [])
    )
