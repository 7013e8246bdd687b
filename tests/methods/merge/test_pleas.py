"""merge/pleas."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Notes, make_local, same_weights

from truing.core.artefact import save_policy
from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.policy import user
from truing.core.rng import Rng
from truing.core.run import Run
from truing.methods.merge.pleas import PLeaS
from truing.models.local import Local
from truing.models.movable import movable
from truing.units.permutations import apply, random

PROMPTS = tuple(user(text) for text in ("who is in", "the thing", "say it once more to the inn", "nothing"))
TOKENS = torch.randint(4, 90, (2, 20), generator=torch.Generator().manual_seed(3))


def logits(policy: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = policy.model(TOKENS, use_cache=False).logits
    return found


def merge(base: Any, donors: Any, run: Run | None = None, **settings: Any) -> Any:
    return PLeaS(**settings)(base, Evidence(donors=donors, prompts=PROMPTS), run or Run())


def neighbour(base: Local, scale: float = 0.02, seed: int = 1) -> Local:
    """The base, fine-tuned to somewhere near it."""
    source = torch.Generator().manual_seed(seed)
    weights = base.weights()
    moved = {k: w.detach() + scale * torch.randn(w.shape, generator=source) for k, w in weights.items()}
    return base.with_weights(moved)


@pytest.mark.parametrize("match", ["activations", "weights"])
@pytest.mark.parametrize("settings", [
    {"separate_fraction": 0.0}, {"separate_fraction": 0.25}, {"separate_fraction": 1.0, "separate_heads": 0.5},
    {"separate_heads": 1.0}, {"budget": 1.3},
])  # fmt: skip
def test_a_reordered_copy_is_merged_to_the_same_function(match: Any, settings: dict[str, Any]) -> None:
    base = make_local()
    spec = movable(base)
    order = {name: o for name, o in random(spec, Rng(4)).items() if name != "stream" or match == "weights"}
    copied = base.with_weights(apply(spec, order, base.weights()))
    made = merge(base, {"copy": copied}, match=match, **settings)
    torch.testing.assert_close(logits(made), logits(base), rtol=0, atol=2e-3)


def test_widths_and_a_plain_folder(tmp_path: Path) -> None:
    import transformers

    base = make_local()
    made = merge(base, {"a": neighbour(base), "b": neighbour(base, seed=2)}, separate_fraction=0.25, separate_heads=0.5)
    config = made.model.config
    assert config.intermediate_size == 48 + 2 * 12
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 8)
    save_policy(made, tmp_path / "merged")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS, use_cache=False).logits, logits(made))
    assert base.model.config.intermediate_size == 48
    assert made.footprint["parameters"] == sum(p.numel() for p in made.model.parameters())


def test_attention_and_mlp_with_everything_separate_add_up_to_the_mean() -> None:
    """One block, whose inputs are the same in both models: what it writes is the mean of what they write."""
    base = make_local(num_hidden_layers=1)
    donor = copy.deepcopy(base.model)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in donor.named_parameters():
            if "self_attn" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    other = Local(donor, base.tokenizer)
    made = merge(base, {"a": other}, separate_heads=1.0, match="none", least_squares=False)

    def attended(policy: Any) -> torch.Tensor:
        kept = []
        hook = policy.model.model.layers[0].self_attn.register_forward_hook(lambda m, g, o: kept.append(o[0]))
        logits(policy)
        hook.remove()
        return kept[0].detach()

    torch.testing.assert_close(attended(made), (attended(base) + attended(other)) / 2, rtol=1e-4, atol=1e-5)
    assert (attended(base) - attended(other)).abs().max() > 1e-3


def test_the_refit_brings_it_nearer_to_the_models_it_is_from() -> None:
    """On the prompts that it was fitted on, the features' error falls; the log says by how much."""
    base, notes = make_local(), Notes()
    merge(base, {"a": make_local(seed=1)}, Run(log=notes), separate_fraction=0.25)
    (line,) = [line for line in notes.said if "least squares" in line]
    before, after = (float(word.rstrip(".")) for word in line.split() if word[0].isdigit())
    assert after < 0.5 * before


def test_a_budget_is_kept_and_spent_on_what_is_least_alike() -> None:
    base = make_local()
    sizes = [sum(p.numel() for p in made.model.parameters()) for made in (
        base, merge(base, {"a": make_local(seed=1)}, budget=1.2), merge(base, {"a": make_local(seed=1)}, budget=1.4)
    )]  # fmt: skip
    assert sizes[0] < sizes[1] < sizes[2]
    made = merge(base, {"a": make_local(seed=1)}, budget=1.0)
    assert made.model.config.intermediate_size == 48


def test_neutral_settings_give_the_base() -> None:
    base = make_local()
    assert same_weights(merge(base, {"a": make_local(seed=1)}, weight=0.0, separate_fraction=0.0), base)


def test_what_cannot_be_merged_so_is_refused() -> None:
    base = make_local()
    with pytest.raises(InputError, match="has no prompts"):
        PLeaS()(base, Evidence(donors={"a": base}), Run())
    with pytest.raises(InputError, match="is given beside fractions"):
        merge(base, {"a": base}, budget=1.5, separate_fraction=0.1)
    with pytest.raises(InputError, match="less than one model"):
        merge(base, {"a": base}, budget=0.5)
    with pytest.raises(InputError, match="gpt2 has no configuration for another width"):
        merge(make_local("gpt2"), {"a": base})
    with pytest.raises(InputError, match="a norm that all heads share"):
        merge(make_local("qwen3"), {"a": make_local("qwen3", seed=1)}, separate_heads=0.5)
    with pytest.raises(InputError, match="donor"):
        merge(base, {"a": make_local(intermediate_size=64)})
