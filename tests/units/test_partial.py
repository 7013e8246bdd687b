"""Partial merging of declared networks: blocks, what they cost, and the least squares after them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from widening import HALF, INPUTS, out, separated, tensors_of

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.models.networks import mlp
from truing.units.features import activation_tables, match_activations
from truing.units.partial import Partial, allotted, least_alike, unit_scores
from truing.units.permutations import PermutationSpec, apply, random
from truing.units.pleas import merge_modules, with_tensors
from truing.units.regress import layers

LAYERS = ("0", "2", "4")
BATCHES = [{"input": part} for part in INPUTS.split(16)]


def perceptron(seed: int, wide: int = 8) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 3))
    return made.double().eval()


def spec_of(module: nn.Module) -> PermutationSpec:
    return mlp(tensors_of(module), LAYERS)


def merged(modules: Any, spec: PermutationSpec, masks: Any, *, fit: bool = True, shares: Any = HALF) -> Any:
    found = merge_modules(modules, spec, masks, shares, BATCHES if fit else (), ridge=1e-4)
    return with_tensors(modules[0], found.tensors), found


def test_all_merged_is_the_average_exactly() -> None:
    one, two = perceptron(0), perceptron(1)
    spec = spec_of(one)
    _, found = merged((one, two), spec, separated(spec, 0.0), fit=False)
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, 0.5 * one.state_dict()[name] + 0.5 * two.state_dict()[name])


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.3, 0.7), (0.5, 0.2, 0.3)])
def test_all_separate_gives_the_mean_of_the_outputs(shares: tuple[float, ...], fit: bool) -> None:
    modules = [perceptron(seed) for seed in range(len(shares))]
    spec = spec_of(modules[0])
    made, _ = merged(modules, spec, separated(spec, 1.0), fit=fit, shares=shares)
    wanted = torch.stack([share * out(module) for share, module in zip(shares, modules, strict=True)]).sum(0)
    torch.testing.assert_close(out(made), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_a_reordered_copy_at_any_fraction_is_the_same_function(fraction: float) -> None:
    """Matched by activations, then merged with itself, refitted."""
    one = perceptron(2)
    spec = spec_of(one)
    copy = with_tensors(one, apply(spec, random(spec, Rng(3)), tensors_of(one)))
    assert (out(copy) - out(one)).abs().max() < 1e-9
    found = match_activations(spec, tensors_of(one), tensors_of(copy), activation_tables(
        spec, one, copy, BATCHES, correlation=True
    ))  # fmt: skip
    back = with_tensors(copy, apply(spec, found.permutation, tensors_of(copy)))
    made, _ = merged((one, back), spec, separated(spec, fraction))
    torch.testing.assert_close(out(made), out(one), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
def test_what_it_costs_is_what_is_not_zero(fraction: float) -> None:
    """And, of a layer between groups, the paper's count: (1 + a)(1 + b) - 2 a b."""
    one, two = perceptron(0), perceptron(1)
    spec = spec_of(one)
    masks = separated(spec, fraction)
    _, found = merged((one, two), spec, masks, fit=False)
    partial = Partial(spec, masks, HALF)
    for name, tensor in found.tensors.items():
        assert partial.numbers(name) == int((tensor != 0).sum())
    assert partial.numbers("2.weight") == pytest.approx(64 * ((1 + fraction) ** 2 - 2 * fraction**2))
    assert partial.numbers("0.weight") == pytest.approx(48 * (1 + fraction))


def test_least_squares_lowers_the_error_of_every_layer_and_of_the_whole() -> None:
    one, two = perceptron(0), perceptron(1)
    spec = spec_of(one)
    masks = separated(spec, 0.25)
    plain, _ = merged((one, two), spec, masks, fit=False)
    made, found = merged((one, two), spec, masks)
    assert list(found.fitted) == list(LAYERS)
    assert all(fit.after <= fit.before for fit in found.fitted.values())
    assert sum(fit.after for fit in found.fitted.values()) < 0.9 * sum(fit.before for fit in found.fitted.values())
    wanted = (out(one) + out(two)) / 2
    assert (out(made) - wanted).square().mean() < (out(plain) - wanted).square().mean()
    partial = Partial(spec, masks, HALF)
    for name, tensor in found.tensors.items():  # what is zero by construction stays so
        assert int((tensor != 0).sum()) <= partial.numbers(name)


def test_the_refit_against_ridge_regression_row_by_row() -> None:
    """The middle layer's, from features that are arranged by hand."""
    one, two = perceptron(0), perceptron(1)
    spec = spec_of(one)
    masks = separated(spec, 0.25)
    found = merge_modules((one, two), spec, masks, HALF, BATCHES, ridge=1e-3)
    start = merge_modules((one, two), spec, masks, HALF, (), ridge=1e-3).tensors

    def arranged(group: str, left: Tensor, right: Tensor) -> Tensor:
        own = masks[group]
        return torch.cat([(left + right)[:, ~own] / 2, left[:, own], right[:, own]], 1)

    hidden = [torch.relu(model[0](INPUTS)).detach() for model in (one, two)]
    x = torch.cat([arranged("0", *hidden), torch.ones(64, 1)], 1)
    y = arranged("1", *(model[2](h).detach() for model, h in zip((one, two), hidden, strict=True)))
    pull = 1e-3 * x.square().sum(0).mean()
    begin = torch.cat([start["2.weight"], start["2.bias"][:, None]], 1)
    result = torch.cat([found.tensors["2.weight"], found.tensors["2.bias"][:, None]], 1)
    merged_units, own = 6, 2
    for row in range(10):
        seen = torch.ones(11, dtype=torch.bool)
        if row >= merged_units:
            other = row < merged_units + own  # a row of the first model's own: the second's columns are shut
            seen[merged_units + own * other : merged_units + own * other + own] = False
        a = torch.cat([x[:, seen], pull.sqrt() * torch.eye(int(seen.sum()))])
        b = torch.cat([y[:, row], pull.sqrt() * begin[row, seen]])
        torch.testing.assert_close(result[row, seen], torch.linalg.lstsq(a, b[:, None]).solution[:, 0])
        assert bool((result[row, ~seen] == 0).all())


def test_scores_are_of_units_at_one_place_and_the_least_alike_go_apart() -> None:
    one, two = perceptron(0), perceptron(1)
    spec = spec_of(one)
    scores = unit_scores(spec, activation_tables(spec, one, two, BATCHES, correlation=True))
    left, right = (torch.relu(model[0](INPUTS)).detach() for model in (one, two))
    for unit in range(8):
        pair = torch.stack([left[:, unit], right[:, unit]])
        wanted = torch.corrcoef(pair)[0, 1] if bool((pair.std(1) > 0).all()) else torch.zeros(())
        assert float(scores["0"][unit]) == pytest.approx(float(wanted), abs=1e-9)
    assert least_alike(torch.tensor([0.3, 0.1, 0.1, 0.9]), 2).tolist() == [False, True, True, False]
    assert least_alike(torch.tensor([0.1, 0.1, 0.1]), 1).tolist() == [True, False, False]


def test_a_budget_is_spent_where_it_is_worth_most_and_never_passed() -> None:
    one = perceptron(0)
    spec = spec_of(one)
    kinds = {"0": ["0"], "1": ["1"]}
    base = sum(Partial(spec, {}, HALF).numbers(name) for name in spec.tensors)
    for budget in (1.0, 1.2, 1.5, 2.0):
        counts = allotted(spec, kinds, {"0": 1.0, "1": 3.0}, budget, 2, chunks=8)
        masks = {name: torch.arange(8) < count for name, count in counts.items()}
        spent = sum(Partial(spec, masks, HALF).numbers(name) for name in spec.tensors)
        assert spent <= budget * base
        assert budget == 1.0 or counts["1"] >= counts["0"]
    assert allotted(spec, kinds, {"0": 1.0, "1": 1.0}, 2.0, 2, chunks=8) == {"0": 8, "1": 8}
    assert allotted(spec, kinds, {"0": 1.0, "1": 1.0}, 1.0, 2, chunks=8) == {"0": 0, "1": 0}


def test_what_cannot_be_separate_is_refused() -> None:
    one = perceptron(0)
    spec = spec_of(one)
    with pytest.raises(InputError, match=r"separate\.7: there is no such group"):
        Partial(spec, {"7": torch.ones(8, dtype=torch.bool)}, HALF)
    with pytest.raises(InputError, match="there are 8 units"):
        Partial(spec, {"0": torch.ones(3, dtype=torch.bool)}, HALF)
    assert layers(one, spec) == list(LAYERS)


def test_two_tasks_are_kept_the_better_the_more_stays_separate() -> None:
    """Networks that learnt halves of ten classes each: the merged one's accuracy over both, along the fraction."""
    numbers = torch.Generator().manual_seed(0)
    centres = 1.6 * torch.randn(10, 6, generator=numbers, dtype=torch.float64)
    labels = torch.arange(10).repeat(60)
    points = centres[labels] + 0.6 * torch.randn(600, 6, generator=numbers, dtype=torch.float64)

    def trained(seed: int, classes: range) -> nn.Sequential:
        made = perceptron(seed, 24)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made[4] = nn.Linear(24, 10).double()
        mine = (labels >= classes.start) & (labels < classes.stop)
        optimiser = torch.optim.Adam(made.parameters(), lr=0.01)
        for _ in range(150):
            optimiser.zero_grad()
            nn.functional.cross_entropy(made(points[mine]), labels[mine]).backward()
            optimiser.step()
        return made

    one, two = trained(0, range(5)), trained(1, range(5, 10))
    spec = spec_of(one)
    batches = [{"input": points}]
    tables = activation_tables(spec, one, two, batches, correlation=True)
    found = match_activations(spec, tensors_of(one), tensors_of(two), tables)
    two = with_tensors(two, apply(spec, found.permutation, tensors_of(two)))
    scores = unit_scores(spec, activation_tables(spec, one, two, batches, correlation=True))
    accuracy = []
    for fraction in (0.0, 0.25, 0.5, 1.0):
        masks = {name: least_alike(score, round(24 * fraction)) for name, score in scores.items()}
        made = with_tensors(one, merge_modules((one, two), spec, masks, HALF, batches, ridge=1e-4).tensors)
        accuracy.append(float((out(made, points).argmax(1) == labels).double().mean()))
    assert accuracy[-1] > accuracy[0]
    assert all(later > earlier - 0.05 for earlier, later in itertools.pairwise(accuracy))
