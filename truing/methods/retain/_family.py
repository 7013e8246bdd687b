"""Retaining: a member says what holds a policy near its base while it imitates demonstrations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from truing.core.errors import Fault, bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Extras, Tree, TreeScores
from truing.engine.fit import Objective, Training, fit
from truing.models.moved import Move as Move
from truing.models.moved import moves

Penalty = Callable[[Mapping[str, Move]], Mapping[str, "torch.Tensor"]]
"""From the moves of all weights that are trained to terms by name, scalars, which are added to a step's mean loss."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of replies as a loss sees them.

    Attributes:
        logps: ``(T,)``, nats.
        divergences: ``(T,)`` nats, KL(base || policy) over the vocabulary where each is predicted; NaN where it was
            not asked for, so that a loss that reads it is not finite.
    """

    logps: torch.Tensor
    divergences: torch.Tensor


TokenLoss = Callable[[Tokens], "torch.Tensor"]


def likelihood(tokens: Tokens) -> torch.Tensor:
    """Negative log-likelihood of each token, ``(T,)``, nats."""
    return -tokens.logps


@dataclass(frozen=True)
class Hold:
    """What holds a policy while it learns; nothing but imitation by default.

    Attributes:
        loss: of the demonstrations' tokens.
        replayed: examples that are trained on besides, each of one reply.
        replay: the loss of their tokens.
        divergences: whether either loss reads them.
        penalty: of the weights' moves, once a step.
    """

    loss: TokenLoss = likelihood
    replayed: Sequence[Tree] = ()
    replay: TokenLoss = likelihood
    divergences: bool = False
    penalty: Penalty | None = None


@dataclass(frozen=True, kw_only=True)
class RetainMethod(Training, Method[Editable, Editable]):
    """Trains on demonstrations, averaged over the tokens of a step, and is held near its base."""

    reads: ClassVar[frozenset[str]] = frozenset({"demos"})
    learning_rate: float = 1e-5

    @abstractmethod
    def hold(self, base: Editable, trees: Sequence[Tree], evidence: Evidence, run: Run) -> Hold:
        """What holds it, made before training; ``trees`` are the demonstrations."""

    def faults(self, place: str = "") -> list[Fault]:
        found = super().faults(place)
        if self.use_dora:
            fact = f"{self.card.name} weighs products of adapters, and use_dora trains magnitudes beside them"
            found.append(Fault(place, fact, "Leave use_dora out."))
        return found

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if self.max_steps == 0:
            return base
        if not evidence.demos:
            raise bad(self.card.name, "has no demonstrations", "Give 'data.demos'.")
        trees = base.encode_many([demo.prompt for demo in evidence.demos], [(demo.reply,) for demo in evidence.demos])
        hold = self.hold(base, trees, evidence, run)
        every = [*trees, *hold.replayed]
        # A mean over the tokens of the whole step, whatever the cut into micro-batches.
        weights = [float(len(tree.replies[0])) for tree in every]
        held = _Held(hold, len(trees))
        regularise = partial(_penalties, hold.penalty, base) if hold.penalty is not None else None
        extras = Extras(divergences=hold.divergences)
        return fit(base, every, Objective(weights, held.score, extras=extras, regularise=regularise), self, run)


def _penalties(penalty: Penalty, base: Editable, module: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    return {f"penalty/{name}": term for name, term in penalty(moves(module, base)).items()}


@dataclass(frozen=True)
class _Held:
    """What a member holds by, over the scores of a micro-batch.

    Attributes:
        demos: how many examples, the first ones, are demonstrations.
    """

    hold: Hold
    demos: int

    def score(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Losses ``(B,)``, each summed over tokens, and metrics."""
        apart = scores.divergences
        tokens = Tokens(scores.tokens, torch.full_like(scores.tokens, torch.nan) if apart is None else apart)
        losses = self.hold.loss(tokens)
        old = torch.tensor([number >= self.demos for number in numbers], device=losses.device)
        if self.hold.replayed:
            losses = torch.where(old[scores.owner], self.hold.replay(tokens), losses)
        sums = losses.new_zeros(len(scores.counts)).index_add(0, scores.owner, losses)
        metrics = {"logps/chosen": scores.sums.detach()[~old]}
        if self.hold.replayed:
            metrics["logps/replayed"] = scores.sums.detach()[old]
        if apart is not None:
            far = apart.detach().new_zeros(len(scores.counts)).index_add(0, scores.owner, apart.detach())
            metrics["kl_per_token"] = far / scores.counts
        return sums, metrics
