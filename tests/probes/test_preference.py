from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pools import Table

from truing.core.errors import InputError
from truing.core.evidence import Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.models.tabular import Tabular
from truing.probes.catalogue import PROBES
from truing.probes.preference import preference

BASE = {"good": [-1.0, -1.0], "long good": [-1.0] * 5, "bad": [-3.0], "worse": [-0.5, -3.0]}
PAIRS = [
    Pair(user("one"), "good", "bad"),
    Pair(user("one"), "long good", "bad"),
    Pair(user("two"), "worse", "bad"),
    Pair(user("three"), "good", "good twin"),
]


def moved(label: str, **by: float) -> Table:
    """The base with the first token of some replies more likely by so many nats."""
    rows = {**BASE, "good twin": BASE["good"]}
    return Table(
        {text: [logs[0] + by.get(text.replace(" ", "_"), 0.0), *logs[1:]] for text, logs in rows.items()}, name=label
    )


def told(policy: Table, base: Table | None = None) -> dict[str, float]:
    return {m.probe: m.value for m in preference(policy, PAIRS, base=base, run=Run())}


def test_the_base_itself_is_asked_what_is_likelier_alone_and_ties_are_half_right() -> None:
    # sums: -2 > -3, -5 < -3, -3.5 < -3, a tie; a token: -1 > -3, -1 > -3, -1.75 > -3, a tie
    base = moved("base")
    assert told(base, base) == told(base) == {"preference.likelihood": 1.5 / 4, "preference.per_token": 3.5 / 4}


def test_an_arm_is_also_asked_what_gained_and_by_how_much() -> None:
    found = told(moved("arm", good=-0.25, bad=-1.0, worse=-2.0), moved("base"))
    # gains of chosen less rejected: -0.25 + 1, 0 + 1, -2 + 1, -0.25
    assert found["preference"] == 2 / 4
    assert found["preference.chosen"] == pytest.approx((-0.25 + 0 - 2 - 0.25) / 4)
    assert found["preference.rejected"] == pytest.approx((-1 - 1 - 1 + 0) / 4)
    assert tuple(found) == PROBES["preference"].gives


def test_a_policy_that_moved_as_the_preferences_say_is_right_throughout() -> None:
    prompts, replies = [user(f"{i}") for i in range(40)], ("a", "b", "c")
    base = Tabular(prompts, replies, torch.randn(40, 3, generator=torch.Generator().manual_seed(0)))
    tilted = base.with_weights({"logits": base.logits + torch.tensor([1.0, 0.0, -1.0])})
    pairs = [Pair(prompt, *two) for prompt in prompts for two in (("a", "b"), ("b", "c"), ("a", "c"))]
    by = {m.probe: m for m in preference(tilted, pairs, base=base, run=Run())}
    assert by["preference"].value == 1.0
    assert by["preference"].n == 120
    reverse = [Pair(pair.prompt, pair.rejected, pair.chosen) for pair in pairs]
    assert {m.probe: m.value for m in preference(tilted, reverse, base=base, run=Run())}["preference"] == 0.0


def test_pairs_of_one_prompt_are_resampled_together() -> None:
    base = Table({"a": [-1.0], "b": [-2.0]})
    alone = [Pair(user(str(i)), *(("a", "b") if i % 2 else ("b", "a"))) for i in range(40)]
    five = [Pair(user(str(i // 5)), *(("a", "b") if i // 5 % 2 else ("b", "a"))) for i in range(40)]
    wide, narrow = (preference(base, pairs, run=Run())[0] for pairs in (five, alone))
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)  # the root of five, but for rounding
    assert "40 held-out pairs of 8 prompts" in wide.note


def test_another_tokeniser_has_no_common_scale_with_the_base() -> None:
    split = Table({**BASE, "good twin": BASE["good"], "bad": [-1.0, -2.0]}, name="split")
    assert set(told(split, moved("base"))) == {"preference.likelihood", "preference.per_token"}


def test_an_impossible_reply_has_lost_everything_and_has_no_interval() -> None:
    rows = {**BASE, "good twin": BASE["good"], "bad": [-np.inf]}
    by = {m.probe: m for m in preference(Table(rows, name="never"), PAIRS, base=moved("base"), run=Run())}
    assert by["preference.rejected"].value == -np.inf
    assert by["preference.rejected"].low is None
    assert by["preference"].value == 3.5 / 4


def test_what_each_policy_gives_is_computed_once(tmp_path: Path) -> None:
    base, run = moved("base"), Run(cache=tmp_path)
    first = preference(moved("arm", good=1.0), PAIRS, base=base, run=run)
    assert preference(moved("arm", good=1.0), PAIRS, base=base, run=run) == first
    assert base.calls == 1


def test_a_reply_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="reply 1 has no tokens"):
        preference(Table({**BASE, "bad": []}), PAIRS[:1], run=Run())
