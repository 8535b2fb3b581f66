"""Image sets: identities, balance, nesting, and every way a data set can be wrong."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vcqlib.chapters import parameters
from vcqlib.data import vendored
from vcqlib.data.batches import open_images, open_source
from vcqlib.data.image_sets import (
    choose,
    load_images,
    parse_name,
    to_float,
    to_uint8,
)
from vcqlib.study.configuration import Configuration

TEST_FILES = ("t10k-images-idx3-ubyte.xz", "t10k-labels-idx1-ubyte.gz")


def same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


@pytest.fixture
def copied_data(tmp_path, monkeypatch):
    """A data root with the Fashion-MNIST test files, free to be damaged."""
    root = vendored.data_root()
    (tmp_path / "fashion-mnist").mkdir()
    for name in TEST_FILES:
        shutil.copy(root / "fashion-mnist" / name, tmp_path / "fashion-mnist")
    shutil.copy(root / "MANIFEST.json", tmp_path)
    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------- conversions


def test_bytes_to_floats_and_back_is_the_identity():
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every)
    assert floats.dtype == torch.float32 and floats[0] == -1 and floats[-1] == 1
    assert torch.equal(to_uint8(floats), every)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


# ---------------------------------------------------------------- vendored and built-in sets


def test_fashion_mnist_is_the_published_one():
    test = load_images("fashion-mnist", "test")
    assert test.images.shape == (10_000, 1, 28, 28) and test.images.dtype == torch.uint8
    pixels = b"\0\0\x08\x03" + np.array([10_000, 28, 28], ">u4").tobytes()
    pixels += test.images.numpy().tobytes()
    assert hashlib.md5(pixels).hexdigest() == "8181f5470baa50b63fa0f6fddb340f0a"
    assert test.labels.bincount().tolist() == [1000] * 10
    assert test.labels.dtype == torch.int64 and test.classes[int(test.labels[0])] == "Ankle boot"


def test_fashion_mnist_training_images_have_the_known_mean_and_deviation():
    train = load_images("fashion-mnist", "train")
    assert len(train) == 60_000 and train.labels.bincount().tolist() == [6000] * 10
    share = train.images.numpy() / np.float32(255)
    assert share.mean() == pytest.approx(0.2860, abs=1e-4)
    assert share.std() == pytest.approx(0.3530, abs=1e-4)


def test_every_vendored_file_matches_the_manifest():
    root = vendored.data_root()
    for name, entry in vendored.manifest().items():
        content = (root / name).read_bytes()
        assert len(content) == entry["bytes"], name
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name
        assert entry["licence"] and entry["source"], name


def test_vendored_data_leave_room_in_the_repository():
    assert sum(entry["bytes"] for entry in vendored.manifest().values()) <= 37_500_000


def test_digits_are_split_once_and_for_all():
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape[1:] == (1, 8, 8) and int(train.images.max()) == 255
    assert test.labels.bincount().min() >= 35  # stratified
    assert same(test, load_images("digits", "test", seed=5))


# ---------------------------------------------------------------- subsets


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_subsets_are_balanced_and_nested(name):
    large, small = (load_images(name, "test", n, seed=3) for n in (200, 73))
    counts = small.labels.bincount()
    assert counts.max() - counts.min() <= 1
    assert torch.equal(large.images[:73], small.images)
    assert torch.equal(large.labels[:73], small.labels)
    assert not same(small, load_images(name, "test", 73, seed=4))


def test_the_largest_subset_is_the_whole_set():
    whole, subset = load_images("digits", "test"), load_images("digits", "test", 360)
    keys = [sorted(image.numpy().tobytes() for image in s.images) for s in (whole, subset)]
    assert keys[0] == keys[1]
    assert torch.equal(whole.labels.bincount(), subset.labels.bincount())


def test_a_class_that_runs_out_is_taken_whole():
    labels = np.array([0] * 2 + [1] * 50)
    chosen = choose("toy", labels, 20, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [2, 18]
    assert len(set(chosen.tolist())) == 20


# ---------------------------------------------------------------- drawn images


def test_drawn_images_are_nested_different_and_balanced():
    large = load_images("synthetic:16x3", "train", 2000)
    assert large.images.shape == (2000, 3, 16, 16)
    assert torch.equal(large.images[:55], load_images("synthetic:16x3", "train", 55).images)
    assert large.labels.bincount().tolist() == [200] * 10
    assert len({image.numpy().tobytes() for image in large.images}) == 2000


def test_drawn_splits_and_seeds_differ():
    sets = [
        load_images("synthetic:8x1", split, 50, seed=seed)
        for split in ("train", "test")
        for seed in (0, 1)
    ]
    assert len({image.numpy().tobytes() for s in sets for image in s.images}) == 200


def test_drawn_classes_can_be_told_apart():
    train, test = (load_images("synthetic:16x1", s, 2000).images for s in ("train", "test"))
    ink = [
        (to_float(x).flatten(1) - to_float(x).flatten(1).mean(1, keepdim=True))
        for x in (train, test)
    ]
    ink = [x / x.norm(dim=1, keepdim=True) for x in ink]
    nearest = (ink[1] @ ink[0].T).argmax(1) % 10
    accuracy = (nearest == torch.arange(2000) % 10).float().mean()
    assert accuracy > 0.8, accuracy  # chance: 0.1


@pytest.mark.parametrize("name", ["synthetic:3", "synthetic:32x2", "synthetic:2x1", "synthetic:"])
def test_a_wrong_drawn_set_is_refused(name):
    with pytest.raises(ValueError, match="synthetic:SIZExCHANNELS"):
        load_images(name, "train", 10)


# ---------------------------------------------------------------- size


def test_image_size_scales_any_set():
    small = load_images("fashion-mnist", "test", 5, image_size=14)
    assert small.images.shape == (5, 1, 14, 14) and small.images.dtype == torch.uint8
    exact = load_images("fashion-mnist", "test", 5).images.float()
    blocks = exact.reshape(5, 1, 14, 2, 14, 2).mean((3, 5))
    assert (small.images - blocks).abs().mean() < 8  # close to the block means
    assert load_images("synthetic:8x1", "test", 3, image_size=12).images.shape[-1] == 12


# ---------------------------------------------------------------- bad requests


def test_unknown_names_come_with_the_nearest_valid_one():
    with pytest.raises(ValueError, match="'fashon-mnist': did you mean 'fashion-mnist'"):
        load_images("fashon-mnist", "train")
    with pytest.raises(ValueError, match="unknown split 'validation'"):
        load_images("digits", "validation")


@pytest.mark.parametrize("n", [0, -5])
def test_n_images_below_one_is_refused(n):
    with pytest.raises(ValueError, match="n_images must be at least 1"):
        load_images("digits", "test", n)


@pytest.mark.parametrize("name", ["n_images", "at_most", "image_size", "channels"])
@pytest.mark.parametrize("value", [10.5, 1.0, True, "3"])
def test_numbers_that_are_no_integers_are_refused(name, value):
    with pytest.raises(TypeError, match=f"{name} must be an integer, got {value!r}"):
        load_images("digits", "test", **{name: value})


def test_an_image_size_beyond_reason_is_refused():
    with pytest.raises(ValueError, match="image_size must be at most 4096, got 100000"):
        load_images("digits", "test", 1, image_size=100_000)


@pytest.mark.parametrize("name", [None, 5, Path("digits")])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(ValueError, match="unknown data set"):
        load_images(name, "train")


def test_too_many_images_says_how_many_there_are():
    with pytest.raises(ValueError, match="n_images=361 but digits has 360 images"):
        load_images("digits", "test", 361)


# ---------------------------------------------------------------- missing and damaged files


def test_a_missing_file_is_named_with_its_cure(copied_data):
    (copied_data / "fashion-mnist" / TEST_FILES[0]).unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_images("fashion-mnist", "test")
    message = str(error.value)
    assert TEST_FILES[0] in message and "3778460 bytes" in message and "\n" not in message
    assert f"git checkout -- data/fashion-mnist/{TEST_FILES[0]}" in message


def test_one_changed_byte_is_noticed(copied_data):
    path = copied_data / "fashion-mnist" / TEST_FILES[1]
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="labels-idx1-ubyte.gz is damaged .*git checkout"):
        load_images("fashion-mnist", "test")


def test_a_file_that_the_manifest_does_not_list_is_refused(copied_data):
    (copied_data / "MANIFEST.json").write_text(json.dumps({"other": {"sha256": "", "bytes": 0}}))
    with pytest.raises(FileNotFoundError, match="not listed in .*MANIFEST.json: set VCQ_DATA"):
        load_images("fashion-mnist", "test")


# ---------------------------------------------------------------- what a name means

NAMED = ["digits", "emoji", "folder:/a b:c", "parquet:x?label=y", "synthetic:4x1",
         "synthetic:1024x3"]  # fmt: skip
NO_SETS = ["", "folder:", "parquet:", "folder", "synthetic", "synthetic:", "synthetic:3",
           "synthetic:32x2", "synthetic:32x4", "synthetic:2x1", "synthetic:1025x3",
           "synthetic:8x3x3", "synthetic:-8x3", "synthetic:٣٢x3", "synthetic:32x3\n", "Digits",
           "digits ", "file:x", "image-net"]  # fmt: skip


@pytest.mark.parametrize("name", NAMED + NO_SETS)
def test_one_rule_says_what_a_data_set_is_called(name):
    doors = [parse_name, lambda x: load_images(x, "train", 1), lambda x: open_source(x, "train"),
             lambda x: open_images(x, 1, None), lambda x: Configuration.of({"dataset": x}),
             lambda x: parameters.check({"dataset": x})]  # fmt: skip
    if name in NO_SETS:
        for door in doors:
            with pytest.raises(ValueError, match="data set|dataset|synthetic:SIZE"):
                door(name)
    else:
        assert parse_name(name)[0] == name.partition(":")[0]
        assert Configuration.of({"dataset": name}).data.dataset == name


def test_integers_of_numpy_count_as_integers_everywhere():
    a = load_images("digits", "train", np.int64(3), image_size=np.int32(8), channels=np.int16(3))
    assert same(a, load_images("digits", "train", 3, image_size=8, channels=3))


def test_a_name_is_understood_without_torch():
    code = ("import sys; from vcqlib.data.image_sets import parse_name; parse_name('digits'); "
            "assert 'torch' not in sys.modules")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)
