"""Write the README's answer from the records: between its two marks, and nothing else.

.venv/bin/python book/readme_answer.py      (after a study has new records)
"""

import textwrap
from pathlib import Path

from vcqlib.chapters import findings
from vcqlib.files import atomic_path

STUDIES = ("fashion", "mnist")
START, END = "<!-- answer: book/readme_answer.py writes it -->\n", "<!-- end of the answer -->"


def answered(readme: str) -> str:
    """The text with the answer that the records give today."""
    before, _, rest = readme.partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"README.md must hold {START.strip()} and {END}")
    images = findings.images(findings.load(STUDIES))
    rows = findings.together(findings.points(), images)
    words, _, table = findings.markdown(rows).partition("\n")
    return f"{before}{START}{textwrap.fill(words, 96)}\n{table}\n{END}{after}"


if __name__ == "__main__":
    path = Path(__file__).resolve().parents[1] / "README.md"
    with atomic_path(path) as temporary:
        temporary.write_text(answered(path.read_text("utf-8")), encoding="utf-8")
