"""Puts the small vendored files into the wheel; everything else is in pyproject.toml."""

import json
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# 30 MB that torchvision downloads where they are asked for; texts that are not free as MIT is
LEFT_OUT = ("fashion-mnist/", "text-copyleft/")


class WithData(build_py):
    """Copies data/ into the package, as `vcqlib.data.vendored` looks for it there."""

    def run(self):
        package = Path(self.build_lib) / "vcqlib"
        shutil.rmtree(package, ignore_errors=True)  # modules that have gone since the last build
        super().run()
        if self.editable_mode:  # the clone's own data/ is at hand
            return
        data, target = Path("data"), package / "_vendored"
        listed = json.loads((data / "MANIFEST.json").read_text(encoding="utf-8"))
        kept = {name: entry for name, entry in listed.items() if not name.startswith(LEFT_OUT)}
        for name in kept:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / name, target / name)
        (target / "MANIFEST.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")


setup(cmdclass={"build_py": WithData})
