"""The code that a result depends on, found by reading it: no list that somebody has to keep.

From a function, by the names it uses, to the other definitions of its module and to the modules it
imports; from those, to all that they import. Comments and docstrings do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FunctionType

LIBRARY = Path(__file__).parents[1]


def digests(function: Callable, library: Path = LIBRARY) -> dict[str, str]:
    """Module → SHA-256 of the code that `function` can reach in it.

    Of its own module only the definitions that it uses count, of all others the whole.
    """
    assert isinstance(function, FunctionType)
    home = function.__module__.partition(".")[2]
    used, modules = _reach(home, function.__name__, library)
    found = {home: _hash(used)}
    waiting = modules - {home}
    while waiting:
        module = waiting.pop()
        tree = _tree(module, library)
        found[module] = _hash([tree])
        waiting |= set(_imports(tree, module, library).values()) - found.keys()
    return found


def _reach(home: str, name: str, library: Path) -> tuple[list[ast.AST], set[str]]:
    """Definitions of module `home` behind a name, in order, and the modules that they use."""
    tree = _tree(home, library)
    definitions = {name: node for node in tree.body for name in _defined(node)}
    imported = _imports(tree, home, library, top=True)
    names, modules, waiting = set(), set(), {name}
    while waiting:
        name = waiting.pop()
        names.add(name)
        if name in imported:
            modules.add(imported[name])
        if (node := definitions.get(name)) is not None:
            modules |= set(_imports(node, home, library).values())
            mentioned = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            waiting |= (mentioned & (definitions.keys() | imported.keys())) - names
    used = [node for node in tree.body if names & set(_defined(node))]
    return used, modules


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [n.id for target in targets if target for n in ast.walk(target) if hasattr(n, "id")]


def _imports(node: ast.AST, home: str, library: Path, top: bool = False) -> dict[str, str]:
    """Bound name → module of the library, of every import below a node (`top`: not deeper)."""
    statements = node.body if top else _statements(node)
    found = {}
    for statement in statements:
        if not isinstance(statement, ast.ImportFrom):
            continue
        parts = home.split(".")[: -statement.level] if statement.level else []
        source = [*parts, *(statement.module or "").split(".")]
        if not statement.level:
            if source[0] != "vcqlib":
                continue
            source = source[1:]
        source = [part for part in source if part]
        for alias in statement.names:
            module = next(
                (m for m in (".".join([*source, alias.name]), ".".join(source)) if m and
                 _path(m, library).is_file()), None)  # fmt: skip
            if module:
                found[alias.asname or alias.name] = module
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, but for what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        typing = isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"
        if not typing:
            yield child
            yield from _statements(child)


@cache
def _tree(module: str, library: Path) -> ast.Module:
    """A module's syntax tree without docstrings."""
    tree = ast.parse(_path(module, library).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    return tree


def _path(module: str, library: Path) -> Path:
    path = library / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _hash(nodes: list[ast.AST]) -> str:
    return hashlib.sha256("\n".join(map(ast.dump, nodes)).encode()).hexdigest()
