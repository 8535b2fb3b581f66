"""`--config FILE.yaml`: a file's values as command-line options, which later options override.

A file is either a flat list of one command's options, or a profile of the book: its `parameters`
(the chapters' names) hold for every command that has such an option, and `commands` holds each
command's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

# What a chapter's parameter is called as an option of a command.
RENAMED = {
    "train tokenizer": {
        "tokenizer": "model", "tokenizer_steps": "steps", "tokenizer_batch": "batch",
    },
    "train ar": {"ar": "model", "ar_steps": "steps", "ar_batch": "batch"},
}  # fmt: skip
OWN = ("tokenizer", "ar")  # chapters mean a size by these, commands a folder


def expand(argv: Sequence[str], commands: dict[str, Callable]) -> list[str]:
    """`argv` with the options of its --config file before its own options.

    Raises:
        ValueError: a file that is no mapping, or an option that the command does not have.
        FileNotFoundError: no such file.
    """
    argv = list(argv)
    name = next((n for n in commands if argv[: len(n.split())] == n.split()), None)
    path = _value(argv, "--config")
    if name is None or path is None:
        return argv
    known = options(commands[name])
    values = _values(Path(path), name, known)
    for key in map(str, values):  # YAML has keys that are no words
        if key.split(".")[0] not in known:
            from ..checks import unknown_name

            raise unknown_name(f"option of `vcq {name}` in {path}:", key, known)
    words = len(name.split())
    return [*argv[:words], *flags(values), *argv[words:]]


def options(command: Callable) -> set[str]:
    """Names of a command's options, those of its recipe included."""
    found = set()
    for parameter in inspect.signature(command).parameters.values():
        found.add(parameter.name)
        if is_dataclass(parameter.default):
            found |= {field.name for field in fields(parameter.default)}
    return found - {"recipe", "config"}


def flags(values: dict[str, Any], prefix: str = "") -> list[str]:
    """{"lr": 0.1, "compile": True, "losses": {"perceptual": 1}} as command-line words."""
    found = []
    for key, value in values.items():
        name = prefix + key.replace("_", "-")
        if isinstance(value, dict):
            found += flags(value, f"{name}.")
        elif isinstance(value, bool):
            found.append(f"--{name}" if value else f"--{prefix}no-{key.replace('_', '-')}")
        elif isinstance(value, list | tuple):
            found += [f"--{name}", *map(str, value)]
        elif value is not None:
            found += [f"--{name}", str(value)]
    return found


def _value(argv: list[str], option: str) -> str | None:
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _values(path: Path, name: str, known: set[str]) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"--config: {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of options, not {type(content).__name__}")
    if not {"parameters", "commands"} & content.keys():
        return content
    common = {}
    for key, value in (content.get("parameters") or {}).items():
        key = RENAMED.get(name, {}).get(key, None if key in OWN else key)
        if key in known:
            common[key] = value
    return common | ((content.get("commands") or {}).get(name) or {})
