"""Pairs that a policy draws and labels itself, by how far it has moved from the model that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from truing.core.errors import bad, did_you_mean
from truing.core.evidence import Evidence, Pair
from truing.core.lazy import torch
from truing.core.method import Method, method
from truing.core.policy import Chat, Draw, Scorable
from truing.core.run import Run
from truing.methods.synthesize._family import Drawing, best_and_worst


def implicit_rewards(policy: torch.Tensor, initial: torch.Tensor, *, beta: float) -> torch.Tensor:
    """``beta (log policy(y) - log initial(y))``. Eq. 5 of Rafailov et al. 2023, arXiv:2305.18290, solved for rewards.

    Of two replies to one prompt the first is preferred with probability ``sigmoid(r_1 - r_2)``; what depends on the
    prompt alone cancels. A policy that DPO has solved ranks replies as those did who labelled its pairs.

    Args:
        policy, initial: log-probabilities of the same replies, each summed over tokens, ``(B,)``, nats.
        beta: of the training that led from one to the other, > 0, in 1/nat.

    Returns:
        ``(B,)``; sums, so a longer reply has the larger reward, of either sign.
    """
    return beta * (policy - initial)


@method(paper="arXiv:2406.04412", dial="draws", neutral={"draws": 0})
class SelfLabelled(Drawing, Method[Scorable, Evidence]):
    """Pairs the best and the worst of a prompt's draws by the implicit reward of the policy that drew them.

    The reward is of the policy over the initial model, a donor of the arm, whatever base the next round is trained
    over. A pair's margin is the difference of the rewards, so ``sigmoid(margin)`` is the probability of its label.

    Attributes:
        reference: the donor that is the initial model; empty is the first.
        beta: of the rewards; it decides the margins, and no label.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"prompts", "donors"})
    writes: ClassVar[frozenset[str]] = frozenset({"pairs"})
    draws: Annotated[int, Ge(0)] = 2
    max_new_tokens: Annotated[int, Ge(1)] = 300
    temperature: Annotated[float, Gt(0)] = 0.7
    reference: str = ""
    beta: Annotated[float, Gt(0)] = 0.1

    def propose(self, chat: Chat, draws: Sequence[Draw], scores: Sequence[float]) -> list[Pair]:
        return best_and_worst(chat, draws, scores, 1)

    def __call__(self, base: Scorable, evidence: Evidence, run: Run, /) -> Evidence:
        if self.draws == 0:
            return Evidence()
        initial = self._initial(evidence)
        if initial.fingerprint == base.fingerprint:
            mend = "Train before labelling, e.g. with preference/dpo on a few labelled pairs."
            raise bad(self.card.name, "the base is the initial model itself: every reward is 0", mend)

        def score(chats: Sequence[Chat], drawn: Sequence[Draw], /) -> Sequence[float]:
            rewards = implicit_rewards(base.logprob(chats, drawn), initial.logprob(chats, drawn), beta=self.beta)
            return [float(reward) for reward in rewards]

        return self.made(base, evidence.prompts, run, score, self.card.name)

    def _initial(self, evidence: Evidence) -> Scorable:
        name = self.reference or next(iter(evidence.donors), "")
        found = evidence.donors.get(name)
        if isinstance(found, Scorable):
            return found
        if found is not None:
            raise bad(f"donors.{name}", "does not tell log-probabilities", "Give the initial model itself.")
        mend = did_you_mean(name, evidence.donors) or "Give the arm 'donors: {initial: MODEL}'."
        raise bad(self.card.name, f"has no donor {name!r}" if name else "has no donors", mend)
