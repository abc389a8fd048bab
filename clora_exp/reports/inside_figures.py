"""Figures of what adapters have learned, in the style of `figures.py`: from the tables of `evaluation/inside.py`.

Each returns a matplotlib Figure; in a notebook it is the value of a cell.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Literal, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clora_exp.evaluation.inside import Side, Updates
from clora_exp.reports.figures import MARKERS, PALETTE, STYLE

DIVERGING = "PuOr"  # even in lightness on both sides of zero; the colour-blind tell its ends apart
P = ParamSpec("P")
Shown = Literal["whole", "minus identity", "added"]
NAMES = {"reads": "input directions (read)", "writes": "output directions (written)"}


def _in_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


@_in_style
def where(sizes: pd.DataFrame, value: str = "relative") -> Figure:
    """Return a panel a task: how large what the task has added is, by block (across) and kind of projection (down).

    Layers without an adapter are empty; a layer that the task left alone shows 0.
    """
    tasks = list(dict.fromkeys(sizes["task"]))
    blocks, kinds = list(dict.fromkeys(sizes["block"])), list(dict.fromkeys(sizes["kind"]))
    words = {"relative": "‖added‖ / ‖W₀‖", "share": "share of ‖added‖²", "norm": "‖added‖"}[value]
    width = 1.5 + len(tasks) * max(1.35, 0.32 * len(blocks) + 0.5)
    figure, panels = _panels(len(tasks), width, 1.4 + 0.34 * len(kinds))
    top, in_percent = sizes[value].max(), value != "norm"
    for axes, task in zip(panels, tasks, strict=True):
        rows = sizes[sizes["task"] == task]
        grid = rows.pivot(index="kind", columns="block", values=value).reindex(index=kinds, columns=blocks)
        image = axes.imshow(np.ma.masked_invalid(grid.to_numpy()), cmap="cividis", vmin=0, vmax=top, aspect="auto")
        axes.set_title(task, fontsize=10)
        is_long = any(len(block) > 2 for block in blocks)
        axes.set_xticks(range(len(blocks)), blocks, rotation=90 if is_long else 0)
        axes.set_yticks(range(len(kinds)), kinds if axes is panels[0] else [])
        axes.set_xlabel("block")
        _plain(axes)
    _bar(figure, image, panels, words, "{x:.1%}" if in_percent else None)
    return figure


@_in_style
def gates(table: pd.DataFrame, value: str = "factor") -> Figure:
    """Return a line a task: the gate, the scale or their product, layer by layer, in the model's order."""
    words = {"factor": "gate · scale", "gate": "gate", "scale": "scale"}[value]
    layers = list(dict.fromkeys(table["layer"]))
    figure, (axes,) = _panels(1, max(5.6, 0.32 * len(layers) + 2.4), 3.4)
    axes.set_title(f"{words[0].upper()}{words[1:]}, by layer", pad=12)
    for i, task in enumerate(dict.fromkeys(table["task"])):
        line = table[table["task"] == task].set_index("layer")[value].reindex(layers)
        look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
        axes.plot(range(len(layers)), line, ms=5, lw=1, label=task, **look)
    places = table.drop_duplicates("layer")
    names = [f"{b} {k}" if b != k else k for b, k in zip(places["block"], places["kind"], strict=True)]
    axes.set_xticks(range(len(layers)), names, rotation=90)
    axes.set_xlabel("block and projection")
    axes.set_ylabel(words)
    axes.grid(axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@_in_style
def routing_matrices(updates: Updates, layer: str, shown: Shown = "whole") -> Figure:
    """Return R_t of each task in one layer, as it was when the task ended: (write, read), both 1 to r.

    Args:
        shown: the whole R_t; R_t − I; or what each task after the first has added, R_t − R_{t−1}.
    """
    found = {task: layers[layer].routing for task, layers in updates.items()}
    matrices = {task: R.numpy() for task, R in found.items() if R is not None}
    if shown == "minus identity":
        matrices = {task: R - np.eye(len(R)) for task, R in matrices.items()}
    if shown == "added":
        tasks = list(matrices)
        matrices = {now: matrices[now] - matrices[before] for before, now in itertools.pairwise(tasks)}
    reach = max(abs(R).max() for R in matrices.values())
    figure, panels = _panels(len(matrices), 1.4 + 1.75 * len(matrices), 2.5)
    for axes, (task, R) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(R, cmap=DIVERGING, vmin=-reach, vmax=reach)
        axes.set_title(f"added by {task}" if shown == "added" else f"after {task}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        _plain(axes)
        axes.set_xlabel("reads 1…r", fontsize=9)
    panels[0].set_ylabel("writes 1…r", fontsize=9)
    _bar(figure, image, panels, {"whole": "R", "minus identity": "R − I", "added": "R_δ"}[shown])
    return figure


@_in_style
def overlaps(matrices: Mapping[Side, tuple[np.ndarray, float]], tasks: list[str], title: str = "") -> Figure:
    """Return what every two tasks share, a panel a side; what chance would give stands below each."""
    figure, panels = _panels(len(matrices), 1.4 + len(matrices) * (0.62 * len(tasks) + 0.9), 0.5 * len(tasks) + 1.8)
    for axes, (side, (matrix, chance)) in zip(panels, matrices.items(), strict=True):
        image = _squares(axes, matrix, tasks, "cividis", 0.0, 1.0)
        axes.set_title(NAMES[side], fontsize=10)
        axes.set_xlabel(f"random subspaces: {chance:.2f}")
        if axes is not panels[0]:
            axes.set_yticks([])
    _bar(figure, image, panels, "overlap")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    return figure


@_in_style
def cosines(matrix: np.ndarray, tasks: list[str], title: str) -> Figure:
    """Return the cosines of what every two tasks have added."""
    figure, (axes,) = _panels(1, 0.7 * len(tasks) + 2.4, 0.5 * len(tasks) + 1.6)
    others = np.abs(matrix[~np.eye(len(tasks), dtype=bool)]).max()
    reach = max(0.1, float(np.nan_to_num(others)))
    image = _squares(axes, matrix, tasks, DIVERGING, -reach, reach)
    axes.set_title(title, pad=10)
    _bar(figure, image, [axes], "cosine")
    return figure


@_in_style
def update_against_drop(tables: Mapping[str, pd.DataFrame], x: str, title: str) -> Figure:
    """Return a point a session: how far it moved what answers all tasks, against what the earlier tasks lost by it.

    Args:
        tables: of `update_and_drop`, by the name of the setting.
        x: "weights" or "routing".
    """
    figure, (axes,) = _panels(1, 6.6, 3.6)
    for i, (name, table) in enumerate(tables.items()):
        look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
        axes.scatter(table[x], 100 * table["drop"], s=42, alpha=0.85, label=name, **look)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xscale("log")
    words = {"weights": r"$\|\Delta W_t - \Delta W_{t-1}\|$", "routing": r"$\|R_\delta\|$"}[x]
    axes.set_xlabel(f"{words} over all layers (log)")
    axes.set_ylabel("mean drop on earlier\ntasks, points")
    axes.set_title(title, pad=12)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@_in_style
def needed(tables: Mapping[str, pd.DataFrame], what: str = "block") -> Figure:
    """Return a panel a task: the accuracy with a group's updates alone, and without them, between none and all."""
    height = 1.3 + 0.42 * max(len(table) for table in tables.values())
    figure, panels = _panels(len(tables), 1.6 + 2.3 * len(tables), height)
    for axes, (task, table) in zip(panels, tables.items(), strict=True):
        y = np.arange(len(table))
        for value, text, style in (("none", "no update", ":"), ("all", "every update", "-")):
            axes.axvline(table[value].iloc[0], color="#555555", lw=1.2, ls=style, label=text)
        axes.scatter(table["alone"], y - 0.12, color=PALETTE[0], marker="o", s=38, label=f"this {what} alone", zorder=3)
        axes.scatter(
            table["without"], y + 0.12, color=PALETTE[1], marker="s", s=32, label=f"all but this {what}", zorder=3
        )
        axes.set_yticks(y, table["group"] if axes is panels[0] else [""] * len(y))
        axes.set_ylim(len(y) - 0.5, -0.5)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("accuracy")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    panels[0].set_ylabel(what)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _squares(
    axes: Axes, matrix: np.ndarray, tasks: list[str], cmap: str, low: float, high: float
) -> matplotlib.image.AxesImage:
    image = axes.imshow(np.ma.masked_invalid(matrix), cmap=cmap, vmin=low, vmax=high, aspect="auto")
    for (i, j), value in np.ndenumerate(matrix):
        red, green, blue, _ = image.cmap(image.norm(value))
        is_light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.5
        axes.text(
            j,
            i,
            f"{value:.2f}".replace("-", "−"),
            ha="center",
            va="center",
            fontsize=8,
            color="black" if is_light else "white",
        )
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_yticks(range(len(tasks)), tasks)
    _plain(axes)
    return image


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels in a row; no pyplot: nothing global."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, count, squeeze=False)
    return figure, list(grid[0])


def _plain(axes: Axes) -> None:
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _bar(
    figure: Figure, image: matplotlib.image.AxesImage, panels: list[Axes], label: str, form: str | None = None
) -> None:
    bar = figure.colorbar(image, ax=panels, fraction=0.04, pad=0.02, format=form)
    bar.outline.set_visible(False)
    bar.set_label(label)
