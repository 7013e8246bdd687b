"""What probes read beside an arm's draws, and why one cannot be taken where that is lacking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from truing.core.evidence import Pair
from truing.core.policy import Editable, Policy, Scorable
from truing.data.facts import FORGET, FactSet
from truing.data.questions import Question
from truing.data.refusals import RefusalSet
from truing.probes.cost import Spent
from truing.probes.duel import takes_best
from truing.probes.embedding_attack import Targets
from truing.probes.perplexity import Passages
from truing.probes.pool import Pool

MUTE = "the arm does not tell log-probabilities"
NO_REFUSALS = "there are no prompts to refuse (evaluate.refusal)"


@dataclass(frozen=True)
class Material:
    """What there is to measure on; a probe whose part is lacking is left out, and the log says so.

    Attributes:
        neutral: passages, for ``perplexity`` and ``barrier``.
        questions: with choices, for ``multiple_choice``.
        pairs: held out, for ``preference``.
        targets: prompts with replies that nobody wants, for ``embedding_attack``.
        facts: for ``forget_quality`` and ``model_utility``.
        retrained: a model that never saw what was to be forgotten, for ``forget_quality``.
        refusals: prompts that should and that should not be refused, for ``refusal`` and ``drift``.
        aligned: what ``drift`` is measured from; the base where it is None.
        spent: what the arm has cost, for ``cost``.
    """

    neutral: Passages = ()
    questions: Sequence[Question] = ()
    pairs: Sequence[Pair] = ()
    targets: Targets = ()
    facts: FactSet | None = None
    retrained: Policy | None = None
    refusals: RefusalSet | None = None
    aligned: Policy | None = None
    spent: Spent | None = None


def lacking(head: str, arm: Pool, source: str, policy: Policy, base: Scorable | None, given: Material) -> str:
    """Why a probe cannot be taken of this arm; empty where it can.

    Args:
        head: the probe's name without a rival's.
        source: who drew the base's pool.
        policy, base: who drew the arm's; the base where it tells log-probabilities.
    """
    mute = not isinstance(policy, Scorable)
    told = not mute or all(draw.logprobs for row in arm.draws for draw in row)
    asked = arm.choose is None or arm.source != source  # best-of-n over the base's own draws needs no density
    facts = given.facts
    reasons = {
        "kl": (
            (base is None, "the base does not tell log-probabilities"),
            (not takes_best(arm.choose), "the probability that this way to rerank gives a reply is not known"),
            (asked and not told, MUTE),
        ),
        "preference": ((mute, MUTE), (not given.pairs, "there are no held-out pairs (evaluate.pairs)")),
        "perplexity": ((mute, MUTE), (not given.neutral, "there is no neutral text")),
        "barrier": (
            (not (isinstance(policy, Editable) and isinstance(base, Editable)), "two sets of weights are not at hand"),
            (policy is base, "the arm is the base"),
            (not given.neutral, "there is no neutral text"),
        ),
        "multiple_choice": ((mute, MUTE), (not given.questions, "there are no questions")),
        "embedding_attack": (
            (not isinstance(policy, Editable), "the arm has no embeddings of its own"),
            (not given.targets, "there are no harmful replies"),
        ),
        "model_utility": (
            (facts is None, "there are no facts"),
            (mute, MUTE),
            (facts is not None and not facts.kept, f"every fact is in the split {FORGET!r}"),
        ),
        "forget_quality": (
            (facts is None, "there are no facts"),
            (mute, MUTE),
            (facts is not None and not facts.of(FORGET), f"no fact is in the split {FORGET!r}"),
            (not isinstance(given.retrained, Scorable), "no retrained model that tells log-probabilities is named"),
        ),
        "refusal": ((given.refusals is None, NO_REFUSALS),),
        "drift": ((given.refusals is None, NO_REFUSALS),),
        "cost": ((given.spent is None, "nothing was counted"),),
    }
    return next((reason for holds, reason in reasons.get(head, ()) if holds), "")
