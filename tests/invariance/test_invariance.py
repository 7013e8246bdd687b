"""How the work is cut up changes nothing: the parameters after five steps agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from fitting import flat
from tiny import make_exact, make_local
from varied import SETTINGS, TRAININGS, VARIATIONS

from truing.core.run import Run
from truing.models.local import Local

MODELS: dict[str, tuple[Callable[[str], Local], str, float]] = {
    "llama in float64": (make_exact, "llama", 1e-12),
    # The keys' biases have no gradient but rounding, because a softmax does not see them; AdamW divides it by 1e-8.
    "gpt2 in float64": (make_exact, "gpt2", 1e-9),
    "gemma2 in float32": (make_local, "gemma2", 1e-4),
}
"""How a model is made, and how far two trainings may be apart, as a share of the way that both have gone."""
ON = [("llama in float64", name) for name in TRAININGS]
ON += [("gpt2 in float64", "preference/dpo"), ("gemma2 in float32", "mean over tokens")]
ON += [("gemma2 in float32", "preference/dpo"), ("gemma2 in float32", "imitation/sft")]


@cache
def usual(model: str, training: str) -> tuple[Local, torch.Tensor, float]:
    """The base, the parameters that the plain settings lead to, and how far that is."""
    make, architecture, _ = MODELS[model]
    base = make(architecture)
    there = flat(TRAININGS[training](base, Run(), **SETTINGS))
    return base, there, float((there - flat(base)).norm())


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.parametrize(("model", "training"), ON)
def test_five_steps_lead_to_the_same_place(
    model: str, training: str, variation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, there, way = usual(model, training)
    assert way > 0.1
    varied, train = VARIATIONS[variation], TRAININGS[training]
    base.scorer.layout = None  # the layout is proved again
    for replacement in varied.replaced:
        monkeypatch.setattr(*replacement)
    run = Run(work=tmp_path / "work" if varied.work else None, cache=tmp_path / "cache" if varied.cache else None)
    settings = {**SETTINGS, **varied.settings}
    if varied.cache:
        train(base, run, **settings)
    found = flat(train(base, run, **settings))
    if varied.bits:
        assert torch.equal(found, there)
    assert float((found - there).norm()) <= MODELS[model][2] * way


@pytest.mark.parametrize("training", TRAININGS)
def test_a_difference_would_show(training: str) -> None:
    """What does change the mathematics moves the end by far more than the bounds allow."""
    base, there, way = usual("llama in float64", training)
    for other in ({"learning_rate": 1.99e-3}, {"per_device_train_batch_size": 5}, {"max_grad_norm": 0.5}):
        found = flat(TRAININGS[training](base, Run(), **{**SETTINGS, **other}))
        assert float((found - there).norm()) > 1e-4 * way, other
