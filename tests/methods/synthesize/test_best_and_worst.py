"""Pairs from judged draws: who is paired with whom, what is kept of a draw, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Notes

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Judge
from truing.core.policy import Chat, Draw, Policy, Sampling, user
from truing.core.rng import Rng
from truing.core.run import Run
from truing.judges.function import FunctionJudge
from truing.methods.synthesize.best_and_worst import BestAndWorst
from truing.models.local import Local
from truing.models.tabular import Tabular

CHAT, OTHER = user("which?"), user("and now?")


def pool(count: int) -> list[Draw]:
    """Draws that differ in text and in tokens."""
    return [Draw(f"reply {k}", (k, k + 1), (-1.0, -2.0)) for k in range(count)]


class Scripted(Policy):
    """Gives the same draws to everybody."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        self.draws = list(draws)
        self.sampling: Sampling | None = None

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        self.sampling = sampling
        return [self.draws[:n] for _ in chats]

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        return "scripted"


def by_number(chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
    return [float(reply.split()[-1]) for reply in replies]


def evidence(*prompts: Chat, judge: Judge | None = None) -> Evidence:
    return Evidence(prompts=prompts or (CHAT,), judge=judge or FunctionJudge(by_number))


class TestProposing:
    def test_best_with_worst_then_second_best_with_second_worst(self) -> None:
        draws = pool(5)
        pairs = BestAndWorst(pairs_per_prompt=2).propose(CHAT, draws, [0.5, 9.0, -3.0, 4.0, 1.0])
        assert [(pair.chosen, pair.rejected) for pair in pairs] == [(draws[1], draws[2]), (draws[3], draws[0])]
        assert [pair.margin for pair in pairs] == [12.0, 3.5]
        assert all(pair.prompt is CHAT for pair in pairs)

    @pytest.mark.parametrize(("wanted", "found"), [(1, 1), (2, 2), (3, 3), (9, 3)])
    def test_as_many_pairs_as_asked_and_no_draw_twice(self, wanted: int, found: int) -> None:
        """Seven draws hold three pairs; the one in the middle is left over."""
        draws = pool(7)
        pairs = BestAndWorst(pairs_per_prompt=wanted).propose(CHAT, draws, [float(k) for k in range(7)])
        assert len(pairs) == found
        used = [reply for pair in pairs for reply in (pair.chosen, pair.rejected)]
        assert len(set(used)) == len(used) == 2 * found
        assert draws[3] not in used

    @given(st.lists(st.integers(-3, 3), max_size=9), st.integers(1, 5))
    def test_whatever_the_scores(self, scores: list[int], count: int) -> None:
        """The k-th pair is the k-th highest against the k-th lowest, while they differ. Few levels: many ties."""
        draws = pool(len(scores))
        pairs = BestAndWorst(pairs_per_prompt=count).propose(CHAT, draws, [float(score) for score in scores])
        low = sorted(scores)
        wanted = [(high, least) for high, least in zip(low[::-1], low, strict=True) if high > least][:count]
        of = dict(zip(draws, scores, strict=True))
        assert [(of[pair.chosen], of[pair.rejected]) for pair in pairs] == wanted
        assert [pair.margin for pair in pairs] == [high - least for high, least in wanted]

    def test_equal_scores_are_never_paired(self) -> None:
        draws, method = pool(4), BestAndWorst(pairs_per_prompt=2)
        assert method.propose(CHAT, draws, [1.0] * 4) == []
        (pair,) = method.propose(CHAT, draws, [1.0, 1.0, 1.0, 0.0])
        assert (pair.chosen, pair.rejected) == (draws[0], draws[3])

    def test_of_equal_scores_the_order_of_drawing_decides(self) -> None:
        draws = [Draw("long " * 9, (1,)), Draw("s", (2,)), Draw("long " * 9, (3,)), Draw("s", (4,))]
        (pair,) = BestAndWorst(pairs_per_prompt=1).propose(CHAT, draws, [1.0, 1.0, 0.0, 0.0])
        assert (pair.chosen, pair.rejected) == (draws[0], draws[3])

    def test_a_reply_is_never_paired_with_itself(self) -> None:
        """A judge that is not sure of itself may score one reply twice, otherwise."""
        method = BestAndWorst(pairs_per_prompt=1)
        assert method.propose(CHAT, [Draw("a", (1, 2)), Draw("a", (1, 2))], [1.0, 0.0]) == []
        assert method.propose(CHAT, [Draw("a"), Draw("a")], [1.0, 0.0]) == []
        assert len(method.propose(CHAT, [Draw("a"), Draw("b")], [1.0, 0.0])) == 1
        assert len(method.propose(CHAT, [Draw("a", (1, 2)), Draw("a", (3,))], [1.0, 0.0])) == 1

    @pytest.mark.parametrize("count", [0, 1])
    def test_a_pool_without_two_draws_has_no_pair(self, count: int) -> None:
        assert BestAndWorst().propose(CHAT, pool(count), [1.0] * count) == []


class TestRunning:
    def test_on_a_table_it_is_the_draws_of_its_stream(self, notes: Notes) -> None:
        """Every pair is of its own prompt's draws, tokens and log-probabilities kept, margin as judged."""
        worth = {"a": 3.0, "b": 1.0, "c": -2.0}
        chances = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], dtype=torch.float64)
        table = Tabular((CHAT, OTHER), tuple(worth), chances.log())
        judge = FunctionJudge(lambda chats, replies: [worth[reply] for reply in replies])
        method = BestAndWorst(draws=12, pairs_per_prompt=3)
        run = Run(seed=4, log=notes)
        made = method(table, evidence(CHAT, OTHER, judge=judge), run)
        pools = table.sample([CHAT, OTHER], n=12, sampling=Sampling(), rng=run.rng("synthesize"))
        assert [pair.prompt for pair in made.pairs] == [CHAT] * 3 + [OTHER] * 3
        for pair in made.pairs:
            own = pools[[CHAT, OTHER].index(pair.prompt)]
            assert pair.chosen in own
            assert pair.rejected in own
            assert isinstance(pair.chosen, Draw)
            assert isinstance(pair.rejected, Draw)
            assert pair.chosen.token_ids == (list(worth).index(pair.chosen.text),)
            assert pair.margin == worth[pair.chosen.text] - worth[pair.rejected.text] > 0
        assert made == Evidence(pairs=made.pairs)  # it writes nothing else
        assert "6 pairs from 24 draws to 2 prompts" in notes.said[-1]

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        replies = tuple(f"{k}" for k in range(50))
        table, method = Tabular((CHAT,), replies, torch.zeros(1, 50)), BestAndWorst(draws=6)
        made = [method(table, evidence(), Run(seed=seed)) for seed in (0, 0, 1)]
        assert made[0] == made[1] != made[2]
        kept = [method(table, evidence(), Run(seed=0, cache=tmp_path)) for _ in range(2)]
        assert kept == [made[0], made[0]]

    def test_tokens_of_a_small_model_are_what_is_trained_on(self, tiny_policy: Local) -> None:
        """Not the tokenisation of their text, which is another one where letters were drawn one by one."""
        judge = FunctionJudge(lambda chats, replies: [float(len(reply)) for reply in replies])
        method = BestAndWorst(draws=6, max_new_tokens=5)
        made = method(tiny_policy, evidence(CHAT, OTHER, judge=judge), Run())
        for pair in made.pairs:
            assert isinstance(pair.chosen, Draw)
            assert isinstance(pair.rejected, Draw)
            assert max(len(pair.chosen.token_ids), len(pair.rejected.token_ids)) <= 5
            tree = tiny_policy.encode(pair.prompt, (pair.chosen, pair.rejected))
            assert tree.replies == (pair.chosen.token_ids, pair.rejected.token_ids)

    def test_it_draws_as_it_was_told(self) -> None:
        base = Scripted(pool(4))
        BestAndWorst(draws=4, max_new_tokens=7, temperature=0.3)(base, evidence(), Run())
        assert base.sampling == Sampling(max_new_tokens=7, temperature=0.3)

    def test_a_prompt_without_a_difference_is_left_out(self) -> None:
        judge = FunctionJudge(
            lambda chats, replies: [float(c == OTHER) * int(r[-1]) for c, r in zip(chats, replies, strict=True)]
        )
        made = BestAndWorst(draws=4)(Scripted(pool(4)), evidence(CHAT, OTHER, judge=judge), Run())
        assert [pair.prompt for pair in made.pairs] == [OTHER, OTHER]

    def test_no_prompt_with_a_difference_is_refused(self) -> None:
        judge = FunctionJudge(lambda chats, replies: [0.0] * len(replies))
        with pytest.raises(InputError, match="no prompt has both better and worse draws"):
            BestAndWorst(draws=4)(Scripted(pool(4)), evidence(CHAT, OTHER, judge=judge), Run())

    def test_no_draws_give_no_evidence_even_without_a_judge(self) -> None:
        assert BestAndWorst(draws=0)(Scripted(pool(4)), Evidence(prompts=(CHAT,)), Run()) == Evidence()

    def test_a_judge_is_needed(self) -> None:
        with pytest.raises(InputError, match="needs a judge"):
            BestAndWorst()(Scripted(pool(4)), Evidence(prompts=(CHAT,)), Run())

    @pytest.mark.parametrize("wrong", [{"draws": -1}, {"pairs_per_prompt": 0}, {"temperature": 0.0}])
    def test_settings_out_of_range(self, wrong: dict[str, float]) -> None:
        with pytest.raises(InputError, match=next(iter(wrong))):
            BestAndWorst(**wrong)
