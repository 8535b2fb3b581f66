"""Results are written first; what is said degrades to what the terminal can show."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from vcqlib.cli.app import CONFIGURED

ASCII = {"PYTHONIOENCODING": "ascii"}
OLD_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN = {"PYTHONIOENCODING": "latin-1:strict"}


@pytest.fixture
def codes(tmp_path):
    np.save(tmp_path / "codes.npy", np.tri(41, 40, k=-1, dtype=int))  # … and – are in its table
    return tmp_path / "codes.npy"


def vcq(*arguments, environment=(), **options):
    command = [sys.executable, "-m", "vcqlib", *map(str, arguments)]
    options = {"capture_output": True, "env": os.environ | dict(environment)} | options
    return subprocess.run(command, **options)


@pytest.mark.parametrize("environment", [ASCII, OLD_LOCALE, LATIN], ids=["ascii", "C", "latin-1"])
def test_a_terminal_that_lacks_letters(environment, codes, tmp_path):
    done = vcq("entropy", codes, "--json", tmp_path / "o.json", environment=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"cliff: 0.99 of the bits" in done.stdout and b"\n       ?\n" in done.stdout
    assert json.loads((tmp_path / "o.json").read_text())["sequences"] == 41
    missing = vcq("entropy", tmp_path / "fé.npy", environment=environment)
    assert missing.returncode == 2 and missing.stderr.count(b"\n") == 1
    assert b"does not exist" in missing.stderr


COMMANDS = [[], ["entropy"], ["study"], ["reproduce"], ["train"], *map(str.split, CONFIGURED)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_under_ascii(command):
    done = vcq(*command, "--help", environment=ASCII)
    assert (done.returncode, done.stderr) == (0, b"") and b"usage: vcq" in done.stdout
    done.stdout.decode("ascii")


@pytest.mark.parametrize("arguments", [["entropy", "{codes}", "--json", "{json}"], ["--help"]])
@pytest.mark.parametrize("lines", [0, 1])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away(arguments, lines, unbuffered, codes, tmp_path):
    """`vcq … | head -1`: what was asked for is done, and nothing is said."""
    named = {"codes": str(codes), "json": str(tmp_path / "o.json")}
    command = [sys.executable, "-m", "vcqlib", *(word.format(**named) for word in arguments)]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 0
    process.stderr.close()
    assert (tmp_path / "o.json").exists() == (arguments[0] == "entropy")


def test_a_pipe_that_breaks_while_a_command_speaks(tmp_path):
    """More than a pipe takes, then the work: it is done."""
    code = (
        "import pathlib, sys; from vcqlib.cli import app\n"
        "def talk(): print('x' * 10_000_000); print('y'); pathlib.Path('done').touch()\n"
        "app.App.cli = lambda *_, **__: talk\n"
        "sys.exit(app.main([]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 0
    process.stderr.close()
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_the_output(unbuffered, codes, tmp_path):
    """The numbers are in the file that was asked for; one line says what could not be shown."""
    environment = {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        options = {"capture_output": False, "stdout": full, "stderr": subprocess.PIPE}
        done = vcq(
            "entropy", codes, "--json", tmp_path / "o.json", environment=environment, **options
        )
        assert done.returncode == 2 and (tmp_path / "o.json").exists()
        assert done.stderr == b"vcq: standard output: No space left on device\n"
        both = {"capture_output": False, "stdout": full, "stderr": full}
        assert vcq("entropy", tmp_path / "no.npy", environment=environment, **both).returncode == 2


def test_no_output_at_all(codes, tmp_path):
    """`>&-` and `2>&-`: there is no stream to write to."""
    shell = 'exec "$@" >&- 2>&-'
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "vcqlib", "entropy", str(codes)]
    done = subprocess.run([*command, "--json", str(tmp_path / "o.json")])
    assert done.returncode == 0 and (tmp_path / "o.json").exists()
    assert subprocess.run([*command, "--epsilon", "2"]).returncode == 2


@pytest.mark.parametrize("options", [["--plot", "x.no"], ["--json", "/proc/no/x.json"]])
def test_the_numbers_are_seen_although_a_file_cannot_be_written(options, codes, tmp_path):
    done = vcq("entropy", codes, *options, cwd=tmp_path)
    assert done.returncode == 2 and b"cliff: 0.99" in done.stdout
    assert done.stderr.count(b"\n") == 1 and options[1].encode() in done.stderr
