"""The table is the oracle of other tests, so its own are closed forms, frequencies and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from truing.core.errors import InputError
from truing.core.policy import Draw, Sampling, user
from truing.core.rng import Rng
from truing.core.trees import Tree
from truing.models.tabular import Tabular

CHATS = (user("one"), user("two"), ())
REPLIES = ("a", "b stop c", "d", "")
TABLE = torch.tensor([[0.5, 0.25, 0.2, 0.05], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)


@pytest.fixture
def table() -> Tabular:
    return Tabular(CHATS, REPLIES, TABLE.log() + torch.tensor([[3.0], [-700.0], [1.0]]))


def test_log_probabilities_are_normalised_whatever_the_scale_of_a_row(table: Tabular) -> None:
    for chat, row in zip(CHATS, TABLE, strict=True):
        replies, logprobs = table.distribution(chat)
        assert replies == REPLIES
        torch.testing.assert_close(logprobs.exp(), row, rtol=1e-12, atol=1e-12)
    got = table.logprob([CHATS[1], CHATS[0], CHATS[1]], ["d", Draw("ignored", (1,)), Draw("a")])
    torch.testing.assert_close(got.exp(), torch.tensor([0.3, 0.25, 0.1], dtype=torch.float64), rtol=1e-12, atol=0)


def test_samples_follow_the_distribution(table: Tabular) -> None:
    draws = table.sample([CHATS[0]], n=4000, sampling=Sampling(), rng=Rng(1))[0]
    counts = np.bincount([draw.token_ids[0] for draw in draws], minlength=4)
    expected = 4000 * TABLE[0].numpy()
    assert ((counts - expected) ** 2 / expected).sum() < 16.27  # chi-squared, 3 degrees of freedom, p = 0.001
    assert all(draw.logprobs == (float(table.distribution(CHATS[0])[1][draw.token_ids[0]]),) for draw in draws)


def test_a_draw_depends_on_stream_chat_and_number_alone(table: Tabular) -> None:
    whole = table.sample(CHATS[:2], n=30, sampling=Sampling(), rng=Rng(3))
    assert table.sample(CHATS[1::-1], n=30, sampling=Sampling(), rng=Rng(3)) == whole[::-1]
    assert table.sample([CHATS[1]], n=7, sampling=Sampling(), rng=Rng(3)) == [whole[1][:7]]
    assert table.sample(CHATS[:2], n=30, sampling=Sampling(), rng=Rng(4)) != whole
    alike = Tabular(CHATS, REPLIES, TABLE[:1].expand(3, 4).log())
    first, second, _ = alike.sample(CHATS, n=30, sampling=Sampling(), rng=Rng(3))
    assert first != second  # each chat has a stream of its own


@pytest.mark.parametrize(
    ("sampling", "support"),
    [
        (Sampling(temperature=0), {0}),
        (Sampling(top_k=2), {0, 1}),
        (Sampling(top_p=0.49), {0}),
        (Sampling(top_p=0.51), {0, 1}),
        (Sampling(min_p=0.3), {0, 1, 2}),
        (Sampling(top_p=1e-9), {0}),
    ],
)
def test_filters_leave_their_support(table: Tabular, sampling: Sampling, support: set[int]) -> None:
    draws = table.sample([CHATS[0]], n=400, sampling=sampling, rng=Rng(0))[0]
    assert {draw.token_ids[0] for draw in draws} == support


def test_temperature_is_the_power_of_the_distribution(table: Tabular) -> None:
    draws = table.sample([CHATS[0]], n=4000, sampling=Sampling(temperature=0.5), rng=Rng(5))[0]
    expected = TABLE[0].numpy() ** 2 / (TABLE[0].numpy() ** 2).sum() * 4000
    counts = np.bincount([draw.token_ids[0] for draw in draws], minlength=4)
    assert ((counts - expected) ** 2 / expected).sum() < 16.27


def test_a_stop_text_is_cut_off_and_an_impossible_reply_never_comes(table: Tabular) -> None:
    draws = table.sample([CHATS[0]], n=200, sampling=Sampling(stop=("stop",)), rng=Rng(0))[0]
    assert {draw.text for draw in draws if draw.token_ids == (1,)} == {"b "}
    assert {d.token_ids for d in table.sample([()], n=50, sampling=Sampling(), rng=Rng(0))[0]} == {(2,)}


def test_the_largest_uniform_number_gives_a_possible_reply(table: Tabular, monkeypatch: pytest.MonkeyPatch) -> None:
    class Top:
        def random(self) -> float:
            return 1.0 - 2.0**-53

    monkeypatch.setattr(Rng, "numpy", lambda self: Top())
    draws = table.sample([CHATS[0], ()], n=1, sampling=Sampling(), rng=Rng(0))
    assert [group[0].token_ids for group in draws] == [(3,), (2,)]


def test_the_gradient_of_a_score_is_indicator_minus_probability(table: Tabular) -> None:
    bench = table.open()
    trees = [table.encode(CHATS[1], ["b stop c", "d"]), table.encode(CHATS[0], ["a"])]
    assert trees[0] == Tree((1,), ((1,), (2,)))
    scores = bench.score(trees)
    assert scores.counts.tolist() == [1, 1, 1]
    torch.testing.assert_close(scores.sums, table.logprob([CHATS[1], CHATS[1], CHATS[0]], ["b stop c", "d", "a"]))
    scores.sums[1].backward()
    (logits,) = bench.module.parameters()
    expected = torch.zeros_like(TABLE)
    expected[1] = torch.tensor([0.0, 0.0, 1.0, 0.0]) - TABLE[1]
    torch.testing.assert_close(logits.grad, expected)


def test_a_workbench_is_private_until_it_is_closed(table: Tabular) -> None:
    before = table.fingerprint
    bench = table.open()
    with torch.no_grad():
        next(bench.module.parameters()).add_(torch.arange(4.0))
    assert table.fingerprint == before
    after = bench.close()
    assert isinstance(after, Tabular)
    assert after.fingerprint != before
    torch.testing.assert_close(after.weights()["logits"], table.logits + torch.arange(4.0))
    assert table.with_weights(dict(table.weights())).fingerprint == before


def test_the_caller_keeps_his_tensor() -> None:
    mine = torch.zeros(1, 2, dtype=torch.float64)
    policy = Tabular((user("x"),), ("a", "b"), mine)
    mine[0, 0] = 9.0
    assert policy.logprob([user("x")], ["a"]).exp().item() == pytest.approx(0.5)


def test_a_saved_table_reloads_to_the_same_samples(table: Tabular, tmp_path: Path) -> None:
    table.save(tmp_path)
    again = Tabular.load(tmp_path)
    assert again.fingerprint == table.fingerprint
    chats = list(CHATS)
    first, second = (p.sample(chats, n=5, sampling=Sampling(), rng=Rng(2)) for p in (table, again))
    assert first == second


def test_what_it_does_not_know_is_refused_with_a_mend(table: Tabular, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'one'"):
        table.distribution(user("onee"))
    with pytest.raises(InputError, match="no reply 'z'"):
        table.logprob([CHATS[0]], ["z"])
    with pytest.raises(InputError, match="0 to 3"):
        table.logprob([CHATS[0]], [Draw("a", (4,))])
    with pytest.raises(InputError, match="encode"):
        table.open().score([Tree((0,), ((0, 1),))])
    with pytest.raises(InputError, match="alone"):
        table.with_weights({"bias": TABLE})
    with pytest.raises(InputError, match="no tabular"):
        Tabular.load(tmp_path)


@pytest.mark.parametrize(
    ("prompts", "replies", "logits", "fact"),
    [
        ((user("x"), user("x")), ("a", "b"), torch.zeros(2, 2), "twice"),
        ((user("x"),), ("a", "a"), torch.zeros(1, 2), "twice"),
        ((user("x"),), (), torch.zeros(1, 0), "none"),
        ((user("x"),), ("a", "b"), torch.zeros(2, 1), "shape"),
        ((user("x"),), ("a", "b"), torch.tensor([[0.0, torch.nan]]), "NaN"),
        ((user("x"),), ("a", "b"), torch.tensor([[0.0, torch.inf]]), "inf"),
        ((user("x"),), ("a", "b"), torch.full((1, 2), -torch.inf), "throughout"),
    ],
)
def test_a_faulty_table_is_refused(prompts: tuple, replies: tuple, logits: torch.Tensor, fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        Tabular(prompts, replies, logits)
