"""Matching by weights."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from truing.core.evidence import Evidence
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.methods.match._family import MatchMethod, anchored_spec, reordered
from truing.units.matching import match_weights


@method(paper="arXiv:2209.04836", dial="max_sweeps", neutral={"max_sweeps": 0})
class WeightMatching(MatchMethod):
    """Orders each donor's units so that its weights lie nearest to the base's. Needs no data.

    Attributes:
        max_sweeps: over all groups of units at most, beyond the first pass from the embedding onwards; it ends where
            nothing gains. 0 leaves the donors as they are.
    """

    max_sweeps: Annotated[int, Ge(0)] = 20

    @property
    def idle(self) -> bool:
        return self.max_sweeps == 0

    def aligned(self, base: Editable, donor: Editable, evidence: Evidence, run: Run) -> Editable:
        spec = anchored_spec(base, donor, self.card.name)
        rng = run.rng("match", "weights")
        found = match_weights(spec, base.weights(), donor.weights(), max_sweeps=self.max_sweeps, rng=rng)
        return reordered(spec, donor, found, run)
