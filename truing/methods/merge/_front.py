"""A search over whole blends: what each fraction of each part gains and costs, and which blends nothing beats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from truing.core.policy import Workbench
from truing.core.run import Log
from truing.engine.pareto import pareto_set
from truing.methods.merge._parts import Blend

LINE = 6
"""Points of the plain average, both ends included, that a search begins with."""
STEP, LEAST = 0.2, 0.02
"""By how much a fraction is changed at first, and the least change that is tried."""


@dataclass(frozen=True)
class Candidate:
    """A blend that was measured.

    Attributes:
        fractions: the pretrained fraction of each part, ``(K,)``, in [0, 1].
        alignment: higher is better, on the scale of who measured.
        tax: lower is better, likewise.
    """

    fractions: tuple[float, ...]
    alignment: float
    tax: float


Evaluate = Callable[[Workbench], tuple[float, float]]
"""From a blend to its alignment (higher is better) and its tax (lower is better). It leaves the weights alone."""


def search(blend: Blend, evaluate: Evaluate, *, evaluations: int, log: Log) -> list[Candidate]:
    """Measure blends, at most so many, and give all of them in order; :func:`undominated` picks the front.

    Direct multisearch (Custodio et al. 2011, SIAM J. Optim. 21): the plain average at even fractions; then, around a
    blend that nothing beats, each part's fraction a step up and a step down. Where nothing new comes of it, its step is
    halved. Nothing is drawn, so the same measures give the same search.

    No model is written: blends are painted, one over the other, into one private copy.
    """
    bench, known = blend.base.open(), dict[tuple[float, ...], Candidate]()

    def measure(fractions: tuple[float, ...]) -> None:
        if fractions not in known and len(known) < evaluations:
            blend.paint(bench.module, fractions)
            known[fractions] = Candidate(fractions, *evaluate(bench))
            log.progress("searching", len(known), evaluations)

    for k in range(LINE):
        measure((round(1 - k / (LINE - 1), 9),) * blend.parts)
    steps = dict.fromkeys(known, STEP)
    while len(known) < evaluations:
        front = [each.fractions for each in undominated(known.values()) if steps[each.fractions] >= LEAST]
        if not front:
            break
        middle = max(front, key=steps.__getitem__)  # of equal steps the first on the front
        for trial in around(middle, steps[middle]):
            measure(trial)
            steps.setdefault(trial, steps[middle])
        if {each.fractions for each in undominated(known.values())} <= set(front):
            steps[middle] /= 2
    return list(known.values())


def around(fractions: Sequence[float], step: float) -> list[tuple[float, ...]]:
    """Every fraction a step up and a step down, within [0, 1].

    Example:
        >>> around((0.5, 1.0), 0.25)
        [(0.75, 1.0), (0.25, 1.0), (0.5, 0.75)]
    """
    moved = [
        (*fractions[:k], min(max(0.0, round(fractions[k] + change, 9)), 1.0), *fractions[k + 1 :])
        for k in range(len(fractions))
        for change in (step, -step)
    ]
    return [trial for trial in moved if trial != tuple(fractions)]


def undominated(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that no other beats, by rising tax."""
    listed = list(candidates)
    kept = [listed[i] for i in pareto_set([(each.tax, each.alignment) for each in listed])]
    return sorted(kept, key=lambda each: (each.tax, each.alignment))
