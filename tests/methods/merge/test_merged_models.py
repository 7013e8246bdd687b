"""Merges of real models: what is a weight, what is not, and what comes back from disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_local, same_weights

from truing import load
from truing.core.artefact import save_policy
from truing.core.evidence import Evidence
from truing.core.policy import Sampling, user
from truing.core.rng import Rng
from truing.core.run import Run
from truing.methods.merge.linear import Linear
from truing.models.local import Local


def merge(base: Local, donor: Local, weight: float = 0.5) -> Local:
    made = Linear(weight=weight)(base, Evidence(donors={"a": donor}), Run())
    assert isinstance(made, Local)
    return made


def test_what_the_configuration_decides_is_not_merged(tmp_path: Path) -> None:
    """Rotary frequencies are not saved with a model: a blend of them would be lost when it is loaded."""
    base, donor = make_local(), make_local(seed=1, rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    merged = merge(base, donor)
    frequencies = [p.model.model.rotary_emb.inv_freq for p in (base, donor, merged)]
    assert not torch.equal(frequencies[0], frequencies[1])
    assert torch.equal(frequencies[0], frequencies[2])
    save_policy(merged, tmp_path / "merged")
    loaded = load(str(tmp_path / "merged"))
    how = Sampling(max_new_tokens=12)
    asked = [user("who is in")]
    assert loaded.sample(asked, n=3, sampling=how, rng=Rng(0)) == merged.sample(asked, n=3, sampling=how, rng=Rng(0))


def test_tied_weights_stay_tied() -> None:
    merged = merge(make_local("qwen2"), make_local("qwen2", seed=1))
    assert merged.model.lm_head.weight is merged.model.model.embed_tokens.weight
    assert "lm_head.weight" not in merged.weights()


def test_integer_buffers_are_the_bases() -> None:
    base, donor = make_local(), make_local(seed=1)
    base.model.register_buffer("steps", torch.tensor([7]))
    donor.model.register_buffer("steps", torch.tensor([100]))
    assert merge(base, donor).weights()["steps"].tolist() == [7]


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "phi"])
def test_every_architecture_is_a_mapping_of_tensors(architecture: str) -> None:
    base, donor = make_local(architecture), make_local(architecture, seed=1)
    middle = merge(base, donor)
    for name, tensor in middle.weights().items():
        torch.testing.assert_close(tensor, (base.weights()[name] + donor.weights()[name]) / 2, rtol=0, atol=1e-6)
    assert not same_weights(middle, base)
    assert same_weights(merge(base, donor, 0.0), base)
