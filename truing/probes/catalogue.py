"""Every probe there is, and the one call that takes some of them of an arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from truing.core.errors import Fault, InputError, did_you_mean
from truing.core.evidence import Judge, Pair
from truing.core.measures import Measure
from truing.core.policy import Policy, Scorable
from truing.core.run import Run
from truing.data.facts import FORGET, FactSet
from truing.probes import kl as distance
from truing.probes import perplexity as tax
from truing.probes.cost import Spent, cost
from truing.probes.duel import takes_best
from truing.probes.forgetting import forget_quality, model_utility
from truing.probes.length import length
from truing.probes.pool import Pool
from truing.probes.preference import preference
from truing.probes.reward import reward
from truing.probes.win_rate import win_rate


@dataclass(frozen=True)
class Probe:
    """What a probe tells and what it cannot do without.

    Attributes:
        summary: one line.
        needs: of ``judge``, ``scorable`` (the arm and its base tell log-probabilities), ``neutral`` (passages),
            ``pairs`` (held out), ``facts`` and ``retrained`` (a model that never saw what was to be forgotten).
        gives: the names of its measures.
    """

    summary: str
    needs: frozenset[str] = frozenset()
    gives: tuple[str, ...] = ()


PROBES: Mapping[str, Probe] = MappingProxyType({
    "win_rate": Probe(
        "how often the judge prefers the arm's reply to the base's (win_rate.ARM: to that arm's)",
        frozenset({"judge"}), ("win_rate",),
    ),
    "reward": Probe(
        "the judge's mean score, and the share of replies that meet every constraint",
        frozenset({"judge"}), ("reward", "satisfied"),
    ),
    "preference": Probe(
        "agreement with held-out pairs, and how far their replies have moved",
        frozenset({"scorable", "pairs"}),
        ("preference", "preference.likelihood", "preference.per_token", "preference.chosen", "preference.rejected"),
    ),
    "kl": Probe("how far the arm has moved from the base, nats", frozenset({"scorable"}), ("kl", "kl_bound")),
    "length": Probe("tokens a reply, and the share cut by the limit", frozenset(), ("length", "length.cut")),
    "perplexity": Probe(
        "surprise at neutral text, alone and over the base's: the tax",
        frozenset({"scorable", "neutral"}), ("perplexity", "perplexity.ratio"),
    ),
    "cost": Probe(
        "time, memory and parameters to make the arm, tokens to ask it",
        frozenset(), ("cost.seconds", "cost.tokens", "cost.memory", "cost.trained"),
    ),
    "forget_quality": Probe(
        "whether what was to be forgotten is told apart from a model that never saw it",
        frozenset({"scorable", "facts", "retrained"}), ("forget_quality", "forget_quality.distance"),
    ),
    "model_utility": Probe(
        "what is left of the facts that were to be kept",
        frozenset({"scorable", "facts"}), ("model_utility",),
    ),
})  # fmt: skip

SILENT = frozenset({"preference", "perplexity", "cost", "forget_quality", "model_utility"})
"""Probes for which the arm need not say anything."""


def probe_faults(names: Sequence[str], arms: Iterable[str], place: str) -> list[Fault]:
    """Every fault of a list of probes.

    Args:
        names: as in a recipe: a key of :data:`PROBES`, or ``win_rate.ARM``.
        arms: the names of the arms of this comparison.
        place: where the list stands; a fault adds its number, ``probes[2]``.
    """
    known, faults = list(arms), []
    for at, name in enumerate(names):
        where, (head, dot, tail) = f"{place}[{at}]", str(name).partition(".")
        if name in names[:at]:
            faults.append(Fault(where, f"the probe {name!r} is named twice", "Leave one out."))
        elif head == "win_rate" and dot:
            if tail not in known:
                faults.append(Fault(where, f"{name!r} names no arm of this comparison", did_you_mean(tail, known)))
        elif name not in PROBES:
            faults.append(Fault(where, f"there is no probe {name!r}", did_you_mean(str(name), PROBES)))
    return faults


def measure(
    names: Sequence[str],
    arm: Pool,
    *,
    base: Pool,
    others: Mapping[str, Pool],
    policy: Policy,
    base_policy: Policy,
    judge: Judge | None,
    neutral: tax.Passages,
    spent: Spent | None,
    run: Run,
    pairs: Sequence[Pair] = (),
    on_policy: bool = True,
    facts: FactSet | None = None,
    retrained: Policy | None = None,
) -> list[Measure]:
    """Take some probes of one arm. Which arm, curve and dial it is, the caller writes on them.

    Args:
        names: which, in the order of the measures.
        arm, base: their draws to the same prompts.
        others: the pools of arms that a ``win_rate.ARM`` may name.
        policy, base_policy: who drew them; where one cannot score, ``kl`` and ``perplexity`` are left out and the
            log says so.
        judge: asked again only where it compares in pairs or tells what is satisfied.
        neutral: passages for ``perplexity``.
        spent: for ``cost``; None leaves it out.
        run: seed, cache and log.
        pairs: held-out pairs for ``preference``.
        on_policy: whether the draws are from the policy itself: temperature 1, no nucleus.
        facts, retrained: for ``forget_quality`` and ``model_utility``.

    Raises:
        InputError: an unknown probe, or what the probe itself refuses.
        RunError: a log-probability that is NaN.
    """
    if faults := probe_faults(names, others, "probes"):
        raise InputError(*faults)
    reference = base_policy if isinstance(base_policy, Scorable) else None
    found: list[Measure] = []
    for name in names:
        (head, _, rival), rng = name.partition("."), run.rng("probes", name)
        missing = _missing(head, arm, base.source, policy, reference, neutral, pairs, spent)
        if missing := missing or _missing_facts(head, policy, facts, retrained):
            run.log.say(f"  {arm.arm}: {name} is left out: {missing}")
        elif head == "win_rate":
            found.append(win_rate(arm, others[rival] if rival else base, judge, rng=rng, probe=name))
        elif head == "reward":
            found += reward(arm, judge, rng=rng)
        elif head == "length":
            found += length(arm, rng=rng)
        elif head == "kl" and reference is not None:
            found += distance.kl(arm, policy, reference, rng=rng, on_policy=on_policy, base_source=base.source)
        elif head == "preference" and isinstance(policy, Scorable):
            found += preference(policy, pairs, base=reference, run=run)
        elif head == "perplexity" and isinstance(policy, Scorable):
            found += tax.perplexity(policy, neutral, base=reference, run=run)
        elif head == "cost" and spent is not None:
            found += cost(spent)
        elif isinstance(policy, Scorable) and facts is not None:
            if head == "model_utility":
                found += model_utility(policy, facts, run=run)
            elif isinstance(retrained, Scorable):
                found += forget_quality(policy, retrained, facts, run=run)
    return found


def _missing_facts(head: str, policy: Policy, facts: FactSet | None, retrained: Policy | None) -> str:
    """Why a probe of facts cannot be taken of this arm; empty where it can, and for other probes."""
    if head not in ("forget_quality", "model_utility"):
        return ""
    if facts is None:
        return "there are no facts"
    if not isinstance(policy, Scorable):
        return "the arm does not tell log-probabilities"
    if head == "model_utility":
        return "" if facts.kept else f"every fact is in the split {FORGET!r}"
    if not facts.of(FORGET):
        return f"no fact is in the split {FORGET!r}"
    return "" if isinstance(retrained, Scorable) else "no retrained model that tells log-probabilities is named"


def _missing(
    head: str,
    arm: Pool,
    source: str,
    policy: Policy,
    base: Scorable | None,
    neutral: tax.Passages,
    pairs: Sequence[Pair],
    spent: Spent | None,
) -> str:
    """Why a probe cannot be taken of this arm; empty where it can."""
    told = isinstance(policy, Scorable) or all(draw.logprobs for row in arm.draws for draw in row)
    asked = arm.choose is None or arm.source != source  # best-of-n over the base's own draws needs no density
    reasons = {
        "kl": (
            (base is None, "the base does not tell log-probabilities"),
            (not takes_best(arm.choose), "the probability that this way to rerank gives a reply is not known"),
            (asked and not told, "the arm does not tell log-probabilities"),
        ),
        "preference": (
            (not isinstance(policy, Scorable), "the arm does not tell log-probabilities"),
            (not pairs, "there are no held-out pairs (evaluate.pairs)"),
        ),
        "perplexity": (
            (not isinstance(policy, Scorable), "the arm does not tell log-probabilities"),
            (not neutral, "there is no neutral text"),
        ),
        "cost": ((spent is None, "nothing was counted"),),
    }
    return next((reason for holds, reason in reasons.get(head, ()) if holds), "")
