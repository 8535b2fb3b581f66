"""The benchmarks run, in tiny sizes; what they report is complete and kept apart from records."""

import runpy
import sys
from pathlib import Path

import pytest

from vcqlib.files import read_record

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted((ROOT / "data/results").glob("bench_*.json"))


@pytest.mark.parametrize("name", ["quantizer", "sampling", "training", "loader", "lab"])
def test_small_sizes_run_and_write_nothing(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--small", "--threads", "1"])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = {path: path.read_bytes() for path in RECORDS}
    runpy.run_path(str(ROOT / f"benchmarks/{name}.py"), run_name="__main__")
    assert {path: path.read_bytes() for path in RECORDS} == before
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("cpu") or " cpu " in line for line in lines)
    goals = lines[next(i for i, line in enumerate(lines) if line.startswith("what  ")) + 1 :]
    assert any(" cuda " in line for line in goals)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_records_say_what_they_were_measured_with(path):
    record = read_record(path)  # sealed: a changed number is refused
    assert {"settings", "hardware", "date", "versions"} <= set(record)
    for row in record.get("rows", ()):
        assert set(row) <= set(record["columns"])
    for goal in record.get("goals", ()):
        assert goal["device"] in ("cpu", "cuda")
        assert goal["reached"] is None or goal["reached"] > 0
