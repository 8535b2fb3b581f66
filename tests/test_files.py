"""Files are whole or absent, and notice when a bit of them has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from vcqlib.files import (
    atomic_path,
    load_tensors,
    read_json,
    read_record,
    save_tensors,
    write_json,
    write_record,
)

TENSORS = {
    "weights": torch.linspace(-1, 1, 6).reshape(2, 3),
    "step": torch.tensor(3),
    "none": torch.zeros(0, 2),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
}


def flipped(path):
    """Rewrite the file with one bit flipped, at every byte in turn."""
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        yield place
    path.write_bytes(whole)


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a" / "x.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_an_error_of_the_disk_names_the_file_and_others_pass(tmp_path):
    path = tmp_path / "x.txt"
    with (
        pytest.raises(OSError, match="x.txt could not be written .No space left.*is kept"),
        atomic_path(path),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError, match="gone"), atomic_path(path):
        (tmp_path / "gone").read_text()  # another file: its own error
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="y.txt could not be written"),
        atomic_path(tmp_path / "file" / "y.txt"),
    ):
        pass


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    """`--json /dev/stdout` or `>(…)`: written into, never replaced by a file."""
    (tmp_path / "far").mkdir()
    link, gone = tmp_path / "link.json", tmp_path / "gone.json"
    link.symlink_to(tmp_path / "far" / "x.json")
    gone.symlink_to(tmp_path / "new" / "y.json")
    for _ in range(2):
        write_json(link, [1])
        write_json(gone, [2])
    assert link.is_symlink() and read_json(tmp_path / "far" / "x.json") == [1]
    assert gone.is_symlink() and read_json(tmp_path / "new" / "y.json") == [2]
    pipe, seen = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: seen.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join(10)
    assert json.loads(seen[0]) == {"a": 1} and pipe.is_fifo()
    done = subprocess.run(
        [sys.executable, "-c", "from vcqlib.files import write_json; write_json('out', [3])"],
        cwd=_linked_to_output(tmp_path), capture_output=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [3] and (tmp_path / "out").is_symlink()
    names = {"far", "new", "link.json", "gone.json", "pipe", "out"}
    assert {path.name for path in tmp_path.iterdir()} == names


def _linked_to_output(folder):
    """A folder with what /dev/stdout is: tried on the real one, a fault would ruin the machine."""
    (folder / "out").symlink_to("/proc/self/fd/1")
    return folder


def test_records_come_back_and_every_flipped_bit_is_found(tmp_path):
    path, value = tmp_path / "r.json", {"name": "Ünï", "bits": [0.5, 1e-9], "none": None}
    write_record(path, value)
    assert read_record(path) == value and read_json(path)["format"] == 1
    for place in flipped(path):
        with pytest.raises(ValueError, match="r.json"):
            read_record(path)
            pytest.fail(f"byte {place} was not noticed")
    assert read_record(path) == value


texts = some.text(some.sampled_from('[]{}",\\ \nä1')) | some.text(max_size=5)
leaves = (
    texts
    | some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False, allow_infinity=False)
)
values = some.recursive(
    leaves, lambda v: some.lists(v) | some.dictionaries(texts, v), max_leaves=20
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=values)
def test_every_value_comes_back_whatever_its_strings_hold(value, tmp_path):
    path = tmp_path / "r.json"
    write_record(path, {"value": value})
    assert read_record(path) == {"value": value}


def test_a_list_of_numbers_takes_one_line_and_the_layout_of_before_is_read(tmp_path):
    path, value = tmp_path / "r.json", {"a": [1, 2.5, None], "b": [[1], []], "c": ["[\n1,\n2]"]}
    write_record(path, value)
    text = path.read_text(encoding="utf-8")
    assert '"a": [1, 2.5, null],' in text and len(text.splitlines()) == 12
    path.write_text(json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n")
    assert read_record(path) == value
    path.write_text(text.replace("[1, 2.5", "[1,  2.5"))  # the same value in another layout
    with pytest.raises(ValueError, match="r.json is damaged"):
        read_record(path)


@pytest.mark.parametrize("name", ["format", "sha256"])
def test_a_record_keeps_its_own_entries(name, tmp_path):
    """It could not be read again, or would have lost one."""
    with pytest.raises(ValueError, match=f"r.json: '{name}' is the record's own entry"):
        write_record(tmp_path / "r.json", {name: 7})
    assert not (tmp_path / "r.json").exists()


def test_records_of_other_formats_or_none_are_refused(tmp_path):
    write_json(tmp_path / "old.json", {"a": 1})
    with pytest.raises(ValueError, match="format None, this vcqlib reads 1: remove it"):
        read_record(tmp_path / "old.json")
    (tmp_path / "new.json").write_text(json.dumps({"format": 7}))
    with pytest.raises(ValueError, match="format 7, this vcqlib reads 1: update vcqlib"):
        read_record(tmp_path / "new.json")


def test_tensors_come_back_and_every_flipped_bit_is_found(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, TENSORS, {"step": "7"}, version=2)
    tensors, info = load_tensors(path, version=2)
    assert info == {"step": "7"} and load_tensors(path, None)[1] == {"step": "7", "format": "2"}
    assert tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in TENSORS.items()
    )
    for place in flipped(path):
        for version in (2, None):
            with pytest.raises(ValueError, match="t.safetensors"):
                load_tensors(path, version)
                pytest.fail(f"byte {place} was not noticed")


def test_equal_tensors_are_equal_bytes(tmp_path):
    """safetensors alone writes its header in a new order each time."""
    info = {f"Größe {i}": 'a "b"\n\x1f/' for i in range(20)}
    for name in ("a", "b"):
        save_tensors(tmp_path / name, TENSORS, info)
        assert load_tensors(tmp_path / name)[1] == info
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tensors_of_other_formats_are_refused_or_left_to_the_caller(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "t.safetensors"
    save_tensors(path, TENSORS, version=3)
    with pytest.raises(ValueError, match="format 3, this vcqlib reads 1: update vcqlib"):
        load_tensors(path)
    save_file(TENSORS, path)
    for version in (1, None):
        with pytest.raises(ValueError, match="no format number and no SHA-256"):
            load_tensors(path, version)
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match="t.safetensors is damaged: .*header too large"):
        load_tensors(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="t.safetensors is damaged"):
        load_tensors(path)


def test_json_that_is_none_is_named(tmp_path):
    for text in ("{", "[" * 100_000, "\x00", '{"a": NaN'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match="x.json is not valid JSON"):
            read_json(tmp_path / "x.json")
    with pytest.raises(ValueError):
        write_json(tmp_path / "nan.json", {"a": float("nan")})
    assert not (tmp_path / "nan.json").exists()
