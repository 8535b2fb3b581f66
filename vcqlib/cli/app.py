"""The command line: `vcq …`, or `python -m vcqlib …`.

Each command is a function with typed arguments, registered on `app`. What goes wrong with a file
or a value ends with one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tyro.extras import SubcommandApp

from . import config_file as command_files
from . import entropy as entropy_commands
from . import sampling as sampling_commands
from . import study as study_commands
from . import training as training_commands
from .output import forgiving_output

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

ABOUT = "Measure the entropy cliff of discrete tokens; train variable codebooks."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    with forgiving_output():
        try:
            app.cli(
                args=command_files.expand(sys.argv[1:] if argv is None else argv, CONFIGURED),
                prog="vcq",
                description=ABOUT,
            )
            if sys.stdout:
                sys.stdout.flush()
        except (ValueError, TypeError, OSError, MemoryError, ArithmeticError, ImportError) as error:
            print(f"vcq: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("vcq: interrupted", file=sys.stderr)
            return 130
    return 0
