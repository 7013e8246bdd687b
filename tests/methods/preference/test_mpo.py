"""preference/mpo."""

from __future__ import annotations

import pytest
import torch
from objectives import from_tokens, is_same, some_pairs
from tiny import Notes, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Pair
from truing.core.method import build
from truing.core.policy import user
from truing.core.recipe import parse
from truing.core.run import Log, Run
from truing.core.trees import Tree
from truing.methods.preference.aot import AOT
from truing.methods.preference.mpo import MPO
from truing.methods.preference.rpo import RPO
from truing.methods.preference.wpo import WPO
from truing.models.local import Local

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
PAIRS = tuple(Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in WORDS)
QUICK = {"learning_rate": 3e-3, "max_steps": 4, "per_device_train_batch_size": 4, "tokens_per_batch": 20}


def test_slopes_and_values_are_the_weighted_sums() -> None:
    made = MPO(loss_type=("ipo", "preference/hinge"), loss_weights=(0.5, 2.0), beta=0.3)
    parts = build("preference/ipo", beta=0.3), build("preference/hinge", beta=0.3)
    is_same(made.loss, lambda p: 0.5 * parts[0].loss(p) + 2.0 * parts[1].loss(p), some_pairs())


def test_dpo_and_imitation_is_rpo() -> None:
    mixed = MPO(loss_type=("dpo", "sft_chosen"), loss_weights=(1.0, 0.7), beta=0.2)
    is_same(mixed.loss, RPO(beta=0.2, rpo_alpha=0.7).loss, some_pairs())


def test_a_loss_may_have_settings_of_its_own() -> None:
    mixed = MPO(
        loss_type=("dpo", "simpo"), loss_weights=(1.0, 1.0), beta=0.2,
        loss_settings=({"label_smoothing": 0.1}, {"beta": 3.0}),
    )  # fmt: skip
    settings = [{name: getattr(part, name) for name in ("beta", "label_smoothing")} for part in mixed.parts]
    assert settings == [{"beta": 0.2, "label_smoothing": 0.1}, {"beta": 3.0, "label_smoothing": 0.0}]


@pytest.mark.parametrize("alone", [AOT, WPO])
def test_of_one_loss_it_is_that_loss_whatever_it_needs(alone: type, tiny_policy: Local) -> None:
    """A survey of the step, and the chance that two draws agree."""
    name = alone.card.name
    mixed = MPO(**QUICK, loss_type=(name,), loss_weights=(1.0,), beta=0.5)(tiny_policy, Evidence(pairs=PAIRS), Run())
    assert same_weights(mixed, alone(**QUICK, beta=0.5)(tiny_policy, Evidence(pairs=PAIRS), Run()))


def test_where_no_loss_reads_the_base_no_pass_is_made(tiny_policy: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Local, trees: list[Tree], log: Log) -> list[torch.Tensor]:
        raise AssertionError("a reference pass")

    monkeypatch.setattr(Local, "tree_logprobs", forbidden)
    mixed = MPO(**QUICK, loss_type=("simpo", "sft_chosen"), loss_weights=(1.0, 1.0))
    mixed(tiny_policy, Evidence(pairs=PAIRS), Run(log=Notes()))


def test_it_is_told_of_every_pair_in_tokens() -> None:
    policy = -torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pairs = from_tokens(policy, policy - 0.1, [4, 5])
    mixed = MPO(loss_type=("ld_dpo", "wpo"), loss_weights=(1.0, 1.0))
    assert torch.isfinite(mixed.loss(pairs)).all()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss_type": ("dpo",), "loss_weights": (1.0, 2.0)}, "1 loss_type, 2 loss_weights"),
        ({"loss_type": (), "loss_weights": ()}, "0 loss_type"),
        ({"loss_type": ("dop",), "loss_weights": (1.0,)}, "preference/dpo"),
        ({"loss_type": ("tr_dpo",), "loss_weights": (1.0,)}, "reference of its own"),
        ({"loss_type": ("mpo",), "loss_weights": (1.0,)}, "reference of its own"),
        ({"loss_type": ("dpo",), "loss_weights": (1.0,), "loss_settings": ({"bta": 1},)}, "bta"),
    ],
)
def test_what_cannot_be_summed_is_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        MPO(**settings)


def test_a_recipe_gives_its_lists_as_values_and_sweeps_beta() -> None:
    step = {"preference/mpo": {"loss_type": ["dpo", "nca"], "loss_weights": [1, 0.5], "beta": [0.1, 0.2]}}
    recipe = parse({"model": "m", "data": {"pairs": "p"}, "arms": {"mpo": [step]}}, name="n")
    assert recipe.faults == ()
    assert [point.dial for point in recipe.points] == [("beta", 0.1), ("beta", 0.2)]
