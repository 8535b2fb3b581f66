"""Settings as options of a command, and `--config FILE.yaml`, whose values later options override.

An option is a setting's flat name with dashes. A file holds such names: flat, or as a profile of
the book, in its `parameters` and `settings`. A command takes the names that it has.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass, make_dataclass
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from ..checks import one_of
from ..files import read_yaml
from ..settings import Sizes, flat, fold
from ..study.configuration import Configuration

ConfigFile = Annotated[
    Path | None,
    arg(help="YAML file with values for these options; what the command line says wins"),
]


def options(*sections: str, without: Iterable[str] = ()) -> Any:
    """A dataclass with the settings of some sections of a configuration, as tyro reads them."""
    made = []
    for name, entry in flat(Configuration).items():
        if entry.path[0] in sections and name not in without:
            default = fold(Configuration())[name]
            default = tuple(default) if isinstance(default, list) else default
            kind = str if entry.type == Sizes else entry.type
            made.append((name, Annotated[kind, arg(help=entry.help)], default))
    return make_dataclass("Options", made, frozen=True)


def configured(*given: Any, **more: Any) -> Configuration:
    """The configuration that a command's options say."""
    values = {name: value for part in given for name, value in asdict(part).items()}
    return Configuration.of(values | more)


def expand(argv: Sequence[str], commands: dict[str, Callable]) -> list[str]:
    """`argv` with the options of its --config file before its own options."""
    argv = list(argv)
    name = next((n for n in commands if argv[: len(n.split())] == n.split()), None)
    reader = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--config", nargs="?")  # without a value: tyro says so
    path = reader.parse_known_args(argv)[0].config
    if name is None or path is None:
        return argv
    known = {command: defaults(call) for command, call in commands.items()}
    values = _values(Path(path), {option for own in known.values() for option in own})
    words = len(name.split())
    return [*argv[:words], *_flags(values, known[name]), *argv[words:]]


def defaults(command: Callable) -> dict[str, Any]:
    """A command's options with their defaults, its settings among them."""
    found = {}
    for parameter in signature(command).parameters.values():
        if is_dataclass(parameter.default):
            found |= {f.name: f.default for f in fields(parameter.default)}
        elif parameter.name != "config":
            found[parameter.name] = parameter.default
    return found


def _flags(values: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """{"lr": 0.1, "compile": True} as command-line words, of the options that a command has."""
    found = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if key not in own or value is None:
            continue
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            words = [json.dumps(value)] if isinstance(own[key], str) else map(str, value)
            found += [f"--{name}", *words]
        else:
            found += [f"--{name}", str(value)]
    return found


def _values(path: Path, everywhere: Collection[str]) -> dict[str, Any]:
    content = read_yaml(path)
    if {"parameters", "settings"} & content.keys():
        # what a profile gives to chapters alone, the book's runner checks
        return (content.get("parameters") or {}) | (content.get("settings") or {})
    for key in map(str, content):  # YAML has keys that are no words
        one_of(everywhere, f"option in {path}:", key)
    return content
