"""Places text labels beside points of a plot so that they cover neither each other, nor points, nor lines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mtrouter_rl.records import FloatArray

_ANGLES_DEG = (20, 160, -20, -160, 90, -90, 45, 135, -45, -135, 0, 180)
_RADII_POINTS = (9, 13, 18, 26, 38, 52, 68, 86)
_FAR_POINTS = 15
"""A label farther than this from its point gets a line to it."""
_MARKER_POINTS = 5.0
_OBSTACLE_POINTS = 1.5


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text that belongs to a point.

    Attributes:
        text: What it says.
        x: Point, in data coordinates.
        y: Likewise.
        color: Color of the text.
        is_bold: Whether it is highlighted.
    """

    text: str
    x: float
    y: float
    color: str
    is_bold: bool = False


def place_labels(
    figure: Figure,
    axes: Axes,
    labels: Sequence[Label],
    *,
    obstacles: Sequence[tuple[float, float]] = (),
    font_size: float = 8.5,
) -> None:
    """Draw labels near their points, the nearest free place first; a far one gets a thin line to its point.

    Limits and scales of the axes must be final: places are worked out in pixels. If no place is free, the one that
    covers least is taken.

    Args:
        figure: The figure; it is drawn once to measure the texts.
        axes: The axes that hold the points.
        labels: All labels, the most important first.
        obstacles: Further points to keep clear of, in data coordinates, such as samples of a line.
        font_size: Points.
    """
    if not labels:
        return
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    scale = figure.dpi / 72
    anchors = axes.transData.transform([(label.x, label.y) for label in labels])
    taken = _boxes_around(anchors, half=_MARKER_POINTS * scale)
    if obstacles:
        lines = _boxes_around(axes.transData.transform(list(obstacles)), half=_OBSTACLE_POINTS * scale)
        taken = np.concatenate([taken, lines])
    for label, anchor in zip(labels, anchors, strict=True):
        boxes = _candidates(anchor, size=_text_size(axes, label, font_size=font_size), scale=scale)
        box = boxes[int(np.argmin(_covered(boxes, taken, frame=np.array(axes.bbox.extents))))]
        taken = np.concatenate([taken, box[None]])
        _draw(axes, label, anchor, box=box, font_size=font_size, far=_FAR_POINTS * scale)


def _boxes_around(points: FloatArray, *, half: float) -> FloatArray:
    """Squares around points, as (left, bottom, right, top) in pixels, shape (n, 4)."""
    return np.concatenate([points - half, points + half], axis=1)


def _text_size(axes: Axes, label: Label, *, font_size: float) -> tuple[float, float]:
    text = axes.text(0, 0, label.text, fontsize=font_size, fontweight="bold" if label.is_bold else "normal")
    extent = text.get_window_extent()
    text.remove()
    return extent.width + 4, extent.height + 2


def _candidates(anchor: FloatArray, *, size: tuple[float, float], scale: float) -> FloatArray:
    """Boxes on circles around a point, nearest first, shape (n, 4); a box touches the circle with its nearest side."""
    radii, angles = np.meshgrid(np.array(_RADII_POINTS) * scale, np.deg2rad(_ANGLES_DEG), indexing="ij")
    half_width, half_height = size[0] / 2, size[1] / 2
    x = anchor[0] + radii * np.cos(angles) + half_width * np.sign(np.round(np.cos(angles), 6))
    y = anchor[1] + radii * np.sin(angles) + half_height * np.sin(angles)
    corners = [x - half_width, y - half_height, x + half_width, y + half_height]
    return np.stack([corner.ravel() for corner in corners], axis=1)


def _covered(boxes: FloatArray, taken: FloatArray, *, frame: FloatArray) -> FloatArray:
    """Square pixels of every box that lie on something or outside the frame, shape (n,)."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    outside = areas - _overlaps(boxes, frame[None])[:, 0]
    covered: FloatArray = outside + _overlaps(boxes, taken).sum(axis=1)
    return covered


def _overlaps(first: FloatArray, second: FloatArray) -> FloatArray:
    """Area that every box of one set shares with every box of another, shape (n, k)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    areas: FloatArray = np.clip(high - low, 0.0, None).prod(axis=2)
    return areas


def _draw(axes: Axes, label: Label, anchor: FloatArray, *, box: FloatArray, font_size: float, far: float) -> None:
    center = axes.transData.inverted().transform((box[:2] + box[2:]) / 2)
    gap = np.maximum(np.maximum(box[:2] - anchor, anchor - box[2:]), 0.0)
    line = {"arrowstyle": "-", "color": "0.5", "lw": 0.7, "shrinkA": 0, "shrinkB": 4}
    axes.annotate(
        label.text,
        xy=(label.x, label.y),
        xytext=(float(center[0]), float(center[1])),
        ha="center",
        va="center",
        fontsize=font_size,
        color=label.color,
        fontweight="bold" if label.is_bold else "normal",
        arrowprops=line if float(np.hypot(*gap)) > far else None,
        zorder=5,
    )
