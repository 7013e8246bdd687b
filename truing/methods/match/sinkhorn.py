"""Matching by soft plans."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from truing.core.evidence import Evidence
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.methods.match._family import MatchMethod
from truing.models.movable import movable
from truing.units.fusion import Residual, transported


@method(paper="arXiv:2310.05719", dial="regularisation", neutral={"iterations": 0})
class SinkhornMatching(MatchMethod):
    """Mixes each donor's units into the base's by transport plans; donors of other widths come out in the base's.

    Soft plans mix unlike units and shrink what they mix: a donor's own function is not kept. Heads, and what queries
    and keys hold, are never mixed.

    Attributes:
        regularisation: of the plans' entropy, in shares of the greatest distance; 0 gives the exact plans, which
            between equal widths are orders.
        iterations: of Sinkhorn's algorithm; 0 leaves the donors as they are.
        residual: where the plan of the residual stream is from: the embedding (``skip``), all that is added to it
            (``branch``), the ``mean``, or none (``identity``).
    """

    regularisation: Annotated[float, Ge(0)] = 0.06
    iterations: Annotated[int, Ge(0)] = 1000
    residual: Residual = "skip"

    @property
    def idle(self) -> bool:
        return self.iterations == 0

    def aligned(self, base: Editable, donor: Editable, evidence: Evidence, run: Run) -> Editable:
        made = transported(
            movable(donor),
            movable(base),
            donor.weights(),
            base.weights(),
            regularisation=self.regularisation,
            iterations=self.iterations,
            residual=self.residual,
        )
        return base.with_weights(made)
