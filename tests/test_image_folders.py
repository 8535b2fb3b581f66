"""The user's own folders: one walk, splits and classes that are clear or refused, channels once."""

import os
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from vcqlib.data.image_folder import FolderFiles, folder_digest, walk
from vcqlib.data.image_sets import load_images


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)


def flat(size, *colour):
    """A picture of one colour: [size, size] grey or [size, size, channels]."""
    pixels = np.zeros((size, size, len(colour)), np.uint8) + np.array(colour, np.uint8)
    return pixels[..., 0] if len(colour) == 1 else pixels


def tree(root, layout):
    """Files by name: a number is a grey picture of that shade, a triple a colour, text a link's
    target, None a file that is no picture."""
    for name, what in layout.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, str):
            path.symlink_to(what)
        elif what is None:
            path.write_bytes(b"no picture")
        else:
            save(path, flat(4, *(what if isinstance(what, tuple) else (what,))))
    return root


def shades(root, split):
    """Class → shades of its pictures, as loaded."""
    data = load_images(f"folder:{root}", split)
    found = {name: [] for name in data.classes}
    for image, label in zip(data.images, data.labels, strict=True):
        found[data.classes[label]].append(int(image[0, 0, 0]))
    return found


# ------------------------------------------------------------------------------- the walk

PLAIN = {"a/0.png": 1, "a/1.png": 2, "b/0.png": 3, "b/1.png": 4}
SAME = {"a": [1, 2], "b": [3, 4]}
WALKS = {  # what lies beside PLAIN, and what is to be found
    "a loop": ({"a/loop": ".."}, SAME),
    "two loops": ({"a/up": "..", "b/up": "..", "a/in/0.txt": None}, SAME),
    "a link to itself": ({"a/self": "."}, SAME),
    "a link above the root": ({"a/above": "../.."}, SAME),
    "a dead circle of links": ({"a/x": "y", "a/y": "x"}, SAME),
    "a class twice": ({"kitty": "a"}, SAME),
    "a class that is a link": ({"c": "../outside"}, SAME | {"c": [9]}),
    "a folder in a class that is a link": ({"b/more": "../../outside"}, SAME | {"b": [3, 4, 9]}),
    "a picture that is a link": ({"b/9.png": "../../outside/0.png"}, SAME | {"b": [3, 4, 9]}),
    "checkpoints of Jupyter": ({"a/.ipynb_checkpoints/0-checkpoint.png": 7}, SAME),
    "shadows of macOS": ({"a/._0.png": None, "._a": None, "a/.DS_Store": None}, SAME),
    "a zip from macOS": ({"__MACOSX/a/._0.png": None, "a/__MACOSX/1.png": 7}, SAME),
    "thumbnails of Windows": ({"a/Thumbs.db": None, "b/desktop.ini": None}, SAME),
    "thumbnails of a NAS": ({"a/@eaDir/0.png/thumb.jpg": None}, SAME),
    "a hidden class": ({".git/0.png": 7, ".cache/huggingface/0.png": 7}, SAME),
    "notes": ({"a/readme.txt": None, "labels.csv": None}, SAME),
    "capitals": ({"a/2.PNG": 6}, SAME | {"a": [1, 2, 6]}),
    "names that are no UTF-8": ({"a/\udcff.png": 6}, SAME | {"a": [1, 2, 6]}),
    "blanks and other scripts": ({"a/é 日本.png": 6}, SAME | {"a": [1, 2, 6]}),
    "downloads not finished": ({"a/0.png.part": None, "a/1.png~": None}, SAME),
    "a diamond": ({"a/x/7.png": 7, "a/y": "x", "a/x/z": ".."}, SAME | {"a": [1, 2, 7]}),
    "folders in a class": ({"a/deep/er/0.png": 6}, SAME | {"a": [1, 2, 6]}),
}


@pytest.mark.parametrize("case", WALKS)
def test_a_walk_finds_each_picture_once_and_nothing_else(tmp_path, case):
    more, expected = WALKS[case]
    tree(tmp_path / "outside", {"0.png": 9})
    root = tree(tmp_path / "root", PLAIN | more)
    assert shades(root, "train") == expected
    assert folder_digest(root) == folder_digest(root)


@pytest.mark.parametrize("case", [case for case in WALKS if WALKS[case][1] == SAME])
def test_what_is_no_data_is_not_in_the_digest(tmp_path, case):
    root = tree(tmp_path / "root", PLAIN)
    before = folder_digest(root)
    notes = (".txt", ".csv", ".part", "~")
    tree(root, {k: v for k, v in WALKS[case][0].items() if not k.endswith(notes)})
    if case != "a dead circle of links":  # what cannot be followed has no digest
        assert [p for p in walk(root) if p.suffix == ".png"] == sorted(root / n for n in PLAIN)
    assert folder_digest(root) == before


@pytest.mark.parametrize("change", ["grow", "touch", "add", "remove", "rename"])
def test_the_digest_notices_every_change(tmp_path, change):
    root = tree(tmp_path, PLAIN)
    before, path = folder_digest(root), root / "a/0.png"
    if change == "grow":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    elif change == "add":
        tree(root, {"b/2.png": 5})
    elif change == "remove":
        path.unlink()
    else:
        path.rename(root / "a/7.png")
    assert folder_digest(root) != before


def test_pipes_are_left_alone_and_broken_links_are_named(tmp_path):
    root = tree(tmp_path, PLAIN)
    os.mkfifo(root / "a" / "pipe.png")
    (root / "b" / "link.png").symlink_to(root / "a" / "pipe.png")
    skipped = Counter()
    assert len(walk(root, skipped)) == 4 and skipped == {"pipes and devices": 2}
    tree(root, {"a/gone.png": "/no/such.png"})
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        load_images(f"folder:{root}", "train")


def test_one_line_says_what_was_taken_and_what_was_skipped(tmp_path, capsys):
    root = tree(tmp_path, PLAIN | {"a/.x": None, "a/n.txt": None, "b/m.txt": None, "b/up": ".."})
    FolderFiles(root, "train")
    FolderFiles(root, "train")
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert f"train images: 4 of {root}, every 5th of a class held out" in line
    for left_out in ("2 *.txt", "1 hidden or system entries", "1 links into folders already read"):
        assert left_out in line


# ----------------------------------------------------------------------------- the splits

TRAIN, OTHER = {"a/0.png": 1, "b/0.png": 2}, {"a/0.png": 11, "b/0.png": 12}
LOOSE = {"0.png": 99}


def under(name, layout):
    return {f"{name}/{k}": v for k, v in layout.items()}


HELD_OUT = {"a": [11], "b": [12]}
SPLITS = {  # layout, held-out images
    "train, test": (under("train", TRAIN) | under("test", OTHER), HELD_OUT),
    "train, val": (under("train", TRAIN) | under("val", OTHER), HELD_OUT),
    "train, validation": (under("train", TRAIN) | under("validation", OTHER), HELD_OUT),
    "train, valid": (under("train", TRAIN) | under("valid", OTHER), HELD_OUT),
    "Training, Testing": (under("Training", TRAIN) | under("Testing", OTHER), HELD_OUT),
    "TRAIN, TEST": (under("TRAIN", TRAIN) | under("TEST", OTHER), HELD_OUT),
    "training_set, test_set": (under("training_set", TRAIN) | under("test_set", OTHER), HELD_OUT),
    "train2017, val2017": (under("train2017", TRAIN) | under("val2017", OTHER), HELD_OUT),
    "all three": (
        under("train", TRAIN) | under("val", {"a/0.png": 50}) | under("test", OTHER), HELD_OUT),
    "test without classes": (
        under("train", TRAIN) | under("val", OTHER) | under("test", LOOSE), HELD_OUT),
    "something beside": (
        under("train", TRAIN) | under("test", OTHER) | under("extra", LOOSE), HELD_OUT),
    "no classes": (under("train", LOOSE) | under("test", {"0.png": 11}), {"all": [11]}),
    "a class that only trains": (
        under("train", TRAIN) | under("test", {"a/0.png": 11}), {"a": [11], "b": []}),
    "splits that are links": (
        under("../there", TRAIN) | under("../here", OTHER)
        | {"train": "../there", "test": "../here"}, HELD_OUT),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLITS)
def test_splits_are_known_by_their_usual_names(tmp_path, case):
    layout, held_out = SPLITS[case]
    root = tree(tmp_path / "root", layout)
    assert shades(root, "test") == held_out
    assert shades(root, "train") == ({"all": [99]} if case == "no classes" else
                                     {"a": [1], "b": [2]})  # fmt: skip


CLASSES = {  # folders that are classes, however they are called
    "a class called train": {"bus/0.png": 1, "car/0.png": 2, "train/0.png": 3},
    "valid and invalid": {"valid/0.png": 1, "invalid/0.png": 2},
    "test and rest": {"test/0.png": 1, "rest/0.png": 2},
    "stations": {"train-station/0.png": 1, "test_tube/0.png": 2},
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_may_be_called_like_splits(tmp_path, case):
    root = tree(tmp_path, CLASSES[case])
    assert set(shades(root, "train")) == {name.split("/")[0] for name in CLASSES[case]}


REFUSED = {
    "two of a kind": (under("train", TRAIN) | under("Training", TRAIN), "both the train split"),
    "two held out": (under("train", TRAIN) | under("val", OTHER) | under("valid", OTHER),
                     "val/ and valid/, both the validation split"),
    "only held out": (under("val", OTHER), "has val/ and no training split: add train/"),
    "split or class": (under("train", TRAIN) | under("more", LOOSE),
                       "train/ and more/: is train a split or a class"),
    "another class": (under("train", TRAIN) | under("test", {"c/0.png": 3}),
                      "class 'c' does not occur in the training split"),
    "held out without classes": (under("train", TRAIN) | under("test", LOOSE),
                                 "its images lie in no class folders"),
    "loose beside classes": (PLAIN | LOOSE, "class folders and also loose images"),
    "loose beside a class called all": ({"all/0.png": 1, "0.png": 2}, "also loose images"),
    "a data set below": ({"set/train/a/0.png": 1, "set/test/a/0.png": 2},
                         "set holds splits of its own"),
    "data sets below": (
        {"bottle/train/good/0.png": 1, "bottle/test/bad/0.png": 2, "nut/train/good/0.png": 3},
        "bottle holds splits of its own: give this folder"),
    "an empty class": (PLAIN | {"c/readme.txt": None}, "c holds no image: remove the folder"),
    "checkpoints alone": (PLAIN | {"c/.ipynb_checkpoints/0.png": 1}, "c holds no image"),
    "no pictures": ({"readme.txt": None}, "holds no image"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused_in_one_line(tmp_path, case):
    layout, message = REFUSED[case]
    root = tree(tmp_path, layout)
    with pytest.raises(ValueError, match=message) as error:
        load_images(f"folder:{root}", "test")
    assert "\n" not in str(error.value) and str(root) in str(error.value)


# ------------------------------------------------------------------------------ the files


def test_folder_without_a_split_holds_out_every_fifth_of_a_class(tmp_path):
    for i, name in enumerate("ab"):
        for j in range(10):
            save(tmp_path / name / f"{j:02}.png", flat(4, 20 * j + i))
    train, test = (load_images(f"folder:{tmp_path}", s) for s in ("train", "test"))
    assert (len(train), len(test)) == (16, 4) and train.images.shape[1] == 1  # all grey
    assert test.images[:, 0, 0, 0].tolist() == [80, 180, 81, 181]
    assert not set(train.images[:, 0, 0, 0].tolist()) & {80, 180, 81, 181}


def test_flat_folder_is_one_class(tmp_path):
    for j in range(5):
        save(tmp_path / f"{j}.png", flat(4, j, j, j))
    train = load_images(f"folder:{tmp_path}", "train", 3)
    assert train.classes == ("all",) and train.labels.tolist() == [0, 0, 0]
    assert len(load_images(f"folder:{tmp_path}", "test")) == 1


def test_only_chosen_files_are_read(tmp_path):
    for j in range(8):
        save(tmp_path / f"{j}.png", flat(4, j))
    first = load_images(f"folder:{tmp_path}", "train", 1)
    for j in {0, 1, 2, 3, 5, 6, 7} - {int(first.images[0, 0, 0, 0])}:
        (tmp_path / f"{j}.png").write_bytes(b"broken")
    assert torch.equal(first.images, load_images(f"folder:{tmp_path}", "train", 1).images)


def test_modes_are_converted(tmp_path):
    save(tmp_path / "0.png", flat(4, 77))
    save(tmp_path / "1.png", flat(4, 10, 20, 30))
    save(tmp_path / "2.png", flat(4, 10, 20, 30, 0))  # fully transparent: the white behind it
    Image.fromarray(flat(4, 255, 0, 0)).convert("P").save(tmp_path / "3.png")
    images = load_images(f"folder:{tmp_path}", "train").images
    corners = images[:, :, 0, 0].tolist()
    assert corners == [[77, 77, 77], [10, 20, 30], [255, 255, 255], [255, 0, 0]]


def test_image_size_cuts_the_centre(tmp_path):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    save(tmp_path / "wide.png", wide)
    (image,) = load_images(f"folder:{tmp_path}", "train", image_size=10).images
    assert image.shape == (1, 10, 10) and image.unique().tolist() == [200]


def test_sizes_that_differ_need_image_size(tmp_path):
    save(tmp_path / "0.png", flat(4, 0))
    save(tmp_path / "1.png", flat(5, 0))
    with pytest.raises(ValueError, match=r"1\.png is 5x5, .*0\.png is 4x4: set image_size"):
        load_images(f"folder:{tmp_path}", "train")
    assert load_images(f"folder:{tmp_path}", "train", image_size=3).images.shape == (2, 1, 3, 3)


def bad_files(path):
    """Ways in which one picture can be unusable, and what the message says."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    save(path, noise)
    whole = path.read_bytes()
    yield "cut.png", whole[: len(whole) // 2], "is damaged"
    yield "text.png", b"hello", "is no image"
    yield "empty.png", b"", "is no image"
    yield "header.png", whole[:20], "is no image"
    Image.fromarray(np.full((64, 64), 40_000, np.uint16)).save(path)
    yield "deep.png", path.read_bytes(), "has mode I;16: convert it"
    path.unlink()


def test_unusable_files_are_named(tmp_path):
    for name, content, message in list(bad_files(tmp_path / "x.png")):
        folder = tmp_path / name.removesuffix(".png")
        save(folder / "0.png", flat(64, 1, 2, 3))
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} {message}"):
            load_images(f"folder:{folder}", "train")


@pytest.mark.parametrize("limit", [20, 40])  # Pillow's error from twice the limit, else a warning
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, limit):
    save(tmp_path / "bomb.png", flat(7, 0))  # 49 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=f"bomb.png has more than {limit} pixels"):
        load_images(f"folder:{tmp_path}", "train")


def test_a_folder_that_is_not_there_or_too_small_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        load_images(f"folder:{tmp_path / 'none'}", "train")
    (tmp_path / "x").write_bytes(b"")
    for kind in ("folder", "parquet"):
        with pytest.raises(NotADirectoryError, match="x is a file: give the folder"):
            load_images(f"{kind}:{tmp_path / 'x'}", "train")
    (tmp_path / "x").unlink()
    with pytest.raises(ValueError, match="no images for the test split"):
        load_images(f"folder:{tree(tmp_path, {'a/0.png': 1})}", "test")
