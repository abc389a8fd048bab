"""Names beside the points of a figure, none on another or on a point: the nearest free place, with a line if far."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RADII = (9, 16, 26, 38, 52, 68, 86, 106, 128)  # distances from the point that are tried, in display points
FAR = 14  # from here on a line leads to the point
ANGLES = (0, 180, 90, 270, 45, 315, 135, 225, 22, 338, 158, 202, 67, 293, 113, 247)  # degrees, the preferred first
Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


def place_labels(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[str, float, float]],
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
    size: float = 8.5,
) -> None:
    """Write each name near its point (data coordinates), off the upright and level lines. The limits must be final.

    Points that have most neighbours choose first. Equal figures give equal places.
    """
    figure.canvas.draw()
    scale = figure.dpi / 72
    centers = axes.transData.transform([(x, y) for _, x, y in points])
    inside = axes.get_window_extent()
    taken: list[Box] = [(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale) for x, y in centers]
    for ends in lines:
        (x0, y0), (x1, y1) = axes.transData.transform(ends)
        taken.append((min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    crowd = [-(np.hypot(*(centers - center).T) < 60 * scale).sum() for center in centers]
    for i in sorted(range(len(points)), key=lambda i: (crowd[i], i)):
        name, x, y = points[i]
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=size, va="center", zorder=5)
        extent = text.get_window_extent()
        width, height = extent.width, extent.height
        best = None
        for radius, angle in itertools.product(RADII, ANGLES):
            dx, dy = radius * np.cos(np.radians(angle)), radius * np.sin(np.radians(angle))
            left = centers[i][0] + dx * scale - width * (1 - np.cos(np.radians(angle))) / 2
            bottom = centers[i][1] + dy * scale - height / 2
            box = (left, bottom, left + width, bottom + height)
            if box[0] < inside.x0 or box[2] > inside.x1 or box[1] < inside.y0 or box[3] > inside.y1:
                continue
            overlap = sum(_overlap(box, other) for other in taken)
            if best is None or overlap < best[0]:
                best = (overlap, radius, box)
            if overlap == 0:
                break
        if best is None:  # an axes smaller than the name
            continue
        _, radius, box = best
        taken.append(box)
        text.set_position(((box[0] - centers[i][0]) / scale, (box[1] + height / 2 - centers[i][1]) / scale))
        if radius >= FAR:
            end = axes.transData.inverted().transform(_nearest(box, centers[i]))
            axes.plot([x, end[0]], [y, end[1]], color="#999999", lw=0.6, zorder=2, scalex=False, scaley=False)


def _overlap(first: Box, second: Box) -> float:
    """Return the common area, in square pixels."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return width * height if width > 0 and height > 0 else 0.0


def _nearest(box: Box, point: np.ndarray) -> tuple[float, float]:
    """Return the point of a box that is nearest to a point."""
    return float(np.clip(point[0], box[0], box[2])), float(np.clip(point[1], box[1], box[3]))
