from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from report_helpers import MakeRun, kl, win

from truing.report.study import gather
from truing.report.words import Verdict, listed, verdict


def said(folder: Path) -> Verdict:
    return verdict(gather([folder]))


def test_a_clear_win_names_the_winner_the_price_and_the_certainty(make_run: MakeRun) -> None:
    length = {"unit": "tokens", "n": 100}
    result = said(
        make_run(
            {
                "base": {"length": {"value": 80.0, "low": 79.0, "high": 81.0, **length}},
                "dpo": {**win(0.7), **kl(1.5), "length": {"value": 100.0, "low": 97.0, "high": 103.0, **length}},
                "sft": {**win(0.55), **kl(0.5)},
            }
        )
    )
    assert result.winner == "dpo"
    assert "dpo wins" in result.wins
    assert "70\u202f%" in result.wins
    assert "66 to 74\u202f%" in result.wins
    assert result.costs == "It moves 1.50\u202fnats away from the base and its replies are 25\u202f% longer."
    assert "n = 100" in result.sure
    assert "its lead over the other arm" in result.sure
    assert "one seed" in result.sure


def test_an_interval_that_holds_half_is_not_called_a_win(make_run: MakeRun) -> None:
    result = said(make_run({"base": {}, "dpo": {**win(0.53), **kl(1.0)}}))
    assert result.winner is None
    assert "cannot" not in result.sure or "told apart" not in result.sure
    assert result.wins.startswith("No arm can be told apart from the base")
    assert "may be chance" in result.sure


def test_an_arm_that_loses_is_not_called_a_tie(make_run: MakeRun) -> None:
    result = said(make_run({"base": {}, "dpo": win(0.4)}))
    assert result.winner is None
    assert result.wins.startswith("No arm beats the base")


def test_overlapping_winners_are_not_told_apart(make_run: MakeRun) -> None:
    result = said(make_run({"base": {}, "a": win(0.70), "b": win(0.68), "c": win(0.56)}))
    assert "a wins" in result.wins
    assert "cannot be told apart from b;" in result.sure


@pytest.mark.parametrize(("value", "apart"), [(0.6, True), (0.52, False)])
def test_a_duel_decides_where_there_was_one(make_run: MakeRun, value: float, apart: bool) -> None:
    """Intervals against the base overlap (first case) or do not (second): head to head is what counts."""
    direct = {"win_rate.b": {"value": value, "low": value - 0.04, "high": value + 0.04}}
    other = 0.68 if apart else 0.56
    result = said(make_run({"base": {}, "a": {**win(0.70), **direct}, "b": win(other)}))
    assert ("cannot be told apart" not in result.sure) is apart


def test_a_duel_counts_from_the_other_side_too(make_run: MakeRun) -> None:
    lost = {"win_rate.a": {"value": 0.4, "low": 0.36, "high": 0.44}}
    result = said(make_run({"base": {}, "a": win(0.70), "b": {**win(0.68), **lost}}))
    assert "cannot be told apart" not in result.sure


def test_a_win_rate_without_an_interval_is_no_win(make_run: MakeRun) -> None:
    result = said(make_run({"base": {}, "a": {"win_rate": {"value": 0.9, "n": 3}}}))
    assert result.winner is None


@pytest.mark.parametrize(("n", "rough"), [(6, True), (100, False)])
def test_an_interval_from_few_prompts_is_called_rough(make_run: MakeRun, n: int, rough: bool) -> None:
    assert ("rough" in said(make_run({"base": {}, "a": win(0.7, n=n)})).sure) is rough


def test_only_the_base(make_run: MakeRun) -> None:
    result = said(make_run({"base": {"length": {"value": 80.0, "unit": "tokens", "n": 7}}}))
    assert result.wins == "Only base was measured, so there is nothing to compare yet."
    assert "80.0\u202ftokens" in result.costs
    assert "7 prompts" in result.sure


def test_no_win_rate_at_all(make_run: MakeRun) -> None:
    result = said(make_run({"base": {}, "a": kl(1.0)}))
    assert "No win rate" in result.wins
    assert result.winner is None


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        ({"value": 30.0, "low": 29.0, "high": 31.0}, "rises by 50\u202f%"),
        ({"value": 10.0, "low": 9.5, "high": 10.5}, "falls by 50\u202f%"),
        ({"value": 20.5, "low": 19.0, "high": 22.0}, "does not measurably move"),
    ],
)
def test_the_tax_is_stated_only_where_it_was_measured(
    make_run: MakeRun, mine: Mapping[str, Any], expected: str
) -> None:
    base = {"perplexity": {"value": 20.0, "low": 19.0, "high": 21.0}}
    result = said(make_run({"base": base, "a": {**win(0.7), "perplexity": mine}}))
    assert expected in result.costs


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (1.03, 1.02, 1.04, "rises by 3.0\u202f%"),
        (0.9, 0.85, 0.95, "falls by 10\u202f%"),
        (1.03, 0.99, 1.07, "does not measurably move"),
    ],
)
def test_the_tax_is_told_passage_by_passage_where_it_can_be(
    make_run: MakeRun, value: float, low: float, high: float, expected: str
) -> None:
    """Intervals of the two perplexities overlap, as passages differ more than models do."""
    wide = {"value": 50.0, "low": 40.0, "high": 60.0}
    ratio = {"value": value, "low": low, "high": high, "unit": "times"}
    result = said(
        make_run({"base": {"perplexity": wide}, "a": {**win(0.7), "perplexity": wide, "perplexity.ratio": ratio}})
    )
    assert f"on neutral text {expected}" in result.costs


def test_a_bound_is_said_to_be_one_and_tokens_are_counted(make_run: MakeRun) -> None:
    tokens = {"cost.tokens": {"value": 320.0, "unit": "tokens"}, "cost.trained": {"value": 0.0, "unit": "parameters"}}
    base = {"cost.tokens": {"value": 80.0, "unit": "tokens"}}
    result = said(make_run({"base": base, "bon": {**win(0.7), **kl(1.2, kind="bound"), **tokens}}))
    assert result.costs.startswith("It moves at most 1.20\u202fnats")
    assert "4.0 times the tokens" in result.costs
    assert "nothing was trained" in result.costs


def test_names_from_outside_pass_the_mark(make_run: MakeRun) -> None:
    folder = make_run({"base": {}, "<a>": win(0.7), "<b>": win(0.69)})
    result = verdict(gather([folder]), mark=lambda name: f"[{name.strip('<>')}]")
    assert "<" not in "".join(result.sentences)
    assert "[a]" in result.wins
    assert "[b]" in result.sure


def test_lists_read_as_english() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
