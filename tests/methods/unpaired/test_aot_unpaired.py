"""unpaired/aot_unpaired."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from ratings import QUICK, RATINGS, double, rated, slope, some, whole
from tiny import Notes

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.run import Run
from truing.methods.unpaired._family import RatedLogps
from truing.methods.unpaired.aot_unpaired import AOTUnpaired, couples
from truing.models.local import Local

METHOD = AOTUnpaired(beta=0.3, label_smoothing=0.1)
SIDES = [True, False, True, False, True, False]


def logistic(margin: torch.Tensor) -> torch.Tensor:
    softplus = torch.nn.functional.softplus
    return 0.9 * softplus(-0.3 * margin) + 0.1 * softplus(0.3 * margin)


def transported(given: RatedLogps) -> torch.Tensor:
    """By the definition, inside the graph: the quantile functions of both sides on a grid that has all their steps."""
    good, bad = (given.ratio[held].sort().values for held in (given.desirable, ~given.desirable))
    fine = len(good) * len(bad)
    return logistic(good.repeat_interleave(fine // len(good)) - bad.repeat_interleave(fine // len(bad))).mean()


@pytest.mark.parametrize("count", [4, 6, 7, 11])
def test_value_and_gradient_are_those_of_the_two_quantile_functions(count: int) -> None:
    """Also where the sides are of unequal size."""
    given = some(count=count)
    method = METHOD.loss(whole(METHOD, given)).mean()
    by_definition = transported(given)
    torch.testing.assert_close(method, by_definition)
    found, wanted = (torch.autograd.grad(value, given.policy)[0] for value in (method, by_definition))
    torch.testing.assert_close(found, wanted)


def test_no_other_matching_costs_less() -> None:
    """Against every one of 120, with the loss convex."""
    good, bad = torch.randn(2, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 4
    costs = [logistic(good - bad[list(order)]).mean().item() for order in permutations(range(5))]
    ours = METHOD.loss(whole(METHOD, rated(torch.cat([good, bad]), [True] * 5 + [False] * 5))).mean().item()
    assert ours == pytest.approx(min(costs), abs=1e-12)
    assert max(costs) > ours + 0.05


def test_slopes() -> None:
    """Sorted, 1, 4 and 9 are set against -2, 3 and 5; the mean of six tells each couple's loss twice, by halves."""
    given = rated(double(4, 5, 1, -2, 9, 3), SIDES)
    pull = 0.3 * (torch.sigmoid(-0.3 * double(1, 4, 3, 3, 4, 1)) - 0.1) * 2
    found = slope(lambda r: METHOD.loss(whole(METHOD, r)), given)
    torch.testing.assert_close(found, pull * double(-1, 1, -1, 1, -1, 1))


def test_quantiles_by_hand() -> None:
    """Two values against three: the lower one shares a third with the first and a sixth with the second."""
    values, mass = couples(double(7, 1), double(30, 10, 20), 3)
    dense = torch.zeros(2, 3, dtype=torch.float64).scatter_add(1, (values / 10 - 1).long(), mass)
    torch.testing.assert_close(dense, double(0, 1 / 6, 1 / 3, 1 / 3, 1 / 6, 0).view(2, 3))


def test_a_step_of_one_side_teaches_nothing() -> None:
    given = rated(double(1, 2), [True, True])
    assert METHOD.loss(whole(METHOD, given)).tolist() == [0, 0]
    assert slope(lambda r: METHOD.loss(whole(METHOD, r)), given).tolist() == [0, 0]


def test_an_example_alone_has_its_part_of_the_whole() -> None:
    given = whole(METHOD, some())
    together = METHOD.loss(given)
    for b in range(7):
        part = slice(b, b + 1)
        assert given.of_step is not None
        alone = RatedLogps(given.policy[part], given.base[part], given.desirable[part], of_step=given.of_step[part])
        torch.testing.assert_close(METHOD.loss(alone), together[part])


def test_the_cut_into_forward_passes_changes_nothing(tiny_policy: Local) -> None:
    logs = []
    for tokens in (20, 2048):
        notes = Notes()
        method = AOTUnpaired(**QUICK, beta=0.5, tokens_per_batch=tokens, eval_fraction=0.25, eval_steps=3)
        method(tiny_policy, Evidence(ratings=RATINGS * 2), Run(log=notes))
        logs.append(notes)
    for name in ("loss", "grad_norm", "eval_loss", "rewards/margins"):
        assert logs[0].series(name) == pytest.approx(logs[1].series(name), rel=1e-3, abs=1e-5), name
    assert logs[0].series("loss")[-1] < 0.6


def test_one_side_alone_is_refused(tiny_policy: Local) -> None:
    for ratings, side in ((RATINGS[::2], "above"), (RATINGS[1::2], "at or below")):
        with pytest.raises(InputError, match=f"is {side} threshold = 0.5") as error:
            AOTUnpaired(**QUICK)(tiny_policy, Evidence(ratings=ratings), Run())
        assert error.value.faults[0].mend
    scores = tuple(replace(r, value=r.value + 3) for r in RATINGS)
    AOTUnpaired(**{**QUICK, "max_steps": 1}, threshold=3.5)(tiny_policy, Evidence(ratings=scores), Run())
