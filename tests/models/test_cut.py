"""The first blocks of a model against transformers' own hidden states."""

from __future__ import annotations

import pytest
import torch
from tiny import make_local

from truing.engine.tree import SHORTEST_TRUNK
from truing.models.cut import Cut

PROMPTS = [(5, 9, 33), (17, 20, 21, 22, 40, 41, 60), (8,)]
SYSTEM = [(*range(3, 3 + SHORTEST_TRUNK), *prompt) for prompt in PROMPTS]
"""They begin alike, as with a system prompt, which lies in the row once."""


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "phi", "qwen3"])
@pytest.mark.parametrize("layout", [None, "plain"])
@pytest.mark.parametrize("prompts", [PROMPTS, SYSTEM], ids=["apart", "alike"])
def test_states_are_those_behind_the_block(
    prompts: list[tuple[int, ...]], architecture: str, layout: str | None
) -> None:
    more = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    policy = make_local(architecture, num_hidden_layers=3, **(more if architecture == "gemma2" else {}))
    policy.scorer.layout = layout
    for blocks in (1, 2):
        found = Cut(policy, blocks).states(prompts)
        for prompt, state in zip(prompts, found, strict=True):
            hidden = policy.model(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states
            torch.testing.assert_close(state, hidden[blocks][0, -1], rtol=1e-4, atol=1e-5)
    assert policy.scorer.layout == (layout or "packed")


def test_what_is_its_own_can_change_and_the_policy_stays() -> None:
    policy = make_local(num_hidden_layers=3)
    name = "model.layers.0.mlp.up_proj.weight"
    cut = Cut(policy, 1, {name})
    assert list(cut.parameters) == [name]
    before = policy.weights()[name].detach().clone()
    cut.states(PROMPTS).sum().backward()
    assert [n for n, p in cut.module.named_parameters() if p.grad is not None] == [name]
    with torch.no_grad():
        cut.parameters[name].zero_()
    assert torch.equal(policy.weights()[name], before)
    assert len(policy.model.model.layers) == 3
    assert type(policy.model.model.norm).__name__ != "Identity"
