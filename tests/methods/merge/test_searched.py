"""merge/searched: the search against fronts that are known, what it paints, and the choice within a tax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from blends import PAIRS, given, models
from tiny import Notes, same_weights

from truing.core.errors import InputError
from truing.core.policy import Workbench
from truing.core.run import Quiet, Run
from truing.methods.merge._front import Candidate, search, undominated
from truing.methods.merge._parts import Rules, blend_of
from truing.methods.merge.searched import Searched

PLAIN = Rules(2, "mean", "mean", "part")


def known(evaluations: int, wanted: tuple[float, float], cheap: tuple[float, float]) -> list[Candidate]:
    """A search where alignment and tax are distances of the fractions from two points, read from painted weights."""
    base, donor = models()
    blend = blend_of(base, given(donor), PLAIN, "here")
    names = [f"model.layers.{block}.mlp.up_proj.weight" for block in (0, 2)]

    def evaluate(bench: Workbench) -> tuple[float, float]:
        held = dict(bench.module.named_parameters())
        kept = [1 - float(((held[n].detach() - blend.ends[n][0]) / blend.deltas[n]).mean()) for n in names]
        return (
            -sum((a - b) ** 2 for a, b in zip(kept, wanted, strict=True)),
            sum((a - b) ** 2 for a, b in zip(kept, cheap, strict=True)),
        )

    return search(blend, evaluate, evaluations=evaluations, log=Quiet())


def test_the_search_leaves_the_line_for_the_front() -> None:
    """The front is the segment between the two points, and the plain average meets it in its middle alone."""
    found = undominated(known(80, (0.2, 0.8), (0.8, 0.2)))
    off = [abs(each.fractions[0] + each.fractions[1] - 1.0) for each in found]
    assert len(found) >= 10
    assert max(off) < 0.2
    assert min(each.fractions[0] for each in found) < 0.25
    assert max(each.fractions[0] for each in found) > 0.75
    best = max(found, key=lambda each: each.alignment)
    assert best.fractions == pytest.approx((0.2, 0.8), abs=0.05)


def test_more_evaluations_are_more_of_the_same_search() -> None:
    few, many = (known(count, (0.1, 0.9), (1.0, 1.0)) for count in (20, 40))
    assert len(few) == 20
    assert many[:20] == few
    assert [each.fractions for each in few[:6]] == [(f, f) for f in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)]
    assert all(0 <= fraction <= 1 for each in many for fraction in each.fractions)
    assert len({each.fractions for each in many}) == 40


def test_painting_is_exact_and_leaves_nothing_behind() -> None:
    """Whatever was painted before, a blend is the one that weights() gives, and the base comes back to the bit."""
    base, donor = models(dtype=torch.bfloat16)
    blend = blend_of(base, given(donor), PLAIN, "here")
    before = {name: tensor.clone() for name, tensor in base.weights().items()}
    bench = base.open()
    for fractions in ((0.3, 0.9), (0.0, 0.0), (0.123, 0.456), (1.0, 1.0)):
        blend.paint(bench.module, fractions)
        painted, wanted = dict(bench.module.named_parameters()), blend.weights(fractions)
        assert all(torch.equal(painted[name], wanted[name]) for name in wanted)
    assert all(torch.equal(painted[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(base.weights()[name], tensor) for name, tensor in before.items())


def searched(run: Run | None = None, **settings: Any) -> tuple[Any, Searched, Any]:
    base, donor = models()
    how = Searched(**{"parts": 2, "evaluations": 14, **settings})
    evidence = given(donor, pairs=PAIRS)
    return how(base, evidence, run or Run()), how, (base, evidence)


@pytest.mark.parametrize("alignment", ["margin", "likelihood"])
def test_the_numbers_are_those_of_models_that_are_made(alignment: str) -> None:
    """Every candidate's alignment and tax against log-probabilities of a model with those weights, less the base's."""
    _, how, (base, evidence) = searched(alignment=alignment)
    blend = blend_of(base, evidence, PLAIN, "here")

    def measured(policy: Any) -> tuple[float, float]:
        prompts = [pair.prompt for pair in PAIRS]
        chosen = policy.token_logprobs(prompts, [p.chosen for p in PAIRS])
        margin = policy.logprob(prompts, [p.chosen for p in PAIRS])
        margin = margin - policy.logprob(prompts, [p.rejected for p in PAIRS])
        demos = policy.token_logprobs([d.prompt for d in evidence.demos], [d.reply for d in evidence.demos])
        gained = margin.mean() if alignment == "margin" else torch.cat(chosen).double().mean()
        return float(gained), -float(torch.cat(demos).double().mean())

    own = measured(base)
    for each in how.measured(base, evidence, Run())[::3]:
        found = measured(base.with_weights(blend.weights(each.fractions)))
        assert (each.alignment, each.tax) == pytest.approx((found[0] - own[0], found[1] - own[1]), abs=1e-4)


def test_the_best_within_the_tax_is_given() -> None:
    _, how, (base, evidence) = searched()
    every = how.measured(base, evidence, Run())
    assert (every[0].fractions, every[0].alignment, every[0].tax) == ((1.0, 1.0), 0.0, 0.0)
    for tax in (0.0, 0.05, 1e9):
        made = Searched(parts=2, evaluations=14, tax=tax)(base, evidence, Run())
        best = max((each for each in every if each.tax <= tax), key=lambda each: each.alignment)
        wanted = base.with_weights(blend_of(base, evidence, PLAIN, "here").weights(best.fractions))
        assert same_weights(made, wanted)
    front = how.front(base, evidence, Run())
    assert [each.tax for each in front] == sorted(each.tax for each in front)
    assert [each.alignment for each in front] == sorted(each.alignment for each in front)


def test_arms_that_differ_in_tax_share_one_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    first, how, (base, evidence) = searched(Run(cache=tmp_path, log=notes))
    assert not any("from the cache" in line for line in notes.said)
    monkeypatch.setattr("truing.methods.merge.searched.search", None)
    again = Searched(parts=2, evaluations=14, tax=how.tax)(base, evidence, Run(cache=tmp_path, log=notes))
    assert same_weights(again, first)
    Searched(parts=2, evaluations=14, tax=0.5)(base, evidence, Run(cache=tmp_path, log=notes))
    assert sum("from the cache" in line for line in notes.said) == 2


def test_without_demonstrations_the_tax_is_on_prose_that_the_probe_does_not_read() -> None:
    from truing.data.promptset import load_neutral
    from truing.pipeline.asking import Asking

    base, donor = models(max_position_embeddings=2048)
    found = Searched(parts=2, evaluations=3, passages=2)
    told = found.measured(base, given(donor, demos=(), pairs=PAIRS), Run())
    texts = load_neutral()[-2:]
    nats = [-torch.cat(p.token_logprobs([(), ()], texts)).double().mean() for p in (base, told and donor)]
    blend = blend_of(base, given(donor), PLAIN, "here")
    third = base.with_weights(blend.weights(told[2].fractions))
    nats.append(-torch.cat(third.token_logprobs([(), ()], texts)).double().mean())
    assert told[2].tax == pytest.approx(float(nats[2] - nats[0]), abs=1e-4)
    assert Asking.__dataclass_fields__["passages"].default + Searched().passages <= len(load_neutral())


def test_pairs_are_needed() -> None:
    base, donor = models()
    with pytest.raises(InputError, match="has no pairs"):
        Searched()(base, given(donor), Run())
