"""What the page says of training, in words: the findings of the log, and the length that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from report_helpers import MakeRun, Reader, page_of, win

from truing.engine.verdicts import LEAST
from truing.report import markdown, training
from truing.report.looks import of_trained
from truing.report.study import gather


def rows(count: int = 12, fall: float = 0.0) -> list[Mapping[str, float]]:
    """A log whose loss moves, and whose chosen replies fall by so many nats a row."""
    return [
        {"step": 5.0 * k, "loss": 0.7 - 0.02 * k, "rewards/margins": 0.1 * k, "displacement/chosen": -fall * k,
         "displacement/rejected": -2.0 * k}
        for k in range(1, count + 1)
    ]  # fmt: skip


def length(value: float) -> Mapping[str, Any]:
    return {"length": {"value": value, "low": value - 5, "high": value + 5, "n": 50, "unit": "tokens"}}


def test_the_page_and_the_markdown_say_what_went_wrong_and_where_nothing_did(make_run: MakeRun) -> None:
    folder = make_run(
        {
            "base": {},
            "<harsh>": {"_training": rows(fall=1.0), **win(0.6)},
            "gentle": {"_training": rows(), **win(0.6)},
            "brief": {"_training": rows(LEAST - 1, fall=9.0), **win(0.6)},
        }
    )
    page = page_of(folder)
    text, written = Reader(page).text, markdown.page(gather([folder]))
    assert "<harsh>Chosen replies have lost 11" in text
    assert "- **&lt;harsh&gt;**\n  - Chosen replies have lost 11" in written
    for said in (text, written.replace("**", "").replace("\\_", "_")):
        assert "both fall" in said
        assert "It began at step 5. Lower learning_rate" in said
        assert "nothing to warn of in gentle, as to" in said
        assert "Too little was logged of brief" in said
    assert "<harsh>" not in page
    assert '<ul class="remarks">' in page


def test_where_nothing_was_trained_nothing_is_said_of_it(make_run: MakeRun) -> None:
    folder = make_run({"base": {}, "prompt": win(0.6)})
    assert "## Training" not in markdown.page(gather([folder]))
    assert training.remarks(gather([folder])) == []
    assert training.untroubled(gather([folder])) == ""


@pytest.mark.parametrize(("tokens", "told"), [(160.0, True), (100.0, False), (40.0, False)])
def test_replies_that_have_become_much_longer(make_run: MakeRun, tokens: float, told: bool) -> None:
    folder = make_run({"base": length(80.0), "dpo": {"_training": rows(), **win(0.6), **length(tokens)}})
    said = [sentence for _, sentences in training.remarks(gather([folder])) for sentence in sentences]
    assert len(said) == told
    assert not told or "2.0 times as long as the base's (160 tokens against 80.0)" in said[0]


def test_a_reward_that_leans_on_length_is_no_news_where_replies_are_known_to_shrink(make_run: MakeRun) -> None:
    leaning = [{**row, "lengths/longer_rewarded": 0.9, "lengths/longer_chosen": 0.5} for row in rows()]
    told = []
    for measured in ({}, length(60.0)):
        folder = make_run({"base": length(80.0), "dpo": {"_training": leaning, **measured}}, folder=f"{len(told)}")
        told.append(training.remarks(gather([folder])))
    (((_, (sentence,)),), nothing) = told
    assert "it leans on length" in sentence
    assert nothing == []


def test_an_arm_that_was_not_trained_may_be_as_long_as_it_likes(make_run: MakeRun) -> None:
    folder = make_run({"base": length(80.0), "prompt": {**win(0.6), **length(300.0)}})
    assert training.remarks(gather([folder])) == []


def test_several_runs_are_each_held_against_their_own_base(make_run: MakeRun) -> None:
    first = make_run({"base": length(80.0), "dpo": {"_training": rows(), **length(100.0)}}, folder="a")
    second = make_run({"base": length(30.0), "dpo": {"_training": rows(), **length(100.0)}}, folder="b", name="other")
    told = training.remarks(gather([first, second]))
    assert [arm for arm, _ in told] == ["other · dpo"]
    assert told[0][1][0].startswith("Its replies have become 3.3 times")


@pytest.mark.parametrize("each", [1, 4, 9])
def test_every_trained_arm_has_a_look_however_many_there_are(make_run: MakeRun, each: int) -> None:
    """Grids train more arms than there are colours."""
    arms = {f"{curve}/beta={k}": {"_training": rows(), **win(0.6)} for curve in "abcd" for k in range(each)}
    looks = of_trained(gather([make_run({"base": {}, **arms})]))
    assert list(looks) == list(arms)
    assert len(set(looks.values())) == len(arms)


def test_panels_of_pairs_and_of_demonstrations(make_run: MakeRun) -> None:
    imitated = [{"step": float(k), "loss": 2.0 - 0.1 * k, "logps/chosen": -50.0 + k} for k in range(9)]
    shares = [{**row, "saturated": 0.1, "entanglement/cosine": 0.5} for row in rows()]
    folder = make_run(
        {"base": {}, "sft": {"_training": imitated, **win(0.6)}, "dpo": {"_training": shares, **win(0.6)}},
        folder="both",
    )
    panels = dict(training.curves(gather([folder])))
    demonstrated = panels["Log-probability of the demonstrated reply, nats"]
    assert [trace["name"] for trace in demonstrated["data"]] == ["sft logps/chosen"]
    change = next(figure for heading, figure in panels.items() if "against the base" in heading)
    assert [trace["line"]["dash"] for trace in change["data"]] == ["solid", "dash"]
    assert change["layout"]["shapes"]
    assert panels["Pairs that no longer pull"]["layout"]["yaxis"]["tickformat"] == ".0%"
