"""Every probe there is, and the one call that takes some of them of an arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from truing.core.errors import Fault, InputError, did_you_mean
from truing.core.evidence import Judge
from truing.core.measures import Measure
from truing.core.policy import Editable, Policy, Scorable
from truing.core.run import Run
from truing.probes import barrier as path
from truing.probes import kl as distance
from truing.probes import perplexity as tax
from truing.probes.cost import cost
from truing.probes.embedding_attack import embedding_attack
from truing.probes.forgetting import forget_quality, model_utility
from truing.probes.length import length
from truing.probes.material import Material, lacking
from truing.probes.multiple_choice import multiple_choice
from truing.probes.pool import Pool
from truing.probes.preference import preference
from truing.probes.refusal import drift, refusal
from truing.probes.reward import reward
from truing.probes.win_rate import win_rate


@dataclass(frozen=True)
class Probe:
    """What a probe tells and what it cannot do without.

    Attributes:
        summary: one line.
        needs: of ``judge``, ``scorable`` (the arm and its base tell log-probabilities), ``neutral`` (passages),
            ``pairs`` (held out), ``facts``, ``retrained`` (a model that never saw what was to be forgotten),
            ``targets`` (prompts with harmful replies) and ``refusal`` (prompts that should be refused, or should not).
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
    "barrier": Probe(
        "how much worse than its ends the straight path of weights from base to arm is",
        frozenset({"scorable", "neutral"}), ("barrier", "barrier.midpoint", *(f"path.{t:g}" for t in path.GRID)),
    ),
    "multiple_choice": Probe(
        "how often the right choice is the likeliest, alone and less the base's: the tax on knowledge",
        frozenset({"scorable"}), ("multiple_choice", "multiple_choice.plain", "multiple_choice.change"),
    ),
    "embedding_attack": Probe(
        "log-probability of harmful replies, plainly and to prompts attacked in embedding space",
        frozenset({"targets"}), ("embedding_attack.clean", "embedding_attack.0.05", "embedding_attack.0.1"),
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
    "refusal": Probe(
        "how often unsafe prompts are refused, and safe ones",
        frozenset({"refusal"}), ("refusal", "refusal.over"),
    ),
    "drift": Probe(
        "the same less the aligned model's, by category, and the change of log-probabilities of such replies",
        frozenset({"refusal"}), ("drift", "drift.over", "drift.chosen", "drift.rejected"),
    ),
})  # fmt: skip

SILENT = frozenset({
    "preference", "perplexity", "barrier", "multiple_choice", "cost", "forget_quality", "model_utility",
    "embedding_attack", "refusal", "drift",
})  # fmt: skip
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
    material: Material,
    run: Run,
    on_policy: bool = True,
) -> list[Measure]:
    """Take some probes of one arm. Which arm, curve and dial it is, the caller writes on them.

    Args:
        names: which, in the order of the measures.
        arm, base: their draws to the same prompts.
        others: the pools of arms that a ``win_rate.ARM`` may name.
        policy, base_policy: who drew them; where one cannot score, ``kl`` and ``perplexity`` are left out and the
            log says so.
        judge: asked again only where it compares in pairs or tells what is satisfied.
        material: what there is to measure on.
        run: seed, cache and log.
        on_policy: whether the draws are from the policy itself: temperature 1, no nucleus.

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
        if missing := lacking(head, arm, base.source, policy, reference, material):
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
            found += preference(policy, material.pairs, base=reference, run=run)
        elif head == "perplexity" and isinstance(policy, Scorable):
            found += tax.perplexity(policy, material.neutral, base=reference, run=run)
        elif head == "barrier" and isinstance(policy, Editable) and isinstance(reference, Editable):
            found += path.barrier(policy, material.neutral, base=reference, run=run)
        elif head == "multiple_choice" and isinstance(policy, Scorable):
            found += multiple_choice(policy, material.questions, base=reference, run=run)
        elif head == "embedding_attack" and isinstance(policy, Editable):
            found += embedding_attack(policy, material.targets, run=run)
        elif head == "model_utility" and isinstance(policy, Scorable) and material.facts is not None:
            found += model_utility(policy, material.facts, run=run)
        elif head == "forget_quality" and isinstance(policy, Scorable) and material.facts is not None:
            if isinstance(material.retrained, Scorable):
                found += forget_quality(policy, material.retrained, material.facts, run=run)
        elif head == "refusal" and material.refusals is not None:
            found += refusal(policy, material.refusals, run=run)
        elif head == "drift" and material.refusals is not None:
            found += drift(policy, material.aligned or base_policy, material.refusals, run=run)
        elif head == "cost" and material.spent is not None:
            found += cost(material.spent)
    return found
