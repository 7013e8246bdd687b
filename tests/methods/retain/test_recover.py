"""Recovery by restoring weights: what it may touch, to the bit; which entries it takes; and what that does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from keeping import DEMOS, PROMPTS, pair_of_models
from tiny import Notes, make_local

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.method import build
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.retain._largest import largest, ordered
from truing.methods.retain._recovery import helps
from truing.methods.retain.recover import Recover
from truing.models.local import Local

TUNED, ALIGNED, GIVEN = pair_of_models(num_hidden_layers=3)
TOTAL = sum(tensor.numel() for tensor in TUNED.weights().values())
FIRST = ("model.layers.0.", "model.layers.1.")


def recovered(notes: Notes | None = None, given: Evidence = GIVEN, seed: int = 0, **settings: Any) -> Local:
    chosen = {"layer_fraction": 2 / 3, "steps": 4, "warmup_steps": 0, "recovery_rate": 0.01, **settings}
    run = Run(seed=seed, log=notes) if notes is not None else Run(seed=seed)
    made = build("retain/recover", **chosen)(TUNED, given, run)
    assert isinstance(made, Local)
    return made


def allowed(name: str) -> bool:
    return name.startswith(FIRST) and "norm" not in name


def test_at_rate_one_without_the_sign_test_the_first_blocks_are_the_aligned_models() -> None:
    made = recovered(recovery_rate=1.0, sign_test=False, steps=1).weights()
    for name, tensor in made.items():
        source = ALIGNED if allowed(name) else TUNED
        assert torch.equal(tensor, source.weights()[name]), name
    assert sum(allowed(name) for name in made) == 14
    assert not torch.equal(TUNED.weights()["model.norm.weight"], ALIGNED.weights()["model.norm.weight"])


@pytest.mark.parametrize("by", ["gradient", "random"])
def test_every_weight_is_the_bases_or_the_donors_and_a_step_changes_no_more_than_its_budget(by: str) -> None:
    notes = Notes()
    made, own, theirs = recovered(notes, candidates=by).weights(), TUNED.weights(), ALIGNED.weights()
    changed = 0
    for name, tensor in made.items():
        from_base, from_donor = tensor == own[name], tensor == theirs[name]
        assert (from_base | from_donor).all()
        if not allowed(name):
            assert from_base.all()
        changed += int((~from_base).sum())
    budget = math.ceil(0.01 * TOTAL)
    assert 0 < changed == sum(notes.series("restored"))
    assert all(0 < count <= budget for count in notes.series("restored"))


def test_it_takes_the_largest_gradients_among_those_that_a_copy_moves_down() -> None:
    """One step by brute force: autograd of minus the cosine, through the model's own hidden states."""
    one = recovered(steps=1, batch_size=16, recovery_rate=0.005)
    ids = [torch.tensor([tree.prompt]) for tree in TUNED.encode_many(PROMPTS, [()] * len(PROMPTS))]

    def state(policy: Local) -> torch.Tensor:
        rows = [policy.model(input_ids=row, output_hidden_states=True).hidden_states[2][0, -1] for row in ids]
        return torch.stack(rows).mean(0)

    with torch.no_grad():
        direction = state(ALIGNED)
    loss = -torch.nn.functional.cosine_similarity(state(TUNED), direction, dim=0)
    own, theirs = ({n: t for n, t in p.weights().items() if allowed(n)} for p in (TUNED, ALIGNED))
    slopes = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
    ranks = torch.cat(
        [torch.where((own[n] - theirs[n]) * slopes[n] > 0, slopes[n].abs(), -torch.ones(())).flatten() for n in own]
    )
    bar = ranks.sort(descending=True).values[math.ceil(0.005 * TOTAL) - 1]
    taken = torch.cat([(one.weights()[n] != own[n]).flatten() for n in own])
    near = ((ranks - bar).abs() < 1e-4 * bar.abs()) & (ranks > 0)  # where rounding may decide
    assert torch.equal(taken[~near], (ranks > bar)[~near])
    assert near.sum() <= 3


def test_the_cosine_rises_and_more_by_gradient_than_by_chance() -> None:
    told = {}
    for by in ("gradient", "random"):
        notes = Notes()
        recovered(notes, candidates=by, recovery_rate=0.02)
        line = next(line for line in notes.said if "cosine" in line)
        told[by] = [float(part) for part in line.rpartition("prompts ")[2].split(" -> ")]
    assert told["gradient"][0] == told["random"][0]
    assert told["gradient"][1] > told["gradient"][0]
    assert told["gradient"][1] > told["random"][1]


def test_gradients_add_up_unless_told_otherwise() -> None:
    weights = [recovered(accumulate=kind, steps=3).weights() for kind in (True, False)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    first = [recovered(accumulate=kind, steps=1).weights() for kind in (True, False)]
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])


def test_where_the_task_suffers_it_begins_again_and_rolls_back_a_part_of_every_step() -> None:
    notes, plain = Notes(), Notes()
    recovered(notes, recovery_rate=0.2, warmup_steps=2, task_tolerance=0.0, rollback_rate=0.2)
    recovered(plain, recovery_rate=0.2, warmup_steps=2, task_tolerance=1e6)
    assert any("rollback" in line for line in notes.said)
    assert [row["step"] for row in notes.rows] == [1, 2, 1, 2, 3, 4]
    assert [row["step"] for row in plain.rows] == [1, 2, 3, 4]
    again = notes.rows[2:]
    assert notes.rows[0]["restored"] == again[0]["restored"]  # it began from the base
    assert notes.rows[0]["cosine"] == pytest.approx(again[0]["cosine"])
    assert all(0 < row["rolled_back"] <= math.ceil(0.2 * row["restored"]) for row in again)


def test_what_is_rolled_back_was_restored_in_this_step_and_is_the_tuned_models_again() -> None:
    job = Recover(layer_fraction=2 / 3, recovery_rate=0.05).prepared(TUNED, GIVEN)
    recovery = job.recovery
    masks, _ = recovery.restore(500, signed=True, by="gradient", rng=Run().rng("x"))
    assert sum(int(mask.sum()) for mask in masks.values()) <= 500
    before = {name: weight.detach().clone() for name, weight in recovery.cut.parameters.items()}
    back = recovery.roll_back(masks, 0.2)
    for name, weight in recovery.cut.parameters.items():
        assert not (back[name] & ~masks[name]).any()
        assert torch.equal(weight[back[name]], TUNED.weights()[name][back[name]])
        assert torch.equal(weight[~back[name]], before[name][~back[name]])
    assert 0 < sum(int(mask.sum()) for mask in back.values()) <= math.ceil(0.2 * 500)


def test_the_largest_are_those_of_a_sort_and_ties_at_the_border_are_left() -> None:
    source = torch.Generator().manual_seed(0)
    values = {name: torch.randn(shape, generator=source) ** 3 for name, shape in (("a", (40, 30)), ("b", (7,)))}
    values["a"][0, :4] = values["a"][0, 0]
    among = {name: torch.rand(part.shape, generator=source) < 0.7 for name, part in values.items()}
    among["a"][0, :4] = True
    scores = {name: ordered(part) for name, part in values.items()}
    flat = torch.cat([values[name].abs()[among[name]] for name in values]).sort(descending=True).values
    for count in (0, 1, 5, 100, len(flat) - 1, len(flat), 10**6):
        found = largest(scores, among, count)
        bar = flat[count] if count < len(flat) else -torch.ones(())
        for name, part in values.items():
            assert torch.equal(found[name], among[name] & (part.abs() > bar))
    tied = values["a"].abs()[0, 0]
    ahead = int((flat > tied).sum())
    found = largest(scores, among, ahead + 2)  # two of four that are tied: none is taken
    assert sum(int(mask.sum()) for mask in found.values()) == ahead


def test_the_sign_test() -> None:
    weight, target = torch.tensor([1.0, 1.0, 0.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0])
    assert helps(weight, target, torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])).tolist() == [1, 0, 0, 1, 0]


def test_what_does_not_fit_is_refused() -> None:
    other = make_local(seed=1, num_hidden_layers=3, intermediate_size=40)
    double = make_local(seed=1, num_hidden_layers=3, dtype=torch.float64)
    for donors, told in (
        ({}, "has no donors"),
        ({"a": ALIGNED, "b": ALIGNED}, "names none of its donors, a, b"),
        ({"a": other}, "tensors do not fit the base's, 'model.layers.0.mlp"),
        ({"a": double}, "tensors do not fit the base's"),
    ):
        with pytest.raises(InputError, match=told):
            recovered(given=replace(GIVEN, donors=donors))
    for field in ("prompts", "demos"):
        with pytest.raises(InputError, match=f"has no {field}"):
            recovered(given=replace(GIVEN, **{field: ()}))
    unknown = make_local("phi3")
    unknown.model.config.model_type = "phi4_of_nobody"
    with pytest.raises(InputError, match="no description"):
        build("retain/recover")(unknown, Evidence(prompts=(user("a"),), demos=DEMOS, donors={"a": unknown}), Run())


def test_one_of_several_donors_is_named() -> None:
    both = replace(GIVEN, donors={"other": TUNED, "safe": ALIGNED})
    named, only = recovered(given=both, aligned="safe"), recovered()
    assert all(torch.equal(named.weights()[name], tensor) for name, tensor in only.weights().items())
