"""Matching by what units do: copies are found, and correlations are numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import language_model, perceptron_spec
from tiny import ARCHITECTURES, VOCABULARY
from torch import nn

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.units.features import Moments, activation_tables, match_activations, sites, watched
from truing.units.permutations import apply, compose, random, same


def tokens(count: int) -> list[dict[str, Any]]:
    source = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(4, VOCABULARY, (2, 24), generator=source)} for _ in range(count)]


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if "windows" not in name])
@pytest.mark.parametrize("correlation", [True, False], ids=["correlation", "product"])
def test_a_reordered_copy_is_found_by_what_its_units_do(architecture: str, correlation: bool) -> None:
    model, spec, weights = language_model(architecture)
    other, _, _ = language_model(architecture)
    drawn = random(spec, Rng(2))
    copy = apply(spec, drawn, weights)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(copy[name])
    tables = activation_tables(spec, model, other, tokens(6), correlation=correlation)
    found = match_activations(spec, weights, copy, tables)
    assert same(spec, compose(spec, drawn, found.permutation), {})


def test_correlations_are_numpys_over_any_cut_and_0_for_what_never_varies() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(40, 3)) + 5, rng.normal(size=(40, 4))
    left[:, 1] = 2.5
    whole, cut = Moments(), Moments()
    whole.add(torch.from_numpy(left), torch.from_numpy(right))
    for rows in (slice(0, 7), slice(7, 40)):
        cut.add(torch.from_numpy(left[rows]), torch.from_numpy(right[rows]))
    wanted = np.corrcoef(left[:, [0, 2]].T, right.T)[:2, 2:]
    for sums in (whole, cut):
        scores = sums.scores(correlation=True).numpy()
        np.testing.assert_allclose(scores[[0, 2]], wanted, atol=1e-12)
        assert (scores[1] == 0).all()
        np.testing.assert_allclose(sums.scores(correlation=False).numpy(), left.T @ right / 40)


def test_units_are_watched_behind_the_non_linearity_and_hooks_are_taken_off() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    spec = perceptron_spec(net.state_dict())
    assert [(site.module, site.reads) for site in sites(spec)] == [("2", True), ("4", True)]
    x = torch.randn(9, 4)
    with watched(net, sites(spec)) as seen:
        net(x)
    first = seen[sites(spec)[0]]
    torch.testing.assert_close(first, net[0](x).relu())
    assert (first >= 0).all()
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in net)


def test_images_are_watched_channel_by_channel() -> None:
    from truing.models.networks import declare

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    spec = declare(net.state_dict(), {"0.weight": ("maps",), "0.bias": ("maps",), "2.weight": (None, "maps")})
    x = torch.randn(2, 3, 8, 8)
    with watched(net, sites(spec)) as seen:
        net(x)
    (features,) = seen.values()
    torch.testing.assert_close(features.T.sum(1), net[1](net[0](x)).sum((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_what_could_not_be_watched_is_matched_by_weights_or_stays() -> None:
    model, spec, weights = language_model("llama")
    copy = apply(spec, random(spec, Rng(2)), weights)
    found = match_activations(spec, weights, copy, [])
    assert all(torch.equal(tensor, weights[name]) for name, tensor in apply(spec, found.permutation, copy).items())
    tables = activation_tables(spec, model, model, tokens(2), correlation=True)
    queries = [table for table in tables if table.source.inner is None]  # nothing of values
    partly = match_activations(spec, weights, weights, queries).permutation
    assert partly["values.0"].index.tolist() == list(range(16))


def test_no_input_is_refused() -> None:
    model, spec, _ = language_model("llama")
    with pytest.raises(InputError, match="nothing was seen"):
        activation_tables(spec, model, model, [], correlation=True)
