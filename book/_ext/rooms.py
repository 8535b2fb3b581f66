"""Which part of the library uses which, read from its syntax trees.

The page "How the library is built" is drawn from this, and tests/test_structure.py holds the
library to its order by it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2] / "vcqlib"
GROUND = "ground"  # the modules beside the rooms
FRONT = ("__init__", "__main__")  # names for users; they import nothing before they are asked


@cache
def modules(library: Path = LIBRARY) -> Mapping[str, ast.Module]:
    """`room.module` -> syntax tree, of every module but the fronts."""
    paths = sorted(path for path in library.rglob("*.py") if path.stem not in FRONT)
    names = (".".join(path.relative_to(library).with_suffix("").parts) for path in paths)
    return {n: ast.parse(p.read_text("utf-8")) for n, p in zip(names, paths, strict=True)}


@cache
def imports(library: Path = LIBRARY, types: bool = True) -> Mapping[str, frozenset[str]]:
    """Module -> the modules that it imports, anywhere in it; with `types` also for those alone."""
    known = modules(library)
    return {name: frozenset(_imported(name, tree, known, types)) for name, tree in known.items()}


def _imported(name: str, tree: ast.Module, known: Iterable[str], types: bool) -> Iterable[str]:
    guarded = (n for n in tree.body if "TYPE_CHECKING" in ast.dump(getattr(n, "test", n)))
    left_out = set() if types else {part for node in guarded for part in ast.walk(node)}
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("vcqlib")):
            place = name.split(".")[: -node.level] if node.level else []
            source = [*place, *filter(None, (node.module or "").removeprefix("vcqlib").split("."))]
            for alias in node.names:
                yield from {".".join([*source, alias.name]), ".".join(source)} & {*known}


def room(module: str) -> str:
    """The sub-package of a module."""
    return module.partition(".")[0] if "." in module else GROUND


def rooms(library: Path = LIBRARY) -> dict[str, set[str]]:
    """Room -> the other rooms that it uses."""
    found: dict[str, set[str]] = {}
    for name, used in imports(library).items():
        found.setdefault(room(name), set()).update({room(other) for other in used} - {room(name)})
    return found


def floors(graph: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Node -> its floor: 0 where it uses nothing, else one above the highest that it uses.

    Raises:
        graphlib.CycleError: the graph has a circle.
    """
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[other] for other in graph.get(name, ())), default=-1)
    return found
