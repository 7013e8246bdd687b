from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pools import Table

from truing.core.errors import InputError, RunError
from truing.core.run import Run
from truing.probes.perplexity import perplexity

TEXTS = [((), "short"), ((), "a longer one"), ((), "third")]
TABLE = {"short": [-1.0, -2.0], "a longer one": [-3.0] * 6, "third": [-2.0, -2.0, -2.0]}


def test_it_is_exp_of_nats_over_tokens_and_long_passages_weigh_more() -> None:
    (found,) = perplexity(Table(TABLE), TEXTS, run=Run())
    assert found.value == pytest.approx(np.exp(27 / 11))
    assert np.exp(1.5) <= found.low < found.value < found.high <= np.exp(3)
    assert (found.n, found.better, found.unit) == (3, "down", "per token")


def test_a_uniform_policy_has_the_size_of_its_vocabulary() -> None:
    (found,) = perplexity(Table({text: [-np.log(50)] * 4 for _, text in TEXTS}), TEXTS, run=Run())
    assert (found.value, found.low, found.high) == pytest.approx((50, 50, 50))


def test_the_ratio_to_the_base_shows_a_small_tax_that_the_two_intervals_hide() -> None:
    worse = {text: [log - 0.01 for log in logs] for text, logs in TABLE.items()}
    own, ratio = perplexity(Table(worse, name="worse"), TEXTS, base=Table(TABLE), run=Run())
    (base,) = perplexity(Table(TABLE), TEXTS, run=Run())
    assert own.low < base.value
    assert ratio.probe == "perplexity.ratio"
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((np.exp(0.01),) * 3)
    assert ratio.value == pytest.approx(own.value / base.value)


def test_the_base_itself_and_another_tokeniser_give_no_ratio() -> None:
    assert len(perplexity(Table(TABLE), TEXTS, base=Table(TABLE), run=Run())) == 1
    split = Table({**TABLE, "third": [-6.0]}, name="split")
    assert len(perplexity(split, TEXTS, base=Table(TABLE), run=Run())) == 1


def test_a_cache_is_asked_once_and_gives_the_same_bytes(tmp_path: Path) -> None:
    run, base = Run(cache=tmp_path), Table({**TABLE, "short": [-1 / 3, -2.0]})
    first, again = perplexity(base, TEXTS, run=run), perplexity(base, TEXTS, run=run)
    assert base.calls == 1
    assert [m.to_json() for m in first] == [m.to_json() for m in again]
    other = Table({text: [-1.0] for _, text in TEXTS}, name="other")
    assert perplexity(other, TEXTS, run=run)[0].value == pytest.approx(np.e)
    assert perplexity(base, TEXTS[:2], run=run)[0].n == 2


def test_nothing_to_read_and_nan_are_refused() -> None:
    with pytest.raises(InputError):
        perplexity(Table(TABLE), [], run=Run())
    with pytest.raises(InputError, match="passage 1"):
        perplexity(Table({**TABLE, "a longer one": []}), TEXTS, run=Run())
    with pytest.raises(RunError, match="passage 2"):
        perplexity(Table({**TABLE, "third": [np.nan]}), TEXTS, run=Run())


def test_an_impossible_text_is_infinite_without_an_interval() -> None:
    (found,) = perplexity(Table({**TABLE, "third": [-np.inf]}), TEXTS, run=Run())
    assert (found.value, found.low, found.high) == (np.inf, None, None)
