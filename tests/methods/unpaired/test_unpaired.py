"""What holds for every unpaired objective; a new one is tested as soon as it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ratings import QUICK, RATINGS, double, rated, slope, whole
from tiny import Notes, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.method import find, names
from truing.core.run import Run
from truing.core.trees import TreeScores
from truing.methods.unpaired._family import UnpairedMethod
from truing.models.local import Local

EVERY = pytest.mark.parametrize("name", [name for name in names() if name.startswith("unpaired/")])


def made(name: str, **settings: Any) -> UnpairedMethod:
    method = find(name)(**settings)
    assert isinstance(method, UnpairedMethod)
    return method


def seen(method: UnpairedMethod, given: Any) -> Any:
    return whole(method, given) if method.sees_step else given


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@EVERY
def test_extreme_replies_have_finite_losses_and_gradients(name: str, dtype: torch.dtype) -> None:
    """Log-ratios of plus and minus 10,000 nats, of one token and spread over 2,000."""
    method, ratios = made(name), (1e4, -1e4, 0.0, 1.0, -1e4, 1e4)
    counts = [1, 2000, 2000, 1, 1, 2000]
    for policy in (0.0, -1e-9, -20.0, -1e4):
        tokens = torch.cat([torch.full((n,), policy / n, dtype=dtype) for n in counts]).requires_grad_()
        owner = torch.repeat_interleave(torch.arange(6), torch.tensor(counts))
        sums = TreeScores(tokens, owner, torch.tensor(counts)).sums
        given = rated(torch.tensor(ratios, dtype=dtype), [True, False] * 3)
        given = type(given)(sums, sums.detach() - torch.tensor(ratios, dtype=dtype), given.desirable)
        losses = method.loss(seen(method, given))
        (gradient,) = torch.autograd.grad(losses.sum(), tokens)
        assert losses.shape == (6,)
        assert torch.isfinite(losses).all()
        assert torch.isfinite(gradient).all()


@EVERY
def test_at_the_base_it_raises_the_desirable_and_lowers_the_others(name: str) -> None:
    found = slope(lambda r: made(name).loss(seen(made(name), r)), rated(double(0, 0, 0, 0), [True, False, False, True]))
    assert (found.sign() == double(-1, 1, 1, -1)).all()


@EVERY
def test_the_cut_changes_nothing_and_neither_does_a_stop(name: str, tiny_policy: Local, tmp_path: Path) -> None:
    """A reply a pass, in which each side is alone, against all of a step in one; stopped in an epoch's midst."""
    logs, tuned = [], []
    for tokens in (1, 4096):
        notes = Notes()
        method = made(name, **QUICK, tokens_per_batch=tokens, save_steps=1, beta=0.5)
        tuned.append(method(tiny_policy, Evidence(ratings=RATINGS), Run(log=notes)))
        logs.append(notes)
    assert logs[0].rows[0].keys() == logs[1].rows[0].keys()
    told = ["loss", "grad_norm", *(key for key in logs[0].rows[0] if key.startswith(("rewards/", "logps/", "kl")))]
    assert "rewards/margins" in told
    for key in told:
        assert logs[0].series(key) == pytest.approx(logs[1].series(key), rel=1e-3, abs=1e-4), key
    with pytest.raises(KeyboardInterrupt):
        method(tiny_policy, Evidence(ratings=RATINGS), Run(work=tmp_path, log=Notes(stop_at=3)))
    resumed = method(tiny_policy, Evidence(ratings=RATINGS), Run(work=tmp_path, resume=True))
    assert same_weights(tuned[1], resumed)


@EVERY
def test_it_learns_to_tell_the_two_sides_apart(name: str, tiny_policy: Local) -> None:
    settings = {**QUICK, "max_steps": 12, "per_device_train_batch_size": 8, "beta": 0.3}
    tuned = made(name, **settings)(tiny_policy, Evidence(ratings=RATINGS), Run())
    assert isinstance(tuned, Local)
    own = [r.prompt for r in RATINGS], [r.reply for r in RATINGS]
    ratio = tuned.logprob(*own) - tiny_policy.logprob(*own)
    assert ratio[::2].min() > ratio[1::2].max()


@EVERY
def test_what_is_logged_is_each_sides_own_mean(name: str, tiny_policy: Local, notes: Notes) -> None:
    """TRL's names, at the base: three desirable replies and two others, one a pass."""
    few = RATINGS[:5]
    settings = {**QUICK, "max_steps": 1, "per_device_train_batch_size": 5, "tokens_per_batch": 1}
    made(name, **settings)(tiny_policy, Evidence(ratings=few), Run(log=notes))
    logps = tiny_policy.logprob([r.prompt for r in few], [r.reply for r in few])
    (row,) = notes.rows
    assert row["logps/chosen"] == pytest.approx(logps[::2].mean().item(), abs=1e-4)
    assert row["logps/rejected"] == pytest.approx(logps[1::2].mean().item(), abs=1e-4)
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert row[key] == pytest.approx(0, abs=1e-5)


def test_a_step_of_one_side_tells_nothing_of_the_other(tiny_policy: Local, notes: Notes) -> None:
    settings = {**QUICK, "max_steps": 1}
    made("unpaired/apo_zero_unpaired", **settings)(tiny_policy, Evidence(ratings=RATINGS[::2]), Run(log=notes))
    assert "rewards/chosen" in notes.rows[0]
    assert not {"rewards/rejected", "rewards/margins", "logps/rejected"} & notes.rows[0].keys()


@EVERY
def test_where_it_needs_both_sides_it_says_so(name: str, tiny_policy: Local) -> None:
    method = made(name, **{**QUICK, "max_steps": 1})
    if method.needs_both:
        with pytest.raises(InputError, match="above threshold"):
            method(tiny_policy, Evidence(ratings=RATINGS[::2]), Run())
    else:
        assert method(tiny_policy, Evidence(ratings=RATINGS[::2]), Run()) is not tiny_policy
