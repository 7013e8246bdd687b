"""compress/mc_smoe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mixing import DEMOS, EVIDENCE, cloned, logits_of, parameters
from tiny import Notes, make_local, same_weights

from truing.core.errors import InputError
from truing.core.run import Run
from truing.methods.compress.m_smoe import MSMoE
from truing.methods.compress.mc_smoe import MCSMoE, low_rank, remaining_share, row_scores
from truing.models.experts import factored, mixtures


def compress(policy: Any, run: Run | None = None, **settings: Any) -> Any:
    return MCSMoE(**{"max_steps": 0, "storage": "compact", **settings})(policy, EVIDENCE, run or Run())


def test_the_product_is_the_best_of_its_rank_and_holds_its_share_of_the_numbers() -> None:
    """Eckart and Young: what is left over has the remaining singular values, and no more."""
    weights = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, right = low_rank(weights, rank_ratio=0.3)
    rank = math.ceil(0.3 * 40 * 24 / 64)
    assert left.shape == (3, 40, rank)
    assert right.shape == (3, rank, 24)
    values = torch.linalg.svdvals(weights)
    lost = (weights - left @ right).square().sum((1, 2))
    torch.testing.assert_close(lost, values[:, rank:].square().sum(1))
    assert left.shape[2] <= 24
    whole = low_rank(weights[:, :2], rank_ratio=1.0)
    assert whole[0].shape[2] == 2


def test_product_and_all_rows_are_the_matrix() -> None:
    policy = cloned()
    made = MCSMoE(kept_rows=0.999, max_steps=0, storage="compact")(policy, EVIDENCE, Run())  # rounds up to every row
    for ours, theirs in zip(mixtures(made.model), mixtures(policy.model), strict=True):
        for part, wanted in zip(ours.weights(), theirs.weights(), strict=True):
            torch.testing.assert_close(part, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits_of(made), logits_of(policy), rtol=0, atol=1e-4)


def test_the_schedule_falls_by_a_cube() -> None:
    kind = {"final": 0.1, "begin": 0.2, "end": 0.8}
    assert [remaining_share(done, **kind) for done in (0, 0.2)] == [1, 1]
    assert remaining_share(0.5, **kind) == pytest.approx(0.1 + 0.9 / 8)
    assert [remaining_share(done, **kind) for done in (0.8, 1)] == [0.1, 0.1]


def test_a_row_counts_by_its_part_in_the_loss() -> None:
    rows, slope = torch.tensor([[[1.0, -2.0], [3.0, 0.0]]]), torch.tensor([[[0.5, 0.5], [0.0, 9.0]]])
    torch.testing.assert_close(row_scores(rows, slope), torch.tensor([[0.75, 0.0]]))


def test_without_steps_rows_are_kept_by_the_gradient_on_the_calibration_text() -> None:
    """One pass over all demonstrations at once, so there is no moving mean: |W - LR| times the gradient at W."""
    policy = make_local("mixtral", seed=3)
    made = compress(policy, kept_rows=0.25, per_device_train_batch_size=4)
    trees = policy.encode_many([demo.prompt for demo in DEMOS], [(demo.reply,) for demo in DEMOS])
    bench = policy.open()
    (-bench.score(trees).tokens.mean()).backward()
    for ours, theirs in zip(mixtures(made.model), mixtures(bench.module), strict=True):
        for part, whole in (
            (ours.experts.up, theirs.experts.gate_up_proj),
            (ours.experts.down, theirs.experts.down_proj),
        ):
            left, right = low_rank(whole.detach(), rank_ratio=0.15)
            scores = ((whole.detach() - left @ right) * whole.grad).abs().mean(2)
            wanted = scores.topk(math.ceil(0.25 * scores.shape[1]), 1).indices.sort(1).values
            assert torch.equal(part.rows, wanted)


def test_numbers_fall_by_what_is_cut() -> None:
    policy = make_local("mixtral")
    made = compress(policy, kept_rows=0.25, rank_ratio=0.3)
    per_expert = 0
    for high, across in ((40, 32), (32, 20)):
        rank = math.ceil(0.3 * high * across / (high + across))
        per_expert += rank * (high + across) + math.ceil(0.25 * high) * across
    plain = 40 * 32 + 32 * 20
    assert parameters(policy) - parameters(made) == 8 * (plain - per_expert)


def test_both_storages_compute_the_same() -> None:
    policy = make_local("mixtral")
    made = [compress(policy, storage=storage) for storage in ("plain", "compact")]
    assert not list(factored(made[0].model))
    assert len(list(factored(made[1].model))) == 4
    torch.testing.assert_close(logits_of(made[0]), logits_of(made[1]), rtol=0, atol=1e-4)
    assert (logits_of(made[0]) - logits_of(policy)).abs().max() > 1e-2


def test_rows_fall_away_while_it_recovers() -> None:
    """At the end just so many are left; the recovery ends below what the same cut without steps costs."""
    policy, notes = make_local("mixtral", seed=2), Notes()
    settings: dict[str, Any] = {"learning_rate": 3e-3, "logging_steps": 1, "warmup_ratio": 0.0, "kd_weight": 1.0}
    made = compress(policy, Run(log=notes), max_steps=30, per_device_train_batch_size=4, **settings)
    cut = compress(policy)
    for mixture in mixtures(made.model):
        assert mixture.experts.up.kept.shape == (4, 4, 32)  # a tenth of 40 rows
        assert mixture.experts.down.kept.shape == (4, 4, 20)
    replies = [demo.reply for demo in DEMOS]
    chats = [demo.prompt for demo in DEMOS]
    assert made.logprob(chats, replies).sum() > cut.logprob(chats, replies).sum()
    assert parameters(made) == parameters(cut)
    assert made.trained_parameters is not None


def test_after_merging_each_step_saves(tmp_path: Path) -> None:
    policy = make_local("mixtral")
    merged = MSMoE(expert_fraction=0.5, max_steps=0)(policy, EVIDENCE, Run())
    made = compress(merged)
    assert parameters(policy) > parameters(merged) > parameters(made)
    assert [m.members.tolist() for m in mixtures(made.model)] == [m.members.tolist() for m in mixtures(merged.model)]


def test_neutral_and_refused() -> None:
    policy = make_local("mixtral")
    assert same_weights(compress(policy, kept_rows=1.0), policy)
    with pytest.raises(InputError, match="factors already"):
        compress(compress(policy))
    with pytest.raises(InputError, match="not after prune_begin"):
        compress(policy, prune_begin=0.8)
    with pytest.raises(InputError, match="the base has no experts"):
        compress(make_local("llama"))
