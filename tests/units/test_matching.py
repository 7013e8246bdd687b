"""Reordered copies are found exactly, and of other networks the best order is."""

from __future__ import annotations

import itertools

import pytest
import torch
from networks import forward, language_model, perceptron, perceptron_spec
from tiny import ARCHITECTURES

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.units.alignment import agreement, families, unit_scores
from truing.units.matching import inner_product, match_weights, shared_units, weight_tables
from truing.units.permutations import Order, apply, compose, random, same


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_copy_with_every_symmetry_at_once_is_found_to_the_last_bit(architecture: str) -> None:
    """Stream, KV groups, heads, values, neurons, keys where they can move, with every sign that there is."""
    _, spec, weights = language_model(architecture)
    drawn = random(spec, Rng(1))
    copy = apply(spec, drawn, weights)
    found = match_weights(spec, weights, copy, max_sweeps=5, rng=Rng(0))
    assert same(spec, compose(spec, drawn, found.permutation), {})
    back = apply(spec, found.permutation, copy)
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    assert found.sweeps == 1  # the first pass finds it; the sweep finds nothing to add


def test_four_query_heads_to_a_group_of_one() -> None:
    """Multi-query attention, where there is one KV group, and a group of four, where heads need their turn."""
    for heads, kv in ((4, 1), (8, 2)):
        _, spec, weights = language_model("llama", num_attention_heads=heads, num_key_value_heads=kv)
        copy = apply(spec, random(spec, Rng(3)), weights)
        found = match_weights(spec, weights, copy, max_sweeps=2, rng=Rng(0))
        back = apply(spec, found.permutation, copy)
        assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_of_one_hidden_layer_it_is_the_best_of_all_orders() -> None:
    """With one group the problem is one assignment: brute force over 720 orders."""
    from truing.models.networks import mlp

    def pick(seed: int) -> dict[str, torch.Tensor]:
        made = perceptron(seed, wide=6)
        return {"0.weight": made["0.weight"], "0.bias": made["0.bias"], "2.weight": made["4.weight"]}

    one, two = pick(1), pick(2)
    spec = mlp(one, ("0", "2"))
    best = max(
        itertools.permutations(range(6)),
        key=lambda order: inner_product(spec, one, apply(spec, {"0": Order(torch.tensor(order))}, two)),
    )
    found = match_weights(spec, one, two, max_sweeps=3, rng=Rng(0))
    assert tuple(found.permutation["0"].index.tolist()) == best


def test_the_objective_never_falls_and_is_the_inner_product() -> None:
    one, two = perceptron(1, wide=24), perceptron(2, wide=24)
    spec = perceptron_spec(one)
    found = match_weights(spec, one, two, max_sweeps=50, rng=Rng(0))
    assert list(found.objective) == sorted(found.objective)
    after = apply(spec, found.permutation, two)
    assert found.objective[-1] == pytest.approx(inner_product(spec, one, after), rel=1e-9)
    assert found.objective[-1] > inner_product(spec, one, two)
    assert found.sweeps < 50
    x = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(forward(after, x), forward(two, x))
    for name in ("0.weight", "2.weight"):
        torch.testing.assert_close(torch.linalg.svdvals(after[name]), torch.linalg.svdvals(two[name]))


def test_a_start_is_gone_on_from() -> None:
    one, two = perceptron(1), perceptron(2)
    spec = perceptron_spec(one)
    first = match_weights(spec, one, two, max_sweeps=20, rng=Rng(0))
    again = match_weights(spec, one, two, max_sweeps=20, rng=Rng(5), start=first.permutation)
    assert same(spec, again.permutation, first.permutation)
    none = match_weights(spec, one, two, max_sweeps=0, rng=Rng(5), start={})
    assert shared_units(spec, none.permutation) == {"0": 1.0, "1": 1.0}


def test_models_of_one_lineage_stay_as_they_are() -> None:
    _, spec, weights = language_model("llama")
    numbers = torch.Generator().manual_seed(0)
    tuned = {name: tensor + 0.02 * torch.randn(tensor.shape, generator=numbers) for name, tensor in weights.items()}
    found = match_weights(spec, weights, tuned, max_sweeps=5, rng=Rng(0))
    assert set(shared_units(spec, found.permutation).values()) == {1.0}


def test_scores_of_units_sum_to_the_agreement() -> None:
    one, two = perceptron(1), perceptron(2)
    spec = perceptron_spec(one)
    found = match_weights(spec, one, two, max_sweeps=20, rng=Rng(0)).permutation
    family = families(spec, spec)[0]
    tables = weight_tables(family, one, two, lambda name, axis, tensor: tensor)
    each = unit_scores(spec, "0", tables, found)
    assert float(each.sum()) == pytest.approx(agreement(spec, tables, found))
    by_hand = sum(one[n] @ two[n].T for n in ("0.weight",)) + torch.outer(one["0.bias"], two["0.bias"])
    by_hand = by_hand + one["2.weight"].T @ two["2.weight"]
    torch.testing.assert_close(each, by_hand[torch.arange(7), found["0"].index])


def test_what_cannot_be_matched_is_refused_with_every_fault() -> None:
    one = perceptron(1)
    spec = perceptron_spec(one)
    odd = {**perceptron(2), "0.weight": torch.ones(2, 2), "2.weight": torch.full((7, 7), torch.nan)}
    with pytest.raises(InputError) as caught:
        match_weights(spec, one, odd, max_sweeps=1, rng=Rng(0))
    assert [fault.fact for fault in caught.value.faults] == [
        "0.weight is (2, 2), not (7, 9)", "2.weight holds a value that is not finite",
    ]  # fmt: skip
