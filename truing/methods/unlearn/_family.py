"""Unlearning: a member writes one loss over the log-probabilities of what is to be forgotten."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from truing.core.errors import bad
from truing.core.evidence import Evidence, Rating
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable, Reply
from truing.core.run import Run
from truing.core.trees import Extras, TreeScores
from truing.engine.cache import reference_logprobs
from truing.engine.fit import Objective, Training, fit
from truing.methods.unlearn._forget import ForgetLogps as ForgetLogps
from truing.methods.unlearn._forget import parted


@dataclass(frozen=True, kw_only=True)
class UnlearningMethod(Training, Method[Editable, Editable]):
    """Forgets the replies that are rated low and, where asked, retains the others.

    The loss is the mean over what is to be forgotten, plus ``retain_weight`` times the mean over what is to be
    retained. The two are shuffled together, and each example is weighed so that an epoch gives exactly that whatever
    their numbers; a step gives an unbiased estimate of it.

    Attributes:
        threshold: ratings at or below it are what to forget, the others what to retain.
        retain: what holds the others: nothing; their negative log-likelihood, a mean over the tokens of a reply
            (``nll``); or KL(base || policy) over the vocabulary, a mean over the tokens of a reply and of no prompt or
            padding (``kl``), for which the base makes a forward pass in every step.
        retain_weight: of the retaining term.
        uses_reference: whether the loss reads the base's log-probabilities; where it does not, none are computed.
    """

    threshold: float = 0.5
    retain: Literal["none", "nll", "kl"] = "none"
    retain_weight: Annotated[float, Ge(0)] = 1.0

    reads: ClassVar[frozenset[str]] = frozenset({"ratings"})
    uses_reference: ClassVar[bool] = True

    @abstractmethod
    def loss(self, forgotten: ForgetLogps) -> torch.Tensor:
        """The loss of each reply to forget, ``(B,)``."""

    def instead(self, base: Editable, forget: Sequence[Rating], run: Run) -> Sequence[tuple[Reply, ...]]:
        """What may be said in place of each reply, as many for each."""
        return [()] * len(forget)

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if self.max_steps == 0:
            return base
        forget, retain = parted(evidence.ratings, self.threshold, self.card.name)
        if self.retain == "none":
            retain = []
        elif not retain:
            fact = f"retain = {self.retain!r}, and no rating is above the threshold {self.threshold:g}"
            raise bad(self.card.name, fact, "Rate what is to be retained higher, or set retain: none.")
        others = self.instead(base, forget, run)
        replies = [*((r.reply, *more) for r, more in zip(forget, others, strict=True)), *((r.reply,) for r in retain)]
        trees = base.encode_many([rating.prompt for rating in (*forget, *retain)], replies)
        width = 1 + len(others[0])
        known: Sequence[torch.Tensor] = ()
        if self.uses_reference:
            known = reference_logprobs(base, trees[: len(forget)], run, self.precision)
        told = _Unlearning(self, len(forget), len(retain), width, known)
        objective = Objective([1.0] * len(trees), told.score, extras=Extras(divergences=self.retain == "kl"))
        return fit(base, trees, objective, self, run)


@dataclass(frozen=True)
class _Unlearning:
    """The member's loss and the retaining term over the scores of a micro-batch.

    Attributes:
        forget, retain: how many there are of each; the former have the first numbers.
        width: replies of a tree with something to forget.
        known: of every reply of those trees, ``(T_i,)`` nats under the base; empty where none are used.
    """

    method: UnlearningMethod
    forget: int
    retain: int
    width: int
    known: Sequence[torch.Tensor]

    @cached_property
    def bases(self) -> torch.Tensor:
        """``(F, width)`` sums under the base; NaN where none are used, so that a loss that reads them is not finite."""
        if not self.known:
            return torch.full((self.forget, self.width), torch.nan, dtype=torch.float64)
        return torch.stack([tokens.double().sum() for tokens in self.known]).view(self.forget, self.width)

    def score(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Losses ``(B,)`` of the trees with these numbers, and metrics of those that have them."""
        low = [place for place, number in enumerate(numbers) if number < self.forget]
        high = [place for place, number in enumerate(numbers) if number >= self.forget]
        replies = [self.width if number < self.forget else 1 for number in numbers]
        starts = [sum(replies[:place]) for place in range(len(replies))]
        losses = scores.tokens.new_zeros(len(numbers))
        total = self.forget + self.retain
        members = [starts[place] + k for place in low for k in range(self.width)]
        forgotten = self.gathered(scores, members, [numbers[place] for place in low])
        found = self.method.loss(forgotten)
        losses = losses.index_put((_places(low, losses),), found * (total / self.forget))
        metrics = {f"forget/{name}": value.detach() for name, value in self.told(forgotten, found).items()}
        if self.retain:  # a pass may hold none of either kind, and still tells the same names: of none
            members = [starts[place] for place in high]
            held = self.held(scores, members)
            weight = self.method.retain_weight * total / self.retain
            losses = losses.index_put((_places(high, losses),), held * weight)
            metrics |= {"retain/loss": held.detach(), "retain/logps": scores.sums.detach()[_places(members, losses)]}
        return losses, metrics

    def gathered(self, scores: TreeScores, members: Sequence[int], numbers: Sequence[int]) -> ForgetLogps:
        """The replies of the trees with something to forget."""
        sums = scores.sums[_places(members, scores.counts)].view(-1, self.width)
        counts = scores.counts[_places(members, scores.counts)].view(-1, self.width)
        bases = self.bases[list(numbers)].to(sums)
        return ForgetLogps(sums[:, 0], bases[:, 0], counts[:, 0], sums[:, 1:], bases[:, 1:], counts[:, 1:])

    def told(self, forgotten: ForgetLogps, losses: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is logged of the forgotten: the loss, log-probabilities, and how far they are from the base's."""
        told = {"loss": losses, "logps": forgotten.forgotten}
        if self.method.uses_reference:
            told["ratio"] = forgotten.ratio
        if self.width > 1:
            told["instead"] = forgotten.instead.mean(1)
        return told

    def held(self, scores: TreeScores, members: Sequence[int]) -> torch.Tensor:
        """The retaining term of some replies, ``(R,)``, nats a token."""
        values = -scores.tokens if self.method.retain == "nll" else scores.divergences
        if values is None:
            raise TypeError("the base does not tell how far its distribution is from the policy's")
        sums = values.new_zeros(len(scores.counts)).index_add(0, scores.owner, values)
        return (sums / scores.counts.clamp_min(1))[_places(members, sums)]


def _places(places: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.int64, device=like.device)
