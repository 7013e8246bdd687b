"""Where to set the labels of points so that they cover as little as possible: greedy, deterministic, small."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels; y grows downwards."""


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


@dataclass(frozen=True)
class Spot:
    """Where a label hangs: the side of the text that is pinned, and how far from the centre of the marker, pixels."""

    anchor: tuple[str, str]
    shift: tuple[float, float]

    def box(self, centre: tuple[float, float], width: float, height: float) -> Box:
        """What the label covers."""
        x, y = centre[0] + self.shift[0], centre[1] + self.shift[1]
        left = x - {"left": 0.0, "center": width / 2, "right": width}[self.anchor[0]]
        top = y - {"top": 0.0, "middle": height / 2, "bottom": height}[self.anchor[1]]
        return left, top, left + width, top + height


SPOTS = (
    Spot(("left", "top"), (9, 3)),
    Spot(("right", "bottom"), (-9, -3)),
    Spot(("left", "bottom"), (9, -3)),
    Spot(("right", "top"), (-9, 3)),
    Spot(("left", "middle"), (14, 0)),
    Spot(("right", "middle"), (-14, 0)),
    Spot(("center", "top"), (0, 13)),
    Spot(("center", "bottom"), (0, -13)),
    Spot(("left", "top"), (14, 12)),
    Spot(("right", "bottom"), (-14, -12)),
)
"""The places around a marker, the best liked first; y grows downwards."""


def place(frame: Frame, centres: Sequence[tuple[float, float]], texts: Sequence[str], ink: Sequence[Box]) -> list[Spot]:
    """A spot for each label.

    Args:
        frame: where it is drawn.
        centres: of the markers, pixels.
        texts: the labels, in the order in which they choose.
        ink: what is drawn already: error bars, lines, markers.
    """
    taken: list[Box] = []
    chosen = []
    for centre, text in zip(centres, texts, strict=True):
        boxes = [spot.box(centre, len(text) * frame.line * 0.48, frame.line) for spot in SPOTS]
        costs = [_cost(box, frame, ink, taken) + 4 * i for i, box in enumerate(boxes)]
        best = costs.index(min(costs))
        chosen.append(SPOTS[best])
        taken.append(boxes[best])
    return chosen


def path(points: Sequence[tuple[float, float]], *, step: float = 8.0, width: float = 3.0) -> list[Box]:
    """A line through some points as small boxes."""
    boxes = []
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        pieces = max(int(max(abs(x1 - x0), abs(y1 - y0)) / step), 1)
        for i in range(pieces + 1):
            x, y = x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces
            boxes.append((x - width, y - width, x + width, y + width))
    return boxes


def _cost(box: Box, frame: Frame, ink: Sequence[Box], taken: Sequence[Box]) -> float:
    """Square pixels that are covered; text over text counts five times, text outside the frame even more."""
    inside = _shared(box, (0.0, 0.0, frame.width, frame.height))
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return sum(_shared(box, other) for other in ink) + 5 * sum(_shared(box, t) for t in taken) + 20 * outside


def _shared(a: Box, b: Box) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
