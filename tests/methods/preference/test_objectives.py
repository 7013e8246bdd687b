"""What holds for every preference objective, at its default settings; a new one is tested as soon as it is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from objectives import from_tokens

from truing.core.method import find, names
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import bent, log1mexp, log_odds

EVERY = [
    name for name in names() if name.startswith("preference/") and issubclass(find(name), PreferenceMethod)
]  # fmt: skip
OBJECTIVES = pytest.mark.parametrize("name", EVERY)
WAYS = (1e4, 1.0, 0.0, -1.0, -1e4)


def objective(name: str) -> PreferenceMethod:
    made = find(name)()
    assert isinstance(made, PreferenceMethod)
    return made


def far_pairs(dtype: torch.dtype, policy: float, ratio: Sequence[float]) -> tuple[torch.Tensor, PairLogps]:
    """Replies of 1 and of 2,000 tokens; ``ratio`` nats between policy and base, spread over each reply's tokens."""
    counts = [1, 2000, 2000, 1, 1, 1]
    tokens = torch.cat([torch.full((n,), policy / n, dtype=dtype) for n in counts]).requires_grad_()
    gaps = torch.cat([torch.full((n,), gap / n, dtype=dtype) for n, gap in zip(counts, [*ratio] * 3, strict=True)])
    return tokens, from_tokens(tokens, tokens.detach() - gaps, counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@OBJECTIVES
def test_extreme_pairs_have_finite_losses_and_gradients(name: str, dtype: torch.dtype) -> None:
    """Log-ratios of plus and minus 10,000 nats, sure replies and hopeless ones, one token and 2,000."""
    for policy in (0.0, -1e-9, -1e-3, -20.0, -1e4):
        for chosen in WAYS:
            for rejected in WAYS:
                tokens, pairs = far_pairs(dtype, policy, (chosen, rejected))
                losses = objective(name).loss(pairs)
                (gradient,) = torch.autograd.grad(losses.sum(), tokens, allow_unused=True)
                assert losses.shape == (3,)
                assert torch.isfinite(losses).all(), (policy, chosen, rejected, losses)
                assert torch.isfinite(gradient).all(), (policy, chosen, rejected)
                assert torch.isfinite(gradient.square().sum()), "the norm that gradients are cut to overflows"


def some_tokens(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    source = torch.Generator().manual_seed(seed)
    counts = [4, 6, 1, 9, 30, 1, 7, 7, 12, 20]
    drawn = torch.randn(2, sum(counts), generator=source, dtype=torch.float64)
    return -drawn[0].abs() - 0.1, -drawn[0].abs() - 0.1 + 0.3 * drawn[1], counts


@OBJECTIVES
def test_it_reads_the_base_if_and_only_if_it_says_so(name: str) -> None:
    policy, base, counts = some_tokens()
    made = objective(name)
    without = made.loss(from_tokens(policy, torch.full_like(base, torch.nan), counts))
    assert torch.isfinite(without).all() == (not made.uses_reference)
    chosen, rejected = made.rewards(from_tokens(policy, base, counts))
    assert torch.isfinite(chosen).all()
    assert torch.isfinite(rejected).all()


@OBJECTIVES
def test_what_it_compares_is_what_it_says(name: str) -> None:
    """Sums see no difference where a token becomes two of half its nats; means, where a reply is said twice."""
    policy, base, counts = some_tokens()
    made, doubled = objective(name), [2 * count for count in counts]
    once = made.loss(from_tokens(policy, base, counts))
    split = made.loss(from_tokens(policy.repeat_interleave(2) / 2, base.repeat_interleave(2) / 2, doubled))
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    twice = torch.cat([torch.nonzero(owner == i).flatten().repeat(2) for i in range(len(counts))])
    said = made.loss(from_tokens(policy[twice], base[twice], doubled))
    same = torch.allclose(split, once), torch.allclose(said, once)
    assert same == {"sums": (True, False), "means": (False, True), "sums and means": (False, False)}[made.compares]


@OBJECTIVES
def test_the_order_of_pairs_is_of_no_matter(name: str) -> None:
    policy, base, counts = some_tokens()
    made = objective(name)
    order = [3, 0, 4, 2, 1]
    starts = [sum(counts[: 2 * b]) for b in range(6)]
    moved = torch.cat([torch.arange(starts[b], starts[b + 1]) for b in order])
    sizes = [counts[2 * b + side] for b in order for side in (0, 1)]
    losses = made.loss(from_tokens(policy, base, counts))
    torch.testing.assert_close(made.loss(from_tokens(policy[moved], base[moved], sizes)), losses[order])


@OBJECTIVES
def test_a_pair_of_a_surveyed_step_stands_for_itself(name: str) -> None:
    """With what was said of the whole step, a pair alone has the loss and the gradient that it has among the others."""
    policy, base, counts = some_tokens()
    made = objective(name)
    leaf = policy.clone().requires_grad_()
    whole = from_tokens(leaf, base, counts)
    said = made.of_step(from_tokens(policy, base, counts))
    together = made.loss(whole)
    (wanted,) = torch.autograd.grad(together.sum(), leaf)
    starts = [sum(counts[: 2 * b]) for b in range(6)]
    for b in range(5):
        part = slice(starts[b], starts[b + 1])
        alone = policy[part].clone().requires_grad_()
        pair = replace(from_tokens(alone, base[part], counts[2 * b : 2 * b + 2]), of_step=said[b : b + 1])
        loss = made.loss(pair)
        torch.testing.assert_close(loss, together[b : b + 1])
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), alone)[0], wanted[part])


@pytest.mark.parametrize("name", sorted({*EVERY} - {"preference/discopop"}))  # which has a minimum below the base
def test_at_the_base_it_widens_the_margin(name: str) -> None:
    """A small step down the gradient of one pair of equally long replies raises chosen over rejected."""
    leaf = torch.full((6,), -1.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(objective(name).loss(from_tokens(leaf, leaf.detach(), [3, 3])).sum(), leaf)
    assert gradient[:3].sum() < gradient[3:].sum()


@OBJECTIVES
def test_the_rewards_that_are_logged_rise_with_the_policys_log_probabilities(name: str) -> None:
    policy, base, counts = some_tokens()
    low = objective(name).rewards(from_tokens(policy, base, counts))
    high = objective(name).rewards(from_tokens(policy + 0.05, base, counts))
    assert all((b > a).all() for a, b in zip(low, high, strict=True))


class TestTerms:
    def test_log1mexp_is_log1p_of_minus_p(self) -> None:
        """Python's ``log1p(-p)``, for p from 1e-30 to 1 - 1e-7."""
        for p in (1e-30, 1e-12, 1e-3, 0.3, 0.5, 0.7, 1 - 1e-3, 1 - 1e-7):
            logp = torch.tensor(p, dtype=torch.float64).log()
            assert log1mexp(logp).item() == pytest.approx(math.log1p(-p), rel=1e-9)

    def test_its_slope_is_minus_the_odds(self) -> None:
        logp = torch.tensor([-1e4, -30.0, -1.0, -0.69, -1e-3, -1e-7], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(log1mexp(logp).sum(), logp)
        torch.testing.assert_close(slope, -1 / torch.expm1(-logp.detach()), rtol=1e-7, atol=0)

    def test_a_sure_reply_still_has_a_slope(self) -> None:
        """Rounding gives log-probabilities of 0 and a little above; they must not be the ones that pull least."""
        logp = torch.tensor([0.0, 1e-7], requires_grad=True)
        (slope,) = torch.autograd.grad(log1mexp(logp).sum(), logp)
        assert (slope < -1e7).all()
        assert torch.isfinite(slope).all()

    def test_log_sigmoid_of_log_odds_is_the_log_probability(self) -> None:
        logp = torch.tensor([-69.0, -7.0, -0.7, -1e-2, -1e-6], dtype=torch.float64)
        torch.testing.assert_close(torch.nn.functional.logsigmoid(log_odds(logp)), logp, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(
            torch.nn.functional.logsigmoid(-log_odds(logp)), log1mexp(logp), rtol=1e-9, atol=1e-10
        )

    @pytest.mark.parametrize("alpha", [-0.5, 1e-9, 0.25, 1.0])
    def test_the_bend_is_the_papers_and_has_the_slope_it_says(self, alpha: float) -> None:
        values = torch.tensor([-9.0, -1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
        bend = bent(values, alpha)
        wanted = (1 - torch.exp(-alpha * values)) / alpha if alpha != 1e-9 else values
        torch.testing.assert_close(bend, wanted, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(torch.autograd.grad(bend.sum(), values)[0], torch.exp(-alpha * values.detach()))

    def test_beyond_its_bound_it_is_its_own_tangent(self) -> None:
        values = torch.tensor([-30.0, -31.0, -32.0], dtype=torch.float64, requires_grad=True)
        bend = bent(values, 1.0)
        (slope,) = torch.autograd.grad(bend.sum(), values)
        torch.testing.assert_close(slope, torch.full_like(slope, math.exp(30)))
        torch.testing.assert_close(bend[:-1] - bend[1:], slope[1:])
