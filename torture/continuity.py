"""Artefacts of the first release are read; those of other formats are refused with the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from torture import artefacts
from torture.jobs import ROOT
from torture.tally import Tally, refusal
from vcqlib.files import SEAL, VERSION, _digest, _tensor_digest, read_record

RELEASED = ROOT / "tests" / "artefacts"
OTHERS = {"older": 0, "newer": 99}


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """Every artefact as it is, and in another format."""
    shutil.copytree(RELEASED, folder / "released")
    expected = read_record(folder / "released" / "expected.json")
    for kind, (_, reader) in artefacts.readers(folder / "released").items():
        tally.attempt(
            f"{kind} of the first release", lambda r=reader, k=kind: _same(r, expected[k])
        )
    for age, number in OTHERS.items():
        place = folder / age
        shutil.copytree(RELEASED, place)
        for kind, (path, reader) in artefacts.readers(place).items():
            renumber(path, number)
            tally.count(f"{kind}, {age} format", refusal(reader, path.name))


def _same(reader: Callable[[], object], expected: object) -> str:
    found = json.loads(json.dumps(reader()))
    return "" if found == expected else f"holds {found}, expected {expected}"


def renumber(path: Path, number: int) -> None:
    """Give a file another format number, and the checksum that goes with it."""
    if path.suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8")) | {VERSION: number}
        value.pop(SEAL)
        sealed = {**value, SEAL: _digest(value)}
        path.write_text(json.dumps(sealed, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    with safe_open(path, "pt") as file:
        info = {**file.metadata(), VERSION: str(number)}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    info.pop(SEAL)
    save_file(tensors, path, metadata={**info, SEAL: _tensor_digest(tensors, info)})
