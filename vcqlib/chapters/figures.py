"""The book's figures: one style, one palette, a handful of plots.

Every function returns a closed Matplotlib figure, so that a notebook cell that ends with it shows
it once. Colours are seaborn's colour-blind palette, one fixed colour for each arm of the study.

A figure is `WIDTH` inches wide with text of `TEXT` points, which has 9 pixels on a narrow phone,
and has no ground of its own: with `INK` for text it can be read on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

_COLOURS = sns.color_palette("colorblind").as_hex()
ARM_COLOURS = {"ideal": "#7a7a7a"} | {arm: _COLOURS[i] for arm, i in {
    "loglinear": 0, "matched": 1, "doubling": 2, "uniform": 3, "reversed": 4, "linear": 5,
    "quadratic": 6, "shuffled": 7, "cosine": 9,
}.items()}  # fmt: skip
WIDTH = 5.0  # inches
TEXT = 10.4  # points, of every word in a figure
DPI = 150  # of the image of a figure
INK = "#7a7a7a"  # contrast 4.2 and more on white and on the dark theme's ground
_TEXT = ("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize", "xtick.labelsize",
         "ytick.labelsize")  # fmt: skip
_INKED = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color",
          "ytick.color", "legend.labelcolor")  # fmt: skip
_STYLE = {
    "figure.dpi": DPI, "savefig.dpi": DPI, "svg.hashsalt": "vcqlib", "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
    "lines.linewidth": 1.8, "lines.markersize": 4.5, "figure.facecolor": "none",
    "grid.color": INK, "grid.alpha": 0.25,
} | dict.fromkeys(_TEXT, TEXT) | dict.fromkeys(_INKED, INK)  # fmt: skip


class _Inside(ConstrainedLayoutEngine):
    """Constrained layout that also leaves room for what sticks out sideways, like slanted titles:
    an image is cut around all that is drawn, so they would make it wider and its text smaller."""

    def execute(self, fig: Figure) -> None:
        left = right = 0.0
        for _ in range(3):  # a label in the middle of an axis needs more than one step
            self.set(rect=(left, 0, 1 - left - right, 1))
            super().execute(fig)
            boxes = [box for ax in fig.axes if (box := ax.get_tightbbox())]
            start = min((box.x0 for box in boxes), default=0.0) / fig.bbox.width
            end = max((box.x1 for box in boxes), default=0.0) / fig.bbox.width
            if start >= 0 and end <= 1:
                break
            left, right = min(0.25, left - min(start, 0)), min(0.25, right + max(end - 1, 0))


def axes(rows: int = 1, cols: int = 1, size: tuple[float, float] = (7.0, 3.8), **options):
    """A styled figure and its axes, closed for pyplot: fill the axes and return the figure.

    Two or three panels asked for side by side come below each other, since a phone has no room
    for them; their axes keep the order and the shape [1, cols]. `size` is that of one row of
    panels on a page 7 inches wide.
    """
    side, height = min(size[0], WIDTH), size[1] * WIDTH / 7
    if rows == 1 and cols in (2, 3):
        figure, ax = subplots(cols, 1, (side, cols * height), **options)
        return figure, ax.reshape(1, cols) if ax.ndim == 2 else ax
    return subplots(rows, cols, (side, height), **options)


def subplots(rows: int, cols: int, size: tuple[float, float], **options):
    """Panels as they are asked for; the style stays, for what is added to them (legends)."""
    plt.rcParams.update(sns.axes_style("whitegrid") | _STYLE)
    figure, ax = plt.subplots(rows, cols, figsize=size, layout=_Inside(), **options)
    plt.close(figure)
    return figure, ax


def colour(label: str, i: int = 0) -> str:
    """The fixed colour of an arm, else the i-th of the palette."""
    return ARM_COLOURS.get(label.split()[0].rstrip(",:"), _COLOURS[i % len(_COLOURS)])


def positions(
    curves: Mapping[str, Sequence[float]],
    ylabel: str = "conditional entropy (bits)",
    dashed: Sequence[str] = (),
    marks: Mapping[str, int] | None = None,
    ax: Axes | None = None,
    log_x: bool = False,
) -> Figure:
    """Curves over positions 1..T.

    Args:
        curves: label → values [T]; labels that start with an arm's name take its colour.
        dashed: labels drawn dashed without markers (bounds, ideal curves).
        marks: label → position of a vertical line (a cliff), one-based.
    """
    if ax is None:
        ax = axes()[1]
    for i, (label, values) in enumerate(curves.items()):
        t = np.arange(1, len(values) + 1)
        style = {"linestyle": "--", "linewidth": 1.3} if label in dashed else {"marker": "o"}
        ax.plot(t, values, label=label, color=colour(label, i), **style)
    for i, (label, t) in enumerate((marks or {}).items()):
        ax.axvline(t, color=colour(label, i), linestyle=":", linewidth=1.5)
        ax.annotate(
            label, (t, 1), xycoords=("data", "axes fraction"), xytext=(3, -2 - 12 * i),
            textcoords="offset points", va="top", color=colour(label, i),
        )  # fmt: skip
    ax.set(xlabel="position t", ylabel=ylabel)
    ax.set_ylim(bottom=0)
    if log_x:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(curves) > 1:
        ax.legend()
    return ax.figure


def lines(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    dashed: Sequence[str] = (),
    log_x: bool = False,
) -> Figure:
    """Curves over a common x axis."""
    figure, ax = axes()
    for i, (label, values) in enumerate(curves.items()):
        style = {"linestyle": "--"} if label in dashed else {"marker": "o"}
        ax.plot(x, values, label=label, color=colour(label, i), **style)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if log_x:
        ax.set_xscale("log")
        narrow = max(x) < 300 * min(x)  # the tens alone would be too few labels
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    if len(curves) > 1:
        ax.legend()
    return figure


def heatmap(
    values: np.ndarray, x: Sequence, y: Sequence, xlabel: str, ylabel: str, label: str,
    annotate: str | None = None, centre: float | None = None,
) -> Figure:  # fmt: skip
    """Values [len(y), len(x)] as colours, NaN blank; `annotate` is a format such as ".0f".

    With a `centre`, values on its two sides get two hues (blue above, red below), which are full
    from the upper quartile of the distances on.
    """
    limits = {}
    if centre is not None:
        reach = np.nanquantile(np.abs(np.asarray(values, float) - centre), 0.75) or 1.0
        limits = {"center": centre, "vmin": centre - reach, "vmax": centre + reach}
    figure, ax = axes(size=(7.0, 4.2 if len(y) > 4 else 2.6))
    sns.heatmap(
        values, xticklabels=x, yticklabels=y, ax=ax, annot=annotate is not None,
        cmap="viridis" if centre is None else "RdBu", **limits,
        fmt=annotate or "", cbar_kws={"label": label}, annot_kws={"fontsize": TEXT},
    )  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.tick_params(axis="y", rotation=0)
    return figure


def image_grid(rows: Mapping[str, object], columns: Sequence[str] | None = None) -> Figure:
    """Rows of images: label → uint8 [n, C, H, W]; all rows have the same n."""
    count = max(len(images) for images in rows.values())  # type: ignore[arg-type]
    size = (WIDTH, WIDTH * len(rows) / count + 0.3)
    figure, ax = subplots(len(rows), count, size, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for r, (label, images) in enumerate(rows.items()):
        for c in range(count):
            cell = ax[r, c]
            cell.set(xticks=[], yticks=[])
            cell.grid(False)
            sns.despine(ax=cell, left=True, bottom=True)
            if c < len(images):  # type: ignore[arg-type]
                pixels = np.asarray(images[c]).transpose(1, 2, 0)  # type: ignore[index]
                grey = pixels.shape[-1] == 1
                cell.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255)
            if columns and r == 0:
                cell.set_title(columns[c])
        ax[r, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def uniform_and_growing(arms: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Figure:
    """The book's emblem: what each position could hold, what it tells, and where that ends.

    Args:
        arms: label → codebook sizes K_1..K_T and conditional entropies [T] in bits.
    """
    figure, panels = axes(1, len(arms), (7.0, 3.2), sharex=True, sharey=True, squeeze=False)
    spent = {a: int(np.argmax(np.cumsum(h) >= 0.99 * np.sum(h))) + 1 for a, (_, h) in arms.items()}
    length = len(next(iter(arms.values()))[0])
    shown = min(length, max(16, int(np.ceil(1.25 * max(spent.values())))))
    t = np.arange(1, shown + 1)
    for i, (ax, (label, (sizes, bits))) in enumerate(zip(panels[0], arms.items(), strict=True)):
        end, total = spent[label], float(np.sum(bits))
        ax.bar(t, np.log2(sizes)[:shown], width=0.86, color=INK, alpha=0.25, label="could hold")
        ax.bar(t, bits[:shown], width=0.86, color=colour(label, i), label="tells")
        if end < length:
            ax.axvline(end + 0.5, color=INK, linestyle="--", linewidth=1.2)
            note = f"99 % of {total:.1f} bits\ntold by position {end};\n{length - end} more follow"
            right = end > shown / 2
            ax.annotate(
                note, (end + 0.5, 0.6), xycoords=("data", "axes fraction"), va="center",
                xytext=(-6 if right else 6, 0), textcoords="offset points", color="#333333",
                ha="right" if right else "left",
                bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 2},
            )  # fmt: skip
        ax.set(title=label, xlabel="position t", ylabel="bits", xlim=(0.3, shown + 0.7))
        ax.grid(False, axis="x")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0][0].set(ylim=(0, 1.2 * panels[0][0].dataLim.y1))
    panels[0][0].legend(loc="upper right", ncols=2)
    return figure


def prefix_trees(arms: Mapping[str, np.ndarray]) -> Figure:
    """Prefix trees of a few sequences: label → codes [n, P], a panel each.

    Open circles are prefixes that several sequences share (area: how many), filled ones belong to
    one sequence alone; dotted lines are its later tokens.
    """
    figure, panels = axes(1, len(arms), (7.0, 3.6), squeeze=False)
    for i, (ax, (label, codes)) in enumerate(zip(panels[0], arms.items(), strict=True)):
        codes = np.asarray(codes)[np.lexsort(np.asarray(codes).T[::-1])]
        n, hue = len(codes), colour(label, i)
        y, size = np.full(n, (n - 1) / 2), np.full(n, n)
        ax.scatter(0, y[0], s=12 * n, color="white", edgecolor=hue, zorder=3)
        for t in range(1, codes.shape[1] + 1):
            group = np.unique(codes[:, :t], axis=0, return_inverse=True)[1].reshape(-1)
            sizes = np.bincount(group)
            heights = np.bincount(group, np.arange(n)) / sizes
            lines = {(y[r], heights[g], size[r] == 1) for r, g in enumerate(group)}
            for start, end, known in sorted(lines):
                ax.plot([t - 1, t], [start, end], ":" if known else "-", color=hue, linewidth=1.2)
            opened = np.unique(group[size > 1])
            faces = np.where(sizes[opened] == 1, hue, "white")
            ax.scatter(
                np.full(len(opened), t), heights[opened], s=12 * sizes[opened] + 8, color=faces,
                edgecolor=hue, zorder=3,
            )  # fmt: skip
            y, size = heights[group], sizes[group]
        ax.set(title=label, xlabel="tokens read, t", yticks=[])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0][0].set_ylabel(f"{n} sequences")
    return figure


def plane(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], extent: tuple[float, float] = (-2.2, 2.2)
) -> tuple[Figure, np.ndarray]:
    """Points in the plane, a panel each: title → points [n, 2] and whole numbers [n] as colours."""
    figure, ax = subplots(1, len(panels), (WIDTH, 1.1 * WIDTH / len(panels)), squeeze=False)
    for cell, (title, (points, kinds)) in zip(ax[0], panels.items(), strict=True):
        for kind in np.unique(kinds):
            some = points[kinds == kind]
            cell.scatter(*some.T, s=3, color=_COLOURS[kind % len(_COLOURS)], linewidth=0)
        _square(cell, title, extent)
    return figure, ax


def cells(
    rows: Mapping[str, Mapping[str, np.ndarray]], extent: tuple[float, float], points: np.ndarray
) -> Figure:
    """Which cell of a partition each place of the plane lies in: row → title → ids [side, side].

    Cells take shades of one map by chance, so that neighbours differ, in light and in dark; points
    [n, 2] lie over them.
    """
    columns = len(next(iter(rows.values())))
    figure, ax = subplots(
        len(rows), columns, (WIDTH, 1.15 * WIDTH / columns * len(rows)), squeeze=False
    )
    shades = np.random.default_rng(0)
    for line, (label, maps) in zip(ax, rows.items(), strict=True):
        for cell, (title, ids) in zip(line, maps.items(), strict=True):
            _, index = np.unique(ids, return_inverse=True)
            shade = shades.permutation(index.max() + 1)[index.reshape(ids.shape)]
            place = {"origin": "lower", "extent": (*extent, *extent)}
            cell.imshow(shade, cmap="viridis", interpolation="nearest", **place)
            cell.scatter(*points.T, s=3, color="white", edgecolor="black", linewidth=0.3)
            _square(cell, title, extent)
        line[0].set_ylabel(label)
    return figure


def _square(cell: Axes, title: str, extent: tuple[float, float]) -> None:
    cell.set(xlim=extent, ylim=extent, xticks=[], yticks=[], aspect="equal")
    cell.set_title(title)
    cell.grid(False)


def regimes(panels: Mapping[str, Mapping[str, Sequence[tuple[float, ...]]]], xlabel: str) -> Figure:
    """Ratios with intervals, a panel each: title → label → (x, ratio, low, high) in order."""
    columns = 2 if len(panels) > 1 else 1
    lines_ = -(-len(panels) // columns)
    size = (WIDTH, 2.0 * lines_ + 0.4)
    figure, ax = subplots(lines_, columns, size, squeeze=False, sharex=True, sharey=True)
    for cell, (title, series) in zip(ax.flat, panels.items(), strict=False):
        cell.axhline(1, color=INK, linewidth=1.2)
        for i, (label, found) in enumerate(series.items()):
            x, ratio, low, high = np.array(found, float).T
            x = x * 1.06 ** (i - (len(series) - 1) / 2)  # side by side where they would overlap
            style = {"color": _COLOURS[i], "marker": "osD^v"[i % 5], "capsize": 2}
            cell.errorbar(x, ratio, (ratio - low, high - ratio), label=label, **style)
        cell.set(xscale="log", yscale="log", title=title)
        for axis in (cell.xaxis, cell.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    for cell in ax[-1]:
        cell.set_xlabel(xlabel)
    for line in ax:
        line[0].set_ylabel("ratio")
    figure.legend(*ax[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def forest(rows: Sequence[tuple[str, str, Sequence[float], float, float | None, float | None]]):
    """Ratios one below the other: (label, control, ratios of the seeds, mean, low, high).

    A small dot for each seed, a diamond for the geometric mean, a bar for the interval if any.
    """
    figure, ax = axes(size=(7.0, 1.3 + 0.42 * len(rows)))
    ax.axvline(1, color=INK, linewidth=1.2)
    for i, (_, arm, seeds, mean, low, high) in enumerate(rows):
        if low is not None and high is not None:
            ax.plot([low, high], [i, i], color=colour(arm, i), linewidth=4, alpha=0.45)
        ax.plot(seeds, [i] * len(seeds), "o", color=colour(arm, i), markersize=4, alpha=0.7)
        ax.plot(mean, i, "D", color=colour(arm, i), markersize=7, markeredgecolor="white")
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    ax.set(xscale="log", ylim=(len(rows) - 0.4, -0.6), xlabel="ratio (below 1: log-linear better)")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.4, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="y", visible=False)
    return figure
