"""Draw the README's picture, and keep the codes of sixteen images for chapter 1's prefix tree.

.venv/bin/python book/readme_figure.py      (after `make book`, which trains the tokenizers)

Both come from the cpu profile's codes: book/_assets/cliff.png, data/results/example_codes.json.
"""

from pathlib import Path

from vcqlib import conditional_entropy
from vcqlib.chapters import figures
from vcqlib.files import atomic_path, write_record
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment
from vcqlib.study.origin import hardware, versions

HERE = Path(__file__).parent
IMAGES = 16  # 4 bits to tell them apart

settings = {"dataset": "fashion-mnist", "n_images": 3000}
base = Experiment(Configuration.of(settings))
arms, rows = {}, []
for name, label in (("uniform", "uniform K = 256"), ("loglinear", "loglinear K = 2 … 256")):
    arm = base.arm(name)
    arms[label] = arm.sizes, conditional_entropy(arm.codes.codes).bits
    rows.append({
        "arm": name, "sizes": [*map(int, arm.sizes)], "codes": arm.codes.codes[:IMAGES].tolist(),
    })  # fmt: skip
figure = figures.uniform_and_growing(arms)
with atomic_path(HERE / "_assets" / "cliff.png") as temporary:
    figure.savefig(temporary, metadata={"Software": None})
classes = [base.images.classes[y] for y in arm.codes.labels[:IMAGES]]
write_record(
    HERE.parent / "data" / "results" / "example_codes.json",
    {"settings": settings, "classes": classes, "rows": rows, "hardware": hardware(base.device),
     "versions": versions()},
)  # fmt: skip
