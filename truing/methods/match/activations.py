"""Matching by activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.methods.match._family import MatchMethod, anchored_spec, reordered
from truing.units.features import activation_tables, match_activations

if TYPE_CHECKING:
    from truing.models.local import Local


@method(paper="arXiv:1511.07543", dial="max_prompts", neutral={"max_prompts": 0})
class ActivationMatching(MatchMethod):
    """Orders each donor's units so that they do what the base's do, on the same prompts.

    Attributes:
        max_prompts: how many of the prompts are read; 0 leaves the donors as they are.
        likeness: of two units over the tokens of all prompts: their ``correlation``, or the mean ``product``.
    """

    reads = frozenset({"donors", "prompts"})

    max_prompts: Annotated[int, Ge(0)] = 100
    likeness: Literal["correlation", "product"] = "correlation"

    @property
    def idle(self) -> bool:
        return self.max_prompts == 0

    def aligned(self, base: Editable, donor: Editable, evidence: Evidence, run: Run) -> Editable:
        from truing.models.local import Local  # at first use, so that listing methods stays quick

        spec = anchored_spec(base, donor, self.card.name)
        tables = []
        if isinstance(base, Local) and isinstance(donor, Local):
            batches = _batches(base, evidence, self.max_prompts)
            by = self.likeness == "correlation"
            tables = activation_tables(spec, base.model, donor.model, batches, correlation=by)
        return reordered(spec, donor, match_activations(spec, base.weights(), donor.weights(), tables), run)


def _batches(base: Local, evidence: Evidence, count: int) -> Iterator[dict[str, Any]]:
    for prompt in base.template.prompts(evidence.prompts[:count]):
        yield {"input_ids": torch.tensor([prompt], device=base.model.device), "use_cache": False}
