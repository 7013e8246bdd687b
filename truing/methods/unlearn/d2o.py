"""Distributional dispreference optimisation: a reply against the model's own samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt

from truing.core.evidence import Rating
from truing.core.lazy import F, torch
from truing.core.method import method
from truing.core.policy import Editable, Reply, Sampling
from truing.core.run import Run
from truing.engine.cache import draws
from truing.engine.processes import here
from truing.methods.unlearn._family import ForgetLogps, UnlearningMethod


def d2o_loss(forgotten: ForgetLogps, *, alpha: float, beta: float) -> torch.Tensor:
    """``-log sigmoid((beta / K) sum_i h(y_i) - alpha h(y_l))``. Eq. 3, Duan et al. 2024, arXiv:2403.03419.

    ``y_i`` are ``K`` samples of the base, and both of the paper's references are the base. The mean is one of
    log-ratios, inside the one sigmoid. The gradient is ``alpha w`` in the sum of ``y_l`` and ``-beta w / K`` in that of
    each sample, ``w = sigmoid(alpha h(y_l) - (beta / K) sum_i h(y_i))``. Log-ratios are sums over tokens. With one
    sample and ``alpha = beta`` it is DPO.

    Args:
        forgotten: with the samples in ``instead``, ``(B, K)``, under the policy and its base, nats.
        alpha: of the reply to leave, > 0, in 1/nat.
        beta: of the samples, > 0, in 1/nat.

    Returns:
        The loss of each reply, ``(B,)``, > 0.
    """
    return F.softplus(alpha * forgotten.ratio - beta * forgotten.instead_ratio)


@method(paper="arXiv:2403.03419", dial="alpha", neutral={"max_steps": 0})
class D2O(UnlearningMethod):
    """Pushes a reply below the mean of the base's own samples; needs nothing that anybody would rather hear.

    The samples are drawn once, before training, as they come: neither filtered nor asked to be harmless, and not
    drawn again as the policy moves.

    Attributes:
        draws: samples of the base at each prompt.
        max_new_tokens: the longest sample, tokens.
        temperature: of the samples; 1 is the base itself.
    """

    alpha: Annotated[float, Gt(0)] = 0.1
    beta: Annotated[float, Gt(0)] = 0.1
    draws: Annotated[int, Ge(1)] = 11
    max_new_tokens: Annotated[int, Ge(1)] = 128
    temperature: Annotated[float, Gt(0)] = 1.0

    def loss(self, forgotten: ForgetLogps) -> torch.Tensor:
        return d2o_loss(forgotten, alpha=self.alpha, beta=self.beta)

    def instead(self, base: Editable, forget: Sequence[Rating], run: Run) -> Sequence[tuple[Reply, ...]]:
        chats = list(dict.fromkeys(rating.prompt for rating in forget))
        how = Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature)
        stream = run.rng("unlearn", "samples")
        pools = here().once(
            lambda: draws(base, chats, n=self.draws, sampling=how, rng=stream, cache=run.cache, log=run.log)
        )
        of = dict(zip(chats, pools, strict=True))
        return [tuple(of[rating.prompt]) for rating in forget]
