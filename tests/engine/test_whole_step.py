"""Objectives that see a whole step, companions that go along, and the chance that two draws agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import LENGTHS, TREES, likelihood
from tiny import Notes, random_trees, same_weights

from truing.core.run import Run
from truing.core.trees import Extras, TreeScores
from truing.engine import vocabulary
from truing.engine.fit import Objective, Training, fit
from truing.engine.score import Scorer, score_packed, score_plain
from truing.models.local import Local

SETTINGS: dict[str, Any] = {"learning_rate": 2e-3, "logging_steps": 1, "per_device_train_batch_size": 6}


class Centred:
    """Each loss is the squared distance from the mean of the step: nothing that a part of the step could know."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], torch.Tensor]] = []

    def survey(self, scores: TreeScores, numbers: Sequence[int]) -> None:
        assert not scores.tokens.requires_grad
        self.seen.append((list(numbers), scores.sums))

    def loss(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        told, sums = self.seen[-1]
        at = [told.index(i) for i in numbers]
        torch.testing.assert_close(scores.sums.detach(), sums[at], rtol=1e-5, atol=1e-4)
        return (scores.sums - sums.mean()).square(), {}


def run(base: Local, centred: Centred, **settings: Any) -> Notes:
    notes = Notes()
    objective = Objective([1.0] * len(TREES), centred.loss, survey=centred.survey)
    fit(base, TREES, objective, Training(**{**SETTINGS, "max_steps": 4, **settings}), Run(log=notes))
    return notes


def test_a_survey_sees_each_step_whole_and_once_however_it_is_cut(tiny_policy: Local) -> None:
    logs = []
    for tokens in (30, 2048):
        centred = Centred()
        logs.append(run(tiny_policy, centred, tokens_per_batch=tokens))
        assert [len(numbers) for numbers, _ in centred.seen] == [6, 6, 4, 6]
        assert len({*centred.seen[0][0], *centred.seen[1][0], *centred.seen[2][0]}) == 16
    assert logs[0].series("loss") == pytest.approx(logs[1].series("loss"), rel=1e-4)
    assert logs[0].series("grad_norm") == pytest.approx(logs[1].series("grad_norm"), rel=1e-3)


def test_what_is_held_out_is_surveyed_as_one(tiny_policy: Local) -> None:
    centred = Centred()
    notes = run(tiny_policy, centred, eval_fraction=0.25, tokens_per_batch=30)
    told, sums = centred.seen[-1]
    assert len(told) == 4
    assert notes.series("eval_loss") == pytest.approx([sums.var(correction=0).item()], rel=1e-4)


class Average:
    """A running mean of all weights, and a loss that pulls towards what it was."""

    def __init__(self) -> None:
        self.mean, self.steps = torch.zeros(1), list[int]()

    def follow(self, module: torch.nn.Module, step: int) -> None:
        with torch.no_grad():
            now = torch.stack([p.square().mean() for p in module.parameters()]).mean()
        self.mean = self.mean.lerp(now, 0.3)
        self.steps.append(step)

    def state(self) -> dict[str, torch.Tensor]:
        return {"mean": self.mean}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.mean = tensors["mean"]

    def loss(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        return likelihood(scores, numbers)[0] * (1 + self.mean), {}


def test_a_companion_is_told_of_every_step_and_resumes_with_the_run(tiny_policy: Local, tmp_path: Path) -> None:
    def go(run: Run) -> tuple[Local, Average]:
        along = Average()
        settings = Training(**SETTINGS, max_steps=6, save_steps=2)
        made = fit(tiny_policy, TREES, Objective(LENGTHS, along.loss, companion=along), settings, run)
        assert isinstance(made, Local)
        return made, along

    whole, along = go(Run())
    assert along.steps == [1, 2, 3, 4, 5, 6]
    with pytest.raises(KeyboardInterrupt):
        go(Run(work=tmp_path, log=Notes(stop_at=5)))
    resumed, again = go(Run(work=tmp_path, resume=True))
    assert again.steps == [5, 6]
    assert torch.equal(again.mean, along.mean)
    assert same_weights(whole, resumed)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_chance_that_two_draws_agree(
    architecture: str, tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the whole distribution, in both layouts, and with less than a chunk left over."""
    monkeypatch.setattr(vocabulary, "CHUNK", 7)
    model, trees = tiny_model(architecture), random_trees(5, 4)
    wanted = []
    with torch.no_grad():
        for tree in trees:
            for reply in tree.replies:
                logits = model(input_ids=torch.tensor([[*tree.prompt, *reply]])).logits[0, len(tree.prompt) - 1 : -1]
                wanted.append(logits.softmax(-1).square().sum(-1).log())
    asked = Extras(collisions=True)
    for scored in (score_packed(model, trees, asked), score_plain(model, trees, asked)):
        assert scored.collisions is not None
        assert not scored.collisions.requires_grad
        torch.testing.assert_close(scored.collisions, torch.cat(wanted), rtol=0, atol=1e-5)
    assert Scorer(model)(trees).collisions is None


def test_a_bench_tells_it_when_it_is_asked(tiny_policy: Local) -> None:
    bench = tiny_policy.open()
    assert bench.score(TREES[:2]).collisions is None
    bench.extras = Extras(collisions=True)
    found = bench.score(TREES[:2])
    assert found.collisions is not None
    assert found.collisions.shape == found.tokens.shape
