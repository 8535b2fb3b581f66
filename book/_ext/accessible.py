"""Small repairs of generated HTML, one for each rule of axe-core that the theme's pages break."""

from __future__ import annotations

import re

REPAIRS = [
    # label-content-name-mismatch: the buttons' own text is a better name than the label given.
    (r'(<button class="btn search-button-field[^>]*?) aria-label="Search"', r"\1"),
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    (r'(<i class="theme-switch [^>]*?) +title="[^"]*"', r"\1"),
    # region: the logo and the search button stand in no landmark.
    (
        r'<div class="sidebar-primary-items__start sidebar-primary__section"',
        r'\g<0> role="region" aria-label="Book"',
    ),
    # empty-table-header: pandas heads its index with empty cells.
    (r"<th(| [^>]*)>(?:\s|&nbsp;|&#160;)*</th>", r"<td\1></td>"),
    # scrollable-region-focusable: wide tables scroll, with the keyboard too.
    (r'<table border="1" class="dataframe"', r'\g<0> tabindex="0"'),
    # aria-required-children: a list of references is a list of list items.
    (r'(<div class="citation"[^>]*) role="doc-biblioentry"', r'\1 role="listitem"'),
]


def mend(html: str) -> str:
    """Return the page with its accessibility faults repaired."""
    for pattern, replacement in REPAIRS:
        html = re.sub(pattern, replacement, html)
    return html
