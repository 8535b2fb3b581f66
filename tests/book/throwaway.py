"""A throwaway book of two tiny chapters, for the tests of the runner."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
MARKS = {"01_first": "n_images = 8  # images\nk_max = 4  # entries", "02_second": "k_max = 4"}
PROFILE = """# tiny: for tests
threads: 1
timeout: 60
parameters: {n_images: 16}
chapters: {02_second: {budget_s: 60, parameters: {k_max: 32}}}
"""


class Throwaway:
    """`folder/book` with two chapters, a library of one file and a profile called tiny."""

    def __init__(self, folder: Path) -> None:
        self.root, self.book, self.out = folder, folder / "book", folder / "build" / "tiny"
        for name in ("_assets", "profiles"):
            (self.book / name).mkdir(parents=True)
        (self.book / "profiles" / "tiny.yaml").write_text(PROFILE)
        (self.book / "_toc.yml").write_text(
            "format: jb-book\nroot: 01_first\nchapters: [{file: 02_second}, {file: notes}]\n"
        )
        (self.book / "notes.md").write_text(
            "---\nnosearch: true\n---\n# Notes\n\n[](01_first.ipynb)\n\n<!-- run statistics -->\n"
        )
        (self.root / "vcqlib").mkdir()
        self.library = self.root / "vcqlib" / "one.py"
        self.library.write_text("ONE = 1\n")
        for name in MARKS:
            self.chapter(name)

    def chapter(self, name: str, prose: str = "Prose.", code: str = "") -> None:
        """Write a chapter that notes each of its executions in `ran.txt`."""
        ran = f"with open({str(self.root / 'ran.txt')!r}, 'a') as f:\n    print({name!r}, file=f)"
        figure = (
            "import matplotlib.pyplot as plt\n\nfig, ax = plt.subplots(figsize=(2, 1))\n"
            "ax.plot([0, k_max])\nplt.close(fig)\nfig"
        )
        caption = "A line up to {glue:text}`k_max`."
        shown = {"image": {"alt": "a line"}, "figure": {"name": f"fig-{name}", "caption": caption}}
        v4 = nbformat.v4
        cells = [
            v4.new_markdown_cell(
                f"# Chapter {name[3:]}\n\n{prose} There are {{glue:text}}`k_max`."
            ),
            v4.new_code_cell(MARKS[name], metadata={"tags": ["parameters"]}),
            v4.new_code_cell(
                f"from myst_nb import glue\n\n{ran}\nglue('k_max', k_max, display=False)"
            ),
            v4.new_code_cell(code or "k_max + 1"),
            v4.new_code_cell(figure, metadata={"mystnb": shown}),
        ]
        for number, cell in enumerate(cells):
            cell["id"] = f"c{number:02d}"
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), self.book / f"{name}.ipynb")

    def like_the_real_one(self) -> None:
        """Give it the real configuration, extensions and assets, so that HTML can be built."""
        for name in ("_ext", "_assets"):
            shutil.rmtree(self.book / name, ignore_errors=True)
            shutil.copytree(ROOT / "book" / name, self.book / name)
        shutil.copy(ROOT / "_config.yml", self.root)
        (self.book / "references.bib").write_text("")

    def executions(self) -> list[str]:
        """Chapters executed since the last call, sorted."""
        path = self.root / "ran.txt"
        names = sorted(path.read_text().split()) if path.exists() else []
        path.unlink(missing_ok=True)
        return names

    def build(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `book/build.py tiny … --book …`; without HTML unless it was asked for."""
        arguments = arguments or ("tiny", "--no-html")
        command = [sys.executable, str(ROOT / "book" / "build.py"), *arguments]
        return subprocess.run(
            [*command, "--book", str(self.book)],
            capture_output=True,
            text=True,
            cwd=self.root,
            env={**os.environ, "VCQ_CACHE": str(self.root / "cache")},
            timeout=300,
        )

    def executed(self, name: str) -> nbformat.NotebookNode:
        return nbformat.read(self.out / "notebooks" / f"{name}.ipynb", as_version=4)

    def staged(self, name: str) -> nbformat.NotebookNode:
        return nbformat.read(self.out / "stage" / f"{name}.ipynb", as_version=4)
