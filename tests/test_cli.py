"""The shell command says what the library says, and fails with one line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from vcqlib.cli.app import main
from vcqlib.entropy.estimates import conditional_entropy


@pytest.fixture
def codes():
    return np.random.default_rng(0).integers(0, 64, (3000, 40))


@pytest.fixture
def path(codes, tmp_path):
    np.save(tmp_path / "codes.npy", codes.astype(np.uint16))
    return tmp_path / "codes.npy"


def table(text):
    rows = [line.split() for line in text.splitlines()]
    return {int(row[0]): row[1:] for row in rows if row and row[0].isdecimal()}


def test_table_and_cliff(path, codes, capsys):
    assert main(["entropy", str(path)]) == 0
    out = capsys.readouterr().out
    result = conditional_entropy(codes)
    rows = table(out)
    assert list(rows) == [1, 2, 3, 4]  # after that nothing changes
    for position, (bits, capacity, prefixes, unique) in rows.items():
        assert float(bits) == pytest.approx(result.bits[position - 1], abs=6e-4)
        assert float(capacity) == 6.0
        assert int(prefixes.replace(",", "")) == result.distinct_prefixes[position - 1]
        assert float(unique[:-1]) / 100 == pytest.approx(
            result.unique_share[position - 1], abs=1e-3
        )
    assert "N = 3,000 sequences, T = 40: 11.551 bits of at most log2 N = 11.551" in out
    assert f"spent after {result.cliff()} of 40 positions" in out
    assert "would need 2" in out
    assert "no prefix is split any more" in out


def test_a_long_curve_is_shortened(tmp_path, capsys):
    np.save(tmp_path / "slow.npy", np.tri(41, 40, k=-1, dtype=int))  # one more prefix a position
    assert main(["entropy", str(tmp_path / "slow.npy")]) == 0
    out = capsys.readouterr().out
    assert list(table(out)) == [*range(1, 17), *range(37, 41)]
    assert "…" in out


def test_json_plot_and_labels(path, codes, tmp_path, capsys):
    labels = np.arange(3000) % 3
    np.save(tmp_path / "y.npy", labels)
    options = ["--labels", tmp_path / "y.npy", "--json", tmp_path / "o.json"]
    options += ["--plot", tmp_path / "o.png", "--sizes", 128, "--epsilon", 0.1]
    assert main(["entropy", str(path), *map(str, options)]) == 0
    assert "within each of 3 classes: after 2 to 2 positions" in capsys.readouterr().out
    record = json.loads((tmp_path / "o.json").read_text())
    result = conditional_entropy(codes, labels)
    assert record["bits"] == result.bits.tolist()
    assert record["cliff"] == result.cliff(0.1)
    assert record["codebook_sizes"] == [128] * 40
    assert record["per_class"]["2"]["bits"] == result.per_class[2].bits.tolist()
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_labels_inside_the_file_are_used(codes, tmp_path, capsys):
    np.savez(tmp_path / "codes.npz", codes=codes, labels=np.arange(3000) % 7)
    assert main(["entropy", str(tmp_path / "codes.npz")]) == 0
    assert "within each of 7 classes" in capsys.readouterr().out


def test_capacity_by_position(codes, tmp_path, capsys):
    codes[:, 0] %= 2
    codes[:, 1] = 0  # never varies: no ideal code to compare with
    np.save(tmp_path / "codes.npy", np.asfortranarray(codes))
    assert main(["entropy", str(tmp_path / "codes.npy")]) == 0
    out = capsys.readouterr().out
    assert [float(table(out)[t][1]) for t in (1, 2, 3)] == [1.0, 0.0, 6.0]
    assert "would need" not in out


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2)), "codes must be integers, got shape (2, 2), float64"),
        (np.array([[1, -2]]), "row 0, position 1 (both zero-based): -2 is negative"),
        (np.array([[1, 2**63]], np.uint64), "9223372036854775808 does not fit in 63 bits"),
        (np.zeros(3, int), "codes must be a matrix [N, T], got shape (3,), int64"),
        (np.zeros((3, 2, 2), int), "flatten each sequence: codes.reshape(len(codes), -1)"),
        (np.array([[None]]), "Python objects"),
    ],
)
def test_bad_files_give_one_line(array, message, tmp_path, capsys):
    path = tmp_path / "codes.npy"
    np.save(path, array, allow_pickle=True)
    assert main(["entropy", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"vcq: {path}") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "32"], "sizes: K_1 = 32, but position 1 holds the token 63"),
        (["--sizes", "64", "64"], "sizes: got 2 values, need 1 or T = 40"),
        (["--epsilon", "1.5"], "epsilon must be"),
        (["--labels", "absent.npy"], "absent.npy does not exist"),
        (["--plot", "/proc/no/such.png"], "/proc/no"),
    ],
)
def test_bad_options_give_one_line(options, message, path, capsys):
    assert main(["entropy", str(path), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_as_a_process(path, tmp_path):
    def run(*args):
        command = [sys.executable, "-m", "vcqlib", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True)

    shown = run("entropy", "--help")
    assert shown.returncode == 0
    for word in ("PATH", "--labels", "--plot", "--json", "LlamaGen"):
        assert word in shown.stdout
    missing = run("entropy", tmp_path / "absent.npy")
    assert missing.returncode == 2
    assert missing.stderr == f"vcq: {tmp_path}/absent.npy does not exist\n"
    assert run("entropy").returncode == 2
    good = run("entropy", path)
    assert good.returncode == 0 and "cliff" in good.stdout and good.stderr == ""


def test_a_record_that_is_not_there(tmp_path, capsys):
    assert main(["reproduce", str(tmp_path / "gone.json")]) == 2
    assert capsys.readouterr().err == f"vcq: {tmp_path}/gone.json does not exist\n"
