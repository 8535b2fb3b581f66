"""Every line that a reader can copy is one that `vcq` takes, with settings that it allows."""

from __future__ import annotations

import functools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from vcqlib.cli import app
from vcqlib.study.configuration import Configuration

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "book").glob("*.ipynb")), *sorted((ROOT / "book").glob("*.md")),
         ROOT / "README.md"]  # fmt: skip
STARTS = re.compile(r"(?:.*-m vcqlib|(?:\.venv/bin/)?vcq|sbatch book/profiles/paper\.slurm) ")


def prose(page: Path) -> str:
    text = page.read_text("utf-8")
    if page.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def blocks(text: str) -> list[str]:
    indented = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    vcq "))
    return [*re.findall(r"```sh\n(.*?)```", text, re.DOTALL), indented]


def commands(text: str) -> list[str]:
    """The arguments of `vcq` in the blocks of a page, its variables filled in."""
    found = []
    lines = "\n".join(blocks(text)).replace("\\\n", " ").splitlines()
    lines = [line.partition(" #")[0] for line in lines]
    values = dict(re.findall(r"(?:^|\s)([A-Z]+)=(\S+)", "\n".join(lines)))
    for line in lines:
        if "…" not in line and (start := STARTS.match(line)):
            words = " ".join(line[start.end() :].split())
            found.append(re.sub(r"\$([A-Z]+)\b", lambda m: values.get(m[1], m[0]), words))
    return found


LINES = [pytest.param(page, line, id=f"{page.stem}: {line[:60]}")
         for page in PAGES for line in commands(prose(page))]  # fmt: skip


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch):
    """What a line asks for, by option; nothing is run."""
    found: list[dict[str, Any]] = []

    def noted(command):
        @functools.wraps(command)
        def call(*_: Any, **options: Any) -> None:
            found.append(options)

        return call

    load = app.load
    monkeypatch.setattr(app, "load", lambda place: noted(load(place)))
    monkeypatch.chdir(ROOT)

    def read(line: str) -> dict[str, Any]:
        code = app.main(shlex.split(line))
        assert code == 0 and len(found) == 1, line
        options = found.pop()
        if "what" in options:  # of `train`: the call that it would make
            options = options["what"].keywords
        return options

    return read


@pytest.mark.parametrize(("page", "line"), LINES)
def test_the_line_parses_and_its_settings_are_allowed(page, line, parsed, capsys) -> None:
    if line.startswith("completion"):
        return
    options = parsed(line)
    assert capsys.readouterr().err == ""
    settings = options.get("settings")
    if settings is not None:
        Configuration.of(vars(settings))
    if page.stem == "09_scaling":  # no place of a file is left that only the profile's author has
        told = [*vars(settings).values()] if settings is not None else []
        assert not [v for v in [*options.values(), *told] if "/path/to" in str(v)], line


def test_the_chain_of_chapter_9_is_whole() -> None:
    lines = commands(prose(ROOT / "book/09_scaling.ipynb"))
    words = ["train tokenizer", "encode", "encode", "train ar", "sweep", "sample", "evaluate",
             "train ar", "study", "train ar"]  # fmt: skip
    assert [next(w for w in sorted(words, key=len, reverse=True) if line.startswith(w))
            for line in lines] == words  # fmt: skip
    assert not [line for line in lines if "$" in line]
    assert len(LINES) > 20


def test_a_wrong_line_is_found(parsed) -> None:
    for line in ("sweep --cfg-scale 2", "train ar --tokenizer-steps 3", "sampel"):
        with pytest.raises(AssertionError):
            parsed(line)
