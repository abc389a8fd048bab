"""The figures of a comparison, in the style of `figures.py`: colour-blind safe, a marker or a name beside every colour.

Settings are drawn in the order of their accuracy. Labels that would cover each other are moved apart, with a line to
their point; of more settings than the palette has colours the curves get a panel each.
"""

import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from clora_exp.files import write_atomically
from clora_exp.reports.comparison import ComparableSet
from clora_exp.reports.figures import PALETTE, STYLE
from clora_exp.reports.found import with_progress
from clora_exp.reports.scatter import accuracy_bytes, forgetting_learning, looks_of, new_axes, new_figure
from clora_exp.reports.settings import Setting
from clora_exp.reports.words import duration, signed

CAPTIONS = {
    "accuracy_bytes": "Accuracy at the end against the bytes that answer a task, mean ± standard deviation over the "
    "seeds. Line: the Pareto front, which no other setting beats in both.",
    "forgetting_learning": "Forgetting against the accuracy right after learning, mean ± standard deviation over the "
    "seeds. The lower right corner learns well and keeps it.",
    "accuracy_along": "Accuracy over the tasks seen so far, after each task: mean over the seeds, band ± standard "
    "deviation.",
    "matrices": "Mean accuracy on each task (columns) after each task (rows), each with the parts and the head that "
    "answer it in the run.",
    "adapter_task": "Mean accuracy of each task's adapter (rows, as it was when the task had been learned) on every "
    "task's data (columns), under the column's own head and prompt. The diagonal is the accuracy right after learning.",
    "transfer": "Backward and forward transfer in points of accuracy, mean ± standard deviation over the seeds.",
    "training_time": "Seconds of learning over all sessions, mean ± standard deviation over the seeds.",
}
ON_CELLS = ("#FFFFFE", "#0A0A0A")  # of numbers in cells, which stay as they are where a page turns dark


def draw_comparison(found: ComparableSet, folder: Path | None = None, prefix: str = "") -> dict[str, str]:
    """Draw every figure that the set has numbers for; return the SVG texts by name.

    Where there is a `folder` they are written into it, with a PNG of each.
    """
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for name, draw in with_progress(list(FIGURES.items()), "drawing"):
            figure = draw(found)
            if figure is None:
                continue
            box = figure.get_tightbbox().padded(0.12)
            drawn[name] = _saved(figure, box, "svg", {"Date": None}).decode()
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / f"{prefix}{name}.svg", drawn[name].encode())
                write_atomically(folder / f"{prefix}{name}.png", _saved(figure, box, "png", {"Software": None}))
    return drawn


def _saved(figure: Figure, box: Bbox, suffix: str, metadata: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=suffix, metadata=metadata, bbox_inches=box, dpi=130)
    return content.getvalue()


def accuracy_along(found: ComparableSet) -> Figure | None:
    """Return the mean accuracy over the tasks seen, after each; a panel a setting where there are many."""
    curves = {s.label: along(s) for s in found.settings}
    shown = {label: values for label, values in curves.items() if values is not None and values.shape[1] > 1}
    if not shown:
        return None
    looks = looks_of(found)
    if len(shown) > len(PALETTE):
        return _panels(shown, looks, found.tasks)
    figure, axes = new_axes(7.4, 4.4, "Accuracy over the tasks seen")
    for label, values in shown.items():
        _curve(axes, values, *looks[label], label=label)
    _task_axis(axes, found.tasks)
    axes.set_ylabel("accuracy")
    axes.grid(axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def along(setting: Setting) -> np.ndarray | None:
    """Return by seed the mean accuracy over the tasks seen after each, (n, T); None where it was not evaluated."""
    matrices = setting.matrices()
    T = matrices.shape[2]
    means = np.stack([matrices[:, i, :i].mean(axis=1) for i in range(1, T + 1)], axis=1)
    return None if np.isnan(means).any() else means


def _panels(curves: dict[str, np.ndarray], looks: dict[str, tuple[str, str]], tasks: Sequence[str]) -> Figure:
    columns = 4
    rows = -(-len(curves) // columns)
    figure = new_figure(10.0, 1.75 * rows + 0.9)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.suptitle("Accuracy over the tasks seen; grey: the others", x=0.01, ha="left", weight="bold", size=11)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, (label, values) in zip(grid.flat, curves.items(), strict=False):
        for other in curves.values():
            axes.plot(range(1, other.shape[1] + 1), other.mean(axis=0), color="#DDDDDD", lw=0.8, zorder=1)
        _curve(axes, values, *looks[label])
        axes.set_title(label, fontsize=9 if len(label) <= 26 else 7, pad=3)
        axes.grid(axis="y")
        _task_axis(axes, tasks, short=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy", fontsize=9)
    for axes in _lowest(grid, len(curves)):
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("" if len(tasks) <= 3 else "tasks learned", fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.99), h_pad=0.8)
    return figure


def _curve(axes: Axes, values: np.ndarray, color: str, marker: str, label: str | None = None) -> None:
    x, mean = np.arange(1, values.shape[1] + 1), values.mean(axis=0)
    every = max(1, values.shape[1] // 10)
    axes.plot(x, mean, color=color, marker=marker, ms=5, markevery=every, label=label, zorder=3)
    if len(values) > 1:
        sd = values.std(axis=0, ddof=1)
        axes.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.15, lw=0, zorder=2)


def _task_axis(axes: Axes, tasks: Sequence[str], short: bool = False) -> None:
    if len(tasks) <= (3 if short else 8):
        axes.set_xticks(range(1, len(tasks) + 1), [_cut(task, 10) for task in tasks])
        axes.set_xlabel("" if short else "after learning")
    else:
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=5 if short else 10))
        axes.set_xlabel("" if short else "tasks learned")


def matrices(found: ComparableSet) -> Figure | None:
    """Return the mean matrix of each setting side by side; cells that were not evaluated are empty."""
    shown = {s.label: s.matrices().mean(axis=0) for s in found.settings}
    return _side_by_side("Mean accuracy matrices", shown, ["before", *found.tasks], found.tasks, "tasks learned ↓")


def adapter_task(found: ComparableSet) -> Figure | None:
    """Return the mean accuracy of adapters on tasks of each setting of which every seed has it, side by side."""
    crossed = {s.label: s.adapter_task() for s in found.settings}
    shown = {label: values.mean(axis=0) for label, values in crossed.items() if values is not None}
    if not shown:
        return None
    return _side_by_side(
        "Adapters (rows) on every task's data (columns)", shown, found.tasks, found.tasks, "adapters ↓"
    )


def _side_by_side(
    title: str, shown: dict[str, np.ndarray], row_names: Sequence[str], tasks: Sequence[str], of_rows: str
) -> Figure:
    """Return the matrices by label, (rows, T) each, with one colour bar; `of_rows`: what many rows are called."""
    T = len(tasks)
    columns = min(len(shown), 4 if T <= 6 else 5)
    rows = -(-len(shown) // columns)
    side = 2.5 if T <= 6 else 2.1
    figure = new_figure(side * columns + 1.2, side * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=11)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    meshes = []
    for axes, (label, values) in zip(grid.flat, shown.items(), strict=False):
        meshes.append(_mesh(axes, values, row_names, tasks, of_rows))
        axes.set_title(label, fontsize=9 if len(label) <= 26 else 7, pad=3)
    for axes in _lowest(grid, len(shown)):
        axes.tick_params(labelbottom=True)
    figure.tight_layout(rect=(0, 0, 0.94, 0.99))
    levels = np.linspace(0, 1, 21)  # few enough to be drawn as shapes: a page allows no image in it
    bar = figure.colorbar(
        meshes[0], cax=figure.add_axes((0.955, 0.35, 0.012, 0.3)), boundaries=levels, ticks=levels[::4]
    )
    bar.outline.set_visible(False)
    bar.ax.set_title("accuracy", fontsize=8)
    return figure


def _lowest(grid: np.ndarray, count: int) -> np.ndarray:
    """Return the last of the first `count` axes in each column of a grid, which carry the labels of its x-axis."""
    return grid.flat[max(0, count - grid.shape[1]) : count]


def _mesh(axes: Axes, values: np.ndarray, row_names: Sequence[str], tasks: Sequence[str], of_rows: str) -> Any:
    T = len(tasks)
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=1, edgecolors="none", lw=0)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7)
    axes.set_xticks([], [])
    axes.set_yticks([], [])
    if T > 12:
        axes.set_ylabel(of_rows, fontsize=7)
        return mesh
    axes.set_xticks(np.arange(T) + 0.5, [_cut(task, 8) for task in tasks], rotation=0 if T <= 5 else 90)
    axes.set_yticks(np.arange(len(row_names)) + 0.5, [_cut(name, 8) for name in row_names])
    for i, j in itertools.product(range(len(row_names)), range(T)) if T <= 6 else ():
        if not np.isnan(values[i, j]):
            color = ON_CELLS[int(values[i, j] > 0.55)]
            axes.text(j + 0.5, i + 0.5, f"{values[i, j]:.2f}", ha="center", va="center", color=color, fontsize=7)
    return mesh


def transfer(found: ComparableSet) -> Figure | None:
    """Return bars of backward and forward transfer; a transfer that no setting defines has none."""
    names = [n for n in ("backward_transfer", "forward_transfer") if any(n in s.spread for s in found.settings)]
    if not names:
        return None
    shown = [s for s in found.settings if any(name in s.spread for name in names)]
    figure = new_figure(4.4 * len(names) + 1.4, 0.3 * len(shown) + 1.3)
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        _bars(axes, shown, name, 100.0, lambda value: signed(value, 1))
        axes.axvline(0, color="#000000", lw=0.8)
        axes.set_title(name.replace("_", " ").capitalize())
        axes.set_xlabel("points of accuracy")
    figure.tight_layout()
    return figure


def training_time(found: ComparableSet) -> Figure | None:
    """Return bars of the seconds of learning."""
    figure, axes = new_axes(7.0, 0.3 * len(found.settings) + 1.3, "Training time")
    _bars(axes, found.settings, "train_seconds", 1.0, duration)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of learning, all sessions")
    return figure


def _bars(axes: Axes, shown: Sequence[Setting], name: str, unit: float, words: Callable[[float], str]) -> None:
    """Draw a bar a setting, whiskers ± sd, and the number beyond them."""
    y = np.arange(len(shown))
    means = np.array([unit * s.mean(name) for s in shown])
    sds = np.array([unit * np.nan_to_num(s.spread[name].sd) if name in s.spread else 0.0 for s in shown])
    colors = ["#0072B2" if value >= 0 else "#D55E00" for value in means]
    axes.barh(y, np.nan_to_num(means), 0.7, color=colors, hatch=None, zorder=2)
    axes.errorbar(means, y, xerr=sds, fmt="none", ecolor="#000000", elinewidth=1, capsize=2.5, zorder=3)
    for at, mean, sd in zip(y, means, sds, strict=True):
        is_left = mean < 0
        text, end = ("–", 0.0) if np.isnan(mean) else (words(mean), mean - sd if is_left else mean + sd)
        axes.annotate(text, (end, at), (-4 if is_left else 4, 0), textcoords="offset points", fontsize=8,
                      ha="right" if is_left else "left", va="center")  # fmt: skip
    axes.set_yticks(y, [s.label for s in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.margins(x=0.18)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


FIGURES: dict[str, Callable[[ComparableSet], Figure | None]] = {
    "accuracy_bytes": accuracy_bytes,
    "forgetting_learning": forgetting_learning,
    "accuracy_along": accuracy_along,
    "matrices": matrices,
    "adapter_task": adapter_task,
    "transfer": transfer,
    "training_time": training_time,
}


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
