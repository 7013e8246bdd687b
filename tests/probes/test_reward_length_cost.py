from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pools import Best, pool

from truing.core.errors import InputError
from truing.core.evidence import Judge
from truing.core.policy import Draw
from truing.core.rng import Rng
from truing.probes.cost import Spent, cost
from truing.probes.length import length
from truing.probes.reward import reward

RNG = Rng(1)


class Even(Judge):
    name = "even"

    def score(self, chats: object, replies: list[str]) -> list[float]:
        raise NotImplementedError

    def satisfied(self, chats: object, replies: list[str]) -> list[bool]:
        return [int(reply.split()[1]) % 2 == 0 for reply in replies]


def test_the_reward_of_best_of_n_is_the_mean_of_every_maximum() -> None:
    base = pool([[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]])
    assert reward(base, rng=RNG)[0].value == pytest.approx((7 / 3 + 1) / 2)
    found = reward(replace(base, choose=Best(2)), rng=RNG)[0]
    assert found.value == pytest.approx(((2 + 4 + 4) / 3 + (0 + 3 + 3) / 3) / 2)
    assert (found.n, found.better, found.probe) == (2, "up", "reward")
    assert found.low <= found.value <= found.high


def test_satisfied_is_weighed_as_the_arm_weighs() -> None:
    base = pool([[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]])
    share = reward(base, Even(), rng=RNG)[1]
    assert (share.probe, share.unit) == ("satisfied", "probability")
    assert share.value == pytest.approx(2 / 3)
    best = reward(replace(base, choose=Best(2)), Even(), rng=RNG)[1]
    assert best.value == pytest.approx((2 / 3 + (1 / 6 + 2 / 3)) / 2)
    assert [m.probe for m in reward(base, None, rng=RNG)] == ["reward"]


def test_nan_ragged_and_empty_are_refused() -> None:
    with pytest.raises(InputError, match="prompt 0, draw 1"):
        reward(pool([[1.0, np.nan]]), rng=RNG)
    good = pool([[1.0, 2.0], [1.0, 2.0]])
    with pytest.raises(InputError, match="same number of draws"):
        reward(replace(good, draws=[good.draws[0], good.draws[1][:1]]), rng=RNG)
    with pytest.raises(InputError, match="shape"):
        reward(replace(good, scores=np.zeros((2, 3))), rng=RNG)
    with pytest.raises(InputError):
        reward(pool(np.zeros((0, 2))), rng=RNG)


def test_length_counts_tokens_and_cuts() -> None:
    base = pool([[1.0, 2.0, 4.0]])
    draws = [[Draw("a", (1, 2)), Draw("b", (1,) * 5, finish="length"), Draw("c", (1,) * 8)]]
    size, cut = length(replace(base, draws=draws), rng=RNG)
    assert (size.probe, size.value, size.unit) == ("length", 5.0, "tokens")
    assert (cut.probe, cut.value, cut.unit) == ("length.cut", pytest.approx(1 / 3), "probability")
    size, cut = length(replace(base, draws=draws, choose=Best(2)), rng=RNG)
    assert size.value == pytest.approx((5 + 8 + 8) / 3)
    assert cut.value == pytest.approx(1 / 3)


def test_length_without_tokens_says_that_it_counts_characters() -> None:
    size, _ = length(replace(pool([[1.0, 2.0]]), draws=[[Draw("four"), Draw("")]]), rng=RNG)
    assert (size.value, size.unit) == (2.0, "characters")
    assert size.note


def test_no_cut_in_a_few_prompts_leaves_room_above_zero() -> None:
    _, cut = length(pool([[1.0, 2.0]] * 4), rng=RNG)
    assert (cut.value, cut.low) == (0, 0)
    assert (1 - cut.high) ** 4 == pytest.approx(0.025)


def test_cost_is_what_was_counted_and_no_more() -> None:
    rows = cost(Spent(seconds=2.5, memory_bytes=10, trained_parameters=0, tokens_per_reply=64.0))
    assert [(m.probe, m.value, m.unit) for m in rows] == [
        ("cost.seconds", 2.5, "s"),
        ("cost.tokens", 64.0, "tokens"),
        ("cost.memory", 10.0, "bytes"),
        ("cost.trained", 0.0, "parameters"),
    ]
    assert {(m.kind, m.low, m.high, m.better) for m in rows} == {("exact", None, None, "down")}
    assert [m.probe for m in cost(Spent(seconds=1.0))] == ["cost.seconds"]
    sized = cost(Spent(parameters=5.0, multiplications=7.0))
    assert [(m.probe, m.value) for m in sized] == [("cost.parameters", 5.0), ("cost.multiplications", 7.0)]
