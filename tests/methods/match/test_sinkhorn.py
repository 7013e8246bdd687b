"""match/sinkhorn."""

from __future__ import annotations

import torch
from matched import base_model, given, reordered

from truing.core.method import build
from truing.core.run import Run


def test_exact_plans_bring_a_reordered_donor_back() -> None:
    base = base_model()
    found = build("match/sinkhorn", regularisation=0.0)(base, given(reordered(base, 6, signs=False)), Run())
    for name, tensor in found.donors["d0"].weights().items():
        torch.testing.assert_close(tensor, base.weights()[name])


def test_soft_plans_shrink_what_they_mix() -> None:
    base, donor = base_model(), base_model(seed=9)
    sizes = []
    for regularisation in (0.0, 0.05, 10.0):
        found = build("match/sinkhorn", regularisation=regularisation)(base, given(donor), Run())
        sizes.append(float(found.donors["d0"].weights()["model.layers.0.mlp.up_proj.weight"].detach().norm()))
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_wider_donor_comes_out_in_the_bases_shape_and_can_be_merged() -> None:
    base, donor = base_model(), base_model(seed=2, intermediate_size=80)
    found = build("match/sinkhorn")(base, given(donor), Run())
    shapes = {name: tensor.shape for name, tensor in base.weights().items()}
    assert {name: tensor.shape for name, tensor in found.donors["d0"].weights().items()} == shapes
    merged = build("merge/linear")(base, found, Run())
    assert {name: tensor.shape for name, tensor in merged.weights().items()} == shapes
