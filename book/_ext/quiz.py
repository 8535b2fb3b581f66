"""Multiple choice without scripts: each answer unfolds to say whether it is right, and why.

jupyterquiz was tried first. Its answers are labels of hidden radio buttons, which no keyboard
reaches; its ids are drawn anew in every browser; and on paper nothing is left of it.

    ```{quiz}
    1. How many bits name one image among 1024?
       - ( ) 1024 :: That is the number of images.
       - (x) 10 :: Because 2 to the 10 is 1024.
    ```
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import SphinxDirective

MARKS = {"(x) ": True, "( ) ": False}


class Quiz(SphinxDirective):
    """A numbered list of questions, each with a list of answers: `(x) answer :: why`."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        shown, key = nodes.container(classes=["quiz"]), []
        for number, question in enumerate(parsed.findall(_is_question), start=1):
            asked, answers = question.children
            group = nodes.container(classes=["quiz-question"])
            asked.insert(0, nodes.strong("", f"Question {number}. "))
            group += asked
            for letter, answer in zip("abcdef", answers.children, strict=False):
                right, said, why = self.split(answer.children[0])
                key += [f"{number}{letter}"] if right else []
                verdict = nodes.strong("", "Right. " if right else "No. ")
                name = f"quiz-{self.env.docname}-{number}"
                group += _html(f'<details class="quiz" name="{name}"><summary>')
                group += nodes.inline("", f"{letter}) ", *said)
                group += _html("</summary>")
                group += nodes.paragraph("", "", verdict, *why)
                group += _html("</details>")
            shown += group
        shown += nodes.paragraph("", f"Right: {', '.join(key)}.", classes=["quiz-key"])
        return [shown]

    def split(self, paragraph: nodes.Element) -> tuple[bool, list[nodes.Node], list[nodes.Node]]:
        """Whether `(x) answer :: why` is right, the answer, and why."""
        children = list(paragraph.children)
        mark = MARKS.get(children[0].astext()[:4])
        cut = next((i for i, child in enumerate(children) if " :: " in child.astext()), None)
        if mark is None or cut is None:
            place = f"{self.env.docname}: quiz answer {paragraph.astext()!r}"
            raise SphinxError(f"{place} is not '(x) answer :: why' or '( ) answer :: why'")
        before, after = children[cut].astext().split(" :: ", 1)
        said = [*children[:cut], nodes.Text(before)]
        said[0] = nodes.Text(said[0].astext()[4:])
        return mark, said, [nodes.Text(after), *children[cut + 1 :]]


def _is_question(node: nodes.Node) -> bool:
    return isinstance(node, nodes.list_item) and isinstance(node.parent, nodes.enumerated_list)


def _html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("quiz", Quiz)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
