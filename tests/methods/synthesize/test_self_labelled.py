"""synthesize/self_labelled."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from tiny import make_local

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.rerank.best_of_n import BestOfN
from truing.methods.synthesize.self_labelled import SelfLabelled, implicit_rewards
from truing.models.tabular import Tabular

CHATS = tuple(user(text) for text in "abcdefgh")
REPLIES = ("one", "two", "three", "four")
SOURCE = torch.Generator().manual_seed(3)
BASE = torch.randn(8, 4, generator=SOURCE, dtype=torch.float64)
TRUE = torch.randn(8, 4, generator=SOURCE, dtype=torch.float64)
BETA = 0.4
INITIAL = Tabular(CHATS, REPLIES, BASE)
SOLVED = Tabular(CHATS, REPLIES, BASE.log_softmax(1) + TRUE / BETA)
"""What DPO ends at on every pair of every prompt: the tilt of the initial model by the true reward."""


def wins(reward: torch.Tensor) -> torch.Tensor:
    return torch.stack([reward[:, i] - reward[:, j] for i, j in combinations(range(4), 2)], 1)


def test_rewards_of_a_solved_policy_are_the_true_ones_up_to_the_prompt() -> None:
    policy, initial = (table.logits.log_softmax(1) for table in (SOLVED, INITIAL))
    found = implicit_rewards(policy, initial, beta=BETA)
    torch.testing.assert_close(wins(found), wins(TRUE))


@pytest.mark.parametrize("draws", [2, 6])
def test_all_labels_of_a_solved_policy_are_the_true_ones(draws: int) -> None:
    """Every pair that is made is in Bradley-Terry's order, and its margin is the true one."""
    method = SelfLabelled(draws=draws, beta=BETA, temperature=5.0)
    made = method(SOLVED, Evidence(prompts=CHATS, donors={"initial": INITIAL}), Run()).pairs
    assert len(made) >= 4
    for pair in made:
        row = CHATS.index(pair.prompt)
        chosen, rejected = (REPLIES.index(reply.text) for reply in (pair.chosen, pair.rejected))  # type: ignore[union-attr] # draws
        assert pair.margin == pytest.approx((TRUE[row, chosen] - TRUE[row, rejected]).item())
        assert pair.margin > 0


def test_of_many_draws_best_and_worst_are_taken() -> None:
    method = SelfLabelled(draws=60, beta=BETA, temperature=5.0)
    made = method(SOLVED, Evidence(prompts=CHATS, donors={"initial": INITIAL}), Run()).pairs
    assert len(made) == 8
    margins = [pair.margin for pair in made]
    assert margins == pytest.approx((TRUE.amax(1) - TRUE.amin(1)).tolist())


def test_the_initial_model_is_the_donor_that_is_named() -> None:
    other = Tabular(CHATS, REPLIES, torch.zeros(8, 4, dtype=torch.float64))
    given = Evidence(prompts=CHATS, donors={"other": other, "initial": INITIAL})
    by_name = SelfLabelled(draws=6, reference="initial")(SOLVED, given, Run())
    first = SelfLabelled(draws=6)(SOLVED, given, Run())
    assert by_name != first
    assert first == SelfLabelled(draws=6, reference="other")(SOLVED, given, Run())
    with pytest.raises(InputError, match=r"no donor 'initail'.*Did you mean 'initial'"):
        SelfLabelled(reference="initail")(SOLVED, given, Run())


def test_rounds_can_have_prompts_of_their_own() -> None:
    given = Evidence(prompts=CHATS, donors={"initial": INITIAL})
    made = SelfLabelled(draws=20, skip_prompts=2, max_prompts=3, temperature=5.0)(SOLVED, given, Run()).pairs
    assert [pair.prompt for pair in made] == list(CHATS[2:5])
    with pytest.raises(InputError, match="no prompts after leaving out 8 of 8"):
        SelfLabelled(skip_prompts=8)(SOLVED, given, Run())


def test_what_was_drawn_is_what_is_paired() -> None:
    """On a language model: tokens, not text, and the labels' margins from both models' own sums."""
    policy, initial = make_local(seed=1), make_local(seed=0)
    method = SelfLabelled(draws=4, max_new_tokens=8, temperature=1.0, beta=0.5)
    made = method(policy, Evidence(prompts=CHATS[:3], donors={"initial": initial}), Run()).pairs
    assert made
    for pair in made:
        replies = [pair.chosen, pair.rejected]
        assert all(reply.token_ids for reply in replies)  # type: ignore[union-attr] # draws
        h = policy.logprob([pair.prompt] * 2, replies) - initial.logprob([pair.prompt] * 2, replies)
        assert pair.margin == pytest.approx(0.5 * (h[0] - h[1]).item(), abs=1e-4)


def test_a_model_that_has_not_moved_labels_nothing() -> None:
    with pytest.raises(InputError, match="initial model itself"):
        SelfLabelled()(INITIAL, Evidence(prompts=CHATS, donors={"initial": INITIAL}), Run())


def test_a_donor_that_cannot_score_is_refused() -> None:
    from truing.judges.function import FunctionJudge

    judge = FunctionJudge(lambda chats, replies: [0.0] * len(replies))
    wrapped = BestOfN(n=2)(INITIAL, Evidence(judge=judge), Run())
    with pytest.raises(InputError, match="log-probabilities"):
        SelfLabelled()(SOLVED, Evidence(prompts=CHATS, donors={"initial": wrapped}), Run())
