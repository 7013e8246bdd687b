"""Fusion by optimal transport."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.method import Method, method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.models.movable import movable, opened
from truing.units.fusion import Residual, fused, transported


@method(paper="arXiv:2310.05719", dial="weight", neutral={"weight": 0.0})
class OTFusion(Method[Editable, Editable]):
    """Averages the base with donors transported onto it, of its own or of other widths, unit by unit.

    Attributes:
        weight: of the donors together; 0 is the base.
        regularisation: of the plans' entropy, in shares of the greatest distance; 0 gives the exact plans. Heads, and
            what queries and keys hold, always have exact plans: a mixture of them breaks rotary positions.
        iterations: of Sinkhorn's algorithm.
        residual: where the plan of the residual stream is from: the embedding (``skip``), all that is added to it
            (``branch``), the ``mean``, or none (``identity``).
    """

    reads: ClassVar[frozenset[str]] = frozenset({"donors"})

    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    regularisation: Annotated[float, Ge(0)] = 0.06
    iterations: Annotated[int, Ge(1)] = 1000
    residual: Residual = "mean"

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if not evidence.donors:
            raise bad(self.card.name, "has no donors", "Give the arm 'donors:', or --donor NAME=MODEL.")
        own, target, made = base.weights(), movable(base), []
        for done, (name, given) in enumerate(evidence.donors.items()):
            donor = opened(name, given, base)
            moved = transported(
                movable(donor),
                target,
                donor.weights(),
                own,
                regularisation=self.regularisation,
                iterations=self.iterations,
                residual=self.residual,
            )
            made.append(moved)
            run.log.progress("transporting", done + 1, len(evidence.donors))
        return base.with_weights(fused(own, made, self.weight))
