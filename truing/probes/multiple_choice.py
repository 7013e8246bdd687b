"""Does it still know what it knew? Questions of general knowledge, each with choices of which one is right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from truing.core.errors import bad
from truing.core.measures import Measure
from truing.core.policy import Scorable, user
from truing.core.run import Run
from truing.data.questions import Question
from truing.probes.bootstrap import averaged
from truing.probes.scored import reply_sums

if TYPE_CHECKING:
    from truing.probes.pool import Array


def multiple_choice(
    policy: Scorable, questions: Sequence[Question], *, base: Scorable | None = None, run: Run
) -> list[Measure]:
    """How often the right choice is the likeliest reply to its question, in the model's own chat template.

    - ``multiple_choice``: by the mean log-probability of a choice's tokens, its end of turn among them.
    - ``multiple_choice.plain``: by their sum, which leans to short choices.
    - ``multiple_choice.change``: the first, less the base's. Questions differ far more from each other than arms do on
      one question, so its interval is much the narrower: it shows the tax.

    Choices that tie with the right one share the point. The interval is from resampling questions.

    Args:
        policy: whose log-probabilities are asked.
        questions: at least one.
        base: who is compared with; left out where it is the same.
        run: the seed of the intervals; its cache keeps what each policy gives to each choice.

    Raises:
        InputError: there are no questions.
        RunError: a log-probability that is NaN.
    """
    if not questions:
        raise bad("multiple_choice", "there are no questions", "Give at least one.")
    rng = run.rng("probes", "multiple_choice")
    mean, plain = right(policy, questions, run)
    share = partial(averaged, rng=rng, unit="probability", better="up")
    chance = float(np.mean([1 / len(each.choices) for each in questions]))
    found = [
        share("multiple_choice", mean, note=f"by log-probability a token; chance is {chance:.3g}", bounds=(0.0, 1.0)),
        share("multiple_choice.plain", plain, note="by the sum of log-probabilities", bounds=(0.0, 1.0)),
    ]
    if base is not None and base.fingerprint != policy.fingerprint:
        change = mean - right(base, questions, run)[0]
        note = "right answers, less the base's to the same questions; below 0 is the tax"
        found.append(share("multiple_choice.change", change, note=note))
    return found


def right(policy: Scorable, questions: Sequence[Question], run: Run) -> tuple[Array, Array]:
    """Whether each question is answered rightly, by the mean and by the sum over tokens: ``(Q,)`` in [0, 1] each."""
    asked = [(user(each.question), choice) for each in questions for choice in each.choices]
    chats, choices = [chat for chat, _ in asked], [choice for _, choice in asked]
    sums, counts = reply_sums(policy, chats, choices, run, probe="multiple_choice", unit="choice")
    edges = np.cumsum([len(each.choices) for each in questions])[:-1]

    def points(scores: Array) -> Array:
        groups = zip(np.split(scores, edges), questions, strict=True)
        best = [(group == group.max(), each.answer) for group, each in groups]
        return np.array([float(top[answer]) / top.sum() for top, answer in best])

    return points(sums / counts), points(sums)
