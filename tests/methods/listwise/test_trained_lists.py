"""Listwise training: refusals, one pass a prompt, metrics as logged, and a small model that learns the order."""

from __future__ import annotations

import math

import pytest
import torch
from fitting import close
from tiny import Notes

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Pair, Ranked
from truing.core.method import build
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.listwise.lipo import LiPO
from truing.methods.listwise.list_net import ListNet
from truing.methods.listwise.plackett_luce import PlackettLuce
from truing.models.local import Local
from truing.models.tabular import Tabular

LISTS = (
    Ranked(user("name a tool"), ("no", "a saw", "?"), (0.0, 1.0, -1.0)),
    Ranked(user("say hi"), ("x", "hi there"), (1.0, 2.0)),
    Ranked(user("count"), ("one two", "?", "one", "2"), (3.0, 0.0, 2.0, 0.0)),
)
SETTINGS: dict[str, object] = {
    "learning_rate": 3e-3, "max_steps": 12, "per_device_train_batch_size": 3, "logging_steps": 1,
    "lr_scheduler_type": "constant",
}  # fmt: skip


def ranked(scores: tuple[float, ...], replies: tuple[str, ...] = ("a", "b")) -> Ranked:
    return Ranked(user("q"), replies, scores)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (ranked((1.0,), ("a",)), "fewer than two replies"),
        (ranked((1.0, 2.0, 3.0)), "replies and scores differ in number"),
        (ranked((1.0, math.nan)), "not a finite number"),
        (ranked((1.0, 1.0)), "all scores are tied"),
    ],
)
def test_what_did_not_come_through_the_contract_is_refused_with_its_number(wrong: Ranked, why: str) -> None:
    table = Tabular((user("q"),), ("a", "b"), torch.zeros(1, 2))
    with pytest.raises(InputError, match=rf"2 of 3 lists: {why} \(first: list 1\)"):
        PlackettLuce()(table, Evidence(lists=(ranked((1.0, 0.0)), wrong, wrong)), Run())


def test_a_range_of_scores_is_two_numbers_that_hold_all() -> None:
    table, given = Tabular((user("q"),), ("a", "b"), torch.zeros(1, 2)), Evidence(lists=(ranked((1.0, 0.0)),))
    for wrong in ((1.0,), (3.0, 3.0), (5.0, 1.0)):
        with pytest.raises(InputError, match="score_range"):
            LiPO(score_range=wrong)(table, given, Run())
    with pytest.raises(InputError, match="score_range"):
        LiPO(score_range=(0.0, 1.0, 2.0))
    with pytest.raises(InputError, match="1 of 1 lists: a score beyond score_range"):
        ListNet(score_range=(0.0, 0.5))(table, given, Run())


def test_lists_of_two_train_as_pairs_do(tiny_policy: Local, notes: Notes) -> None:
    """Plackett-Luce on them is DPO, in the weights and in what is logged."""
    texts = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?")]
    pairs = [Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in texts]
    lists = [Ranked(pair.prompt, (pair.rejected, pair.chosen), (0.0, 1.0)) for pair in pairs]
    ours = build("listwise/plackett_luce", **SETTINGS)(tiny_policy, Evidence(lists=lists), Run(log=notes))
    mine, notes.rows = notes.rows, []
    theirs = build("preference/dpo", **SETTINGS)(tiny_policy, Evidence(pairs=pairs), Run(log=notes))
    close(ours, theirs, tiny_policy)
    for one, other in zip(mine, notes.rows, strict=True):
        shared = {name for name in one if name.startswith(("rewards/", "logps/", "displacement/", "lengths/", "loss"))}
        assert len(shared) == 13
        assert {name: one[name] for name in shared} == pytest.approx(
            {name: other[name] for name in shared}, abs=1e-3, rel=1e-3
        )


@pytest.mark.parametrize("name", ["plackett_luce", "list_net", "pairwise_sets", "lipo", "approx_ndcg", "opo"])
def test_a_small_model_learns_the_order(name: str, tiny_policy: Local, notes: Notes) -> None:
    build(f"listwise/{name}", **SETTINGS)(tiny_policy, Evidence(lists=LISTS), Run(log=notes))
    first, last = notes.rows[0], notes.rows[-1]
    assert first["rewards/accuracies"] == 0.5
    assert first["ndcg"] < 0.9
    assert last["rewards/accuracies"] > 0.9
    assert last["ndcg"] > 0.97
    assert last["loss"] < first["loss"]
    assert last["rewards/chosen"] > last["rewards/rejected"]


def test_every_prompt_is_read_once(tiny_policy: Local) -> None:
    """A list is one tree: its prompt and each of its replies, once."""
    trees = tiny_policy.encode_many([item.prompt for item in LISTS], [item.replies for item in LISTS])
    assert [len(tree.replies) for tree in trees] == [3, 2, 4]
    notes = Notes()
    build("listwise/lipo", **{**SETTINGS, "max_steps": 1})(tiny_policy, Evidence(lists=LISTS), Run(log=notes))
    assert notes.rows[0]["num_tokens"] == sum(tree.size for tree in trees)


def test_the_order_in_which_a_list_is_written_changes_nothing(tiny_policy: Local) -> None:
    turned = [Ranked(item.prompt, item.replies[::-1], item.scores[::-1]) for item in LISTS]
    method = build("listwise/lipo", **{**SETTINGS, "max_steps": 1})
    one, other = (method(tiny_policy, Evidence(lists=given), Run()) for given in (LISTS, turned))
    close(one, other, tiny_policy)
