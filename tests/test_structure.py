"""The library's order, read from its syntax trees: which room may use which, how large it is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))

import library_map  # noqa: E402
import rooms  # noqa: E402

ORDER = ({"ground"}, {"theory"}, {"data", "models"}, {"training", "entropy", "metrics"}, {"study"},
         {"lab"}, {"chapters"}, {"cli"})  # fmt: skip
STOREY = {room: storey for storey, some in enumerate(ORDER) for room in some}
FILES = [*rooms.LIBRARY.rglob("*.py")]


def test_every_room_has_its_place() -> None:
    assert rooms.rooms().keys() <= STOREY.keys()
    assert all(len([*folder.glob("[!_]*.py")]) > 1 for folder in rooms.LIBRARY.iterdir()
               if (folder / "__init__.py").is_file()
               and [*folder.glob("[!_]*.py")])  # fmt: skip  # no folder of one file


def test_no_import_goes_upwards_nor_to_a_room_beside() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, used in rooms.imports().items()
        for other in used
        if rooms.room(module) != rooms.room(other)
        and STOREY[rooms.room(module)] <= STOREY[rooms.room(other)]
    ]
    assert wrong == []


def test_there_is_no_circle_and_at_most_eight_floors_between_rooms() -> None:
    rooms.floors(rooms.imports(types=False))  # refuses a circle of modules
    assert max(rooms.floors(rooms.rooms()).values()) <= 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_module_is_longer_than_350_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 350


def test_no_two_public_classes_have_one_name() -> None:
    names = Counter(
        node.name
        for tree in rooms.modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_a_function_of_a_module_is_not_called_like_a_room_or_module_beside_it() -> None:
    """`codes` was a module, a function and a variable at once."""
    wrong = [
        f"{module}.{node.name}"
        for module, tree in rooms.modules().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and f"{module.rpartition('.')[0]}.{node.name}" in rooms.modules()
        and not module.endswith(f".{node.name}")
    ]
    assert wrong == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    for name, text in {
        "theory/a.py": "from ..study import b", "study/b.py": "from ..theory.a import x\n",
        "files.py": "def f():\n    from vcqlib.theory import a\n", "study/__init__.py": "",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert rooms.imports(tmp_path)["files"] == {"theory.a"}
    assert rooms.rooms(tmp_path) == {
        "theory": {"study"}, "study": {"theory"}, "ground": {"theory"}
    }  # fmt: skip
    with pytest.raises(ValueError, match="cycle"):
        rooms.floors(rooms.imports(tmp_path))


def test_importing_the_library_loads_nothing_heavy() -> None:
    code = (
        "import sys, vcqlib\n"
        "print(sorted({'torch', 'pandas', 'scipy', 'pydantic', 'tyro', 'matplotlib', 'sklearn'}"
        " & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_readme_and_the_map_say_what_the_code_is() -> None:
    text = (library_map.rooms.LIBRARY.parent / "README.md").read_text("utf-8")
    assert text == library_map.readme(text), "run: python book/_ext/library_map.py"
    root = rooms.LIBRARY.parent
    for what, where, _ in library_map.TASKS:
        for place in re.findall(r"`([^`]+)`", where):
            assert (root / place).exists(), f"{what}: {place}"


def test_the_drawings_hold_every_room_and_every_step() -> None:
    for drawing, names in (
        (library_map.rooms_drawing(), {f"vcqlib.{room}" for room in rooms.rooms()} - {
            f"vcqlib.{rooms.GROUND}"}),
        (library_map.way_drawing(), set(library_map.WAY)),
    ):  # fmt: skip
        texts = {text.text for text in ElementTree.fromstring(drawing).iter("text")}
        assert names <= texts
    lower = [room for some in library_map.storeys() for room in some]
    assert all(lower.index(a) > lower.index(b) for a, b in library_map.stairs())
