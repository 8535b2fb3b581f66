"""Draw the README's picture, book/_assets/cliff.png, from the cpu profile's codes.

.venv/bin/python book/readme_figure.py      (after `make book`, which trains the tokenizers)
"""

from pathlib import Path

from vcqlib import conditional_entropy, expected_conditional_entropy, figures
from vcqlib import experiments as ex
from vcqlib.files import atomic_path

base = ex.Experiment()
curves, ideal = {}, []
for name, label in (("uniform", "uniform, K = 256"), ("loglinear", "loglinear, K from 2 to 256")):
    arm = base.arm(name)
    curves[label] = conditional_entropy(ex.codes(arm).codes).bits
    curves[f"{name}, ideal codes"] = expected_conditional_entropy(arm.n_images, arm.sizes)
    ideal.append(f"{name}, ideal codes")
figure = figures.positions(curves, dashed=ideal)
with atomic_path(Path(__file__).parent / "_assets" / "cliff.png") as temporary:
    figure.savefig(temporary, metadata={"Software": None})
