"""What README and the page "How the library is built" say of the code, made from the code:
rooms, their imports, and the way of one image. By hand are `TASKS` and `WAY`.

    python book/_ext/library_map.py     writes README anew; a test says when it has to be
"""

from __future__ import annotations

import ast
from html import escape
from textwrap import wrap

import rooms

# The way of one image. What each gives and says of itself is read from the code.
WAY = ("data.batches.open_images", "study.stages.train_tokenizer", "study.stages.encode",
       "study.stages.train_ar", "study.samples.write_samples", "study.measures.measure",
       "study.records.write")  # fmt: skip
TASKS = (
    ("K_t, the size of the codebook at position t", "`vcqlib/theory/schedules.py`",
     "vcq schedule NAME --length 16 -k 256"),
    ("the quantizer", "`vcqlib/models/quantizer.py`", "pytest tests/test_quantizer.py"),
    ("the tokenizer's loss",
     "`vcqlib/training/losses.py`, its options: `vcqlib/training/recipe.py`",
     "vcq train tokenizer --pixels l1"),
    ("a training loop", "`vcqlib/training/tokenizer.py`, `vcqlib/training/autoregressive.py`",
     "pytest tests/test_training.py"),
    ("how the next code is drawn", "`vcqlib/models/sampler.py`", "vcq sample --top-k 8"),
    ("a data set with a name", "`vcqlib/data/named_sets.py`",
     'make chapter NAME=05 ARGS="-p dataset NAME"'),
    ("a metric", "`vcqlib/metrics/distances.py`; a new one is called in `vcqlib/study/measures.py`",
     "vcq evaluate samples.npz"),
    ("a setting, its range, its option",
     "`vcqlib/study/configuration.py`, `vcqlib/training/recipe.py`", "vcq train ar --help"),
    ("an arm, a seed, a study", "`book/studies/`", "vcq study book/studies/smoke.yaml"),
    ("a chapter's figure", "its cell in `book/`; the style: `vcqlib/chapters/figures.py`",
     "make chapter NAME=01 PROFILE=smoke"),
)  # fmt: skip
WIDTH, BOX, GAP = 360, 44, 30  # of the drawings, in units that are pixels on a phone
STYLE = (
    "rect{fill:var(--pst-color-surface,#f5f5f5);stroke:currentColor;stroke-width:1}"
    "text{fill:currentColor;font-family:inherit;text-anchor:middle}"
    ".name{font-size:14px;font-weight:600}.what{font-size:11px}"
    "path{stroke:currentColor;fill:none;opacity:.55}"
)


def said(node: ast.AST) -> str:
    """The first sentence of a docstring."""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".:").replace("`", "")


def about(room: str) -> str:
    """What a room says of itself."""
    if room == rooms.GROUND:
        return "What every room stands on"
    return said(ast.parse((rooms.LIBRARY / room / "__init__.py").read_text("utf-8")))


def members(room: str) -> list[str]:
    """The modules of a room, what they use before them."""
    own = {name: used for name, used in rooms.imports(types=False).items() if
           rooms.room(name) == room}  # fmt: skip
    floor = rooms.floors({name: used & own.keys() for name, used in own.items()})
    return sorted(own, key=lambda name: (floor[name], name))


def storeys() -> list[list[str]]:
    """The rooms by floor, the lowest first."""
    floor = rooms.floors(rooms.rooms())
    return [sorted(r for r in floor if floor[r] == n) for n in range(max(floor.values()) + 1)]


def stairs() -> list[tuple[str, str]]:
    """Room and room below it, where no third room lies between them."""
    graph = rooms.rooms()

    def below(room: str) -> set[str]:
        return set(graph[room]).union(*map(below, graph[room]))

    return [(upper, lower) for upper, used in sorted(graph.items()) for lower in sorted(used)
            if not any(lower in below(between) for between in used)]  # fmt: skip


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def _svg(height: float, label: str, parts: list[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:g}" style="width:100%;max-width:560px;height:auto"'
    return (
        f'<svg class="library-map" role="img" aria-label="{escape(label)}" {size}>'
        f"<style>.library-map {STYLE.replace('}', '}.library-map ').removesuffix('.library-map ')}"
        f"</style>{''.join(parts)}</svg>"
    )


def rooms_drawing() -> str:
    """The rooms, floor upon floor, with the stairs between them."""
    floors, place, parts = storeys(), {}, []
    height = len(floors) * (BOX + GAP) - GAP + 4
    for n, some in enumerate(floors):
        wide = (WIDTH - 10 * (len(some) + 1)) / len(some)
        top = height - 2 - (n + 1) * BOX - n * GAP
        for i, room in enumerate(some):
            left = 10 + i * (wide + 10)
            place[room] = (left + wide / 2, top)
            count = len(members(room))
            title = "files, settings …" if room == rooms.GROUND else f"vcqlib.{room}"
            parts += [f'<rect x="{left:g}" y="{top:g}" width="{wide:g}" height="{BOX}" rx="5"/>',
                      _text(left + wide / 2, top + 19, title, "name"),
                      _text(left + wide / 2, top + 35, f"{count} modules", "what")]  # fmt: skip
    lines = [f"M{place[a][0]:g} {place[a][1] + BOX:g}L{place[b][0]:g} {place[b][1]:g}"
             for a, b in stairs()]  # fmt: skip
    parts.insert(0, f'<path d="{" ".join(lines)}"/>')
    order = "; ".join(f"floor {n}: {', '.join(some)}" for n, some in enumerate(floors))
    return _svg(height, f"The rooms of vcqlib and which uses which. {order}", parts)


def step(place: str) -> tuple[str, str, str]:
    """Name, result and first sentence of a function of the way."""
    module, _, name = place.rpartition(".")
    (node,) = (n for n in rooms.modules()[module].body
               if isinstance(n, ast.FunctionDef) and n.name == name)  # fmt: skip
    return f"{module}.{name}", ast.unparse(node.returns), said(node)


def way_drawing() -> str:
    """The functions through which an image goes, one below the other, with what they hand on."""
    parts, y = [], 2.0
    for place in WAY:
        name, gives, words = step(place)
        lines = wrap(words, 54)
        high = 26 + 15 * len(lines)
        parts += [f'<rect x="10" y="{y:g}" width="{WIDTH - 20}" height="{high}" rx="5"/>',
                  _text(WIDTH / 2, y + 18, name, "name")]  # fmt: skip
        parts += [_text(WIDTH / 2, y + 34 + 15 * i, line, "what") for i, line in enumerate(lines)]
        y += high
        if place != WAY[-1]:
            parts.append(f'<path d="M{WIDTH / 2 - 80} {y:g}v{GAP - 1}l-4 -6m4 6l4 -6"/>')
            if gives not in ("Path", "dict"):
                parts.append(_text(WIDTH / 2, y + 19, gives, "what"))
            y += GAP
    names = ", ".join(place.rpartition(".")[2] for place in WAY)
    return _svg(y + 2, f"The way of one image through the library: {names}", parts)


def reference() -> str:
    """Every module but the commands, room by room, as autodoc takes them."""
    lines = []
    for room in (room for some in storeys() for room in some if room != "cli"):
        title = "Ground" if room == rooms.GROUND else f"vcqlib.{room}"
        lines += [f"## {title}", "", f"{about(room)}.", ""]
        for name in members(room):
            lines += [f"### {name.rpartition('.')[2]}", "", "```{eval-rst}",
                      f".. automodule:: vcqlib.{name}", "   :members:", "```", ""]  # fmt: skip
    return "\n".join(lines)


def tree() -> str:
    """The library's part of README's tree: what each room says of itself, and its modules."""
    lines = []
    for room in reversed([room for some in storeys() for room in some]):
        name = "(beside them)" if room == rooms.GROUND else f"{room}/"
        modules = ", ".join(name.rpartition(".")[2] for name in members(room))
        lines.append(f"      {name:<15}{about(room)}")
        lines += wrap(modules, 98, initial_indent=" " * 21, subsequent_indent=" " * 21)
    return "\n".join(lines)


def every_module() -> str:
    """What each module says of itself, room by room, as Markdown."""
    lines = []
    for room in (room for some in storeys() for room in some):
        title = "Beside the rooms" if room == rooms.GROUND else f"`vcqlib.{room}`"
        lines += [f"**{title}**: {about(room)}.", ""]
        lines += [f"- `{name.rpartition('.')[2]}`: {said(rooms.modules()[name])}"
                  for name in members(room)]  # fmt: skip
        lines.append("")
    return "\n".join(lines)


def tasks() -> str:
    """Where to change what, as a Markdown table."""
    head = ["| to change | go to | try it with |", "|---|---|---|"]
    return "\n".join(head + [f"| {what} | {where} | `{how}` |" for what, where, how in TASKS])


def raw(html: str) -> str:
    return f"```{{raw}} html\n{html}\n```"


def readme(text: str) -> str:
    """README with its table of tasks and its tree as the code has them."""
    table = slice(text.index("| to change |"), text.index("\n\n", text.index("| to change |")))
    text = text[: table.start] + tasks() + text[table.stop :]
    start = text.index("\n", text.index("\n    vcqlib/ ") + 1) + 1
    return text[:start] + tree() + "\n" + text[text.index("\n    data/ ", start) + 1 :]


if __name__ == "__main__":
    path = rooms.LIBRARY.parent / "README.md"
    path.write_text(readme(path.read_text("utf-8")), "utf-8")
