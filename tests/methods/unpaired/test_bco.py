"""unpaired/bco."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ratings import QUICK, RATINGS, double, rated, slope, some
from tiny import Notes, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Rating
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.unpaired import _prompts
from truing.methods.unpaired._prompts import density_ratios, prompt_embeddings, separate
from truing.methods.unpaired._rated import RunningMean
from truing.methods.unpaired.bco import BCO, bco_loss
from truing.models.local import Local
from truing.models.tabular import Tabular

BETA = 0.3
NONE = torch.zeros((), dtype=torch.float64)


def pair_loss(good: torch.Tensor, bad: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Of rewards ``(n,)`` two by two, at beta 1."""
    one = torch.ones_like(good)
    sides = [rated(reward, [side] * len(good)) for reward, side in ((good, True), (bad, False))]
    return sum((bco_loss(side, delta, one, beta=1.0).detach() for side in sides), torch.zeros_like(good))


def test_it_is_above_dpos_loss_by_the_gap_that_the_sheet_states() -> None:
    """``log(1 + (e^-w + e^l) / (1 + e^-(w - l)))``."""
    good, bad = torch.randn(2, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    gap = torch.log1p((torch.exp(-good) + torch.exp(bad)) / (1 + torch.exp(-(good - bad))))
    over = pair_loss(good, bad, NONE) - torch.nn.functional.softplus(-(good - bad))
    torch.testing.assert_close(over, gap, rtol=0, atol=1e-10)


def test_it_is_nearest_to_dpo_where_the_shift_is_between_the_two() -> None:
    """Against a grid of shifts."""
    good, bad = double(2.3), double(-0.9)
    shifts = torch.arange(-4, 4.001, 0.1, dtype=torch.float64)
    best = shifts[torch.cat([pair_loss(good, bad, shift) for shift in shifts]).argmin()]
    assert best.item() == pytest.approx((2.3 - 0.9) / 2, abs=1e-9)


def test_slopes() -> None:
    given, delta, weight = some(), double(0.4)[0], torch.arange(1.0, 8.0, dtype=torch.float64)
    r = BETA * given.ratio.detach() - delta
    wanted = torch.where(given.desirable, -BETA * torch.sigmoid(-r), BETA * weight * torch.sigmoid(r))
    torch.testing.assert_close(slope(lambda g: bco_loss(g, delta, weight, beta=BETA), given), wanted)


def test_it_no_longer_pulls_at_what_is_told_right_and_pulls_most_at_what_is_told_wrong() -> None:
    given = rated(double(200, -200, -200, 200), [True, False, True, False])
    found = slope(lambda g: bco_loss(g, NONE, torch.ones(4).double(), beta=BETA), given)
    torch.testing.assert_close(found, BETA * double(0, 0, -1, 1))


def test_on_a_table_the_optimum_is_bayes_logit() -> None:
    """Good replies are draws of P, bad ones of N, as many: ``r - delta = log P / N``. delta is what makes it a policy.

    The expected loss is then flat in every logit of the policy and in delta.
    """
    good, bad = double(0.5, 0.3, 0.15, 0.05), double(0.1, 0.2, 0.3, 0.4)
    base = double(0.4, 0.3, 0.2, 0.1).log()
    wanted = good.log() - bad.log()
    delta = -(base + wanted / BETA).logsumexp(0) * BETA  # of base * exp((logit + delta) / beta) the sum is 1
    logits = (base + (wanted + delta) / BETA).requires_grad_()
    free = delta.clone().requires_grad_()
    reward = BETA * (logits.log_softmax(0) - base) - free
    sides = [torch.nn.functional.softplus(-reward), torch.nn.functional.softplus(reward)]
    policy = logits.log_softmax(0)
    for side, mass, by_hand in zip((True, False), (good, bad), sides, strict=True):
        given = rated(policy - base, [side] * 4)
        kernel = bco_loss(given, delta, torch.ones(4).double(), beta=BETA)
        torch.testing.assert_close((mass * kernel).sum(), (mass * by_hand).sum())
    risk = (good * sides[0] + bad * sides[1]).sum()
    for gradient in torch.autograd.grad(risk, (logits, free)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    torch.testing.assert_close(reward.detach(), wanted)


def test_exact_weights_make_unequal_prompts_the_balanced_case() -> None:
    """Nine of ten good ratings are of one prompt, one of ten bad ones: weighted, each prompt's best logit is that of
    equal numbers, the log of how likely good and bad replies are there."""
    good, bad = double(0.9, 0.1), double(0.1, 0.9)  # P(x | good), P(x | bad)
    here = double(0.7, 0.4), double(0.2, 0.5)  # of one reply, P(y | x, good) and P(y | x, bad)
    weight = good / bad
    best = (here[0] / here[1]).log()
    logit = best.clone().requires_grad_()
    given = [rated(logit.detach(), [side] * 2) for side in (True, False)]
    slopes = [slope(lambda g: bco_loss(g, NONE, weight, beta=1.0), part) for part in given]
    torch.testing.assert_close(good * here[0] * slopes[0] + bad * here[1] * slopes[1], double(0, 0))


class TestShift:
    def test_it_is_the_mean_of_all_rewards_by_example_and_not_by_step(self) -> None:
        running = RunningMean(None)
        running.note([4, 0], double(1, 2))
        running.note([7], double(6))
        running.note([7], double(6))  # made twice by a process that keeps step with others: counted once
        running.follow(torch.nn.Identity(), 1)
        running.note([1], double(-5))
        running.follow(torch.nn.Identity(), 2)
        assert running.mean.item() == pytest.approx((1 + 2 + 6 - 5) / 4)

    def test_one_that_forgets(self) -> None:
        running = RunningMean(0.75)
        for rewards in ((4.0, 8.0), (0.0, 1.0, 2.0)):
            running.note(range(len(rewards)), double(*rewards))
            running.follow(torch.nn.Identity(), 1)
        assert running.mean.item() == pytest.approx(0.75 * 0.25 * 6 + 0.25 * 1)

    @pytest.mark.parametrize("shift", ["mean", "ema"])
    def test_on_a_model_it_is_of_the_steps_before(self, tiny_policy: Local, notes: Notes, shift: Any) -> None:
        """Steps of all eight, of which half are desirable: a step's mean reward is that of the two sides."""
        settings = {**QUICK, "max_steps": 4, "per_device_train_batch_size": 8, "tokens_per_batch": 20, "beta": 1.0}
        BCO(**settings, shift=shift, shift_decay=0.25)(tiny_policy, Evidence(ratings=RATINGS), Run(log=notes))
        means = [(row["rewards/chosen"] + row["rewards/rejected"]) / 2 for row in notes.rows]
        expected = [0.0]
        for k, mean in enumerate(means):
            expected.append(sum(means[: k + 1]) / (k + 1) if shift == "mean" else 0.25 * expected[-1] + 0.75 * mean)
        assert notes.series("shift") == pytest.approx(expected[:4], abs=1e-5)
        assert abs(expected[3]) > 1e-2

    def test_a_run_that_was_stopped_goes_on_with_its_mean(self, tiny_policy: Local, tmp_path: Path) -> None:
        method = BCO(**QUICK, save_steps=2, tokens_per_batch=20)
        whole = method(tiny_policy, Evidence(ratings=RATINGS), Run())
        with pytest.raises(KeyboardInterrupt):
            method(tiny_policy, Evidence(ratings=RATINGS), Run(work=tmp_path, log=Notes(stop_at=5)))
        resumed = method(tiny_policy, Evidence(ratings=RATINGS), Run(work=tmp_path, resume=True))
        assert same_weights(whole, resumed)
        other = BCO(**QUICK, shift="none", tokens_per_batch=20)(tiny_policy, Evidence(ratings=RATINGS), Run())
        assert not same_weights(whole, other)


class TestMatching:
    def test_the_regression_is_at_its_optimum(self) -> None:
        """Its gradient by hand, with classes of unequal size."""
        source = torch.Generator().manual_seed(3)
        points = torch.randn(40, 5, generator=source, dtype=torch.float64)
        positive = torch.rand(40, generator=source) < 0.25
        slope, offset = separate(points, positive)
        p = torch.sigmoid(points @ slope + offset)
        good = int(positive.sum())
        weight = torch.where(positive, 20 / good, 20 / (40 - good)).double()
        miss = weight * (p - positive.double())
        torch.testing.assert_close(points.T @ miss + slope, torch.zeros(5).double(), rtol=0, atol=1e-6)
        assert miss.sum().item() == pytest.approx(0, abs=1e-6)
        assert slope.norm() > 0.1

    def test_prompts_rated_both_ways_alike_have_weight_1(self, tiny_policy: Local) -> None:
        prompts = [tiny_policy.encode(r.prompt, ["a"]).prompt for r in RATINGS]
        found = density_ratios(tiny_policy, prompts, torch.tensor([True, False] * 4), Run(), "float32")
        torch.testing.assert_close(found, torch.ones(8).double(), rtol=0, atol=1e-6)

    def test_bad_ratings_of_prompts_like_the_good_ones_weigh_more(self, tiny_policy: Local) -> None:
        """Two kinds of prompts, of which one has most of the good ratings; within the limits, whatever the numbers."""
        kinds = [f"say {word}" for word in ("one", "two", "six")] * 6 + ["1234567 89"] * 18
        prompts = [tiny_policy.encode(user(kind), ["a"]).prompt for kind in kinds]
        desirable = torch.tensor([True] * 15 + [False] * 3 + [True] * 3 + [False] * 15)
        found = density_ratios(tiny_policy, prompts, desirable, Run(), "float32")
        assert found[:18].min() > 1.5
        assert found[18:].max() < 1
        assert found.min() >= 0.5
        assert found.max() <= 10

    def test_an_embedding_is_the_mean_last_hidden_state(self, tiny_policy: Local, tmp_path: Path, notes: Notes) -> None:
        """By the model's own forward pass; also of one token, in several passes, and from the cache."""
        prompts = [(5, 9, 30, 7), (8,), (40, 41, 42)]
        with torch.no_grad():
            wanted = torch.stack(
                [tiny_policy.model.base_model(torch.tensor([p])).last_hidden_state[0].mean(0) for p in prompts]
            ).double()
        run = Run(cache=tmp_path, log=notes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_prompts, "BUDGET", 6)
            torch.testing.assert_close(
                prompt_embeddings(tiny_policy, prompts, run, "float32"), wanted, rtol=0, atol=1e-5
            )
        torch.testing.assert_close(prompt_embeddings(tiny_policy, prompts, run, "float32"), wanted, rtol=0, atol=1e-5)
        assert sum("from the cache" in line for line in notes.said) == 1

    def test_a_base_without_hidden_states_is_refused(self) -> None:
        table = Tabular(tuple(r.prompt for r in RATINGS[:4:2]), ("a", "b"), torch.zeros(2, 2))
        ratings = [Rating(r.prompt, reply, value) for r in RATINGS[:4:2] for reply, value in (("a", 1.0), ("b", 0.0))]
        with pytest.raises(InputError, match="hidden states"):
            BCO(**QUICK, udm=True)(table, Evidence(ratings=ratings), Run())

    def test_the_weights_reach_the_loss(self, tiny_policy: Local, notes: Notes) -> None:
        uneven = (*RATINGS[::2], *RATINGS[1:3])
        for udm in (True, False):
            BCO(**QUICK, udm=udm)(tiny_policy, Evidence(ratings=uneven), Run(log=notes))
        with_weights, without = notes.rows[:6], notes.rows[6:]
        assert all("udm_weight" in row for row in with_weights)
        assert not any("udm_weight" in row for row in without)
        assert with_weights[0]["loss"] != pytest.approx(without[0]["loss"], abs=1e-4)


def test_without_a_shift_at_the_base_it_is_log_2(tiny_policy: Local, notes: Notes) -> None:
    BCO(**{**QUICK, "max_steps": 1})(tiny_policy, Evidence(ratings=RATINGS), Run(log=notes))
    assert notes.series("loss") == pytest.approx([0.6931471805599453], abs=1e-5)
