"""What is logged of pairs: displacement, saturation, the pull of length, entanglement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tiny import Notes, make_local, random_trees, same_weights

from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.core.trees import Tree, TreeScores
from truing.engine.entangle import exact
from truing.methods.preference._diagnose import EVERY, pair_metrics, pulls
from truing.methods.preference._pairs import PairLogps, gather
from truing.methods.preference.dpo import DPO
from truing.methods.preference.ipo import IPO
from truing.models.local import Local

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
PAIRS = tuple(Pair(user(f"{prompt} {k}"), chosen, rejected) for k in range(5) for prompt, chosen, rejected in WORDS)
METHOD: dict[str, Any] = {
    "learning_rate": 3e-3,
    "max_steps": 6,
    "per_device_train_batch_size": 10,
    "logging_steps": 2,
    "lr_scheduler_type": "constant",
}


def pairs(margins: list[float], tokens: tuple[list[int], list[int]] | None = None) -> PairLogps:
    """Pairs of these margins, of which the chosen reply takes a third."""
    margin = torch.tensor(margins, dtype=torch.float64)
    ref = torch.full_like(margin, -20.0)
    lengths = (None, None) if tokens is None else tuple(map(torch.tensor, tokens))
    return PairLogps(ref + margin / 3, ref - 2 * margin / 3, ref, ref, *lengths)


def metrics_of(loss: Any, given: PairLogps) -> Mapping[str, torch.Tensor]:
    return pair_metrics(loss, given, given.margin, referenced=True)


def test_without_a_base_there_is_nothing_to_be_displaced_from() -> None:
    given = pairs([1.0, -1.0], ([5, 2], [3, 4]))
    found = pair_metrics(DPO().loss, given, given.margin, referenced=False)
    assert not [name for name in found if name.startswith("displacement") or name == "saturated"]
    assert found["lengths/longer_rewarded"].tolist() == [1.0, 1.0]


def test_a_loss_that_weighs_tokens_pulls_by_their_mean() -> None:
    """``sum_t w_t log p_t``: raised by ``d`` in all, spread evenly, it rises by the mean weight times ``d``."""
    scores = TreeScores(
        torch.randn(7, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 2, 3, 3]), torch.tensor([3, 1, 1, 2])
    )
    weights = torch.tensor([1.0, 2.0, 6.0, 5.0, 7.0, 1.0, 4.0], dtype=torch.float64)

    def loss(some: PairLogps) -> torch.Tensor:
        sums = some.by_token.sums(weights * some.by_token.policy)
        return sums[:, 1] - sums[:, 0]

    pull, push = pulls(loss, gather(scores, torch.zeros(7)))
    assert (pull.tolist(), push.tolist()) == ([3.0, 7.0], [5.0, 2.5])


def test_displacement_is_the_change_against_the_base() -> None:
    metrics = metrics_of(DPO().loss, pairs([3.0, -6.0]))
    torch.testing.assert_close(metrics["displacement/chosen"], torch.tensor([1.0, -2.0], dtype=torch.float64))
    torch.testing.assert_close(metrics["displacement/rejected"], torch.tensor([-2.0, 4.0], dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_saturates_where_the_sigmoid_of_the_margin_passes_0_975(beta: float) -> None:
    """The pull is ``beta sigmoid(-beta m)``, at the base ``beta / 2``: a twentieth of it is ``sigmoid = 0.025``."""
    edge = math.log(0.975 / 0.025) / beta
    metrics = metrics_of(DPO(beta=beta).loss, pairs([edge * 0.99, edge * 1.01, 0.0, -edge * 5]))
    assert metrics["saturated"].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_ipo_saturates_only_about_its_target() -> None:
    """The pull is ``2 (1 / 2 beta - m)``: within a twentieth of the target nothing is left to do."""
    target = 1 / (2 * 0.1)
    metrics = metrics_of(IPO(beta=0.1).loss, pairs([target * 0.94, target * 0.96, target * 1.04, target * 3]))
    assert metrics["saturated"].tolist() == [0.0, 1.0, 1.0, 0.0]


def test_the_forces_of_a_loss_are_its_slopes() -> None:
    """Also where gradients are off, and of a loss that reads one side alone."""
    given = pairs([0.0, 2.0])
    with torch.no_grad():
        pull, push = pulls(DPO(beta=0.1).loss, given)
        torch.testing.assert_close(pull, 0.1 * torch.sigmoid(-0.1 * given.margin))
        torch.testing.assert_close(push, pull)
        pull, push = pulls(lambda some: -some.chosen, given)
    assert (pull.tolist(), push.tolist()) == ([1.0, 1.0], [0.0, 0.0])


def test_which_of_a_pair_is_longer_and_which_is_rewarded() -> None:
    """Longer and rewarded, longer and not, shorter and rewarded, shorter and not, as long, a tie."""
    margins = [1.0, -1.0, 1.0, -1.0, 1.0, 0.0]
    metrics = metrics_of(DPO().loss, pairs(margins, ([5, 5, 2, 2, 3, 9], [3, 3, 4, 4, 3, 1])))
    assert metrics["lengths/longer_rewarded"].tolist() == [1.0, 0.0, 0.0, 1.0, 0.5, 0.5]
    assert metrics["lengths/longer_chosen"].tolist() == [1.0, 1.0, 0.0, 0.0, 0.5, 1.0]
    assert metrics["lengths/chosen"].tolist() == [5, 5, 2, 2, 3, 9]
    assert "lengths/chosen" not in metrics_of(DPO().loss, pairs(margins))


class TestInARun:
    def test_before_the_first_update_nothing_has_moved(self, tiny_policy: Local, notes: Notes) -> None:
        DPO(**{**METHOD, "max_steps": 1, "logging_steps": 1})(tiny_policy, Evidence(pairs=PAIRS), Run(log=notes))
        row = notes.rows[0]
        assert row["displacement/chosen"] == pytest.approx(0, abs=1e-4)
        assert row["saturated"] == 0.0
        assert row["lengths/longer_rewarded"] == 0.5
        assert row["lengths/longer_chosen"] == 1.0
        assert row["peak_memory"] > 1 << 20

    @pytest.mark.parametrize("how", ["last_layer", "exact"])
    def test_how_a_step_is_cut_changes_no_diagnostic(self, how: Any, tiny_policy: Local) -> None:
        logs = []
        for budget in (10**6, 60):
            log = Notes()
            method = DPO(**METHOD, tokens_per_batch=budget, entanglement=how)
            method(tiny_policy, Evidence(pairs=PAIRS), Run(log=log))
            logs.append(log.rows)
        assert any("entanglement/cosine" in row for row in logs[0])
        for one, other in zip(*logs, strict=True):
            assert one.keys() == other.keys()
            for name in (name for name in one if name not in ("tokens_per_second", "peak_memory")):
                assert one[name] == pytest.approx(other[name], rel=2e-3, abs=2e-3), name

    def test_every_eighth_pair_is_measured(self, tiny_policy: Local, notes: Notes) -> None:
        """One step over all pairs, at the base: the mean over pairs 0, 8 and 16 of the exact cosine."""
        method = DPO(**{**METHOD, "max_steps": 1, "per_device_train_batch_size": 20}, entanglement="exact")
        method(tiny_policy, Evidence(pairs=PAIRS), Run(log=notes))
        trees = tiny_policy.encode_many([p.prompt for p in PAIRS], [(p.chosen, p.rejected) for p in PAIRS])
        wanted = exact(tiny_policy.open(), trees[::EVERY]).cosine.mean()
        assert len(trees[::EVERY]) == 3
        assert notes.rows[0]["entanglement/cosine"] == pytest.approx(float(wanted), abs=1e-4)

    def test_looking_changes_nothing(self, tiny_policy: Local) -> None:
        made = []
        for how in ("off", "last_layer", "exact"):
            log = Notes()
            made.append(DPO(**METHOD, entanglement=how)(tiny_policy, Evidence(pairs=PAIRS), Run(log=log)))
            assert any("entanglement/cosine" in row for row in log.rows) is (how != "off")
        assert same_weights(made[0], made[1])
        assert same_weights(made[0], made[2])

    def test_one_sequence_at_a_time_has_no_last_layer(self) -> None:
        """The model's own forward pass keeps no hidden states; the exact products need none."""
        for how, seen in (("last_layer", False), ("exact", True)):
            base, log = make_local(), Notes()
            base.scorer.layout = "plain"
            DPO(**METHOD, entanglement=how)(base, Evidence(pairs=PAIRS), Run(log=log))
            assert any("entanglement/cosine" in row for row in log.rows) is seen


@pytest.mark.slow
def test_it_costs_less_than_three_hundredths_of_a_step() -> None:
    """Operations counted, not timed, at the proportions of a real model: 49k tokens, 576 wide, replies of 100."""
    from torch.utils.flop_counter import FlopCounterMode

    from truing.engine.fit import Objective, Training, fit
    from truing.methods.preference._family import _PairObjective
    from truing.methods.preference._reference import FixedReference

    shape = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    base = make_local(**shape, num_attention_heads=9, num_key_value_heads=3)
    base.scorer.layout = "packed"
    source = random_trees(0, 400, prompt=120, reply=120, width=1)
    replies = [tree.replies[0] for tree in source if len(tree.replies[0]) > 60]
    trees = [Tree(replies[3 * k], (replies[3 * k + 1], replies[3 * k + 2])) for k in range(8)]
    spent = {}
    for how in ("off", "last_layer"):
        method = DPO(entanglement=how)
        zeros = [torch.zeros(len(reply)) for tree in trees for reply in tree.replies]
        asked = _PairObjective(method, FixedReference(zeros), trees)
        with FlopCounterMode(display=False) as counted:
            settings = Training(max_steps=1, per_device_train_batch_size=8)
            fit(base, trees, Objective([1.0] * 8, asked.score, asked.inspect), settings, Run())
        spent[how] = counted.get_total_flops()
    assert 1.0 < spent["last_layer"] / spent["off"] < 1.03
