"""What an objective says of the weights alone: once a step, whatever the cut; part of the step's gradient."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from fitting import LENGTHS, TREES, close, flat, likelihood
from tiny import Notes, make_local, same_weights

from truing.core.run import Run
from truing.engine.fit import Objective, Training, fit
from truing.models.local import Local


def pulled(module: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """Half the squared norm of everything, and as much again."""
    whole = torch.stack([p.square().sum() for p in module.parameters() if p.requires_grad]).sum()
    return {"one": whole / 2, "two": whole / 2}


def made(base: Local, regularise: object, notes: Notes | None = None, **settings: object) -> Local:
    defaults = {"learning_rate": 2e-3, "max_steps": 4, "logging_steps": 1, "warmup_ratio": 0.0}
    objective = Objective(LENGTHS, likelihood, regularise=regularise)  # type: ignore[arg-type] # any function
    done = fit(base, TREES, objective, Training(**{**defaults, **settings}), Run(log=notes) if notes else Run())
    assert isinstance(done, Local)
    return done


def test_its_gradient_is_added_once_a_step_whatever_the_cut() -> None:
    base, notes = make_local(), Notes()
    one = made(base, pulled, notes, tokens_per_batch=1)
    other = made(base, pulled, tokens_per_batch=10**6)
    close(one, other, base)
    norm = float(flat(base).square().sum() / 2)
    assert notes.rows[0]["one"] == pytest.approx(norm, rel=1e-4)
    assert notes.rows[0]["two"] == notes.rows[0]["one"]
    assert notes.rows[-1]["one"] < notes.rows[0]["one"]
    plain = made(base, None)
    assert flat(one).norm() < flat(plain).norm()


def test_alone_its_step_is_its_gradient() -> None:
    """With losses of 0 the norm of the gradient is that of the weights."""
    base, notes = make_local(), Notes()
    objective = Objective(LENGTHS, lambda scores, numbers: (0 * scores.sums, {}), regularise=pulled)
    fit(base, TREES, objective, Training(max_steps=1, logging_steps=1), Run(log=notes))
    assert notes.rows[0]["grad_norm"] == pytest.approx(2 * float(flat(base).norm()), rel=1e-3)


def test_zero_is_nothing() -> None:
    base = make_local()
    nothing = made(base, lambda module: {"none": 0 * pulled(module)["one"]})
    assert same_weights(nothing, made(base, None))
