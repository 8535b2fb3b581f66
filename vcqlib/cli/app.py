"""The command line: `vcq …`, or `python -m vcqlib …`.

Each command is a function with typed arguments, registered on `app`. What goes wrong with a file
or a value ends with one line on stderr and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tyro.extras import SubcommandApp

from . import entropy as entropy_commands
from . import options
from . import sampling as sampling_commands
from . import study as study_commands
from . import training as training_commands

app = SubcommandApp()
app.command(entropy_commands.entropy)
app.command(study_commands.study)
app.command(study_commands.reproduce)
app.command(training_commands.train)
app.command(training_commands.encode)
app.command(sampling_commands.sample)
app.command(sampling_commands.evaluate)
CONFIGURED = {  # commands that read --config
    "train tokenizer": training_commands.train_tokenizer,
    "train ar": training_commands.train_ar,
    "encode": training_commands.encode,
    "sample": sampling_commands.sample,
    "evaluate": sampling_commands.evaluate,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without a letter shows a question mark
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


def _run(argv: Sequence[str]) -> int:
    try:
        app.cli(
            args=options.expand(argv, CONFIGURED),
            prog="vcq",
            description="Measure the entropy cliff of discrete tokens; train variable codebooks.",
        )
    except BrokenPipeError:
        return 141  # as a program that a closed pipe ends: `vcq … | head -1`
    except (ValueError, TypeError, OSError, MemoryError, ArithmeticError, ImportError) as error:
        print(f"vcq: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vcq: interrupted", file=sys.stderr)
        return 130
    return 0


def _flush(stream: object) -> None:
    """Flush; what nobody reads any more goes nowhere, now and when Python ends."""
    try:
        stream.flush()
    except (BrokenPipeError, AttributeError):  # AttributeError: there is no such stream
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
