"""Anyone's own pictures: folders in the style of torchvision's ImageFolder.

    PATH/train/CLASS/*.png  and  PATH/test/CLASS/*.png   the user's own split
    PATH/CLASS/*.png                     every fifth file of a class, by name, is held out
    PATH/*.png                           the same, as one class

Splits are known by their usual names in any case: train, Training, train_set, val, Validation,
testing, … Held out is the test split; the validation split where there is none, or where it has no
labels. Hidden and system files are skipped, folders that are reached twice are read once, and one
line says what was taken and what was not. Files are found first and decoded only once chosen, so
that a subset of a large set is cheap.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import existing_path, read_record, write_record
from ..progress import bar, say
from .pictures import EXTENSIONS, GREY, image_mode, open_image
from .vendored import cache_root

HELD_OUT_EVERY = 5
LOOSE = "all"  # the class of images that lie in no class folder
REMEMBERED = 10_000  # images from which it is remembered on disk whether all are grey
SYSTEM = frozenset((
    "__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found",
    "thumbs.db", "desktop.ini",
))  # fmt: skip
SPLITS = {
    "train": "train|training",
    "validation": "val|valid|validation|dev|eval|evaluation",
    "test": "test|testing",
}


def split_of(name: str) -> str | None:
    """The split that a folder or a file's first word is called after; None for other names."""
    for split, words in SPLITS.items():
        if re.fullmatch(rf"({words})([-_ ]?(set|data|images?|split))?[-_ ]?\d*", name.lower()):
            return split
    return None


def split_options(place: str) -> tuple[str, str]:
    """PATH?NAME=VALUE&… of a Parquet set → PATH and the rest; a path may hold a ? itself."""
    found = re.fullmatch(r"(.+?)\?(\w+=.*)", place, re.DOTALL)
    return (found[1], found[2]) if found else (place, "")


def walk(folder: Path, skipped: Counter | None = None) -> list[Path]:
    """Every file below a folder, sorted by path: the one way in which folders are read.

    Hidden and system entries are left out, and what is neither file nor folder. Links to folders
    are followed after the real folders, each folder once, and never to one that holds this one: a
    loop ends, and its pictures count once. `skipped` counts what was left out, by reason.
    """
    skipped = Counter() if skipped is None else skipped
    entered = {_identity(parent) for parent in folder.resolve().parents}
    found: list[str] = []
    real, links = [str(folder)], []
    while real or links:
        place = real.pop() if real else heapq.heappop(links)
        if (identity := _identity(place)) in entered:
            skipped["links into folders already read"] += 1
            continue
        entered.add(identity)
        with os.scandir(place) as entries:
            for entry in entries:
                path, link = entry.path, entry.is_symlink()
                if hidden(entry.name):
                    skipped["hidden or system entries"] += 1
                elif link and os.path.isdir(path):
                    heapq.heappush(links, path)
                elif not link and entry.is_dir():
                    real.append(path)
                elif not os.path.exists(path) or entry.is_file():  # a dead link: said by its reader
                    found.append(path)
                else:
                    skipped["pipes and devices"] += 1
    return [Path(path) for path in sorted(found, key=lambda path: path.split(os.sep))]


def existing_folder(folder: str | Path) -> Path:
    """The folder with ~ unfolded, or one line that says that it is none."""
    path = existing_path(folder)
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: give the folder of the images")
    return path


def hidden(name: str) -> bool:
    """Whether an entry is a system's or an editor's, and no data."""
    return name.startswith(".") or name.lower() in SYSTEM


def _identity(folder: str | Path) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def files_digest(files: Iterable[Path], root: Path) -> str:
    """Hash of names, sizes and times: a change of any file shows in it."""
    seen = hashlib.sha256()
    for path in files:
        with suppress(OSError):  # a link to nowhere
            stat = path.stat()
            line = f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n"
            seen.update(line.encode(errors="surrogateescape"))  # names may be any bytes
    return seen.hexdigest()


def folder_digest(folder: str | Path) -> str:
    """Hash of the names, sizes and times of all files that `walk` finds below `folder`."""
    root = existing_folder(folder)
    return files_digest(walk(root), root)


def channels_of(modes: Iterable[str | None], count: int, digest: Callable[[], str]) -> int:
    """1 if every picture's header says that it is grey, else 3; what cannot be read has no say.

    modes: of all `count` pictures of a data set; read until the first in colour. For large sets
    the answer is remembered in the cache under `digest()`, which changes with the files.
    """
    memory = None
    if count >= REMEMBERED:
        with suppress(OSError, ValueError):  # no home, no memory
            memory = cache_root() / "channels" / f"{digest()[:32]}.json"
            if memory.is_file():
                return int(read_record(memory)["channels"])
    progress = bar(modes, "grey or in colour?", total=count, unit="image")
    channels = 1 if all(mode is None or mode in GREY for mode in progress) else 3
    if memory:
        with suppress(OSError):
            write_record(memory, {"channels": channels})
    return channels


def mode_or_none(*picture: object) -> str | None:
    """`image_mode` of a picture, None if it cannot be read."""
    try:
        return image_mode(*picture)
    except (OSError, ValueError):
        return None


class FolderFiles:
    """The image files of one split ("train" or "test"), by class and name.

    hold_out: without a split of the user's own, a fifth is held out; False: all are for training.

    ValueError if it holds no images, if it is not clear which folders are splits and which classes,
    or if a class is in the held-out split only.
    """

    def __init__(self, folder: str | Path, split: str, hold_out: bool = True) -> None:
        root = self._root = existing_folder(folder)
        skipped: Counter = Counter()
        splits = _splits(root, skipped)
        self._places = tuple(splits.values()) or (root,)
        place = splits.get("train", root)
        found = _classes(place, skipped)
        self.classes, told = tuple(found), ""
        self._walked = {place: [path for paths in found.values() for path in paths]}
        if len(splits) > 1 and split == "test":
            skipped.clear()
            place, found = _held_out(splits, self.classes, skipped)
        elif len(splits) < 2 and hold_out:
            told = f", every {HELD_OUT_EVERY}th of a class held out"
            found = {name: [path for i, path in enumerate(paths, 1)
                            if (i % HELD_OUT_EVERY == 0) == (split == "test")]
                     for name, paths in found.items()}  # fmt: skip
        self.paths = tuple(path for name in self.classes for path in found.get(name, ()))
        if not self.paths:
            raise ValueError(f"{root} has no images for the {split} split")
        counts = [len(found.get(name, ())) for name in self.classes]
        self.labels = np.repeat(np.arange(len(self.classes)), counts)
        left = "".join(f"; skipped: {n:,} {what}" for what, n in skipped.most_common(6))
        say(f"{split} images: {len(self.paths):,} of {place}{told}{left}")

    def open(self, i: int) -> Image.Image:
        return open_image(self.paths[i])

    def name(self, i: int) -> str:
        return str(self.paths[i])

    @cached_property
    def channels(self) -> int:
        """1 if every image of all splits is grey, else 3."""
        every = (self._walked.get(place) or _images(walk(place)) for place in self._places)
        paths = [path for images in every for path in images]
        modes = map(mode_or_none, paths)
        return channels_of(modes, len(paths), lambda: files_digest(paths, self._root))


def _splits(root: Path, skipped: Counter) -> dict[str, Path]:
    """Split → folder; empty if the folders in `root` are classes, or there are none."""
    named = _by_split(root)
    others = named.pop(None, [])
    if "train" not in named:
        if named and not others:
            alone = next(iter(named.values()))[0]
            raise ValueError(f"{root} has {alone.name}/ and no training split: add train/")
        for place in others:  # a data set, not a class: its splits would become one
            if len(_by_split(place).keys() & SPLITS.keys()) > 1:
                raise ValueError(f"{place} holds splits of its own: give this folder, not {root}")
        return {}
    for split, (first, *more) in named.items():
        if more:
            both = f"{first.name}/ and {more[0].name}/"
            raise ValueError(f"{root} has {both}, both the {split} split: keep one")
    (train,) = named["train"]
    if len(named) == 1 and any(_images(walk(other)) for other in others):
        if _classes(train).keys() == {LOOSE}:
            return {}  # a class of that name among classes
        raise ValueError(
            f"{root} has {train.name}/ and {others[0].name}/: is train a split or a class? Move "
            f"the others away, or give {train}"
        )
    skipped.update(f"{other.name}/ beside the splits" for other in others)
    return {split: place for split, (place,) in named.items()}


def _by_split(root: Path) -> dict[str | None, list[Path]]:
    """The folders in `root` by the split that they are called after, sorted; None: no split."""
    named: dict[str | None, list[Path]] = {}
    for place in sorted(root.iterdir()):
        if place.is_dir() and not hidden(place.name):
            named.setdefault(split_of(place.name), []).append(place)
    return named


def _images(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in EXTENSIONS]


def _classes(folder: Path, skipped: Counter | None = None) -> dict[str, list[Path]]:
    """Class name → image files below its folder, both sorted; loose ones are the class LOOSE."""
    skipped = Counter() if skipped is None else skipped
    found: dict[str, list[Path]] = {}
    loose, depth = [], len(folder.parts)
    for path in walk(folder, skipped):
        if (suffix := path.suffix.lower()) not in EXTENSIONS:
            skipped[f"*{suffix}" if suffix else "others"] += 1
        elif len(path.parts) == depth + 1:
            loose.append(path)
        else:
            found.setdefault(path.parts[depth], []).append(path)
    if loose and found:
        raise ValueError(f"{folder} holds class folders and also loose images such as {loose[0]}")
    for place in sorted(folder.iterdir()):
        real = place.is_dir() and not place.is_symlink() and not hidden(place.name)
        if real and place.name not in found:
            raise ValueError(f"{place} holds no image: remove the folder or fill it")
    if not found and not loose:
        raise ValueError(f"{folder} holds no image ({', '.join(EXTENSIONS)})")
    return found or {LOOSE: loose}


def _held_out(
    splits: dict[str, Path], known: Sequence[str], skipped: Counter
) -> tuple[Path, dict[str, list[Path]]]:
    """The test split; the validation split if there is none, or one without classes."""
    for place in [splits[split] for split in ("test", "validation") if split in splits]:
        found = _classes(place, skipped)
        if found.keys() == {LOOSE} and LOOSE not in known:
            skipped.clear()
            skipped[f"{place.name}/, which has no classes"] += 1
            continue
        if strange := sorted(set(found) - set(known)):
            raise ValueError(f"{place}: class {strange[0]!r} does not occur in the training split")
        return place, found
    raise ValueError(f"{place}: its images lie in no class folders, those for training do")
