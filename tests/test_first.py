"""`vcq cliff` and `vcq schedule`; and what all commands share: one line for bad input."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcqlib import __version__
from vcqlib.cli.app import COMMANDS, main
from vcqlib.cli.shell import App
from vcqlib.theory import cliff as theory
from vcqlib.theory.schedules import CONTROLS, GROWING, codebook_sizes


def rows(text):
    """The table: position -> K_t, capacity, bits, prefixes."""
    lines = [line.replace(",", "").split() for line in text.splitlines()]
    return {
        int(line[0]): (int(line[1]), *map(float, line[2:]))
        for line in lines
        if len(line) == 5 and line[0].isdecimal()
    }


@pytest.mark.parametrize(
    ("line", "sizes", "cliff"),
    [
        ("-n 1281167 -k 16384", [16384] * 3, 2),
        ("-n 1281167 -k 16384 --schedule doubling", [2, 4, 8, 16, 32, 64, 128, 256], 6),
        ("-n 1000 --sizes 10 10 10 10 10", [10] * 5, 3),
        ("-n 1000 -k 64 --schedule linear --length 3", [2, 33, 64], 3),
        ("-n 1 -k 2", [2], 0),
        (f"-n 7 --sizes {10**400} 2", [10**400, 2], 1),  # beyond the range of a float
        ("-n 9223372036854775807 -k 4294967296 --length 100000", [2**32] * 3, 2),
    ],
)
def test_the_table_is_the_theory(line, sizes, cliff, capsys):
    assert main(["cliff", *line.split()]) == 0
    out = capsys.readouterr().out
    n = int(line.split()[1])
    shown = rows(out)
    assert [size for size, *_ in shown.values()] == sizes[: len(shown)]
    sizes = sizes[: len(shown)]
    columns = np.array([row[1:] for row in shown.values()]).T
    assert columns[0] == pytest.approx(theory.cumulative_capacity(sizes), abs=6e-3)
    assert columns[1] == pytest.approx(theory.expected_conditional_entropy(n, sizes), abs=6e-4)
    assert columns[2] == pytest.approx(theory.expected_distinct_prefixes(n, sizes), abs=0.6)
    assert f"t* = {cliff}, where" in out


def test_sequences_that_cannot_all_differ_have_no_cliff(capsys):
    assert main(["cliff", "-n", "65", "--sizes", "2", "4", "8"]) == 0
    assert "no cliff: the 3 positions hold 6.000 bits" in capsys.readouterr().out
    assert main(["cliff", "-n", "64", "--sizes", "2", "4", "8"]) == 0
    assert "t* = 3, where all sequences can differ; 0 of 3" in capsys.readouterr().out


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2**63 - 1), st.integers(2, 2**32))
def test_without_a_length_the_table_ends_where_nothing_is_left(n, k):
    from vcqlib.cli.cliff import SPENT, Growth, _sizes

    sizes = _sizes(n, k, "uniform", None, Growth())
    assert theory.cliff_position(n, sizes) == theory.cliff_position(n, k)
    assert theory.expected_conditional_entropy(n, sizes)[-1] < SPENT


def test_json_and_plot(tmp_path):
    files = ["--json", str(tmp_path / "c.json"), "--plot", str(tmp_path / "c.svg")]
    assert main([*["cliff", "-n", "500", "-k", "16", "--length", "4"], *files]) == 0
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["cliff"] == 3 and record["codebook_sizes"] == [16] * 4 and record["n"] == 500
    assert record["bits"] == theory.expected_conditional_entropy(500, [16] * 4).tolist()
    assert "<svg" in (tmp_path / "c.svg").read_text()


@pytest.mark.parametrize("name", GROWING + CONTROLS)
def test_a_schedule_is_printed_as_sizes_takes_it(name, capsys):
    assert main(["schedule", name, "--length", "9", "-k", "64", "--ramp", "5"]) == 0
    printed = capsys.readouterr().out.split()
    assert [int(k) for k in printed] == codebook_sizes(name, 9, 64, ramp=5).tolist()
    assert main(["cliff", "-n", "3000", "--sizes", *printed]) == 0
    given_sizes = capsys.readouterr().out
    assert main(f"cliff -n 3000 -k 64 --schedule {name} --length 9 --ramp 5".split()) == 0
    assert capsys.readouterr().out == given_sizes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cliff -n 0 -k 4", "-n must be from 1 to 2^63-1, got 0"),
        ("cliff -n 9223372036854775808 -k 4", "got 9223372036854775808"),
        ("cliff -n abc -k 4", "'abc' is not a whole number (see vcq cliff"),
        ("cliff -n 1e6 -k 4", "'1e6'"),
        ("cliff -k 4", "Missing from vcq cliff: -n INT"),
        ("cliff -n 5", "give the codebook size, -k 16384"),
        ("cliff -n 5 -k 1", "k_max must be at least 2, got 1"),
        ("cliff -n 5 -k 4294967297", "k_max must be at most 4294967296, got 4294967297"),
        ("cliff -n 5 -k x", "'x'"),
        ("cliff -n 5 --sizes 4 1", "K_2 must be at least 2, got 1"),
        ("cliff -n 5 --sizes 4 4 -k 4", "--sizes goes without -k"),
        ("cliff -n 5 --sizes 4 --ramp 3", "--sizes goes without -k"),
        ("cliff -n 5 -k 4 --length 0", "--length must be from 1 to 100,000, got 0"),
        ("cliff -n 5 -k 4 --length 100001", "got 100001"),
        ("cliff -n 5 -k 4 --schedule loglinear", "give --length"),
        ("cliff -n 5 -k 4 --schedule loglinaer", "did you mean 'loglinear'"),
        ("cliff -n 5 -k 4 --schedule loglinear --length 4 --power 0", "power must be positive"),
        ("cliff -n 5 -k 4 --plot c.nonsense", "nonsense"),
        ("cliff -n 5 -k 4 --json /proc/no/such.json", "/proc/no"),
        ("schedule loglinear -k 4", "--length INT"),
        ("schedule loglinear --length 3 -k 4 --k-min 5", "k_min must be at most k_max = 4, got 5"),
        ("schedule loglinear --length 3 -k 4 --ramp 0", "ramp must be at least 1"),
        ("schedule matched --length 3 -k 4 --of reversed", "a control must refer to"),
        ("schedule --length 3 -k 4", "Missing from vcq schedule"),
        ("clif -n 5", "unknown command 'clif': did you mean 'cliff'?"),
        ("entropy codes.npy --epsilno 1", "Perhaps you meant: --epsilon FLOAT (see vcq"),
        ("train", "Expected one of {tokenizer, ar}"),
        ("train tokenizer --tokenizer-steps x", "--tokenizer-steps: 'x' is not a whole number"),
        ("train ar --device tpu", "invalid choice 'tpu'"),
        ("completion tcsh", "Expected one of ('bash', 'zsh', 'fish')"),
        ("", "Expected one of {cliff, schedule,"),
        ("--verison", "Unrecognized options: --verison (see vcq --help)"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("vcq: ") and err.count("\n") == 1 and err.endswith("\n")
    assert message in err and not set(err) & set("│╭─╰\x1b")
    assert not list(tmp_path.iterdir())


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vcq {__version__}\n"
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert not end.value.code
    out = capsys.readouterr().out
    assert all(name in out for name in ("cliff", "schedule", "entropy", "train", "completion"))
    assert "--version" in out


def python(code, **options):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, **options
    ).stdout


@pytest.mark.parametrize("line", ["cliff -n 9 -k 2", "schedule doubling --length 3 -k 8", "--help"])
def test_the_first_commands_load_nothing_heavy(line):
    code = f"""
import sys
from vcqlib.cli.app import main
try:
    main({line.split()})
except SystemExit:
    pass
print(sorted({{"torch", "pandas", "scipy", "matplotlib", "seaborn"}} & sys.modules.keys()))"""
    assert python(code).splitlines()[-1] == "[]"


def test_what_a_command_writes_is_not_held_back(capsys, monkeypatch):
    """Parsing is watched, running is not: progress bars go to the terminal as they come."""
    seen = []

    def scheduled(*_):
        print("now", file=sys.stderr)
        seen.append(capsys.readouterr().err)
        return [2, 2]

    monkeypatch.setattr("vcqlib.cli.cliff._scheduled", scheduled)
    assert main(["schedule", "doubling", "--length", "2", "-k", "4"]) == 0
    assert seen == ["now\n"]


def test_a_group_of_commands_runs_after_parsing_too():
    def greet(x: int = 0) -> None:
        done.append((x, sys.stderr is stream))

    done, stream = [], sys.stderr
    outer, group = App(), App()
    group.command(greet)
    group.command(greet, name="other")
    outer.command(group, name="group")
    outer.command(greet)
    outer.run(["group", "greet", "--x", "3"])
    outer.run(["greet"])
    assert done == [(3, True), (0, True)]
    with pytest.raises(ValueError, match=r"^Error parsing --x: .* \(see vcq group --help\)$"):
        outer.run(["group", "other", "--x", "y"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("1e6", "'1e6' must be written in full: 1000000"),
        ("1,281,167", "'1,281,167' must be written in full: 1281167"),
        ("2.5", "'2.5' is not a whole number"),
        ("1e400", "'1e400' is not a whole number"),
        ("1e30", "'1e30' is not a whole number"),  # as a float it is another one
        ("12,5", "'12,5' is not a whole number"),
        ("many", "'many' is not a whole number"),
    ],
)
def test_a_number_that_python_does_not_read_is_said_in_plain_words(word, said, capsys):
    assert main(["cliff", "-n", word, "-k", "2"]) == 2
    assert said in capsys.readouterr().err
    assert (
        main(["schedule", "loglinear", "--length", "4", "-k", "9", "--power", word[:1] + "x"]) == 2
    )
    assert f"'{word[:1]}x' is not a number" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    """As with `| head`: files are written, nothing is said, and the exit code is 0."""
    reading, writing = os.pipe()
    os.close(reading)
    line = ["cliff", "-n", "9", "-k", "2", "--json", str(tmp_path / "c.json")]
    command = [sys.executable, "-m", "vcqlib", *line]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "c.json").exists()


def test_bash_completes_commands_and_options(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "vcq.bash").write_text(capsys.readouterr().out)

    def complete(*words):
        line = " ".join(map(repr, words))
        script = f"""source {tmp_path}/vcq.bash; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
            complete -p vcq >/dev/null && _tyro_vcq; printf '%s\\n' "${{COMPREPLY[@]}}" """
        return subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()

    assert complete("vcq", "sch") == ["schedule"]
    assert set(complete("vcq", "")) >= COMMANDS.keys()
    assert "--schedule" in complete("vcq", "cliff", "--s")
