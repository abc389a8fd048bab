"""The four figures of a run: accuracy matrix, accuracy over time, forgetting and transfer, training curves. PNG, SVG.

One style for all: Okabe and Ito's palette (2008), which the colour-blind tell apart, with a marker, a hatch or a number
beside every colour, and a perceptually even colour map for the matrix (cividis: Nuñez, Anderton and Renslow 2018).
Equal runs give equal bytes.
"""

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clora_exp.files import write_atomically
from clora_exp.reports.words import signed
from clora_exp.runs import StoredRun

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.dpi": 100.0,
    "savefig.dpi": 160.0,
    "svg.hashsalt": "clora-exp",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
}


def draw_all(run: StoredRun, folder: Path) -> list[str]:
    """Write every figure that the run has numbers for into `folder`; return their names, without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with matplotlib.rc_context(STYLE):
        for name, draw in FIGURES.items():
            figure = draw(run)
            if figure is None:
                continue
            for suffix in ("png", "svg"):
                content = io.BytesIO()
                metadata: dict[str, Any] = {"Date": None} if suffix == "svg" else {"Software": None}
                figure.savefig(content, format=suffix, metadata=metadata, bbox_inches="tight", pad_inches=0.12)
                write_atomically(folder / f"{name}.{suffix}", content.getvalue())
            drawn.append(name)
    return drawn


def accuracy_matrix(run: StoredRun) -> Figure | None:
    """Return the matrix as a heat map; the cell of the task just learned is framed, empty cells are hatched."""
    values, tasks = run.matrix.values, run.matrix.tasks
    T = len(tasks)
    width, height = max(4.6, 1.1 * T + 2.6), max(3.0, 0.55 * (T + 1) + 1.5)
    figure, axes = _axes(width, height, f"Accuracy of {run.method} after each task")
    axes.set_facecolor("#EEEEEE")
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
    size = 10 if T <= 8 else 7
    for i, j in itertools.product(range(T + 1), range(T)):
        if np.isnan(values[i, j]):
            axes.text(j, i, "–", ha="center", va="center", color="#777777", fontsize=size)
            continue
        color = "black" if values[i, j] > 0.55 else "white"
        change = values[i, j] - values[i - 1, j] if i > j + 1 else 0.0
        moved = f"\n{signed(change, 3)}" if abs(change) >= 0.0005 and T <= 8 else ""
        axes.text(j, i, f"{values[i, j]:.3f}{moved}", ha="center", va="center", color=color, fontsize=size)
        if i == j + 1:
            axes.add_patch(
                matplotlib.patches.Rectangle((j - 0.47, i - 0.46), 0.94, 0.92, fill=False, ec="#D55E00", lw=2)
            )
    axes.set_xticks(
        range(T), [_cut(task) for task in tasks], rotation=0 if T <= 6 else 45, ha="center" if T <= 6 else "right"
    )
    axes.set_yticks(range(T + 1), ["before", *(f"after {_cut(task)}" for task in _row_names(run))])
    axes.set_xlabel("accuracy on")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label("accuracy")
    return figure


def accuracy_over_time(run: StoredRun) -> Figure | None:
    """Return one line a task over the sequence, dashed until the task is learned, and the mean over the tasks seen."""
    values, tasks = run.matrix.values, run.matrix.tasks
    figure, axes = _axes(max(5.6, 0.7 * len(tasks) + 3.5), 3.6, f"Accuracy over time, {run.method}")
    x = np.arange(len(tasks) + 1)
    for j, (task, color, marker) in enumerate(zip(tasks, *_looks(), strict=False)):
        seen, before = ~np.isnan(values[:, j]), x <= j + 1
        first = seen & before if run.protocol == "sequence" else np.zeros_like(seen)
        axes.plot(x[first], values[first, j], color=color, ls=":", lw=1.2, marker=marker, ms=3.5, mfc="white")
        later = seen & (x > j) if run.protocol != "joint" else seen
        axes.plot(x[later], values[later, j], color=color, marker=marker, ms=6, label=_cut(task, 24))
    if run.protocol == "sequence" and _is_learned(values).all():
        means = [values[i, :i].mean() for i in x[1:]]
        axes.plot(x[1:], means, color="#555555", lw=3, alpha=0.5, label="mean of tasks seen")
    rotation = 0 if len(tasks) <= 6 else 45
    axes.set_xticks(
        x, ["before", *map(_cut, _row_names(run))], rotation=rotation, ha="center" if not rotation else "right"
    )
    axes.set_xlabel("after learning")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1)
    axes.grid(axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _is_learned(values: np.ndarray) -> np.ndarray:
    """Tell of each accuracy on a task that has been learned by its row whether it is there."""
    return ~np.isnan(values[np.tril(np.ones(values.shape, bool), k=-1)])


def forgetting_and_transfer(run: StoredRun) -> Figure | None:
    """Return bars a task, in points: the change since it was learned, and the loss since its best earlier row."""
    values, tasks = run.matrix.values, run.matrix.tasks
    if run.protocol != "sequence" or len(tasks) < 2 or not _is_learned(values).all():
        return None
    diagonal = np.array([values[j + 1, j] for j in range(len(tasks))])
    backward = 100 * (values[-1] - diagonal)[:-1]
    forgotten = 100 * (np.fmax.reduce(values[1:-1]) - values[-1])[:-1]
    figure, axes = _axes(max(5.6, 0.9 * len(tasks) + 2.6), 3.4, f"Forgetting and backward transfer, {run.method}")
    x = np.arange(len(tasks) - 1)
    groups = [("backward transfer", backward, "#0072B2", ""), ("forgetting", forgotten, "#D55E00", "//")]
    for k, (label, heights, color, hatch) in enumerate(groups):
        place = x + 0.38 * (k - 0.5)
        axes.bar(place, heights, 0.34, color=color, hatch=hatch, edgecolor="white", linewidth=0, label=label)
        for at, height in zip(place, heights, strict=True):
            offset = (0, 3 if height >= 0 else -3)
            axes.annotate(signed(height, 1), (at, height), offset, textcoords="offset points", ha="center",
                          va="bottom" if height >= 0 else "top", fontsize=9)  # fmt: skip
    axes.axhline(0, color="black", lw=0.8)
    reach = max(1.0, 1.25 * np.abs([backward, forgotten]).max())
    axes.set_ylim(-reach, reach)
    axes.set_xticks(x, [_cut(task) for task in tasks[:-1]], rotation=0 if len(tasks) <= 6 else 45)
    axes.set_ylabel("points of accuracy")
    axes.set_xlabel(f"task (the last, {_cut(tasks[-1])}, can have neither)")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def training_curves(run: StoredRun) -> Figure | None:
    """Return the training loss over the optimiser steps of each session, with a running mean."""
    losses = run.history[run.history["metric"] == "train_loss"]
    if losses.empty:
        return None
    figure, axes = _axes(6.2, 3.4, f"Training loss, {run.method}")
    for (task, rows), color, marker in zip(losses.groupby("task", sort=False), *_looks(), strict=False):
        axes.plot(rows["step"], rows["value"], color=color, lw=0.8, alpha=0.25)
        window = max(1, len(rows) // 15)
        smooth = rows["value"].rolling(window, center=True, min_periods=1).mean()
        every = max(1, len(rows) // 8)
        axes.plot(rows["step"], smooth, color=color, marker=marker, ms=5, markevery=every, label=_cut(str(task), 24))
    axes.set_xlabel("optimiser step of the task")
    axes.set_ylabel("loss (line: running mean)")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


FIGURES: dict[str, Callable[[StoredRun], Figure | None]] = {
    "accuracy_matrix": accuracy_matrix,
    "accuracy_over_time": accuracy_over_time,
    "forgetting_and_transfer": forgetting_and_transfer,
    "training_curves": training_curves,
}


def _axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)  # no pyplot: nothing global, so nothing leaks between the runs of a sweep
    axes = figure.add_subplot()
    axes.set_title(title, pad=12)
    return figure, axes


def _looks() -> tuple[Iterator[str], Iterator[str]]:
    return itertools.cycle(PALETTE), itertools.cycle(MARKERS)


def _row_names(run: StoredRun) -> list[str]:
    return run.matrix.tasks if run.protocol != "joint" else [*run.matrix.tasks[:-1], "all tasks"]


def _cut(name: str, width: int = 14) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
