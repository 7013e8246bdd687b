"""preference/f_dpo."""

from __future__ import annotations

import pytest
import torch
from objectives import double, has_slopes, is_same, is_stationary, some_pairs, strengths

from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.f_dpo import f_dpo_loss

# f and its derivative in the ratio u of policy to base, from the paper's table.
DERIVATIVES = {
    "reverse_kl": lambda u: u.log() + 1,
    "forward_kl": lambda u: -1 / u,
    "js_divergence": lambda u: torch.log(2 * u / (1 + u)),
    "alpha_divergence": lambda u: (1 - u**-0.3) / 0.3,
}
EVERY = pytest.mark.parametrize("divergence", DERIVATIVES)


@EVERY
def test_the_optimum_under_that_divergence_is_stationary(divergence: str) -> None:
    """``reward = beta f'(pi / base) + constant``: the reward of which a policy is optimal, and its preferences."""
    policy, base, beta = double(0.1, 0.2, 0.3, 0.4), double(0.4, 0.1, 0.25, 0.25), 0.6
    reward = beta * DERIVATIVES[divergence](policy / base)
    even = torch.full((4,), 0.25, dtype=torch.float64)
    is_stationary(
        lambda p: f_dpo_loss(p, beta=beta, f_divergence_type=divergence, alpha=0.3),
        policy.log(), base.log(), strengths(reward), even,
    )  # fmt: skip


@EVERY
def test_slopes(divergence: str) -> None:
    pairs, beta = some_pairs(), 0.3
    left, right = pairs.chosen_ratio.detach(), pairs.rejected_ratio.detach()
    score = DERIVATIVES[divergence]
    pull = beta * torch.sigmoid(-beta * (score(left.exp()) - score(right.exp())))
    slope = {
        "reverse_kl": torch.ones_like,
        "forward_kl": lambda h: torch.exp(-h),
        "js_divergence": lambda h: torch.sigmoid(-h),
        "alpha_divergence": lambda h: torch.exp(-0.3 * h),
    }[divergence]
    has_slopes(
        lambda p: f_dpo_loss(p, beta=beta, f_divergence_type=divergence, alpha=0.3),
        -pull * slope(left), pull * slope(right), pairs,
    )  # fmt: skip


def test_under_the_reverse_kl_it_is_dpo() -> None:
    is_same(
        lambda p: f_dpo_loss(p, beta=0.3, f_divergence_type="reverse_kl", alpha=0.5),
        lambda p: dpo_loss(p, beta=0.3, label_smoothing=0),
        some_pairs(),
    )


@pytest.mark.parametrize(("alpha", "limit"), [(1e-9, "reverse_kl"), (1 - 1e-9, "forward_kl")])
def test_alpha_goes_from_the_reverse_kl_to_the_forward(alpha: float, limit: str) -> None:
    ours, theirs = (
        f_dpo_loss(some_pairs(), beta=0.3, f_divergence_type=kind, alpha=alpha) for kind in ("alpha_divergence", limit)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
