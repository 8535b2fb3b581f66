"""Draw the README's picture, book/_assets/cliff.png, from the cpu profile's codes.

.venv/bin/python book/readme_figure.py      (after `make book`, which trains the tokenizers)
"""

from pathlib import Path

from vcqlib import conditional_entropy
from vcqlib.chapters import figures
from vcqlib.files import atomic_path
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment

base = Experiment(Configuration.of({"n_images": 3000}))
arms = {}
for name, label in (("uniform", "uniform K = 256"), ("loglinear", "loglinear K = 2 … 256")):
    arm = base.arm(name)
    arms[label] = arm.sizes, conditional_entropy(arm.codes.codes).bits
figure = figures.uniform_and_growing(arms)
with atomic_path(Path(__file__).parent / "_assets" / "cliff.png") as temporary:
    figure.savefig(temporary, metadata={"Software": None})
