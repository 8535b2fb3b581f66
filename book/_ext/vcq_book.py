"""What the book needs from Sphinx beyond its extensions.

- The public address of the pages follows from the repository's address.
- sphinx-thebe, which Jupyter Book always loads, defines its constants twice on every page (a
  script error) and names a script on another host; the book has no use for it.
- sphinx-exercise registers writers for `singlehtml`, the builder behind the PDF, and so switches
  off the fallback to `html` for every other extension: they get it back.
- The theme sends all 2,000 icons of Font Awesome with every page; those in use are enough.
- `accessible`: mends the few things in the generated pages that axe-core objects to.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from accessible import mend
from sphinx.application import Sphinx
from sphinx.config import Config

# One icon in fontawesome.js: name:[width,height,[other names],"code","path"],
ICON = re.compile(r'"?([a-z0-9-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')


def set_public_address(app: Sphinx, config: Config) -> None:
    """https://github.com/OWNER/NAME is published as https://OWNER.github.io/NAME/."""
    owner, name = urlsplit(config.html_theme_options["repository_url"]).path.strip("/").split("/")
    config.html_baseurl = config.html_baseurl or f"https://{owner}.github.io/{name}/"
    config.ogp_site_url = config.html_baseurl


def remove_thebe(app: Sphinx, config: Config) -> None:
    for listeners in app.events.listeners.values():
        listeners[:] = [
            entry for entry in listeners if not entry.handler.__module__.startswith("sphinx_thebe")
        ]
    styles = app.registry.css_files
    styles[:] = [entry for entry in styles if "sphinx-thebe" not in entry[0]]


def write_one_page_like_many(app: Sphinx) -> None:
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = handlers.get("html", {}) | handlers.get("singlehtml", {})


def mend_pages(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        for page in sorted(Path(app.outdir).rglob("*.html")):
            html = page.read_text(encoding="utf-8")
            page.write_text(mend(html), encoding="utf-8")


def keep_icons_in_use(app: Sphinx, error: Exception | None) -> None:
    script = Path(app.outdir) / "_static" / "scripts" / "fontawesome.js"
    if error is not None or not script.exists():
        return
    used: set[str] = set()
    for path in Path(app.outdir).rglob("*"):
        if path.suffix in (".html", ".js") and path != script:
            used |= set(re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8")))

    def kept(icon: re.Match) -> str:
        names = {icon[1], *re.findall(r'"([^"]+)"', icon[2])}
        return icon[0] if names & used else ""

    script.write_text(ICON.sub(kept, script.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", set_public_address, priority=1)
    app.connect("config-inited", remove_thebe, priority=1)
    app.connect("builder-inited", write_one_page_like_many)
    app.connect("build-finished", mend_pages, priority=900)
    app.connect("build-finished", keep_icons_in_use, priority=901)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
