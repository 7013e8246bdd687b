"""Partial merging of declared networks: blocks, what they cost, and the least squares after them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.engine.features import activation_tables, match_activations
from truing.engine.partial import Partial, allotted, least_alike, unit_scores
from truing.engine.permutations import PermutationSpec, apply, random
from truing.engine.pleas import merge_modules, reestimate, with_tensors
from truing.engine.regress import layers
from truing.models.networks import mlp, resnet, transformer

LAYERS = ("0", "2", "4")
INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [{"input": part} for part in INPUTS.split(16)]
HALF = (0.5, 0.5)


def perceptron(seed: int, wide: int = 8) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 3))
    return made.double().eval()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def spec_of(module: nn.Module) -> PermutationSpec:
    return mlp(tensors_of(module), LAYERS)


def out(module: Any, inputs: Tensor = INPUTS) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(inputs)
    return found


def separated(spec: PermutationSpec, fraction: float, seed: int = 5) -> dict[str, Tensor]:
    """Of every group, that share at random."""
    numbers = torch.Generator().manual_seed(seed)
    return {
        name: least_alike(torch.rand(group.units, generator=numbers), round(fraction * group.units))
        for name, group in spec.groups.items()
        if group.leader is None
    }


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


class Small(nn.Module):
    """A residual network of one stage, under torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        block = nn.Module()
        block.conv1, block.bn1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        block.conv2, block.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.layer1 = nn.ModuleList([block])
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        (block,) = self.layer1
        y = block.bn1(block.conv1(x)).relu()
        return self.fc((x + block.bn2(block.conv2(y))).relu().mean((2, 3)))


def images(seed: int) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Small()
    reestimate(made, PICTURES)
    return made.double().eval()


PICTURES = [{"x": torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(k))} for k in range(3)]
PICTURES64 = [{"x": batch["x"].double()} for batch in PICTURES]


def test_a_residual_network_with_everything_separate_is_the_mean() -> None:
    """Convolutions, batch norms with their statistics, and a stream that is added to."""
    one, two = images(0), images(1)
    spec = resnet(tensors_of(one))
    found = merge_modules((one, two), spec, separated(spec, 1.0), HALF, PICTURES64, ridge=1e-6)
    made = with_tensors(one, found.tensors)
    inputs = PICTURES64[1]["x"]
    torch.testing.assert_close(out(made, inputs), (out(one, inputs) + out(two, inputs)) / 2, rtol=0, atol=1e-6)
    assert made.conv1.out_channels == made.bn1.num_features == made.layer1[0].conv1.in_channels == 12
    part = merge_modules((one, two), spec, separated(spec, 0.5), HALF, PICTURES64, ridge=1e-3)
    assert set(part.fitted) == {"conv1", "layer1.0.conv1", "layer1.0.conv2", "fc"}
    assert all(fit.after <= fit.before for fit in part.fitted.values())
    small = with_tensors(one, part.tensors)
    before = small.bn1.running_mean.clone()
    reestimate(small, PICTURES64)
    assert not torch.equal(small.bn1.running_mean, before)
    assert small.bn1.momentum == 0.1
    assert not small.bn1.training


def test_statistics_are_the_mean_over_batches() -> None:
    made = images(0)
    first = [made.conv1(batch["x"]).mean((0, 2, 3)) for batch in PICTURES64]
    made.bn1.running_mean.fill_(9.0)
    reestimate(made, PICTURES64)
    torch.testing.assert_close(made.bn1.running_mean, torch.stack(first).mean(0))


class Encoder(nn.Module):
    """One block of an encoder, and a classifier on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.block(self.embed(x))[:, 0])
        return found


def test_a_transformers_neurons_are_separated_and_its_stream_is_not() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = (Encoder().double().eval() for _ in range(2))
    weights = tensors_of(one)
    spec = transformer(weights, ["block"], 2, makes=["embed"], reads=["head"])
    sequences = [{"x": torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(k)).double()} for k in range(3)]
    masks = {"neurons.0": least_alike(torch.arange(12.0), 6)}
    found = merge_modules((one, two), spec, masks, HALF, sequences, ridge=1e-3)
    assert found.tensors["block.linear1.weight"].shape == (18, 8)
    assert {"embed", "block.linear1", "block.linear2", "head"} <= set(found.fitted)
    assert all(fit.after <= fit.before for fit in found.fitted.values())
    made = with_tensors(one, found.tensors)
    wanted = (out(one, sequences[0]["x"]) + out(two, sequences[0]["x"])) / 2
    assert out(made, sequences[0]["x"]).shape == wanted.shape
    with pytest.raises(InputError, match=r"separate\.stream: passes block\.norm1, whose norm is over all of its units"):
        merge_modules((one, two), spec, {"stream": least_alike(torch.arange(8.0), 4)}, HALF, (), ridge=1e-3)


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
