"""match/straight_through."""

from __future__ import annotations

import torch
from matched import DEMOS, base_model, given, reordered
from tiny import Notes, same_weights

from truing.core.method import build
from truing.core.run import Run
from truing.methods.match.straight_through import likelihood_gradient


def test_a_reordered_donor_comes_back_to_the_last_bit() -> None:
    base = base_model()
    found = build("match/straight_through", max_steps=2)(base, given(reordered(base, 5)), Run())
    assert same_weights(found.donors["d0"], base)


def test_the_loss_halfway_is_the_surprise_of_the_demonstrations_there() -> None:
    """With all demonstrations in every step the first logged loss is that of matching by weights, merged by half."""
    base, donor, log = base_model(), base_model(seed=3), Notes()
    build("match/straight_through", max_steps=3, learning_rate=0.1)(base, given(donor), Run(log=log))
    matched = build("match/weights", max_sweeps=3)(base, given(donor), Run())
    half = build("merge/linear", weight=0.5)(base, matched, Run())
    chats, replies = [demo.prompt for demo in DEMOS], [demo.reply for demo in DEMOS]
    tokens = torch.cat(half.token_logprobs(chats, replies))
    losses = log.series("match/loss_halfway")
    assert len(losses) == 3
    assert abs(losses[0] + float(tokens.mean())) < 1e-3


def test_the_gradient_leaves_the_base_as_it_is_and_is_that_of_the_surprise() -> None:
    base = base_model()
    before = {name: tensor.clone() for name, tensor in base.weights().items()}
    trees = base.encode_many([demo.prompt for demo in DEMOS], [(demo.reply,) for demo in DEMOS])
    gradient = likelihood_gradient(base, lambda step: trees)
    name = "model.layers.0.mlp.up_proj.weight"
    moved = {**before, name: before[name].clone()}
    value, slope = gradient(moved, 0)
    step = 1e-3 * slope[name] / slope[name].norm()
    there, _ = gradient({**moved, name: moved[name] + step}, 0)
    back, _ = gradient({**moved, name: moved[name] - step}, 0)
    assert abs((there - back) / 2e-3 - float(slope[name].norm())) < 0.05 * float(slope[name].norm())
    assert back < value < there
    assert all(torch.equal(tensor, before[key]) for key, tensor in base.weights().items())
