"""AlignGuard-LoRA: projectors, the split by factors against the products themselves, and its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from keeping import CHATS, PAIRS, table, trained
from tiny import Notes, make_local, same_weights

from truing.core.errors import InputError
from truing.core.policy import Opening
from truing.core.run import Run
from truing.engine.tree import batches
from truing.methods.retain import _fisher
from truing.methods.retain._fisher import output_diagonals, output_factors
from truing.methods.retain._split import Guard, Split, guarded
from truing.methods.retain.alignguard_lora import alignguard_terms
from truing.models.moved import Move, moves

OUT, IN, R, M = 9, 7, 3, 4
WEIGHTS: dict[str, Any] = {
    "lambda_alignment": 0.25, "lambda_task": 0.5, "lambda_collision": 0.1, "alpha": 0.5, "steepness": 4.0,
    "threshold": 0.01, "epsilon": 1e-12,
}  # fmt: skip


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def guard(projector: Any = "soft", rank: int = M) -> Guard:
    rows = normal(40, OUT, seed=1)
    return guarded(rows.T @ rows / 40, normal(OUT, seed=2).abs(), rank=rank, projector=projector, softness=0.5)


def split(projector: Any = "soft") -> Split:
    return Split.of(Move(normal(OUT, R, seed=3), normal(R, IN, seed=4)), guard(projector))


def test_the_hard_projector_is_one() -> None:
    p = guard("hard").projector
    torch.testing.assert_close(p @ p, p, rtol=0, atol=1e-12)
    torch.testing.assert_close(p, p.T)
    assert float(p.trace()) == pytest.approx(M)


def test_the_soft_one_is_the_regularised_inverse_where_all_is_kept() -> None:
    rows = normal(40, OUT, seed=1)
    factor = rows.T @ rows / 40
    wanted = factor @ torch.linalg.inv(factor + 0.5 * torch.eye(OUT))
    torch.testing.assert_close(guard("soft", OUT).projector, wanted)
    torch.testing.assert_close(guard("soft", 99).fisher, factor)


@pytest.mark.parametrize("projector", ["soft", "hard"])
def test_factors_give_what_the_products_give(projector: str) -> None:
    found, g = split(projector), guard(projector)
    whole = normal(OUT, R, seed=3) @ normal(R, IN, seed=4)
    aligned = g.projector @ whole
    task = whole - aligned
    torch.testing.assert_close(found.aligned @ found.right, aligned)
    torch.testing.assert_close(found.aligned @ found.right + found.task @ found.right, whole)
    torch.testing.assert_close(found.alignment, (aligned * (g.fisher @ aligned)).sum())
    torch.testing.assert_close(found.drift, (task * (g.trust[:, None] * task)).sum())
    cosine = (aligned * task).sum() / aligned.norm() / task.norm()
    torch.testing.assert_close(found.separation(1e-12), cosine.square(), rtol=1e-6, atol=1e-12)
    rate = 1 + 4 / (1 + (-(whole.abs() - 0.01)).exp())
    torch.testing.assert_close(found.overlap(4.0, 0.01), (rate * (aligned * task).abs()).mean())
    terms = alignguard_terms([found, found], **WEIGHTS)
    assert float(terms["alignment"]) == pytest.approx(0.25 * 2 * float(found.alignment))
    assert float(terms["task"]) == pytest.approx(0.5 * 2 * float(found.drift))
    assert float(terms["overlap"]) == pytest.approx(0.05 * float(found.overlap(4.0, 0.01)))
    assert float(terms["separation"]) == pytest.approx(0.05 * float(found.separation(1e-12)))


def test_separation_is_one_for_parallel_parts_and_nothing_for_orthogonal_ones() -> None:
    left, right = normal(OUT, R, seed=3), normal(R, IN, seed=4)
    assert float(Split(left, 2 * left, right, guard()).separation(1e-12)) == pytest.approx(1)
    assert float(split("hard").separation(1e-12)) == pytest.approx(0, abs=1e-20)
    assert 0 < float(split("soft").separation(1e-12)) < 1


def test_before_the_first_step_nothing_is_pulled() -> None:
    left, right = torch.zeros(OUT, R, dtype=torch.float64, requires_grad=True), normal(R, IN)
    terms = alignguard_terms([Split.of(Move(left, right), guard())], **WEIGHTS)
    assert all(float(term.detach()) == 0 for term in terms.values())
    assert torch.autograd.grad(sum(terms.values()), left)[0].abs().max() == 0


def test_the_factor_is_the_second_moment_of_gradients_at_the_output() -> None:
    """Against transformers' own forward pass with a leaf added to one layer's output."""
    base = make_local()
    trees = base.encode_many(CHATS[:2], [("the in",), ("no",)])
    how = Opening(lora_r=2)
    name = "model.layers.0.self_attn.v_proj"
    found = dict(output_factors(base, how, trees, 10**6, Run()))
    assert set(found) == set(moves(base.open(how).module, base))
    rows = []
    for tree in trees:
        ids = torch.tensor([[*tree.prompt, *tree.replies[0]]])
        layer = base.model.get_submodule(name)
        shift = torch.zeros(1, ids.shape[1], layer.out_features, requires_grad=True)
        hook = layer.register_forward_hook(lambda module, given, output, shift=shift: output + shift)
        told = base.model(input_ids=ids).logits[0, len(tree.prompt) - 1 : -1].log_softmax(-1)
        hook.remove()
        rows.append(torch.autograd.grad(told.gather(1, ids[0, len(tree.prompt) :, None]).sum(), shift)[0][0])
    stacked = torch.cat(rows)
    wanted = stacked.T @ stacked
    wanted = wanted * len(wanted) / wanted.trace()
    torch.testing.assert_close(found[f"{name}.weight"], wanted, rtol=1e-3, atol=1e-3)
    one_by_one = dict(output_factors(base, how, trees, 1, Run()))
    torch.testing.assert_close(one_by_one[f"{name}.weight"], found[f"{name}.weight"], rtol=1e-4, atol=1e-4)
    for alone, whole in output_diagonals(base, how, trees, 10**6, Run()).items():
        torch.testing.assert_close(whole, found[alone].diagonal(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_factors_are_the_same_however_many_are_held(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    base, passes = make_local(), []
    trees, how = base.encode_many(CHATS[:2], [("the in",), ("no",)]), Opening(lora_r=2)
    together = dict(output_factors(base, how, trees, 10**6, Run()))
    monkeypatch.setattr(_fisher, "batches", lambda *given: passes.append(given) or batches(*given))
    whole = sum(4 * factor.numel() for factor in together.values())
    few = dict(output_factors(base, how, trees, 10**6, Run(), most=int(share * whole)))
    assert list(few) == list(together)
    assert all(torch.equal(few[name], factor) for name, factor in together.items())
    assert len(passes) in ((2, 3) if share else (len(together),))


OFF = {"lambda_alignment": 0.0, "lambda_task": 0.0, "lambda_collision": 0.0}


def test_with_every_weight_off_it_is_lora_to_the_bit() -> None:
    base = make_local()
    one = trained("retain/alignguard_lora", base, lora_r=2, **OFF)
    assert same_weights(one, trained("imitation/sft", base, lora_r=2))
    assert not same_weights(one, trained("retain/alignguard_lora", base, lora_r=2))


def test_a_larger_weight_leaves_less_in_the_sensitive_directions() -> None:
    base, left = make_local(), []
    kept = base.encode_many([pair.prompt for pair in PAIRS], [(pair.chosen,) for pair in PAIRS])
    safety = dict(output_factors(base, Opening(lora_r=2), kept, 999, Run()))
    for weight in (0.0, 0.25, 2.5, 25.0):
        notes = Notes()
        settings = {**OFF, "lambda_alignment": weight, "lora_r": 2, "max_steps": 15, "keep": "chosen"}
        made = trained("retain/alignguard_lora", base, Run(log=notes), **settings)
        after, before = made.weights(), base.weights()
        changes = {name: (after[name] - before[name]).detach() for name in safety}
        left.append(sum(float((change * (safety[name] @ change)).sum()) for name, change in changes.items()))
        assert notes.series("penalty/alignment")[:1] == ([0.0] if weight else [])
    assert left == sorted(left, reverse=True)
    assert left[0] > 2 * left[3] > 0


@pytest.mark.parametrize("settings", [{"projector": "hard"}, {"trust_region": "fisher"}, {"alpha": 0.0}, {"rank": 1}])
def test_every_choice_trains(settings: dict[str, Any]) -> None:
    base, notes = make_local(), Notes()
    made = trained("retain/alignguard_lora", base, Run(log=notes), lora_r=2, **settings)
    assert not same_weights(made, base)
    assert ("penalty/overlap" in notes.rows[-1]) == (settings.get("alpha") != 0.0)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(InputError, match="neither lora_r = 16 nor a part"):
        trained("retain/alignguard_lora", table())
    with pytest.raises(InputError, match="use_dora trains magnitudes"):
        trained("retain/alignguard_lora", make_local(), use_dora=True)
    with pytest.raises(InputError, match="greater than or equal to 1"):
        trained("retain/alignguard_lora", make_local(), lora_r=0)
