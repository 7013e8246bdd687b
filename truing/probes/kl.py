"""How far an arm has moved from its base: KL(arm || base) of whole replies, nats, on the arm's own replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from truing.core.errors import RunError, bad
from truing.core.measures import Measure
from truing.core.policy import Chat, Policy, Scorable
from truing.core.rng import Rng
from truing.probes import duel
from truing.probes.bootstrap import averaged
from truing.probes.pool import Pool, each_draw

if TYPE_CHECKING:
    from truing.probes.pool import Array

LEVELS = "from the score levels of the pool (plug-in)"


def kl(
    arm: Pool, policy: Policy, base: Scorable, *, rng: Rng, on_policy: bool = True, base_source: str | None = None
) -> list[Measure]:
    """KL(arm || base), nats a reply, averaged over prompts.

    - The base itself: exactly 0.
    - Two policies that can list their replies (``distribution(chat) -> (replies, logprobs)``): the exact sum.
    - Best-of-n, against what it draws from as it was drawn: see :func:`of_best`; with ``kl_bound``. Of other ways to
      rerank the density is not known: an empty list.
    - Else the mean of log arm(y) - log base(y) over the arm's own draws: unbiased, so it may fall below zero.

    Args:
        arm: the arm's draws; their own log-probabilities are used where they carry them.
        policy: the arm; asked only for draws without log-probabilities.
        base: scores every draw once.
        rng: the stream of the interval.
        on_policy: False where the draws were tempered or truncated (temperature, nucleus): then the mean is
            not the KL, and the note says so.
        base_source: the source of the base's own pool; a reranker over another source has moved by that as well.

    Raises:
        InputError: NaN scores, draws that nobody can score, or two tokenisers.
        RunError: a log-probability that is NaN.
    """
    bootstrap = rng.child("bootstrap")
    if arm.choose is not None:
        if not duel.takes_best(arm.choose):
            return []
        moved = base_source is not None and arm.source != base_source
        drift = (arm.weights * log_ratios(arm, policy, base)).sum(axis=1) if moved else np.zeros(arm.size[0])
        return of_best(arm, drift, rng=bootstrap)
    prompts = arm.size[0]
    if policy is base or policy.fingerprint == base.fingerprint:
        return [_exact(0.0, prompts, "the base itself")]
    ours, theirs = (getattr(p, "distribution", None) for p in (policy, base))
    if ours is not None and theirs is not None:
        value = float(np.mean([_between(_listed(ours, chat), _listed(theirs, chat)) for chat in arm.chats]))
        return [_exact(value, prompts, "summed over every reply")]
    values = log_ratios(arm, policy, base).mean(axis=1)
    return [averaged("kl", values, rng=bootstrap, unit="nats", note="; ".join(_caveats(arm, on_policy)))]


def of_best(arm: Pool, drift: Array, *, rng: Rng) -> list[Measure]:
    """``kl`` of best-of-n against what it draws from, and ``kl_bound`` = log n - (n - 1) / n.

    The bound (Beirami et al., arXiv:2401.01879) is met where no two replies tie. Where scores tie, best-of-n
    moves less: with ``q_l`` the base's mass of score level ``l`` and ``F_l`` its cumulative sum,
    KL = sum_l (F_l^n - F_{l-1}^n) log((F_l^n - F_{l-1}^n) / q_l). Here ``q`` is the share of the pool's draws at each
    level, a plug-in. In our simulations (2 to 50 levels, pools of 16, 32 and 64, the mean over 20,000 pools) it
    is mostly too low, because a rare top level is often not in the pool, and its error halves as the pool
    doubles. With n at most a quarter of the pool it was within 0.03 nats for 4 even levels or more and for two
    even levels; at n = N = 16 it fell short by 0.03 to 0.33 nats (worst: two levels, the upper at 10 %), and for
    two even levels it was 0.03 too high. All prompts share this error, so the interval does not show it. Hence
    draw four times as many as the largest n. Where more than half of the prompts have all scores distinct, the
    pool cannot tell ties from a continuum, and the bound itself is what is left: ``kl`` then has kind ``bound``.

    Args:
        arm: a pool whose ``choose`` is best-of-n.
        drift: ``(P,)`` nats, how far the source has itself moved from the base on the chosen replies.
        rng: the stream of the interval.
    """
    n, scores = duel.looks_at(arm.choose) or 1, arm.checked_scores
    counts = [np.unique(row, return_counts=True)[1] for row in scores]
    bound = float(np.log(n) - (n - 1) / n + drift.mean())
    limit = Measure(
        probe="kl_bound", value=bound, n=len(scores), unit="nats", kind="bound",
        note="log n - (n-1)/n" + (", added to what its source has moved" if drift.any() else ""),
    )  # fmt: skip
    if n == 1 and not drift.any():
        return [_exact(0.0, len(scores), "n = 1 is the base itself"), limit]
    if np.mean([len(count) == scores.shape[1] for count in counts]) > 0.5:
        note = "most prompts have no two equal scores, so this is the upper bound log n - (n-1)/n"
        return [Measure(probe="kl", value=bound, n=len(scores), unit="nats", kind="bound", note=note), limit]
    values = np.array([level_kl(count / count.sum(), n) for count in counts]) + drift
    return [averaged("kl", values, rng=rng, unit="nats", note=LEVELS), limit]


def level_kl(mass: Array, n: int) -> float:
    """KL of best-of-n from its base, nats, over the levels of the score from worst to best.

    Args:
        mass: ``(L,)`` probability of each level, summing to one. Ties within a level are broken at random, so
            the KL over levels is the KL over replies.
        n: how many are drawn, >= 1.
    """
    above = np.cumsum(mass)
    gained = above**n - np.concatenate([[0.0], above[:-1]]) ** n
    held = gained > 0
    return float((gained[held] * np.log(gained[held] / mass[held])).sum())


def log_ratios(arm: Pool, policy: Policy, base: Scorable) -> Array:
    """``(P, N)`` nats: log arm(y) - log base(y) of every draw, by the tokens that were drawn.

    Raises:
        InputError: a draw without log-probabilities from a policy that cannot score, or another tokeniser.
        RunError: a log-probability that is NaN.
    """
    chats, draws = each_draw(arm)
    own: Array = np.array([sum(draw.logprobs) for draw in draws], dtype=np.float64)
    silent = [at for at, draw in enumerate(draws) if len(draw.logprobs) < max(len(draw.token_ids), 1)]
    if silent:
        if not isinstance(policy, Scorable):
            raise bad(f"kl of {arm.arm}", f"{len(silent)} draws carry no log-probabilities and the policy cannot score")
        own[silent] = policy.logprob([chats[at] for at in silent], [draws[at] for at in silent]).double().cpu().numpy()
    scored = base.token_logprobs(chats, draws)
    for draw, tokens in zip(draws, scored, strict=True):
        if draw.logprobs and len(draw.logprobs) != len(tokens):
            fact = f"a draw of {len(draw.logprobs)} tokens has {len(tokens)} under the base"
            raise bad(f"kl of {arm.arm}", fact, "The arm and its base must share one tokeniser.")
    theirs = np.array([float(tokens.double().sum()) for tokens in scored])
    if np.isnan(own).any() or np.isnan(theirs).any():
        raise RunError(f"kl of {arm.arm}: a log-probability is not a number (NaN)")
    return cast("Array", (own - theirs).reshape(arm.size))


def _exact(value: float, prompts: int, note: str) -> Measure:
    return Measure(probe="kl", value=value, low=value, high=value, n=prompts, unit="nats", kind="exact", note=note)


def _caveats(arm: Pool, on_policy: bool) -> list[str]:
    draws = [draw for row in arm.draws for draw in row]
    cut = [len(draw.token_ids) for draw in draws if draw.finish == "length"]
    notes = [f"of the first {max(cut)} tokens: {len(cut)} of {len(draws)} draws were cut there"] if cut else []
    if not on_policy:
        notes.append("the draws were tempered or truncated, so they are not from the policy itself: not the KL proper")
    return notes


def _listed(distribution: Callable[[Chat], Any], chat: Chat) -> Mapping[str, float]:
    """Log-probability of each reply, by its text."""
    replies, logprobs = distribution(chat)
    texts = [reply if isinstance(reply, str) else reply.text for reply in replies]
    return dict(zip(texts, map(float, logprobs), strict=True))


def _between(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """sum p log(p / q); a reply that only the arm can give makes it infinite."""
    held = {reply: log for reply, log in ours.items() if log > -np.inf}
    return sum(float(np.exp(log)) * (log - theirs.get(reply, -np.inf)) for reply, log in held.items())
