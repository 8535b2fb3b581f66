"""Profiles: YAML files that say how large the book is executed, and nothing else."""

from __future__ import annotations

import ast
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from runner.chapters import Book, Chapter, Refused, suggest


@dataclass(frozen=True)
class Profile:
    """`parameters` go to every chapter that declares them, `chapters` override them by chapter."""

    name: str
    threads: int
    timeout: float
    parameters: dict[str, Any] = field(default_factory=dict)
    chapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # for `vcq … --config`

    def budget(self, chapter: str) -> float | None:
        """Seconds that the chapter should take at most, cold, or None if none is stated."""
        return self.chapters.get(chapter, {}).get("budget_s")

    def for_chapter(self, chapter: Chapter, explicit: dict[str, Any]) -> dict[str, Any]:
        """What papermill is to override in this chapter: common < chapter's own < explicit."""
        own = self.chapters.get(chapter.name, {}).get("parameters", {})
        return chapter.overrides({**self.parameters, **own, **explicit})


def parse(name: str, text: str) -> Any:
    """The value of `-p NAME TEXT`: a Python literal (`None`, `1e-3`), else YAML (a word)."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError:
            raise Refused(f"-p {name}: {text!r} is neither a Python literal nor YAML") from None
    try:
        return json.loads(json.dumps(found))  # as it will reach the chapter: a tuple is a list
    except (TypeError, ValueError):
        kind = type(found).__name__
        raise Refused(f"-p {name}: {text!r} is a {kind}, which no chapter takes") from None


def load(name: str, folder: Path) -> Profile:
    """Read `folder/NAME.yaml`; a missing profile or a wrong entry is refused by name."""
    path = folder / f"{name}.yaml"
    if not path.exists():
        raise suggest("profile", name, (path.stem for path in folder.glob("*.yaml")))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"{path.name} is not plain YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise Refused(f"{path.name} holds no entries")
    wanted = {"threads", "timeout", "parameters", "chapters", "settings"}
    for key in content:
        if key not in wanted:
            raise suggest(f"entry in {path.name}", key, wanted)
    for key in ("threads", "timeout"):
        value = content.get(key)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise Refused(f"{path.name}: {key} must be a positive number, not {value!r}")
    for chapter, entry in (content.get("chapters") or {}).items():
        for key in entry:
            if key not in {"budget_s", "parameters"}:
                raise suggest(f"entry of {chapter} in {path.name}", key, {"budget_s", "parameters"})
    return Profile(name, **content)


def check(profile: Profile, book: Book, selected: list[Chapter], given: set[str]) -> None:
    """Refuse names that no chapter knows.

    An explicit parameter (`given`) has to be declared by a selected chapter, a chapter's own entry
    by that chapter, and, when the whole book is built, a common one by some chapter.
    """
    declared = {chapter.name: set(chapter.declared()) for chapter in selected}
    everywhere = set().union(*declared.values())
    for name in sorted(given - everywhere):
        where = selected[0].name if len(selected) == 1 else "the chapters"
        raise suggest(f"parameter of {where}", name, everywhere)
    for chapter, entry in profile.chapters.items():
        if chapter not in book.pages():
            raise suggest(f"chapter in {profile.name}.yaml", chapter, book.pages())
        if chapter not in declared:
            continue  # not asked for this time
        for name in sorted(set(entry.get("parameters", {})) - declared[chapter]):
            raise suggest(f"parameter of {chapter} in {profile.name}.yaml", name, declared[chapter])
    if len(selected) == len(book.chapters()):
        for name in sorted(set(profile.parameters) - everywhere):
            raise suggest(f"parameter in {profile.name}.yaml", name, everywhere)
