"""Adversarial training in the space of embeddings, with unlikelihood and utility data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le, Lt

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods._turns import in_turn
from truing.methods.preference._attacked import Attacked
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import log1mexp

LEFT = 0.001  # of its slope, what a term keeps below its floor


def floored(values: torch.Tensor, floor: float) -> torch.Tensor:
    """``values``, and below the floor ``floor + 0.001 values``: about the floor, with a thousandth of the slope."""
    return torch.where(values < floor, floor + LEFT * values, values)


def c_adv_ul_loss(
    pairs: PairLogps,
    *,
    away: Literal["ascent", "unlikelihood"],
    away_weight: float,
    toward_weight: float,
    utility_weight: float,
    away_floor: float,
    toward_floor: float,
) -> torch.Tensor:
    """Away from the harmful reply, towards the safe one, and utility. Xhonneux et al. 2024, arXiv:2405.15589.

    Of a pair ``a away + b toward``: ``toward = -S_w / n_w``, the mean cross entropy of the safe reply; ``away`` is
    ``S_l / n_l`` (ascent on the cross entropy of the harmful one), or the mean of ``-log(1 - p_t)`` over its tokens,
    of which those with ``log p_t`` below the floor are 0 (unlikelihood). Ascent and ``toward`` are floored as in
    :func:`floored`. Of a demonstration, which has no second reply, ``c`` times its mean cross entropy. The gradient on
    a token of the safe reply is ``-b / n_w``; on one of the harmful reply ``a / n_l`` by ascent and
    ``a p / ((1 - p) n_l)`` by unlikelihood; on one of a demonstration ``-c / n_w``; below a floor a thousandth of it.

    Args:
        pairs: log-probabilities by token, nats, with lengths; no token in a rejected reply says demonstration.
        away, away_weight, toward_weight, utility_weight: as above; weights >= 0.
        away_floor: nats a token, <= 0.
        toward_floor: nats a token, >= 0.

    Returns:
        The loss of each example, ``(B,)``, nats a token.
    """
    mean, tokens = pairs.averaged(), pairs.by_token
    toward = floored(-mean.chosen, toward_floor)
    if away == "ascent":
        from_harm = floored(mean.rejected, away_floor)
    else:
        unlikely = torch.where(tokens.policy < away_floor, 0.0, -log1mexp(tokens.policy))
        from_harm = (tokens.sums(unlikely) / tokens.counts.clamp_min(1))[:, 1]
    adversarial = away_weight * from_harm + toward_weight * toward
    return torch.where(tokens.counts[:, 1] > 0, adversarial, -utility_weight * mean.chosen)


@method(paper="arXiv:2405.15589", dial="attack_epsilon", neutral={"max_steps": 0})
class CAdvUL(Attacked, PreferenceMethod):
    """Unlearns the harmful and learns the safe reply to prompts under attack, and goes on imitating demonstrations.

    Chosen replies are the safe answers, rejected ones the harmful; the attack moves prompts towards the latter, and
    both replies are scored after the same shift. Demonstrations (``demos``) are not attacked: an epoch is all pairs
    once, and as many demonstrations as make up their share, each as often as any other. A step's loss is a mean over
    its examples, so the share also weighs the terms. There is no base to stay near but for them.

    Attributes:
        away: how the harmful reply is unlearnt: by ascent on its cross entropy, or by the unlikelihood of its tokens.
        away_weight, toward_weight, utility_weight: of the terms.
        away_floor: ascent all but stops where the harmful reply has fewer nats a token; by unlikelihood it leaves alone
            tokens with fewer.
        toward_floor: imitation of the safe reply all but stops where its cross entropy is less, nats a token.
        utility_share: of the examples of an epoch, those that are demonstrations; at 0 none are needed.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"pairs", "demos"})
    uses_reference: ClassVar[bool] = False
    compares = "means"
    away: Literal["ascent", "unlikelihood"] = "ascent"
    away_weight: Annotated[float, Ge(0)] = 0.5
    toward_weight: Annotated[float, Ge(0)] = 0.5
    utility_weight: Annotated[float, Ge(0)] = 1.0
    away_floor: Annotated[float, Le(0)] = -5.0
    toward_floor: Annotated[float, Ge(0)] = 0.5
    utility_share: Annotated[float, Ge(0), Lt(1)] = 0.875

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return c_adv_ul_loss(
            pairs, away=self.away, away_weight=self.away_weight, toward_weight=self.toward_weight,
            utility_weight=self.utility_weight, away_floor=self.away_floor, toward_floor=self.toward_floor,
        )  # fmt: skip

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        mean = pairs.averaged()
        return mean.chosen, mean.rejected

    def trees(self, base: Editable, evidence: Evidence, run: Run) -> list[Tree]:
        pairs = super().trees(base, evidence, run)
        if not self.utility_share:
            return pairs
        if not evidence.demos:
            raise bad(self.card.name, "has no demonstrations", "Give 'data.demos', or set utility_share: 0.")
        count = round(len(pairs) * self.utility_share / (1 - self.utility_share))
        demos = in_turn(evidence.demos, count, run, "utility")
        encoded = base.encode_many([demo.prompt for demo in demos], [(demo.reply,) for demo in demos])
        return pairs + [Tree(tree.prompt, (*tree.replies, ())) for tree in encoded]
