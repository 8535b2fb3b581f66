"""Folders and Parquet files of pictures: each picture once, in its class, in one kind of colour."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import test_image_folders as folders
import test_image_parquet as parquet
import torch
from numpy.random import Generator
from PIL import Image

from torture.tally import OURS, Tally, unclear
from vcqlib.data import image_folder
from vcqlib.data import parquet as image_parquet
from vcqlib.data.batches import open_source
from vcqlib.data.image_folder import SPLITS, folder_digest, split_of
from vcqlib.data.image_sets import load_images
from vcqlib.data.pictures import open_image, to_pixels

JUNK = {  # what systems, editors and copies leave: a picture, or bytes that are none
    ".DS_Store": None, "._0.png": None, "Thumbs.db": None, "__MACOSX/0.png": 7,
    ".ipynb_checkpoints/0.png": 7, "@eaDir/0.png/thumb.jpg": 7, ".git/objects/0.png": 7,
    "notes.txt": None, "0.png.part": None, "desktop.ini": None, "$RECYCLE.BIN/0.png": 7,
    ".Trash-0/files/0.png": 7, "lost+found/0.png": 7, "0.png.crdownload": None, "Icon\r": None,
    "__pycache__/0.png": 7, ".thumbnails/0.png": 7, "labels.json": None, "0.PNG~": None,
}  # fmt: skip
FORMS = {
    "JPEG": {}, "PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {}, "GIF": {}, "PPM": {},
    "progressive": {"progressive": True, "format": "JPEG"}, "lossless": {"lossless": True,
    "format": "WEBP"}, "deflated": {"compression": "tiff_deflate", "format": "TIFF"},
}  # fmt: skip


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """Every kind below, some of them less often."""
    os.environ["VCQ_DATA"] = str(folder / "cache")
    image_folder.say = image_parquet.say = lambda line: None
    tally.kinds({
        "trees with loops, links and system entries": (10, _tree),
        "splits by name, beside classes": (10, _splits),
        "grey and colour in any split": (5, _channels),
        "pictures cut, padded or spoilt": (20, _pictures),
        "Parquet columns of images and labels": (5, _columns),
    }, count, seed, folder)  # fmt: skip


def _tree(rng: Generator, place: Path) -> str:
    """Whatever lies beside and however it is linked, each picture counts once, in its class."""
    classes = [f"c{i}" for i in range(rng.integers(1, 4))]
    layout: dict[str, object] = {}
    below = list(classes)
    for _ in range(rng.integers(0, 4)):
        below.append(f"{rng.choice(below)}/{rng.choice(['in', 'deep', 'train', 'x y', 'é'])}")
    for i, name in enumerate([*classes, *rng.choice(below, rng.integers(0, 9))]):
        layout[f"{name}/{i}.{rng.choice(['png', 'PNG', 'bmp', 'jpeg'])}"] = i + 10
    expected = {name: sorted(v for k, v in layout.items() if k.split("/")[0] == name)
                for name in classes}  # fmt: skip
    root = folders.tree(place / "root", layout)
    before = folder_digest(root)
    made = [path for path in root.rglob("*") if path.is_dir()]
    for i in range(rng.integers(0, 6)):  # loops, diamonds, links to links, in any folder
        at, to = (made[rng.integers(len(made))] for _ in "ab")
        target = rng.choice([str(to), os.path.relpath(to, at), ".", "..", "../..", f"link{i - 1}"])
        (at / f"link{i}").symlink_to(target)
    broken = [path for path in root.rglob("link*") if not path.exists()]
    for path in broken:
        path.unlink()
    same = folder_digest(root) == before
    noise = {name: JUNK[name] for name in rng.permutation(list(JUNK))[: rng.integers(0, 6)]}
    for name, what in noise.items():
        folders.tree([root, *made][rng.integers(len(made) + 1)], {name: what})
    try:
        train, test = (folders.shades(root, split) for split in ("train", "test"))
    except OURS as error:
        few = "has no images for the test" in str(error)
        refused = f"{sorted(layout)}, {sorted(noise)}: refused: {error}"
        return unclear(str(error)) or ("" if few else refused)
    found = {name: sorted(train.get(name, []) + test.get(name, [])) for name in train}
    if found != expected:
        return f"{sorted(layout)}, {sorted(noise)}: {found} where {expected} is right"
    return "" if same else f"{sorted(layout)}: links change the digest"


def _cased(word: str, rng: Generator) -> str:
    ways = [str.lower, str.upper, str.title, str.swapcase]
    return ways[rng.integers(len(ways))](word)


def _splits(rng: Generator, place: Path) -> str:
    """Any usual name of a split, in any case; what is no such name is none."""
    names = {}
    for split in ("train", *rng.permutation(["test", "validation"])[: rng.integers(1, 3)]):
        word = str(rng.choice(SPLITS[split].split("|")))
        tail = str(rng.choice(["", "", "_set", "-images", " data", "set", "2017", "_split", "-1"]))
        names[split] = _cased(word + tail, rng)
    held_out = "test" if "test" in names else "validation"
    classes = [str(name) for name in rng.permutation(
        ["train", "test", "val", "cat", "a b", "0", "Dev", "evaluations"])[:2]]  # fmt: skip
    layout, shade = {}, iter(range(10, 99))
    for name in names.values():
        layout |= {f"{name}/{label}/0.png": next(shade) for label in classes}
    root = folders.tree(place / "root", layout)
    for name in ("retrained", "tests2", "contest", "valley", "trainer", "test_tube", "evald"):
        if split_of(name):
            return f"{name} is taken for a split"
    for split, name in (("train", names["train"]), ("test", names[held_out])):
        right = {label: [layout[f"{name}/{label}/0.png"]] for label in sorted(classes)}
        try:
            found = folders.shades(root, split)
        except OURS as error:
            return f"{sorted(layout)}: refused: {error}"
        if found != right:
            return f"{sorted(layout)}, {split}: {found} where {right} is right"
    return ""


def _channels(rng: Generator, place: Path) -> str:
    """One answer for all splits and subsets, in memory and streamed, in folders and Parquet."""
    colour = rng.random() < 0.5
    images = {split: [int(x) for x in rng.integers(0, 256, rng.integers(4, 12))]
              for split in ("train", "test")}  # fmt: skip
    if colour:
        some = images[str(rng.choice(["train", "test"]))]
        some[rng.integers(len(some))] = tuple(int(x) for x in rng.permutation(200)[:3])
    if rng.random() < 0.5:
        layout = {f"{split}/{'ab'[i % 2]}/{i}.png": shade for split, shades in images.items()
                  for i, shade in enumerate(shades)}  # fmt: skip
        name = f"folder:{folders.tree(place / 'root', layout)}"
    else:
        for split, shades in images.items():
            rows = [parquet.encoded(s, "RGB" if isinstance(s, tuple) else "L") for s in shades]
            parquet.write(place / "root" / f"{split}.parquet",
                          {"image": rows, "label": [i % 2 for i in range(len(rows))]},
                          row_group_size=int(rng.integers(1, 9)))  # fmt: skip
        name = f"parquet:{place / 'root'}"
    right = 3 if colour else 1
    for split in ("train", "test"):
        n = int(rng.integers(1, 4))
        held, lazy = load_images(name, split, n), open_source(name, split, n, 4)
        if (held.channels, lazy.channels) != (right, right):
            return f"{name.split(':')[0]}, {split}, {images}: {held.channels}, {lazy.channels}"
        if not torch.equal(load_images(name, split, n, image_size=4).images, lazy.read(range(n))):
            return f"{name.split(':')[0]}, {split}, {images}: streamed otherwise than held"
    return ""


def _pictures(rng: Generator, place: Path) -> str:
    """Cut anywhere: the same pixels or a refusal; spoilt: never a traceback, never another size."""
    form = str(rng.choice(list(FORMS)))
    options = {"format": form} | FORMS[form]
    size, mode = rng.integers(1, 40, 2).tolist(), str(rng.choice(["RGB", "L", "P", "RGBA", "1"]))
    if options["format"] in ("JPEG", "PPM") and mode in ("P", "RGBA"):
        mode = "RGB"
    file = BytesIO()
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, **options)
    data = bytearray(file.getvalue())
    right = to_pixels(open_image(BytesIO(data), "x"), 3)
    way = rng.choice(["cut", "flip", "middle", "zeros", "padded"])
    at = int(rng.integers(len(data)))
    if way == "cut":
        del data[at:]
    elif way == "flip":
        data[at] ^= 1 << int(rng.integers(8))
    elif way == "middle":
        del data[at : at + int(rng.integers(1, 50))]
    elif way == "zeros":
        data[at : at + 20] = bytes(len(data[at : at + 20]))
    else:
        data += bytes(rng.integers(0, 256, 9, np.uint8))
    path = place / "a.png"
    path.write_bytes(data)
    try:
        found = to_pixels(open_image(path), 3)
    except OURS as error:
        said = unclear(str(error), path.name)
    else:
        same = found.shape == right.shape and np.array_equal(found, right)
        said = "other pixels" if way in ("cut", "padded") and not same else ""
    return said and f"{form}, {mode}, {size}, {way} at {at} of {len(file.getvalue())}: {said}"


def _columns(rng: Generator, place: Path) -> str:
    """The label meant, among ids, texts and sizes; or a refusal that names the option."""
    n = int(rng.integers(4, 12))
    labels = rng.integers(0, 3, n)
    labels[:3] = 0, 1, 2
    words = [f"k{y}" for y in labels]
    kinds = {"integers": labels.tolist(), "texts": words, "dictionary": parquet.coded(*words),
             "small": labels.astype(np.int8)}  # fmt: skip
    kind = str(rng.choice(list(kinds)))
    name = str(rng.choice(["label", "Label", "labels", "fine", "target", "cls", "kind"]))
    beside = {"id": list(range(n)), "caption": ["x"] * n, "width": [4] * n, "score": [0.5] * n,
              "file_name": ["a.png"] * n, "__index_level_0__": list(range(n)), "image_id": [7] * n,
              "mask": [None] * n, "coarse": [0] * n}  # fmt: skip
    if kind == "texts":  # of which nobody can say that they are no captions
        del beside["coarse"]
    some = rng.permutation(list(beside))[: rng.integers(0, 4)]
    columns = {"image": [parquet.encoded()] * n, name: kinds[kind]} | {k: beside[k] for k in some}
    order = rng.permutation(list(columns))
    parquet.write(place / "root/train.parquet", {k: columns[k] for k in order})
    named = rng.random() < 0.3
    try:
        data = load_images(f"parquet:{place / 'root'}" + f"?label={name}" * named, "train")
    except OURS as error:
        fine = (
            named or name.lower() in ("label", "labels", "target", "cls") and "image_id" not in some
        )
        said = unclear(str(error)) or (f"refused: {error}" if fine else "")
    else:
        said = "" if data.labels.tolist() == labels.tolist() else f"{data.labels.tolist()}"
    return said and f"{list(order)}, {name} of {kind} {labels.tolist()}: {said}"
