"""What an arm declines to do, and how far that has drifted from an aligned model.

Both rates are needed: who always refuses scores best on the one and worst on the other. Whether a reply refuses, rules
over its opening decide (:func:`truing.judges.refusal.refuses`); they see a refusal, not harm in what is no refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from truing.core.measures import Measure
from truing.core.policy import Policy, Sampling, Scorable
from truing.core.rng import Rng
from truing.core.run import Run
from truing.data.refusals import Asked, RefusalSet
from truing.engine.cache import draws
from truing.judges.refusal import refuses
from truing.probes.bootstrap import averaged, interval
from truing.probes.scored import reply_sums

if TYPE_CHECKING:
    from truing.probes.pool import Array

SIDES = (
    (True, "", "up", "of prompts that should be refused"),
    (False, ".over", "down", "of prompts that should not be"),
)


def refusal(policy: Policy, given: RefusalSet, *, run: Run) -> list[Measure]:
    """The share of replies that refuse: ``refusal`` of unsafe prompts, ``refusal.over`` of safe ones.

    Args:
        policy: who is asked.
        given: prompts and how to ask; a measure without prompts of its kind is left out.
        run: seed, cache and log.
    """
    rates, rng = _rates(policy, given, run), run.rng("probes", "refusal", "bootstrap")
    found = []
    for unsafe, suffix, better, note in SIDES:
        values = rates[[asked.unsafe == unsafe for asked in given.asked]]
        if len(values):
            name, told = f"refusal{suffix}", f"share of replies that refuse, {note}"
            bounds = (0.0, 1.0)
            found.append(averaged(name, values, rng=rng, unit="probability", better=better, note=told, bounds=bounds))
    return found


def drift(policy: Policy, aligned: Policy, given: RefusalSet, *, run: Run) -> list[Measure]:
    """Rates of refusal less the aligned model's, prompt by prompt; below 0 on unsafe prompts is alignment lost.

    ``drift`` is of unsafe prompts, ``drift.on CATEGORY`` of those of one category, ``drift.over`` of safe ones. Where
    rows have such replies and both policies score, ``drift.chosen`` and ``drift.rejected`` are the change of the
    log-probability of replies to unsafe prompts that should and should not be given, nats a token. Nothing is told of
    the aligned model itself. DriftCaps, arXiv:2508.02079, has this form; its prompts were not to be had.
    """
    if policy.fingerprint == aligned.fingerprint:
        return []
    change, rng = _rates(policy, given, run) - _rates(aligned, given, run), run.rng("probes", "drift", "bootstrap")
    note = "rate of refusal less the aligned model's, on the same prompts"
    found = []
    for unsafe, suffix, better, of in SIDES:
        values = change[[asked.unsafe == unsafe for asked in given.asked]]
        if len(values):
            found.append(_difference(f"drift{suffix}", values, rng, better, f"{note}, {of}"))
    for category in dict.fromkeys(asked.category for asked in given.of(unsafe=True) if asked.category):
        values = change[[asked.unsafe and asked.category == category for asked in given.asked]]
        found.append(_difference(f"drift.on {category}", values, rng, "up", note))
    if isinstance(policy, Scorable) and isinstance(aligned, Scorable):
        found += _likelihood(policy, aligned, given.of(unsafe=True), run)
    return found


def _difference(probe: str, values: Array, rng: Rng, better: str, note: str) -> Measure:
    bounds = (-1.0, 1.0)
    found = averaged(probe, values, rng=rng, unit="probability", better=better, note=note, bounds=bounds)
    if values.any() or len(values) == 1:
        return found
    # Not one reply differs, and resampling sees no variation: what Clopper and Pearson give for none of so many.
    _, reach = interval(values, rng=rng, bounds=(0.0, 1.0))
    return replace(found, low=None if reach is None else -reach, high=reach)


def _likelihood(policy: Scorable, aligned: Scorable, asked: Sequence[Asked], run: Run) -> list[Measure]:
    found = []
    for name, better in (("chosen", "up"), ("rejected", "down")):
        rows = [(each.prompt, reply) for each in asked if (reply := getattr(each, name)) is not None]
        if not rows:
            continue
        chats, replies = [chat for chat, _ in rows], [reply for _, reply in rows]
        means = []
        for each in (policy, aligned):
            nats, tokens = reply_sums(each, chats, replies, run, probe="drift", unit="reply")
            means.append(nats / tokens)
        told = f"change of the log-probability of {name} replies to unsafe prompts"
        rng = run.rng("probes", "drift", name)
        found.append(
            averaged(f"drift.{name}", means[0] - means[1], rng=rng, unit="nats per token", better=better, note=told)
        )
    return found


def _rates(policy: Policy, given: RefusalSet, run: Run) -> Array:
    """The share of a prompt's replies that refuse, ``(P,)``, in the order of the set."""
    how = given.settings
    sampling = Sampling(max_new_tokens=how.max_new_tokens, temperature=how.temperature)
    chats = list(dict.fromkeys(asked.prompt for asked in given.asked))
    rng = run.rng("probes", "refusal")
    made = draws(policy, chats, n=how.draws, sampling=sampling, rng=rng, cache=run.cache, log=run.log)
    said = {chat: float(np.mean([refuses(d.text) for d in row])) for chat, row in zip(chats, made, strict=True)}
    return np.array([said[asked.prompt] for asked in given.asked])
