"""Stopped after any step and taken up: the same bits, also at the boundary of an epoch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import flat
from tiny import Notes, make_local
from varied import SETTINGS, TRAININGS

from truing.core.run import Run

TWO_EPOCHS: dict[str, Any] = {**SETTINGS, "max_steps": -1, "num_train_epochs": 2.0, "lr_scheduler_type": "cosine"}
STEPS = 6
"""Eleven examples, four a step: an epoch ends after the third step and after the sixth."""


@cache
def undisturbed(training: str) -> torch.Tensor:
    notes = Notes()
    done = flat(TRAININGS[training](make_local(), Run(log=notes), **TWO_EPOCHS))
    assert notes.rows[-1]["step"] == STEPS
    return done


@pytest.mark.parametrize(("every", "taken"), [(1, {k: k for k in range(1, STEPS)}), (2, {3: 2, 5: 4})])
@pytest.mark.parametrize("training", ["preference/dpo", "imitation/sft"])
def test_stopped_after_any_step(training: str, every: int, taken: dict[int, int], tmp_path: Path) -> None:
    wanted = undisturbed(training)
    for stop, at in taken.items():
        work, settings = tmp_path / str(stop), {**TWO_EPOCHS, "save_steps": every}
        with pytest.raises(KeyboardInterrupt):
            TRAININGS[training](make_local(), Run(work=work, log=Notes(stop_at=stop)), **settings)
        notes = Notes()
        done = TRAININGS[training](make_local(), Run(work=work, resume=True, log=notes), **settings)
        assert f"  resuming at step {at} of {STEPS}" in notes.said
        assert torch.equal(flat(done), wanted), stop


def test_stopped_at_every_step_in_turn(tmp_path: Path) -> None:
    """One run that is stopped five times."""
    settings = {**TWO_EPOCHS, "save_steps": 1}
    for stop in range(1, STEPS):
        run = Run(work=tmp_path, resume=True, log=Notes(stop_at=stop))
        with pytest.raises(KeyboardInterrupt):
            TRAININGS["preference/dpo"](make_local(), run, **settings)
    done = TRAININGS["preference/dpo"](make_local(), Run(work=tmp_path, resume=True), **settings)
    assert torch.equal(flat(done), undisturbed("preference/dpo"))
