"""Matching by the loss halfway."""

from __future__ import annotations

import torch
from networks import forward, perceptron, perceptron_spec
from torch import nn

from truing.core.rng import Rng
from truing.units.matching import match_weights
from truing.units.permutations import apply, random, same
from truing.units.straight import module_gradient, straight_through


def network(weights: dict[str, torch.Tensor]) -> nn.Sequential:
    made = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    made.load_state_dict(weights)
    return made


def test_it_is_never_worse_halfway_than_matching_by_weights() -> None:
    """The first order is that of the weights, and the best by the loss is kept; on one batch that is exact."""
    one, two = perceptron(1), perceptron(2)
    x = torch.randn(200, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = (forward(one, x) + forward(two, x)).argmax(1)
    spec = perceptron_spec(one)

    def halfway(permutation: object) -> float:
        there = apply(spec, permutation, two)  # type: ignore[arg-type] # an order
        half = {name: (one[name] + there[name]) / 2 for name in one}
        return float(nn.functional.cross_entropy(forward(half, x), y))

    gradient = module_gradient(network(one), lambda net, step: nn.functional.cross_entropy(net(x), y))
    options = {"steps": 30, "learning_rate": 0.3, "momentum": 0.9, "max_sweeps": 5, "rng": Rng(0)}
    found = straight_through(spec, one, two, gradient, **options)
    plain = match_weights(spec, one, two, max_sweeps=5, rng=Rng(0)).permutation
    assert abs(found.objective[0] - halfway(plain)) < 1e-9
    assert halfway(found.permutation) == min(found.objective)
    assert min(found.objective) < found.objective[0] - 1e-3  # these two gain by it
    assert same(spec, straight_through(spec, one, two, gradient, **options).permutation, found.permutation)


def test_the_gradient_is_the_modules_own() -> None:
    one = perceptron(1)
    net, x = network(one), torch.randn(5, 9, dtype=torch.float64)
    value, slope = module_gradient(net, lambda f, step: f(x).square().sum() * (step + 1))(one, 1)
    loss = net(x).square().sum() * 2
    loss.backward()
    assert abs(value - float(loss.detach())) < 1e-9
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(slope[name], parameter.grad)


def test_a_reordered_copy_needs_no_step() -> None:
    one = perceptron(1)
    spec = perceptron_spec(one)
    copy = apply(spec, random(spec, Rng(4)), one)
    zero = module_gradient(network(one), lambda net, step: net(torch.zeros(1, 9, dtype=torch.float64)).sum())
    found = straight_through(spec, one, copy, zero, steps=1, learning_rate=0.1, momentum=0.0, max_sweeps=2, rng=Rng(0))
    back = apply(spec, found.permutation, copy)
    assert all(torch.equal(back[name], one[name]) for name in one)
