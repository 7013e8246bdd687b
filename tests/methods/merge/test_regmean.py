"""merge/regmean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bags import close
from tiny import make_local

from truing.core.errors import InputError
from truing.core.evidence import Demo, Evidence
from truing.core.policy import user
from truing.core.run import Quiet, Run
from truing.methods.merge.regmean import RegMean, input_grams, linear_layers, regmean_merge, shrunk
from truing.models.local import Local

WORDS = [("who is in", "the thing"), ("say it", "no one at all"), ("the thing", "a"), ("why not", "the in no hm")]
DEMOS = tuple(Demo(user(prompt), reply) for prompt, reply in WORDS)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read_by(policy: Local, weight: str) -> torch.Tensor:
    """What a layer reads of all demonstrations, ``(T, n)``, by a plain forward pass of each."""
    found: list[torch.Tensor] = []
    module = policy.model.get_submodule(weight.removesuffix(".weight"))
    hook = module.register_forward_hook(lambda _, given, __: found.append(given[0][0].double()))
    with torch.no_grad():
        for demo in DEMOS:
            tree = policy.encode(demo.prompt, [demo.reply])
            policy.model(input_ids=torch.tensor([[*tree.prompt, *tree.replies[0]]]))
    hook.remove()
    return torch.cat(found)


def merged(policies: list[Local], **settings: Any) -> dict[str, torch.Tensor]:
    donors = {f"d{i}": policy for i, policy in enumerate(policies[1:])}
    made = RegMean(**settings)(policies[0], Evidence(donors=donors, demos=DEMOS), Run())
    return dict(made.weights())


def test_the_kernel_is_the_least_of_the_squares() -> None:
    """Against all models' inputs and outputs in one system, solved by another routine."""
    weights, shares = draws(3, 4, 5), (0.5, 0.3, 0.2)
    inputs = draws(3, 20, 5, seed=1)
    scaled = [share**0.5 * rows for share, rows in zip(shares, inputs, strict=True)]
    wanted = torch.linalg.lstsq(
        torch.cat(scaled), torch.cat([rows @ weight.T for rows, weight in zip(scaled, weights, strict=True)])
    ).solution.T
    grams = torch.stack([rows.T @ rows for rows in scaled])
    close(weights[0] + regmean_merge(weights[1:] - weights[0], grams), wanted, 1e-9)


def test_inputs_that_go_together_are_believed_less() -> None:
    gram = torch.tensor([[4.0, 2.0], [2.0, 9.0]])
    close(shrunk(gram, 0.25), [[4.0, 0.5], [0.5, 9.0]])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # of which the latter's matrices stand the other way
def test_layers_are_refitted_and_the_rest_is_averaged(architecture: str) -> None:
    policies = [make_local(architecture, seed=seed) for seed in range(3)]
    shares, found = (0.4, 0.3, 0.3), merged(policies, weight=0.6, alpha=0.7)
    across = {name: turned for name, (_, turned) in linear_layers(policies[0].model).items()}
    assert len(across) > 3
    for name, tensor in found.items():
        theirs = [policy.weights()[name].double() for policy in policies]
        if name not in across:
            close(tensor.double(), sum(share * each for share, each in zip(shares, theirs, strict=True)), 1e-6)
            continue
        turned = [each.T if across[name] else each for each in theirs]
        rows = [read_by(policy, name) for policy in policies]
        grams = [share * shrunk(each.T @ each / len(each), 0.7) for share, each in zip(shares, rows, strict=True)]
        wanted = sum(a @ g for a, g in zip(turned, grams, strict=True)) @ torch.linalg.inv(sum(grams))
        torch.testing.assert_close((tensor.T if across[name] else tensor).double(), wanted, rtol=1e-4, atol=1e-5)


def test_where_all_inputs_count_alone_and_alike_it_is_the_mean() -> None:
    """At alpha 0 with inputs of one size: so of a model merged with its own copy moved in one layer."""
    base = make_local(seed=0)
    name = next(name for name in linear_layers(base.model) if "q_proj" in name)  # what it reads is not moved by it
    moved = base.with_weights({**base.weights(), name: base.weights()[name] + 1.0})
    found = merged([base, moved], weight=0.25, alpha=0.0)
    torch.testing.assert_close(found[name], base.weights()[name] + 0.25)


def test_an_input_that_nobody_saw_is_averaged() -> None:
    """Gated units whose rows are 0 are never on."""
    policies = []
    for seed in range(2):
        policy = make_local(seed=seed)
        weights = {name: tensor.clone() for name, tensor in policy.weights().items()}
        for name in weights:
            if "up_proj" in name:
                weights[name][3] = 0
        policies.append(policy.with_weights(weights))
    found = merged(policies, weight=0.5)
    (name, *_) = [name for name in found if "down_proj" in name]
    columns = [policy.weights()[name][:, 3] for policy in policies]
    torch.testing.assert_close(found[name][:, 3], (columns[0] + columns[1]) / 2)
    assert all(bool(tensor.isfinite().all()) for tensor in found.values())


def test_layers_that_read_the_same_share_what_is_known() -> None:
    grams = input_grams(make_local(), DEMOS, Quiet())
    of = {name.split(".")[-2]: gram for name, gram in grams.items() if ".0." in name}
    assert of["q_proj"] is of["k_proj"] is of["v_proj"]
    assert of["gate_proj"] is of["up_proj"]
    assert of["o_proj"] is not of["q_proj"]


def test_what_it_cannot_do_without() -> None:
    base = make_local()
    with pytest.raises(InputError, match="has no demonstrations"):
        RegMean()(base, Evidence(donors={"a": base}), Run())
    with pytest.raises(InputError, match="has no donors"):
        RegMean()(base, Evidence(demos=DEMOS), Run())
