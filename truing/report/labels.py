"""Where to set the labels of points so that they cover as little as possible: greedy, deterministic, small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels; y grows downwards."""

REACH = 13.0
"""From the centre of a marker to where its label begins, pixels."""


@dataclass(frozen=True)
class Frame:
    """The drawing area: its size in pixels, its ranges, and the height of a label."""

    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    line: float = 14.0

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point of the data."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0]) * self.width
        down = (self.y[1] - y) / (self.y[1] - self.y[0]) * self.height
        return across, down


def place(frame: Frame, centres: Sequence[tuple[float, float]], texts: Sequence[str], ink: Sequence[Box]) -> list[str]:
    """A plotly ``textposition`` for each label.

    Args:
        frame: where it is drawn.
        centres: of the markers, pixels.
        texts: the labels, in the order in which they choose.
        ink: what is drawn already: error bars, lines, markers.
    """
    taken: list[Box] = []
    chosen = []
    for centre, text in zip(centres, texts, strict=True):
        boxes = _candidates(centre, len(text) * frame.line * 0.5, frame.line)
        costs = {name: _cost(box, frame, ink, taken) + i for i, (name, box) in enumerate(boxes.items())}
        best = min(costs, key=lambda name: costs[name])
        chosen.append(best)
        taken.append(boxes[best])
    return chosen


def path(points: Sequence[tuple[float, float]], *, step: float = 8.0, width: float = 3.0) -> list[Box]:
    """A line through some points as small boxes."""
    boxes = []
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        pieces = max(int(max(abs(x1 - x0), abs(y1 - y0)) / step), 1)
        for i in range(pieces + 1):
            x, y = x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces
            boxes.append((x - width, y - width, x + width, y + width))
    return boxes


def _candidates(centre: tuple[float, float], width: float, line: float) -> dict[str, Box]:
    """The places around a marker, the best liked first."""
    x, y = centre
    near, top, bottom = (
        REACH * 0.6,
        (y - REACH - line * 0.6, y - REACH * 0.3),
        (y + REACH * 0.3, y + REACH + line * 0.6),
    )
    sides = {"right": (x + near, x + near + width), "left": (x - near - width, x - near)}
    centred = (x - width / 2, x + width / 2)
    return {
        "bottom right": (sides["right"][0], bottom[0], sides["right"][1], bottom[1]),
        "top left": (sides["left"][0], top[0], sides["left"][1], top[1]),
        "top right": (sides["right"][0], top[0], sides["right"][1], top[1]),
        "bottom left": (sides["left"][0], bottom[0], sides["left"][1], bottom[1]),
        "middle right": (x + REACH, y - line / 2, x + REACH + width, y + line / 2),
        "middle left": (x - REACH - width, y - line / 2, x - REACH, y + line / 2),
        "bottom center": (centred[0], y + REACH, centred[1], y + REACH + line),
        "top center": (centred[0], y - REACH - line, centred[1], y - REACH),
    }


def _cost(box: Box, frame: Frame, ink: Sequence[Box], taken: Sequence[Box]) -> float:
    """Square pixels that are covered; text over text counts five times, text outside the frame even more."""
    inside = _shared(box, (0.0, 0.0, frame.width, frame.height))
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return sum(_shared(box, other) for other in ink) + 5 * sum(_shared(box, t) for t in taken) + 20 * outside


def _shared(a: Box, b: Box) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
