"""The command line: `vcq …`, or `python -m vcqlib …`.

Each command is a function with typed arguments in a module of its own, loaded when it is asked for.
What goes wrong with a file or a value ends with one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ..checks import printable, unknown_name
from .output import forgiving_output
from .shell import App

COMMANDS = {  # name: module and function
    "cliff": "cliff.cliff",
    "schedule": "cliff.schedule",
    "entropy": "entropy.entropy",
    "diagnose": "diagnose.diagnose",
    "study": "study.study",
    "reproduce": "study.reproduce",
    "lab": "study.lab",
    "train": "training.train",
    "encode": "training.encode",
    "sample": "sampling.sample",
    "sweep": "evaluation.sweep",
    "evaluate": "evaluation.evaluate",
}
CONFIGURED = {  # commands that read --config
    "train tokenizer": "training.train_tokenizer",
    "train ar": "training.train_ar",
    "encode": "training.encode",
    "sample": "sampling.sample",
    "sweep": "evaluation.sweep",
    "evaluate": "evaluation.evaluate",
}


def load(place: str) -> Callable:
    """The function of a command."""
    module, name = place.split(".")
    return getattr(import_module(f".{module}", __package__), name)


ABOUT = (
    "Measure the entropy cliff of discrete tokens; train variable codebooks. `vcq --version` says "
    "which vcqlib this is."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    with forgiving_output():
        try:
            _run([*(sys.argv[1:] if argv is None else argv)])
            if sys.stdout:
                sys.stdout.flush()
        except (ValueError, TypeError, OSError, MemoryError, ArithmeticError, ImportError) as error:
            why = printable(" ".join(str(error).split())) or type(error).__name__
            print(f"vcq: {why}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("vcq: interrupted", file=sys.stderr)
            return 130
    return 0


def _run(argv: list[str]) -> None:
    app, asked = App("vcq", ABOUT), argv[0] if argv else ""
    if asked and not asked.startswith("-") and asked not in {*COMMANDS, "completion"}:
        raise unknown_name("command", asked, COMMANDS)
    for name in [asked] if asked in COMMANDS else COMMANDS:
        app.command(load(COMMANDS[name]), name=name)
    app.command(app.completion)
    if any(word.startswith("--config") for word in argv):
        from .options import expand

        argv = expand(argv, {name: load(place) for name, place in CONFIGURED.items()})
    app.run(argv)
