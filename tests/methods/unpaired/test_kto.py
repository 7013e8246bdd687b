"""unpaired/kto."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ratings import QUICK, RATINGS, double, rated, slope, some
from tiny import Notes

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.unpaired._rated import mismatched
from truing.methods.unpaired.apo_zero_unpaired import apo_zero_unpaired_loss
from truing.methods.unpaired.kto import KTO, kto_loss, reference_point
from truing.models.local import Local

BETA, WEIGHTS = 0.3, {"desirable_weight": 1.0, "undesirable_weight": 1.0}


def test_at_the_base() -> None:
    """Half of the mean weight on a balanced step, and a gradient of beta / 4 an example."""
    given = rated(double(0, 0, 0, 0), [True, False, False, True])
    losses = kto_loss(given, double(0)[0], beta=BETA, desirable_weight=1.2, undesirable_weight=0.7)
    assert losses.mean().item() == pytest.approx(0.5 * (1.2 + 0.7) / 2, abs=1e-12)
    found = slope(lambda r: kto_loss(r, double(0)[0], beta=BETA, **WEIGHTS), given)
    torch.testing.assert_close(found, BETA / 4 * double(-1, 1, 1, -1))


def test_slopes() -> None:
    given, z = some(), double(0.7)[0]
    s = torch.sigmoid(BETA * (given.ratio.detach() - z))
    wanted = BETA * s * (1 - s) * torch.where(given.desirable, -1.2, 0.7)
    found = slope(lambda r: kto_loss(r, z, beta=BETA, desirable_weight=1.2, undesirable_weight=0.7), given)
    torch.testing.assert_close(found, wanted)


def test_far_on_either_side_it_no_longer_pulls() -> None:
    """Hopeless replies as well as settled ones."""
    given = rated(double(-200, 200, -200, 200), [True, True, False, False])
    assert slope(lambda r: kto_loss(r, double(0)[0], beta=BETA, **WEIGHTS), given).abs().max() < 1e-20


def test_with_its_point_at_0_it_is_apo_zero() -> None:
    given = some()
    for weights in (WEIGHTS, {"desirable_weight": 0.3, "undesirable_weight": 2.0}):
        ours = kto_loss(given, double(0)[0], beta=BETA, **weights)
        torch.testing.assert_close(ours, apo_zero_unpaired_loss(given, beta=BETA, **weights))


def test_the_point_is_cut_off_after_the_mean_and_has_no_slope() -> None:
    """The mean of -5, 1, 1 is below 0, where that of the cut-off ones would be 2 / 3."""
    assert reference_point(rated(double(-5, 1, 1), [True] * 3)).item() == 0
    point = reference_point(rated(double(-1, 4, 3), [True] * 3))
    assert point.item() == pytest.approx(2)
    assert not point.requires_grad


class TestMismatched:
    TREES = tuple(Tree((prompt,), ((100 + k,),)) for k, prompt in enumerate([1, 1, 2, 3, 3, 1]))

    def beside(self, members: list[int]) -> dict[int, int]:
        """By number, whose reply its prompt is set beside."""
        found = mismatched(self.TREES, members)
        assert [tree.prompt for tree in found] == [self.TREES[i].prompt for i in members]
        return {i: tree.replies[0][0] - 100 for i, tree in zip(members, found, strict=True)}

    def test_it_is_the_next_reply_to_another_prompt(self) -> None:
        assert self.beside([0, 1, 2, 3, 4, 5]) == {0: 2, 1: 2, 2: 3, 3: 5, 4: 5, 5: 2}

    def test_it_is_of_the_step_whatever_the_order_there(self) -> None:
        wanted = {0: 2, 2: 3, 3: 0}
        for members in ([0, 2, 3], [3, 0, 2], [2, 3, 0]):
            assert self.beside(members) == {i: wanted[i] for i in members}

    def test_a_step_of_one_prompt_takes_the_next_and_one_of_one_example_the_datas(self) -> None:
        assert self.beside([0, 1, 5]) == {0: 1, 1: 5, 5: 0}
        assert self.beside([1]) == {1: 2}


def test_what_is_logged_is_the_steps_point(tiny_policy: Local, notes: Notes) -> None:
    """Mismatched log-ratios under the weights after the first step, by the policies themselves."""
    method = KTO(**{**QUICK, "per_device_train_batch_size": 8, "max_steps": 1, "lr_scheduler_type": "constant"}, beta=1)
    tuned = method(tiny_policy, Evidence(ratings=RATINGS), Run())
    replace(method, max_steps=2, tokens_per_batch=20)(tiny_policy, Evidence(ratings=RATINGS), Run(log=notes))
    other = [2, 2, 4, 4, 6, 6, 0, 0]  # the first reply to the next prompt
    asked = [r.prompt for r in RATINGS], [RATINGS[k].reply for k in other]
    z = (tuned.logprob(*asked) - tiny_policy.logprob(*asked)).mean().clamp(min=0).item()
    assert z > 1e-3 or notes.series("kl")[1] == 0
    assert notes.series("kl") == pytest.approx([0, z], abs=2e-4)
    own = [r.prompt for r in RATINGS], [r.reply for r in RATINGS]
    ratio = (tuned.logprob(*own) - tiny_policy.logprob(*own)).double()
    sign = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    assert notes.rows[1]["loss"] == pytest.approx(torch.sigmoid(-sign * (ratio - z)).mean().item(), abs=1e-4)


def test_steps_of_one_example_are_refused_before_a_model_loads(tiny_policy: Local) -> None:
    (fault,) = KTO(per_device_train_batch_size=1).faults("steps[0]")
    assert "mismatched" in fault.fact
    assert not KTO(per_device_train_batch_size=1, gradient_accumulation_steps=2).faults()
    with pytest.raises(InputError, match="mismatched"):
        KTO(per_device_train_batch_size=1)(tiny_policy, Evidence(ratings=RATINGS), Run())


def test_ratings_of_one_prompt_are_refused_and_those_of_one_side_are_not(tiny_policy: Local) -> None:
    with pytest.raises(InputError, match="of one prompt"):
        KTO(**QUICK)(tiny_policy, Evidence(ratings=RATINGS[:2]), Run())
    made = KTO(**{**QUICK, "max_steps": 1})(tiny_policy, Evidence(ratings=RATINGS[::2]), Run())
    assert made is not tiny_policy
