"""The cell that sets a chapter up on Colab: write it into all notebooks, or check that it works.

python book/launch.py write    after a change of the repository's address in _config.yml
python book/launch.py check    in an empty environment, from this clone, one chapter after it
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import yaml

HERE = Path(__file__).resolve().parent
CELL = "colab"  # its id
SETUP = """# On Colab: fetch this book and install vcqlib. Anywhere else this cell does nothing.
import os
import sys

if "COLAB_RELEASE_TAG" in os.environ:
    !git clone --quiet --depth 1 --branch {branch} {url}
    %pip install --quiet -e "./{name}[notebook]"
    sys.path.insert(0, os.path.abspath("{name}"))"""
# What Colab brings, and an empty environment does not.
HOST = ["papermill", "ipykernel", "pip"]


def setup(root: Path = HERE.parent) -> str:
    """The cell, from the repository's address in `_config.yml`."""
    place = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    name = urlsplit(place["url"]).path.rstrip("/").split("/")[-1]
    return SETUP.format(branch=place["branch"], url=place["url"], name=name)


def write(folder: Path = HERE) -> None:
    """Put the cell below the title of every notebook in `folder`, in place of an older one."""
    for path in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        cell = nbformat.v4.new_code_cell(setup(), id=CELL, metadata={"tags": ["remove-cell"]})
        notebook.cells = [old for old in notebook.cells if old.id != CELL]
        notebook.cells.insert(1, cell)
        nbformat.write(notebook, path)


def check(name: str = "01_cliff") -> None:
    """Run a chapter as Colab would: an empty environment, and a clone of this clone's HEAD."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        venv.create(root / "env", with_pip=True)
        python = root / "env" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *HOST], check=True)
        address = yaml.safe_load((HERE.parent / "_config.yml").read_text())["repository"]["url"]
        bare = root / f"{Path(address).name}.git"
        subprocess.run(["git", "clone", "--quiet", "--bare", HERE.parent, bare], check=True)
        notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
        cell = next(cell for cell in notebook.cells if cell.id == CELL)
        cell.source = cell.source.replace(address, bare.as_uri())
        nbformat.write(notebook, root / "chapter.ipynb")
        command = [python, "-m", "papermill", "chapter.ipynb", "out.ipynb", "-k", "python3"]
        environment = {**os.environ, "COLAB_RELEASE_TAG": "check"}
        environment.pop("PYTHONPATH", None)
        subprocess.run(command, cwd=root, env=environment, check=True)
    print(f"{name} runs on an empty machine after its set-up cell")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]]()
