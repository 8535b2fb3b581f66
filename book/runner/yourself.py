"""What every chapter says about running it: parameters, commands, times, buttons.

Written while the book is staged, from the parameters cell, the profiles and `_config.yml`, so that
it cannot fall behind them.
"""

from __future__ import annotations

import io
import re
import shlex
import tokenize
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from runner import profiles
from runner.chapters import PARAMETERS, Book, Chapter
from runner.profiles import Profile

PROFILES = ("smoke", "cpu")  # those that were run, the smallest first


def meanings(chapter: Chapter) -> dict[str, str]:
    """Parameter -> what its line in the parameters cell says about it."""
    found = {}
    for cell in chapter.read().cells:
        if PARAMETERS in cell.metadata.get("tags", []):
            for token in tokenize.generate_tokens(io.StringIO(cell.source).readline):
                name = re.match(r"(\w+) = ", token.line)
                if token.type == tokenize.COMMENT and name:
                    found[name[1]] = token.string.lstrip("# ")
    return found


def command(chapter: Chapter, values: dict[str, Any]) -> str:
    """The papermill line that runs the chapter with these values."""
    words = ["papermill", f"book/{chapter.name}.ipynb", "out.ipynb"]
    for name, value in values.items():
        if isinstance(value, list):  # -p takes scalars only
            words += [
                "-y",
                yaml.safe_dump({name: value}, default_flow_style=True, width=10**6).strip(),
            ]
        else:
            words += ["-p", name, str(value)]
    return shlex.join(words)


def addresses(book: Book, chapter: Chapter) -> dict[str, str]:
    """Where Colab and Binder open the chapter, from the repository's address in `_config.yml`."""
    config = yaml.safe_load((book.root / "_config.yml").read_text(encoding="utf-8"))
    place, launch = config["repository"], config["launch_buttons"]
    repository = urlsplit(place["url"]).path.strip("/")
    path = f"{place['path_to_book']}/{chapter.path.name}"
    branch = place["branch"]
    lab = quote(f"lab/tree/{path}", safe="")
    return {
        "Colab": f"{launch['colab_url']}/github/{repository}/blob/{branch}/{path}",
        "Binder": f"{launch['binderhub_url']}/v2/gh/{repository}/{branch}?urlpath={lab}",
    }


def box(book: Book, profile: Profile, chapter: Chapter, values: dict[str, Any]) -> str:
    """The Markdown of the box; `values` are what this build gave the chapter."""
    folder = book.folder / "profiles"
    known = [profiles.load(x, folder) for x in PROFILES if (folder / f"{x}.yaml").exists()]
    budgets = {each.name: each.budget(chapter.name) for each in known}
    times = ", ".join(f"{seconds:g} s in `{name}`" for name, seconds in budgets.items() if seconds)
    number = chapter.name.split("_")[0] if chapter.name[:1].isdigit() else chapter.name
    declared, meaning = chapter.declared(), meanings(chapter)
    example = "seed 1" if "seed" in declared else "{} {}".format(*next(iter(declared.items())))
    links = " · ".join(f"[{name}]({url})" for name, url in addresses(book, chapter).items())
    lines = [
        ":::{admonition} Run this chapter with your own numbers",
        ":class: dropdown yourself",
        f"Open it in {links}, or, in a clone of the repository, change any of",
        "",
        "| parameter | on this page | meaning, range |",
        "|---|---|---|",
    ]
    for name, default in declared.items():
        value = values.get(name, default)
        lines.append(f"| `{name}` | `{value!r}` | {meaning.get(name, '').replace('|', '/')} |")
    lines += [
        "",
        f"Budget, of which a build tells when it is exceeded: {times}." if times else "",
        "",
        "The notebook alone, into `out.ipynb`, as it was run for this page:",
        "```sh",
        f".venv/bin/{command(chapter, values)}",
        "```",
        f"The page with another value, into `build/{profile.name}/chapter/html`:",
        "```sh",
        f'make chapter NAME={number} PROFILE={profile.name} ARGS="-p {example}"',
        "```",
    ]
    if "change_one_thing" in book.pages():
        lines.append("[](change_one_thing.md) says what is worth changing.")
    lines.append(":::")
    return "\n".join(lines)
