"""The ten suggestions can be run as they stand, and their arithmetic is right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from runner import profiles, yourself
from runner.chapters import Book
from throwaway import ROOT
from vcqlib import cliff_position, codebook_sizes, cumulative_capacity
from vcqlib.chapters.parameters import check
from vcqlib.cli.app import main
from vcqlib.data.image_sets import load_images
from vcqlib.study.samples import read_samples

BOOK = Book(ROOT / "book")
PAGE = (BOOK.folder / "change_one_thing.md").read_text("utf-8")
EMOJI = (BOOK.folder / "draw_emoji.md").read_text("utf-8")
BLOCKS = re.findall(r"```sh\n(make .+)\n(\S+papermill .+)\n```", PAGE)


def pairs(words: list[str]) -> dict[str, object]:
    """{name: value} of `-p name value …`."""
    found = dict(zip(words[1::3], words[2::3], strict=True))
    assert words[::3] == ["-p"] * len(found) and found
    return {name: profiles.parse(name, text) for name, text in found.items()}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[1].split()[1])
def test_chapter_and_parameter_exist_and_both_lines_agree(block: tuple[str, str]) -> None:
    make, name, arguments = re.match(r'make (\w+) NAME=(\d\d) ARGS="(.+)"$', block[0]).groups()
    _, path, out, *more = shlex.split(block[1])
    (chapter,) = BOOK.select([name])
    assert make == "chapter" and path == f"book/{chapter.path.name}" and out.endswith(".ipynb")
    values = pairs(shlex.split(arguments))
    assert values == pairs(more)
    declared = chapter.declared()
    assert set(values) <= set(declared)
    assert all(value != declared[name] for name, value in values.items())  # a change it is
    if "codes" in values:  # the reader's own: any file will do
        values["codes"] = __file__
    check({**declared, **values})


def test_there_are_ten() -> None:
    assert len(BLOCKS) == len(re.findall(r"^## \d", PAGE, re.MULTILINE)) == 10
    assert PAGE.count("**Expect:**") == 10


def test_what_is_arithmetic_is_right() -> None:
    n, log_linear = 1_281_167, codebook_sizes("loglinear", 256, 16384)
    assert (cliff_position(n, 16384), cliff_position(n, 1024)) == (2, 3)
    assert cliff_position(n, codebook_sizes("doubling", 256, 16384)) == 6
    assert cliff_position(n, log_linear) == 16
    late = [codebook_sizes("loglinear", 16, 256, power=power) for power in (1.0, 2.0)]
    assert [cliff_position(3000, sizes) for sizes in late] == [6, 8]
    assert [round(cumulative_capacity(sizes)[-1]) for sizes in late] == [72, 54]


def test_the_lines_that_draw_emoji_draw_them_in_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = re.search(r"```sh\n(.+?)```", EMOJI, re.DOTALL)[1].splitlines()
    monkeypatch.chdir(tmp_path)
    for line in lines:
        program, *words = shlex.split(re.sub(r"steps \d+", "steps 2", line))
        assert program == ".venv/bin/vcq"
        assert main(words) == 0, line
    drawn = read_samples(tmp_path / "runs" / "emoji.npz")
    assert drawn.images.shape == (64, 3, 32, 32)
    assert (drawn.images[:, 0] != drawn.images[:, 1]).any()
    assert (tmp_path / "runs" / "emoji.png").is_file()
    assert main(["diagnose", "runs/emoji-codes"]) == 0
    train = load_images("emoji", "train")
    assert f"{len(load_images('emoji', 'test'))} held-out ones" in EMOJI
    assert f"{len(train):,} emoji" in EMOJI and f"{len(train.classes)} classes" in EMOJI


@pytest.mark.parametrize("chapter", BOOK.chapters(), ids=lambda chapter: chapter.name)
def test_every_chapter_says_how_to_run_it(chapter) -> None:  # noqa: ANN001
    smoke = profiles.load("smoke", BOOK.folder / "profiles")
    values = smoke.for_chapter(chapter, {})
    box = yourself.box(BOOK, smoke, chapter, values)
    meanings = yourself.meanings(chapter)
    assert set(meanings) == set(chapter.declared())
    for name in chapter.declared():
        assert f"| `{name}` | " in box and meanings[name].replace("|", "/") in box
    line = next(line for line in box.splitlines() if "papermill" in line)
    assert shlex.split(line)[1] == f"book/{chapter.path.name}"
    for name, value in values.items():
        assert name in line and (isinstance(value, list) or f"-p {name} {value}" in line)
    assert "colab" in box and "mybinder" in box and chapter.path.name in box
