"""Which colour and shape a curve has, everywhere on the page; colours are tokens that the page resolves.

A figure says ``$c0`` or ``$ink``; the script reads the value from the style sheet, so light, dark and print need one
figure. The eight hues are told apart under the common colour-vision deficiencies, and shape repeats what colour says.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from truing.report.load import Arm
from truing.report.study import Study

HUES = 8
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star", "hexagon", "triangle-down", "hourglass")


@dataclass(frozen=True)
class Look:
    """A colour token and a plotly marker."""

    colour: str
    symbol: str

    @property
    def css(self) -> str:
        """The colour as a CSS value."""
        return f"var(--{self.colour.removeprefix('$')})"


BASE = Look("$ink", "cross")


def of_curves(study: Study) -> Mapping[str, Look]:
    """Curve -> look, in the order of the arms; the reference is drawn in ink."""
    curves = dict.fromkeys(arm.curve for arm in study.candidates)
    return {curve: _look(i) for i, curve in enumerate(curves)}


def of_trained(study: Study) -> Mapping[str, Look]:
    """Trained arm -> look. The first arm of a curve keeps the colour of its curve, the others take free ones."""
    curves = of_curves(study)
    trained = [arm for arm in study.arms if arm.training]
    taken: dict[str, Look] = {}
    for arm in trained:
        if arm.curve in curves and curves[arm.curve] not in taken.values():
            taken[arm.name] = curves[arm.curve]
    every = dict.fromkeys(_look(i) for i in range(len(trained) + len(curves)))
    # Looks come round: where more was trained than there are, some share one, and the legend tells them apart.
    later = itertools.cycle([look for look in every if look not in taken.values()] or every)
    return {arm.name: taken.get(arm.name) or next(later) for arm in trained}


def by_curve(arms: Sequence[Arm]) -> Mapping[str, Sequence[Arm]]:
    """Arms of each curve along its dial; arms without a dial keep their order."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.curve, []).append(arm)
    return {curve: sorted(group, key=lambda a: a.dial[1] if a.dial else 0.0) for curve, group in groups.items()}


def _look(index: int) -> Look:
    return Look(f"$c{index % HUES}", SYMBOLS[(index % HUES + index // HUES) % len(SYMBOLS)])
