"""preference/selfie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives import double, has_slopes, is_same, ratios, some_pairs
from tiny import Notes, make_local, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.core.trees import NO_EXTRAS, Extras
from truing.engine.score import Scorer, score_packed, score_plain
from truing.methods.preference._family import PairLogps
from truing.methods.preference._memory import RecentMargins, least
from truing.methods.preference._pairs import gather
from truing.methods.preference.dpo import DPO, dpo_loss
from truing.methods.preference.mpo import MPO
from truing.methods.preference.selfie import Selfie, selfie_loss
from truing.models.local import Local
from truing.models.tabular import Tabular

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
PAIRS = tuple(Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in WORDS) * 2
GIVEN = Evidence(pairs=PAIRS)
QUICK = Selfie(
    learning_rate=3e-3, max_steps=6, per_device_train_batch_size=3, logging_steps=1, warmup_ratio=0, save_steps=1,
    alpha=0.9, doubted_share=0.5, window=2, trusting_share=0.2,
)  # fmt: skip
DPOS = ("learning_rate", "max_steps", "per_device_train_batch_size", "logging_steps", "warmup_ratio", "beta")


def margins(*values: float) -> PairLogps:
    return ratios(double(*values), torch.zeros(len(values), dtype=torch.float64))


class TestKernel:
    def test_slopes_of_trusted_and_of_doubted_pairs(self) -> None:
        pairs, doubted = some_pairs(), double(0, 1, 1, 0, 0)
        pull = -0.3 * (torch.sigmoid(-0.3 * pairs.margin) - 0.2 * doubted)
        has_slopes(lambda p: selfie_loss(p, doubted, beta=0.3, alpha=0.2), pull, -pull, pairs)

    def test_where_all_are_doubted_it_is_conservative_dpo(self) -> None:
        one = torch.ones(5, dtype=torch.float64)
        is_same(
            lambda p: selfie_loss(p, one, beta=0.3, alpha=0.2),
            lambda p: dpo_loss(p, beta=0.3, label_smoothing=0.2),
            some_pairs(),
        )

    @pytest.mark.parametrize(("alpha", "doubt"), [(0.0, 1.0), (0.7, 0.0)])
    def test_without_doubt_it_is_dpo(self, alpha: float, doubt: float) -> None:
        doubted = torch.full((5,), doubt, dtype=torch.float64)
        is_same(
            lambda p: selfie_loss(p, doubted, beta=0.3, alpha=alpha),
            lambda p: dpo_loss(p, beta=0.3, label_smoothing=0),
            some_pairs(),
        )

    def test_certainty_gives_no_gradient(self) -> None:
        pairs = some_pairs()
        method = Selfie(alpha=0.5, doubted_share=0.4, beta=0.3)
        doubted = method.of_step(pairs)
        assert not doubted.requires_grad
        assert doubted.sum() == 2
        pull = -0.3 * (torch.sigmoid(-0.3 * pairs.margin) - 0.5 * doubted)
        has_slopes(method.loss, pull, -pull, pairs)


class TestMemory:
    def test_the_least_are_below_the_quantile_of_all(self) -> None:
        """The tenth percentile of 0 to 10 is 1."""
        among = torch.arange(11, dtype=torch.float64)
        assert torch.equal(least(double(0.5, 0.99, 1.0, 3.0), among, 0.1), double(1, 1, 0, 0))
        assert not least(among, among, 0.0).any()

    def test_the_quantile_is_over_the_last_steps_and_no_others(self) -> None:
        memory = RecentMargins(0.5, window=2, trusting=0)
        nobody = torch.nn.Module()
        seen = []
        for number, step in enumerate([(5.0, 6.0), (1.0, 2.0), (2.5, 9.0)], 1):
            seen.append(memory.of_step(margins(*step)))
            memory.of_step(margins(-99.0, 99.0))  # an evaluation between changes nothing
            memory.of_step(margins(*step))
            memory.follow(nobody, number)
        # Medians of 5 6, 5.5; of 5 6 1 2, 3.5; and of 1 2 2.5 9, 2.25: the first step's 5 and 6 would make it 3.75.
        assert torch.equal(torch.stack(seen), torch.stack([double(1, 0), double(1, 1), double(0, 0)]))

    def test_a_window_that_is_not_full_forgets_nothing(self) -> None:
        memory = RecentMargins(0.5, window=6, trusting=0)
        for number in (1, 2, 3, 4):
            memory.of_step(margins(10.0 * number, 10.0 * number))
            memory.follow(torch.nn.Module(), number)
        # The median of 10 10 20 20 24 26 30 30 40 40 is 25.
        assert torch.equal(memory.of_step(margins(24.0, 26.0)), double(1, 0))

    def test_a_window_of_one_is_the_step_itself(self) -> None:
        memory = RecentMargins(0.5, window=1, trusting=0)
        for number in (1, 2):
            memory.of_step(margins(-50.0, -60.0))
            memory.follow(torch.nn.Module(), number)
        assert torch.equal(memory.of_step(margins(1.0, 2.0)), double(1, 0))

    def test_at_first_all_are_trusted(self) -> None:
        memory = RecentMargins(0.5, window=9, trusting=2)
        doubted = []
        for number in (1, 2, 3):
            doubted.append(memory.of_step(margins(1.0, 2.0)).any().item())
            memory.follow(torch.nn.Module(), number)
        assert doubted == [False, False, True]

    def test_it_is_restored_to_the_bit(self) -> None:
        memory, other = RecentMargins(0.5, 3, 0), RecentMargins(0.5, 3, 0)
        other.restore(memory.state())
        assert other.kept == []
        for number in (1, 2, 3, 4):
            memory.of_step(margins(number, -number, 0.1))
            memory.follow(torch.nn.Module(), number)
        other.restore(memory.state())
        assert other.steps == 4
        assert all(torch.equal(a, b) for a, b in zip(other.kept, memory.kept, strict=True))


class TestCertainty:
    """Of a table with one prompt whose base knows four replies."""

    BASE, MOVED = double(0.4, 0.3, 0.2, 0.1).log(), double(1.0, -0.5, 0.3, 0.0)

    def certainty(self, extrapolation: float) -> torch.Tensor:
        base = Tabular((user("q"),), tuple("abcd"), self.BASE[None])
        bench = base.open()
        with torch.no_grad():
            next(bench.module.parameters()).add_(self.MOVED)
        bench.extras = Extras(extrapolation=extrapolation)
        trees = [base.encode(user("q"), pair) for pair in ("ab", "cd", "ba")]
        reference = torch.cat([self.BASE[[0, 1]], self.BASE[[2, 3]], self.BASE[[1, 0]]])
        return gather(bench.score(trees), reference).certainty

    @pytest.mark.parametrize("further", [0.0, 0.5, 3.0])
    def test_of_single_tokens_it_is_so_much_wider(self, further: float) -> None:
        """One softmax has both tokens, so what it is divided by falls out: 1.5, 0.3 and -1.5 nats, each stretched."""
        torch.testing.assert_close(self.certainty(further), (1 + further) * double(1.5, 0.3, -1.5))

    @pytest.mark.parametrize("architecture", ["llama", "gemma2"])
    def test_of_a_transformer_it_is_told_from_both_models_logits(self, architecture: str) -> None:
        """By the whole distributions of two models, in both layouts, a token at a time."""
        base, moved = (make_local(architecture, seed=seed) for seed in (0, 1))
        trees = [base.encode(pair.prompt, [pair.chosen, pair.rejected]) for pair in PAIRS[:3]]
        wanted = []
        with torch.no_grad():
            for tree in trees:
                for reply in tree.replies:
                    ids, start = torch.tensor([[*tree.prompt, *reply]]), len(tree.prompt)
                    own, other = (each.model(input_ids=ids).logits[0, start - 1 : -1] for each in (moved, base))
                    wanted.append((1.5 * own - 0.5 * other).log_softmax(-1)[range(len(reply)), reply])
            asked = Extras(extrapolation=0.5)
            for score in (score_packed, score_plain):
                found = score(moved.model, trees, asked, base.model)
                torch.testing.assert_close(found.extrapolated, torch.cat(wanted), rtol=0, atol=1e-5)
                assert found.divergences is None

    def test_it_decides_whom_training_doubts(self, tiny_policy: Local) -> None:
        """In one pass or in several, the same weights; and others than without."""
        whole, cut = (
            replace(QUICK, extrapolation=4.0, tokens_per_batch=tokens)(tiny_policy, GIVEN, Run())
            for tokens in (2048, 20)
        )
        near = [(whole.weights()[name] - tensor).abs().max() for name, tensor in cut.weights().items()]
        assert max(near) < 1e-5
        assert not same_weights(whole, QUICK(tiny_policy, GIVEN, Run()))


def test_the_base_is_read_where_a_step_is_surveyed_and_nowhere_else(
    tiny_policy: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of several passes is scored twice; the pass that is trained on needs no other model."""
    inner, seen = Scorer.__call__, set[tuple[bool, bool]]()

    def spy(self: Scorer, trees: Any, extras: Extras = NO_EXTRAS, *more: Any) -> Any:
        seen.add((torch.is_grad_enabled(), extras.compares))
        return inner(self, trees, extras, *more)

    monkeypatch.setattr(Scorer, "__call__", spy)
    replace(QUICK, extrapolation=0.5, tokens_per_batch=20)(tiny_policy, GIVEN, Run())
    assert {(True, False), (False, True)} <= seen
    assert (True, True) not in seen


@pytest.mark.parametrize("trusting", [{"alpha": 0.0}, {"trusting_share": 1.0}, {"doubted_share": 0.0}])
def test_training_without_doubt_is_dpos(tiny_policy: Local, trusting: dict[str, float]) -> None:
    plain = DPO(**{name: getattr(QUICK, name) for name in DPOS})(tiny_policy, GIVEN, Run())
    assert same_weights(replace(QUICK, **trusting)(tiny_policy, GIVEN, Run()), plain)
    assert not same_weights(QUICK(tiny_policy, GIVEN, Run()), plain)


def test_the_cut_into_forward_passes_changes_nothing(tiny_policy: Local) -> None:
    logs = []
    for tokens in (20, 2048):
        notes = Notes()
        replace(QUICK, tokens_per_batch=tokens, eval_fraction=0.25, eval_steps=1)(tiny_policy, GIVEN, Run(log=notes))
        logs.append(notes)
    for name in ("loss", "grad_norm", "eval_loss", "rewards/margins"):
        assert logs[0].series(name) == pytest.approx(logs[1].series(name), rel=1e-3, abs=1e-5), name


def test_an_evaluation_does_not_change_what_is_learnt(tiny_policy: Local) -> None:
    watched = replace(QUICK, eval_fraction=0.25, eval_steps=1)
    blind = replace(watched, eval_steps=0)
    assert same_weights(watched(tiny_policy, GIVEN, Run()), blind(tiny_policy, GIVEN, Run()))


def test_a_run_that_was_stopped_goes_on_with_its_margins(tiny_policy: Local, tmp_path: Path) -> None:
    whole = QUICK(tiny_policy, GIVEN, Run())
    with pytest.raises(KeyboardInterrupt):
        QUICK(tiny_policy, GIVEN, Run(work=tmp_path, log=Notes(stop_at=3)))
    resumed = QUICK(tiny_policy, GIVEN, Run(work=tmp_path, resume=True))
    assert same_weights(whole, resumed)


def test_a_sum_of_losses_refuses_a_memory() -> None:
    with pytest.raises(InputError, match="memory of its own"):
        MPO(loss_type=("dpo", "selfie"), loss_weights=(1.0, 1.0))
