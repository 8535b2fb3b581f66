"""What every command shares: parsed first, run afterwards; bad input is one line.

tyro draws a box for an option that it cannot read. Here parsing and running are two steps, so that
the box can be caught and said in one line, and what a command itself writes goes out untouched.
"""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from typing import Any, Literal

from tyro.conf import Positional
from tyro.extras import SubcommandApp

from .. import __version__
from ..extras import needed


def deferred(command: Callable) -> Callable:
    """A command that, once parsed, returns the call that is to be made."""

    @functools.wraps(command)
    def parsed(*args: Any, **options: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **options)

    return parsed


class App(SubcommandApp):
    """tyro's application, with errors of one line, `--version` and shell completion.

    A group of subcommands (`app.command(group, name=…)`) is an App too.
    """

    def __init__(self, prog: str = "vcq", description: str = "") -> None:
        super().__init__()
        self.prog, self.description = prog, description
        self.names: list[str] = []

    def command(self, func: Any, **options: Any) -> Any:
        """Register a command, as in tyro; returns it unchanged."""
        self.names.append(options.get("name") or func.__name__)
        super().command(func if isinstance(func, SubcommandApp) else deferred(func), **options)
        return func

    def run(self, argv: Sequence[str]) -> None:
        """Parse and run; ValueError of one line for what cannot be parsed."""
        if [*argv] == ["--version"]:
            print(self.prog, __version__)
            return
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                call = self.cli(args=argv, prog=self.prog, description=self.description)
        except SystemExit as end:
            if end.code in (0, None):
                raise
            known = [word for word in argv[:1] if word in self.names]
            help_for = " ".join([self.prog, *known, "--help"])
            raise ValueError(f"{one_line(said.getvalue())} (see {help_for})") from None
        if sys.stderr:  # None after 2>&-
            sys.stderr.write(said.getvalue())
        with needed():
            call()

    def completion(self, shell: Positional[Literal["bash", "zsh", "fish"]]) -> None:
        """Print the script that completes commands and options: eval "$(vcq completion bash)".

        Args:
            shell: the shell that is to read it.
        """
        with suppress(SystemExit):
            self.cli(args=["--tyro-write-completion", shell, "-"], prog=self.prog)


def one_line(box: str) -> str:
    """The message of one of tyro's boxes, and what it suggests, without title, frame and help.

    Boxes are drawn in ASCII where the terminal knows no other characters.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    inner = "\n".join(line.strip("│ ") for line in plain.splitlines()[1:] if line[:1] != "╰")
    message, *more = filter(None, re.split(r"^[─-]{4,}$\n?", inner, flags=re.MULTILINE))
    near = ["\n".join(part.splitlines()[:2]) for part in more if part.startswith("Perhaps")]
    said = "; ".join(" ".join(part.split()) for part in (message, *near))
    said = re.sub(r"invalid literal for int\(\) with base 10: '(.*?)'", _not_whole, said)
    return re.sub(r"could not convert string to float: '(.*?)'", r"'\1' is not a number", said)


def _not_whole(found: re.Match) -> str:
    """In plain words, why a word is no integer, with the one that was meant: 1e6 is 1000000."""
    thousands = re.fullmatch(r"\d{1,3}(,\d{3})+", found[1])  # 12,5 may mean 12.5
    with suppress(ValueError):
        value = float(found[1].replace(",", "") if thousands else found[1])
        if value.is_integer() and abs(value) < 2**53:  # beyond, a float is not the number written
            return f"{found[1]!r} must be written in full: {int(value)}"
    return f"{found[1]!r} is not a whole number"
