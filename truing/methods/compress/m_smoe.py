"""Merging experts by what their router does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from truing.core.errors import Fault, InputError
from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.compress._family import CompressMethod
from truing.methods.compress._routing import Align, Routing, Similarity, aligned, similarity
from truing.models.experts import Made, mixtures, rebuilt


def dominant_experts(frequencies: Sequence[torch.Tensor], kept: int) -> list[torch.Tensor]:
    """The experts that groups form around, chosen over all blocks at once. Li et al. 2024, arXiv:2310.01334, 3.2.

    Every block keeps the one that its router takes most; the others follow by frequency, the earlier first where two
    are level, so that there are exactly ``kept``.

    Args:
        frequencies: of each block, ``(E,)``, shares.
        kept: how many, at least one a block.

    Returns:
        Of each block, its dominant experts in order, ``(m,)`` int64.
    """
    forced = {(block, int(shares.argmax())) for block, shares in enumerate(frequencies)}
    every = [(block, row) for block, shares in enumerate(frequencies) for row in range(len(shares))]
    every.sort(key=lambda at: (at not in forced, -float(frequencies[at[0]][at[1]]), at))
    chosen = sorted(every[: max(kept, len(forced))])
    return [torch.tensor([row for b, row in chosen if b == block]) for block in range(len(frequencies))]


def grouped(alike: torch.Tensor, dominant: torch.Tensor) -> torch.Tensor:
    """Each expert's group: a dominant one's own, any other's that of the dominant expert it is most like.

    Args:
        alike: ``(E, E)``.
        dominant: ``(m,)`` int64.

    Returns:
        ``(E,)`` int64, numbers of groups below ``m``; the lower of two that are level.
    """
    members = alike[:, dominant].argmax(1)
    members[dominant] = torch.arange(len(dominant))
    return members


def merged(experts: torch.Tensor, frequency: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Each group's mean by frequency, ``sum f_j W_j / sum f_j``; the plain mean where no token came. Equation 4, ibid.

    Args:
        experts: ``(E, *S)``, aligned, in float32 or better.
        frequency: ``(E,)``, >= 0.
        members: ``(E,)`` int64, the group of each.

    Returns:
        ``(m, *S)``.
    """
    many = int(members.max()) + 1
    own = F.one_hot(members.cpu(), many).double()
    weighed = own * frequency.double().cpu()[:, None]
    share = torch.where(weighed.sum(0) > 0, weighed, own)
    share = (share / share.sum(0)).to(experts)
    return torch.einsum("em,e...->m...", share, experts)


@method(paper="arXiv:2310.01334", dial="expert_fraction", neutral={"expert_fraction": 1.0, "max_steps": 0})
class MSMoE(CompressMethod):
    """Merges experts that a router uses alike into those it uses most; the router stays.

    Attributes:
        expert_fraction: how many experts are left, of those of the blocks that are merged; 1 leaves all.
        align: how the units of experts are matched to the first expert's before they are averaged.
        similarity: what an expert's nearest dominant one is told by.
        weighting: by how often experts are used, or all alike.
        whole_blocks: numbers of blocks whose experts are left alone.
    """

    expert_fraction: Annotated[float, Gt(0), Le(1)] = 0.25
    align: Align = "weights"
    similarity: Similarity = "router_logits"
    weighting: Literal["frequency", "uniform"] = "frequency"
    whole_blocks: tuple[Annotated[int, Ge(0)], ...] = ()

    @property
    def idle(self) -> bool:
        return self.expert_fraction == 1

    def reduced(self, model: Any, seen: Mapping[int, Routing]) -> Any:
        found = mixtures(model)
        blocks = [mixture.block for mixture in found]
        faults = [
            Fault("whole_blocks", f"block {number} has no experts", f"Those that have: {blocks}.")
            for number in self.whole_blocks
            if number not in blocks
        ]
        if any(mixture.shared for mixture in found):
            faults.append(
                Fault(self.card.name, "the base's experts are merged already", "Merge the model before that.")
            )
        if faults:
            raise InputError(*faults)
        made: dict[int, Made] = {}
        for mixture in found:
            up, down = mixture.weights()
            made[mixture.block] = (mixture.members, up.clone(), down.clone())
        merging = [mixture for mixture in found if mixture.block not in self.whole_blocks]
        frequencies = [seen[mixture.block].frequency for mixture in merging]
        kept = round(self.expert_fraction * sum(map(len, frequencies)))
        for mixture, frequency, dominant in zip(merging, frequencies, dominant_experts(frequencies, kept), strict=True):
            up, down = aligned(mixture, self.align, seen[mixture.block].inputs)
            groups = grouped(similarity(mixture, (up, down), self.similarity, seen[mixture.block]), dominant)
            share = frequency if self.weighting == "frequency" else torch.ones_like(frequency)
            up, down = (merged(part, share, groups).to(model.dtype) for part in (up, down))
            made[mixture.block] = (groups.to(mixture.members), up, down)
        return rebuilt(model, made, self.storage)
