"""Channels: decided once for a data set, all its splits and subsets; set by an option."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from test_image_folders import OTHER, PLAIN, TRAIN, tree, under

from vcqlib.cli.app import main
from vcqlib.data import image_folder
from vcqlib.data.batches import open_images, open_source
from vcqlib.data.code_store import open_codes
from vcqlib.data.image_folder import FolderFiles
from vcqlib.data.image_sets import load_images, to_channels
from vcqlib.files import read_record, write_record

COLOUR = (10, 20, 30)
CHANNELS = {
    "all grey": (under("train", TRAIN) | under("test", OTHER), 1),
    "colour in training": (under("train", TRAIN | {"a/1.png": COLOUR}) | under("test", OTHER), 3),
    "colour held out": (under("train", TRAIN) | under("test", OTHER | {"b/9.png": COLOUR}), 3),
    "colour in a third split": (
        under("train", TRAIN) | under("test", OTHER) | under("val", {"a/0.png": COLOUR}), 3),
    "colour beside the splits": (
        under("train", TRAIN) | under("test", OTHER) | under("extra", {"a/0.png": COLOUR}), 1),
    "one of many": ({f"a/{i:03}.png": i for i in range(200)} | {"a/101.png": COLOUR}, 3),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANNELS)
def test_channels_are_decided_once_for_all_splits_and_subsets(tmp_path, case):
    layout, channels = CHANNELS[case]
    name = f"folder:{tree(tmp_path, layout)}"
    for split in ("train", "test"):
        assert load_images(name, split, 1).channels == channels
        assert load_images(name, split, image_size=4, at_most=1).channels == channels
        assert open_source(name, split, 1, 4).channels == channels
    assert open_images(name, 1, 4).channels == open_images(name, 1, 4, True).channels == channels


def test_one_colour_file_held_out_is_no_end_of_a_run(tmp_path, monkeypatch, capsys):
    """Training, its validation, encoding either split: all in the channels decided once."""
    monkeypatch.chdir(tmp_path)
    places = [f"{part}/{c}" for part in ("train", "val") for c in "ab"]
    grey = {f"{place}/{i}.png": 9 * i for place in places for i in range(9)}
    tree(tmp_path / "mixed", grey | {"val/b/8.png": COLOUR})
    quick = ("--tokenizer mlp-tiny --length 2 --k-max 4 --tokenizer-steps 2 --tokenizer-batch 8 "
             "--device cpu --image-size 4")  # fmt: skip
    for out, more, channels in (("t3", "", 3), ("t1", "--channels 1", 1)):
        line = f"train tokenizer --dataset folder:mixed --held-out 18 {quick} {more} --out {out}"
        assert main(line.split()) == 0
        config = read_record(tmp_path / out / "config.json")
        assert config["model"]["channels"] == channels
        for split in ("train", "test"):
            line = f"encode --tokenizer-folder {out} --split {split} --out {out}-{split}"
            assert main([*line.split(), "--device", "cpu"]) == 0
            assert len(open_codes(tmp_path / f"{out}-{split}").codes) == 18
    capsys.readouterr()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_option_sets_the_channels(tmp_path, channels):
    for name in (f"folder:{tree(tmp_path, PLAIN)}", "digits", "synthetic:8x3", "synthetic:8x1"):
        read = load_images(name, "train", 2, image_size=8, channels=channels)
        assert read.images.shape == (2, channels, 8, 8)
        lazy = open_source(name, "train", 2, 8, channels=channels)
        assert lazy.channels == channels and lazy.read([0]).shape == (1, channels, 8, 8)
        assert torch.equal(lazy.read(range(2)), read.images)
    with pytest.raises(ValueError, match="channels must be 1, 3 or None, got 2"):
        load_images("digits", "train", channels=2)


def test_colours_become_the_same_grey_in_memory_and_in_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 50, 60, 3), np.uint8)
    grey = np.asarray(Image.fromarray(pixels[0]).convert("L"))
    ours = to_channels(torch.from_numpy(pixels).permute(0, 3, 1, 2), 1)
    assert np.array_equal(ours[0, 0].numpy(), grey)
    assert torch.equal(to_channels(to_channels(ours, 3), 1), ours)  # repeated, then back


def test_what_cannot_be_read_has_no_say_in_the_channels(tmp_path):
    tree(tmp_path, PLAIN | {"a/2.png": None})
    assert FolderFiles(tmp_path, "train").channels == 1


def test_the_channels_of_a_large_set_are_remembered_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("VCQ_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(image_folder, "REMEMBERED", 4)
    root = tree(tmp_path / "root", PLAIN)
    assert FolderFiles(root, "train").channels == 1
    (memory,) = (tmp_path / "cache/channels").iterdir()
    assert read_record(memory) == {"channels": 1}
    write_record(memory, {"channels": 3})
    assert FolderFiles(root, "train").channels == 3  # as it was remembered, not looked up again
    memory.write_bytes(b"damaged")
    assert FolderFiles(root, "train").channels == 1  # looked up again
    tree(root, {"b/2.png": COLOUR})
    assert FolderFiles(root, "train").channels == 3


def test_without_a_home_a_folder_is_read_and_nothing_remembered(tmp_path, monkeypatch):
    monkeypatch.delenv("VCQ_DATA", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # of a user without an entry
    monkeypatch.setattr(image_folder, "REMEMBERED", 4)
    assert load_images(f"folder:{tree(tmp_path, PLAIN)}", "train").channels == 1
    with pytest.raises(ValueError, match="no home directory for ~: give the path in full"):
        load_images("folder:~/pictures", "train")
    with pytest.raises(ValueError, match="set VCQ_DATA to a folder"):
        load_images("mnist", "train")
