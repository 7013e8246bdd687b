"""Imitation of demonstrations among which are what the base says, or what is wanted of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods._turns import in_turn
from truing.methods.retain._family import Hold, RetainMethod, Tokens, likelihood
from truing.methods.retain._kept import Keeping


def replay_loss(tokens: Tokens, *, by: Literal["nll", "kl"], weight: float) -> torch.Tensor:
    """The loss of each replayed token, ``(T,)``, nats. Rolnick et al. 2019, arXiv:1811.11682.

    Args:
        tokens: of the replayed replies.
        by: their negative log-likelihood (``nll``), or KL(base || policy) over the vocabulary before each (``kl``).
        weight: of it, >= 0.
    """
    return weight * (likelihood(tokens) if by == "nll" else tokens.divergences)


@method(paper="arXiv:1811.11682", dial="share", neutral={"max_steps": 0})
class Replay(Keeping, RetainMethod):
    """Imitates demonstrations mixed with replies in which the base is as it should stay.

    A step's loss is a mean over the tokens of all its examples, so a share of the examples is a share of the loss only
    where replies are about as long.

    Attributes:
        share: of the examples of an epoch, those that are replayed, each as often as any other; at 0 it is
            ``imitation/sft``.
        by: how they are held: by their likelihood, or by the base's whole distribution.
        weight: of a replayed token beside one of a demonstration.
    """

    share: Annotated[float, Ge(0), Lt(1)] = 0.2
    by: Literal["nll", "kl"] = "nll"
    weight: Annotated[float, Ge(0)] = 1.0

    def hold(self, base: Editable, trees: Sequence[Tree], evidence: Evidence, run: Run) -> Hold:
        kept = self.kept(self.card.name, base, evidence, run)
        if not self.share:
            return Hold()
        count = max(1, round(len(trees) * self.share / (1 - self.share)))
        again = in_turn(kept, count, run, "replay")
        loss = partial(replay_loss, by=self.by, weight=self.weight)
        return Hold(replayed=again, replay=loss, divergences=self.by == "kl")
