"""Orders are a group: applying, inverting and composing agree, on any network that is declared."""

from __future__ import annotations

import pytest
import torch

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.units.permutations import Group, Order, Part, PermutationSpec, apply, compose, invert, random, same

GROUPS = {
    "stream": Group("stream", 6, signed=True),
    "groups": Group("groups", 3),
    "heads": Group("heads", 6, "groups"),
    "values": Group("values", 12, "groups", fixed=1, signed=True),
}
ATTENDED = Part(24, "heads", "values", reads=True)
SPEC = PermutationSpec(
    GROUPS,
    {
        "v": ((Part(12, "groups", "values"),), (Part(6, "stream", reads=True),)),
        "o": ((Part(6, "stream"),), (ATTENDED,)),
        "norm": ((Part(6, "stream", signed=False),),),
        "fused": ((Part(2), Part(6, "stream")), (Part(3),)),
        "scale": (),
    },
    ties={"again": "o"},
)
SHAPES = {"v": (12, 6), "o": (6, 24), "norm": (6,), "fused": (8, 3), "scale": ()}


def weights() -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=numbers) for name, shape in SHAPES.items()}
    return {**made, "again": made["o"], "other": torch.ones(2)}


def test_orders_are_a_group() -> None:
    one, two, three = (random(SPEC, Rng(seed)) for seed in range(3))
    own = weights()
    both, after = apply(SPEC, compose(SPEC, one, two), own), apply(SPEC, two, apply(SPEC, one, own))
    assert all(torch.equal(both[name], after[name]) for name in own)
    left, right = compose(SPEC, compose(SPEC, one, two), three), compose(SPEC, one, compose(SPEC, two, three))
    assert same(SPEC, left, right)
    assert same(SPEC, compose(SPEC, one, invert(one)), {})
    assert not same(SPEC, compose(SPEC, one, two), compose(SPEC, two, one))
    assert both["again"] is both["o"]
    assert both["other"] is own["other"]


def test_a_layer_and_what_reads_it_move_alike() -> None:
    """Attention's heads read the values of their group: the sum over a head's dimensions is the same one by one."""
    drawn, own = random(SPEC, Rng(1)), weights()
    after = apply(SPEC, {**drawn, "stream": Order(torch.arange(6))}, own)

    def read(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        heads = tensors["v"].view(3, 1, 4, 6).expand(3, 2, 4, 6).reshape(24, 6)
        return tensors["o"] @ heads

    torch.testing.assert_close(read(after), read(own))
    assert not torch.allclose(after["o"], own["o"])


def test_one_axis_by_hand() -> None:
    """Groups turn round, heads of the first are swapped, one dimension changes its sign."""
    order = {
        "groups": Order(torch.tensor([2, 1, 0])),
        "heads": Order(torch.tensor([5, 4, 2, 3, 0, 1])),
        "values": Order(torch.tensor([8, 10, 9, 11, 4, 5, 6, 7, 0, 1, 2, 3]), torch.tensor([-1] + [1] * 11)),
    }
    row = torch.arange(24.0).expand(6, 24)
    moved = apply(SPEC, order, {"o": row})["o"][0].tolist()
    assert moved[:8] == [-20, 22, 21, 23, -16, 18, 17, 19]
    assert moved[8:] == [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]


def test_a_follower_that_is_left_out_goes_with_its_leader() -> None:
    whole = SPEC.complete({"groups": Order(torch.tensor([1, 2, 0]))})
    assert whole["heads"].index.tolist() == [2, 3, 4, 5, 0, 1]
    assert whole["values"].index.tolist() == [*range(4, 12), *range(4)]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        SPEC.complete({
            "hads": Order(torch.arange(6)),
            "groups": Order(torch.tensor([0, 0, 1])),
            "values": Order(torch.tensor([1, 0, *range(2, 12)])),
            "stream": Order(torch.arange(6), torch.tensor([2, 1, 1, 1, 1, 1])),
        })  # fmt: skip
    said = str(caught.value)
    assert len(caught.value.faults) >= 4
    assert "Did you mean 'heads'?" in said
    assert "signs are 6 numbers of 1 and -1" in said
    with pytest.raises(InputError, match=r"v is \(2, 2\), not \(12, 6\)"):
        apply(SPEC, {}, {"v": torch.ones(2, 2)})


def test_random_orders_come_from_their_stream_alone() -> None:
    assert same(SPEC, random(SPEC, Rng(4)), random(SPEC, Rng(4)))
    assert not same(SPEC, random(SPEC, Rng(4)), random(SPEC, Rng(5)))
    seen = {tuple(random(SPEC, Rng(seed))["groups"].index.tolist()) for seed in range(60)}
    assert len(seen) == 6
