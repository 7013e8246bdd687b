"""unlearn/d2o: the gradient, DPO as a limit, how far a table drifts, and where its samples come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forgetting import descended, has_slopes, some_forgotten
from tiny import same_weights

from truing.core.evidence import Evidence, Rating
from truing.core.policy import Draw, user
from truing.core.run import Run
from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss
from truing.methods.unlearn.d2o import D2O, d2o_loss
from truing.methods.unlearn.gradient_ascent import gradient_ascent_loss
from truing.models.local import Local


def test_slopes() -> None:
    given = some_forgotten(width=3)
    pull = torch.sigmoid(0.4 * given.ratio - 0.3 * given.instead_ratio)
    wanted = (-0.3 / 3 * pull)[:, None].expand(5, 3)
    has_slopes(lambda f: d2o_loss(f, alpha=0.4, beta=0.3), 0.4 * pull, wanted, given)


def test_with_one_sample_and_one_scale_it_is_dpo() -> None:
    given = some_forgotten(width=1)
    pairs = PairLogps(given.instead[:, 0], given.forgotten, given.ref_instead[:, 0], given.ref_forgotten)
    torch.testing.assert_close(
        d2o_loss(given, alpha=0.3, beta=0.3), dpo_loss(pairs, beta=0.3, label_smoothing=0), rtol=1e-9, atol=1e-9
    )


def test_the_mean_over_samples_varies_as_one_over_their_number() -> None:
    source = torch.Generator().manual_seed(0)
    values = torch.randn(4000, 12, generator=source, dtype=torch.float64)
    given = some_forgotten()

    def spread(width: int) -> float:
        others = replace(given, instead=values[:, :width], ref_instead=torch.zeros(4000, width, dtype=torch.float64))
        return float(others.instead_ratio.var())

    assert spread(12) == pytest.approx(spread(1) / 12, rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_at_one_probability_of_the_forgotten_it_has_drifted_less_than_gradient_ascent(seed: int) -> None:
    """Total variation from the base on the other seven replies, where each has 1 / 1,000 left of the eighth.

    As if 64 prompts shared one table, each with 11 samples of its own. With a single set the samples' own noise is a
    drift, and the claim does not hold.
    """
    source = torch.Generator().manual_seed(seed)
    base = torch.randn(8, generator=source, dtype=torch.float64).log_softmax(0)
    sets = torch.multinomial(base.exp(), 64 * 11, replacement=True, generator=source).view(64, 11).tolist()
    rest = torch.arange(8) != 2
    away = {}
    for name, loss in {
        "d2o": lambda f: d2o_loss(f, alpha=0.1, beta=0.1),
        "ascent": lambda f: gradient_ascent_loss(f, scale="reply"),
    }.items():
        end = descended(loss, base, 2, sets, least=1e-3)
        left, before = (each[rest] / each[rest].sum() for each in (end, base.exp()))
        away[name] = float((left - before).abs().sum() / 2)
    assert away["d2o"] < 0.9 * away["ascent"]


RATINGS = [Rating(user("who"), "a", 0.0), Rating(user("what"), "b", 0.2), Rating(user("who"), "c", 0.0)]
METHOD = D2O(draws=3, max_new_tokens=6, max_steps=2, learning_rate=1e-3)


def test_its_samples_are_the_bases_own_tokens_and_a_prompt_has_one_set(tiny_policy: Local) -> None:
    found = METHOD.instead(tiny_policy, RATINGS, Run())
    assert [len(row) for row in found] == [3, 3, 3]
    assert found[0] == found[2] != found[1]
    for draw in (draw for row in found for draw in row):
        assert isinstance(draw, Draw)
        assert draw.token_ids
    assert found != METHOD.instead(tiny_policy, RATINGS, Run(seed=1))


def test_with_a_cache_it_draws_once_and_ends_alike(tiny_policy: Local, tmp_path: Path) -> None:
    evidence = Evidence(ratings=RATINGS)
    ends = [METHOD(tiny_policy, evidence, run) for run in (Run(), Run(cache=tmp_path), Run(cache=tmp_path))]
    assert same_weights(ends[0], ends[1])
    assert same_weights(ends[1], ends[2])
    assert len(list((tmp_path / "draws").iterdir())) == 1
