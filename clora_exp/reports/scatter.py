"""Two numbers of each setting against each other: accuracy and bytes with the Pareto front, forgetting and learning."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from clora_exp.reports.comparison import ComparableSet
from clora_exp.reports.figures import MARKERS, PALETTE
from clora_exp.reports.placing import place_labels
from clora_exp.reports.settings import Setting
from clora_exp.reports.words import size

GREY = "#999999"
Points = list[tuple[Setting, float, float]]


def accuracy_bytes(found: ComparableSet) -> Figure | None:
    """Return accuracy at the end over bytes a task, with the Pareto front."""
    points = _points(found.settings, "bytes_a_task", "average_accuracy")
    if not points:
        return None
    figure, axes = new_axes(7.4, 5.2, "Accuracy against bytes a task")
    axes.set_xscale("log")
    obstacles = _scatter(axes, points, looks_of(found), ("bytes_a_task", "average_accuracy"))
    front = pareto_front([(x, y) for _, x, y in points])
    front.append((max(x for _, x, _ in points), front[-1][1]))
    xs, ys = zip(*front, strict=True)
    axes.step(xs, ys, where="post", color=GREY, lw=1.2, ls="--", zorder=1)
    for (x, y), (next_x, next_y) in itertools.pairwise(front):
        obstacles += [((x, y), (next_x, y)), ((next_x, y), (next_x, next_y))]
    axes.set_xlabel("bytes that answer a task (logarithmic)")
    axes.set_ylabel("accuracy at the end")
    axes.xaxis.set_major_formatter(lambda value, _: size(value))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    if high / low < 4:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    elif high / low < 40:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    place_labels(figure, axes, [(setting.label, x, y) for setting, x, y in points], obstacles)
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other has fewer bytes (first) and more accuracy (second) than, by bytes."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def forgetting_learning(found: ComparableSet) -> Figure | None:
    """Return forgetting over the accuracy right after learning."""
    points = _points(found.settings, "learning_accuracy", "forgetting")
    if not points:
        return None
    figure, axes = new_axes(7.4, 5.2, "Forgetting against learning accuracy")
    axes.axhline(0, color=GREY, lw=0.8, zorder=1)
    obstacles = _scatter(axes, points, looks_of(found), ("learning_accuracy", "forgetting"))
    axes.set_xlabel("accuracy right after learning")
    axes.set_ylabel("forgetting")
    place_labels(figure, axes, [(setting.label, x, y) for setting, x, y in points], obstacles)
    return figure


def _points(settings: Sequence[Setting], x: str, y: str) -> Points:
    return [(s, s.mean(x), s.mean(y)) for s in settings if x in s.spread and y in s.spread]


Segment = tuple[tuple[float, float], tuple[float, float]]


def _scatter(axes: Axes, points: Points, looks: dict[str, tuple[str, str]], names: tuple[str, str]) -> list[Segment]:
    """Draw the points with their standard deviations; return the whiskers, which no name is to cover."""
    whiskers: list[Segment] = []
    for setting, x, y in points:
        color, marker = looks[setting.label]
        dx, dy = (float(np.nan_to_num(setting.spread[name].sd)) for name in names)
        axes.errorbar(x, y, xerr=dx, yerr=dy, fmt=marker, color=color, ms=7, elinewidth=0.9, alpha=0.95, zorder=3)
        whiskers += [((x - dx, y), (x + dx, y)), ((x, y - dy), (x, y + dy))]
    axes.margins(0.14)
    axes.grid(True)
    axes.set_axisbelow(True)
    return whiskers


def looks_of(found: ComparableSet) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each setting, by name so that a sweep's growth changes few; pairs do not repeat."""
    names = sorted(s.label for s in found.settings)
    n = len(PALETTE)
    return {name: (PALETTE[i % n], MARKERS[(i + i // n) % n]) for i, name in enumerate(names)}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, without pyplot and its global state."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def new_axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Return a figure with one titled axes."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.set_title(title, pad=12)
    return figure, axes
