"""Has it forgotten, and is it still of use? Two numbers over facts; each alone misleads.

Maini et al. 2024, arXiv:2401.06121. A model that has collapsed gives all answers alike, true and false: its truth
ratios can look like those of a model that never knew, so ``forget_quality`` is read beside ``model_utility``.

Log-probabilities of an answer count its end of turn, once, and are divided by the tokens with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from truing.core.errors import bad
from truing.core.measures import Measure
from truing.core.policy import Sampling, Scorable, user
from truing.core.rng import Rng
from truing.core.run import Run
from truing.data.facts import FORGET, RETAIN, Fact, FactSet, Mean, words
from truing.engine.cache import draws
from truing.probes.perplexity import passage_nats
from truing.probes.two_samples import distance, kolmogorov_smirnov

if TYPE_CHECKING:
    import numpy.typing as npt

    from truing.probes.pool import Array

RESAMPLES = 2000


@dataclass(frozen=True)
class Told:
    """How likely a policy finds what may be said to ``P`` questions: nats a token, <= 0.

    Attributes:
        answer, paraphrase: ``(P,)``.
        perturbed: ``P`` arrays, each of as many as there are false answers.
    """

    answer: Array
    paraphrase: Array
    perturbed: Sequence[Array]

    def log_ratio(self, mean: Mean) -> Array:
        """Log of the truth ratio: the false answers' mean probability a token over the paraphrase's, ``(P,)``."""
        return np.array([_mean(false, mean) for false in self.perturbed]) - self.paraphrase

    @property
    def chosen(self) -> Array:
        """The answer's share of the probabilities a token of itself and all false answers, ``(P,)``, in [0, 1]."""
        pairs = zip(self.answer, self.perturbed, strict=True)
        return np.array([1 / (1 + np.exp(np.minimum(false - own, 700)).sum()) for own, false in pairs])


def _mean(logs: Array, mean: Mean) -> float:
    """The log of a mean of probabilities."""
    return float(logs.mean() if mean == "geometric" else np.logaddexp.reduce(logs) - np.log(len(logs)))


def told(policy: Scorable, facts: Sequence[Fact], run: Run) -> Told:
    """Score every answer; the run's cache keeps what each policy gives."""
    texts = [(fact.answer, fact.paraphrase, *fact.perturbed) for fact in facts]
    passages = [(user(fact.question), text) for fact, group in zip(facts, texts, strict=True) for text in group]
    nats, tokens = passage_nats(policy, passages, run)
    groups = np.split(-nats / tokens, np.cumsum([len(group) for group in texts])[:-1])
    answer, paraphrase = (np.array([group[k] for group in groups]) for k in (0, 1))
    return Told(answer, paraphrase, [group[2:] for group in groups])


def forget_quality(policy: Scorable, retrained: Scorable, given: FactSet, *, run: Run) -> list[Measure]:
    """Whether truth ratios on what was to be forgotten might be those of a model that never saw it.

    ``forget_quality`` is the p-value of a two-sample Kolmogorov-Smirnov test, and depends on n: by TOFU's reading,
    above 0.05 is "not told apart", which at a small n says little. ``forget_quality.distance`` is the test's statistic,
    with an interval from resampling questions, the same ones for both models.

    Args:
        retrained: the model that never saw it.
        given: facts, of which those of the split ``forget`` are asked; its ``quality_mean`` is over false answers.

    Raises:
        InputError: nothing is to be forgotten.
    """
    facts = given.of(FORGET)
    if not facts:
        raise bad("forget_quality", f"no fact is in the split {FORGET!r}", f"Write 'split: {FORGET}' where it is so.")
    mean = given.settings.quality_mean
    ratios = [told(each, facts, run).log_ratio(mean) for each in (policy, retrained)]
    found, n = kolmogorov_smirnov(*ratios), len(facts)
    note = f"Kolmogorov-Smirnov on truth ratios, {mean} mean over false answers; read it beside model_utility"
    picks = _picks(n, run.rng("probes", "forget_quality"))
    low, high = _quantiles([distance(*(each[pick] for each in ratios)) for pick in picks], n)
    return [
        Measure(probe="forget_quality", value=found.p, n=n, unit="probability", better="up", note=note),
        Measure(
            probe="forget_quality.distance", value=found.distance, low=low, high=high, n=n, better="down",
            note="the test's statistic; resampled ones lean upwards",
        ),
    ]  # fmt: skip


def model_utility(policy: Scorable, given: FactSet, *, run: Run) -> list[Measure]:
    """The harmonic mean of three numbers of each split that is not to be forgotten; 0 if any of them is.

    The probability of the answer, a token (``retain``), or its share among the false ones (every other split). ROUGE-L
    recall of a greedy answer: the longest common subsequence of words over the words of the answer; words are in lower
    case and not stemmed, which TOFU's are. The truth-ratio score, the mean of ``max(0, 1 - R)``. The interval is from
    resampling facts within their splits.

    Args:
        given: facts; its ``utility_mean`` is over false answers.

    Raises:
        InputError: everything is to be forgotten.
    """
    if not given.kept:
        raise bad("model_utility", f"every fact is in the split {FORGET!r}", "Add some that are to be kept.")
    mean, rng = given.settings.utility_mean, run.rng("probes", "model_utility")
    parts = {split: _scores(policy, given, split, run) for split in given.kept}
    value = harmonic([float(row.mean()) for scores in parts.values() for row in scores])
    drawn = [_resampled(scores, rng.child(split)) for split, scores in parts.items()]
    low, high = _quantiles([harmonic(row) for row in np.concatenate(drawn, 1)], max(s.shape[1] for s in parts.values()))
    each = "; ".join(f"{split} {' '.join(f'{row.mean():.3g}' for row in scores)}" for split, scores in parts.items())
    note = f"probability, ROUGE-L recall, truth ratio ({mean} mean over false answers): {each}"
    n = sum(scores.shape[1] for scores in parts.values())
    return [Measure(probe="model_utility", value=value, low=low, high=high, n=n, better="up", note=note)]


def _scores(policy: Scorable, given: FactSet, split: str, run: Run) -> Array:
    """Probability, recall and truth-ratio score of each fact of a split, ``(3, P)``, each in [0, 1]."""
    facts = given.of(split)
    known = told(policy, facts, run)
    probability = np.exp(known.answer) if split == RETAIN else known.chosen
    ratio = np.exp(np.minimum(known.log_ratio(given.settings.utility_mean), 0.0))  # beyond 1 the score is 0 anyway
    how = Sampling(max_new_tokens=given.settings.max_new_tokens, temperature=0.0)
    chats = list(dict.fromkeys(user(fact.question) for fact in facts))
    rows = draws(policy, chats, n=1, sampling=how, rng=run.rng("probes", "answers"), cache=run.cache, log=run.log)
    said = {chat: row[0].text for chat, row in zip(chats, rows, strict=True)}
    recall = np.array([rouge_recall(said[user(fact.question)], fact.answer) for fact in facts])
    return np.stack([probability, recall, 1 - ratio])


def rouge_recall(said: str, wanted: str) -> float:
    """The longest common subsequence of words over the words wanted, in [0, 1]. Lin 2004, ROUGE-L.

    Example:
        >>> rouge_recall("It is the old, blue bridge.", "the blue bridge is old")
        0.6
    """
    ours, theirs = words(said), words(wanted)
    row = [0] * (len(ours) + 1)
    for word in theirs:
        before = row
        row = [0]
        for k, own in enumerate(ours):
            row.append(before[k] + 1 if own == word else max(row[k], before[k + 1]))
    return row[-1] / len(theirs)


def harmonic(values: Sequence[float] | Array) -> float:
    """The harmonic mean of numbers >= 0; 0 if one of them is."""
    values = np.asarray(values, dtype=np.float64)
    return 0.0 if (values <= 0).any() else float(len(values) / (1 / values).sum())


def _picks(n: int, rng: Rng) -> npt.NDArray[np.int64]:
    """``(RESAMPLES, n)`` indices."""
    return rng.child("bootstrap").numpy().integers(0, n, size=(RESAMPLES, n))


def _resampled(scores: Array, rng: Rng) -> Array:
    """Means of resampled facts, ``(RESAMPLES, 3)``."""
    return np.stack([row[_picks(len(row), rng)].mean(1) for row in scores], 1)


def _quantiles(values: Sequence[float], n: int) -> tuple[float | None, float | None]:
    """The middle 95 %; nothing where there was nothing to resample."""
    if n < 2:
        return None, None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
