"""merge/ot_fusion."""

from __future__ import annotations

import pytest
import torch
from tiny import make_local, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.method import build
from truing.core.rng import Rng
from truing.core.run import Run
from truing.models.movable import movable
from truing.units.permutations import Order, apply, random


@pytest.mark.parametrize("residual", ["skip", "branch", "mean"])
def test_a_reordered_copy_fuses_to_the_base(residual: str) -> None:
    base = make_local("llama")
    spec = movable(base)
    drawn = {name: Order(order.index) for name, order in random(spec, Rng(1)).items()}
    copy = base.with_weights(apply(spec, drawn, base.weights()))
    method = build("merge/ot_fusion", regularisation=0.0, residual=residual)
    made = method(base, Evidence(donors={"a": copy, "b": base}), Run())
    for name, tensor in made.weights().items():
        torch.testing.assert_close(tensor, base.weights()[name])
    soft = build("merge/ot_fusion", regularisation=1e-4, iterations=300)(base, Evidence(donors={"a": base}), Run())
    for name, tensor in soft.weights().items():
        torch.testing.assert_close(tensor, base.weights()[name], rtol=0, atol=1e-3)


def test_identity_plans_of_everything_but_neurons_leave_the_stream_where_it_is() -> None:
    base, donor = make_local("llama"), make_local("llama", seed=4)
    made = build("merge/ot_fusion", residual="identity", weight=0.5)(base, Evidence(donors={"a": donor}), Run())
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(made.weights()[name], (base.weights()[name] + donor.weights()[name]) / 2)


def test_the_weight_goes_from_the_base_to_the_transported_donor() -> None:
    base, donor = make_local("llama"), make_local("llama", seed=4, intermediate_size=64)
    evidence = Evidence(donors={"a": donor})
    ends = [build("merge/ot_fusion", weight=weight)(base, evidence, Run()).weights() for weight in (0.0, 0.5, 1.0)]
    moved = build("match/sinkhorn", residual="mean")(base, evidence, Run()).donors["a"]
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in base.weights().items())
    for name, tensor in moved.weights().items():
        torch.testing.assert_close(ends[2][name], tensor)
        torch.testing.assert_close(ends[1][name], (ends[0][name] + ends[2][name]) / 2)


def test_models_of_another_depth_or_kind_are_refused() -> None:
    base = make_local("llama")
    fuse = build("merge/ot_fusion")
    with pytest.raises(InputError, match="Depth and architecture must agree"):
        fuse(base, Evidence(donors={"a": make_local("llama", num_hidden_layers=1)}), Run())
    with pytest.raises(InputError, match="Depth and architecture must agree"):
        fuse(base, Evidence(donors={"a": make_local("gpt2")}), Run())
    assert same_weights(base, make_local("llama"))
