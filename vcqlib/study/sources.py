"""The code that a result depends on, found by reading it: no list that somebody has to keep.

From a function, by the names in it, to the definitions of its module and of those that it imports,
and on from them. Comments and docstrings do not count. A class counts as a whole, but for the one
whose method is asked about: of it the special methods and what is reached through `self`.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(__file__).parents[1]
MACHINERY = {"study.cache", "study.sources"}  # say where a result lies, not what it is
ALL = "*"  # every definition of a module that is not only asked for its attributes


class Place(NamedTuple):
    """A definition in a module, or a method of a class in it."""

    module: str
    name: str
    method: str = ""


def digests(function: Callable, library: Path = LIBRARY) -> dict[str, str]:
    """Module → SHA-256 of the code in it that `function` can reach; of others' functions nothing.

    A function within a function stands for the outer one.
    """
    package, _, home = function.__module__.partition(".")
    if package != "vcqlib":
        return {}
    return _digests(
        Place(home, *function.__qualname__.partition(".<locals>")[0].split(".")), library
    )


@cache  # the code that is loaded stays what it is, whatever happens to its files meanwhile
def _digests(start: Place, library: Path) -> dict[str, str]:
    found: dict[str, list[ast.AST]] = {}
    for place, nodes in reach(start, library).items():
        found.setdefault(place.module, []).extend(nodes)
    return {
        module: hashlib.sha256("\n".join(map(_dump, nodes)).encode()).hexdigest()
        for module, nodes in sorted(found.items())
        if module not in MACHINERY
    }


def reach(start: Place, library: Path = LIBRARY) -> dict[Place, list[ast.AST]]:
    """Every definition behind one, in order, with its code."""
    found: dict[Place, list[ast.AST]] = {}
    waiting = {start}
    while waiting:
        place = waiting.pop()
        code = _read(place.module, library)
        nodes = code.nodes(place)
        if nodes:
            found[place] = nodes
        for node in nodes:
            waiting |= _uses(node, place, library) - found.keys()
        if place.name in code.imported:  # it only passes this way
            waiting |= {code.imported[place.name]} - found.keys()
        elif nodes and place.name != ALL:
            waiting |= {Place(place.module, "")} - found.keys()  # what happens when it is loaded
    return dict(sorted(found.items()))


class Code(NamedTuple):
    """A module: what it defines, by name; where it imports from; what it does when it is loaded."""

    defined: dict[str, list[ast.AST]]
    imported: dict[str, Place]
    loose: list[ast.AST]

    def nodes(self, place: Place) -> list[ast.AST]:
        if place.name == ALL:
            return [*self.loose, *(n for nodes in self.defined.values() for n in nodes)]
        found = self.defined.get(place.name, []) if place.name else self.loose
        if not place.method:
            return found
        parts = [part for node in found for part in [*node.bases, *node.decorator_list, *node.body]]
        return [part for part in parts if (name := getattr(part, "name", "__")) == place.method
                or name.startswith("__")]  # fmt: skip


@cache
def _uses(node: ast.AST, place: Place, library: Path) -> set[Place]:
    """What the names in a piece of code stand for."""
    code, parts = _read(place.module, library), list(ast.walk(node))
    imported = code.imported | _imports(parts, place.module, library)
    found, owners = set(), set()
    for part in parts:
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            source = imported.get(part.value.id)
            if source and source.name == ALL:
                owners.add(part.value)
                found.add(source._replace(name=part.attr))
            elif part.value.id == "self" and place.method:
                found.add(place._replace(method=part.attr))
    for part in parts:
        if isinstance(part, ast.Name) and part not in owners:
            if part.id in imported:
                found.add(imported[part.id])
            elif part.id in code.defined:
                found.add(Place(place.module, part.id))
    return found


def _imports(nodes: Iterable[ast.AST], home: str, library: Path) -> dict[str, Place]:
    """Bound name → where in the library it is defined, of the imports among some nodes."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and _ours(node):
            parts = home.split(".")[: -node.level] if node.level else []
            parts += [p for p in (node.module or "").split(".") if p and (parts or p != "vcqlib")]
            for alias in node.names:
                module = ".".join([*parts, alias.name])
                if _path(module, library).is_file():
                    found[alias.asname or alias.name] = Place(module, ALL)
                elif parts:
                    found[alias.asname or alias.name] = Place(".".join(parts), alias.name)
    return found


def _ours(node: ast.ImportFrom) -> bool:
    return bool(node.level) or (node.module or "").split(".")[0] == "vcqlib"


def _read(module: str, library: Path) -> Code:
    return _parsed(_path(module, library).read_text(encoding="utf-8"), module, library)


@cache
def _parsed(text: str, module: str, library: Path) -> Code:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    code = Code({}, _imports(tree.body, module, library), [])
    for node in tree.body:
        names = _bound(node)
        for name in names:
            code.defined.setdefault(name, []).append(node)
        if not names and not (isinstance(node, ast.ImportFrom) and _ours(node)):
            typing = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
            code.loose.extend([] if typing else [node])
    return code


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines; others' packages are definitions too."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        ours = isinstance(node, ast.ImportFrom) and _ours(node)
        return [] if ours else [a.asname or a.name.split(".")[0] for a in node.names]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [n.id for target in targets if target for n in ast.walk(target) if hasattr(n, "id")]


_dump = cache(ast.dump)


def _path(module: str, library: Path) -> Path:
    return library.joinpath(*module.split(".")).with_suffix(".py")
