"""Averaging against sums written out, its two ends, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from bags import Bag, random_bag
from tiny import make_local, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.policy import Editable, Policy
from truing.core.run import Run
from truing.methods.merge.linear import Linear, linear_merge


def merge(base: Editable, *donors: Policy, weight: float) -> Mapping[str, torch.Tensor]:
    named = {f"donor{i}": donor for i, donor in enumerate(donors)}
    return Linear(weight=weight)(base, Evidence(donors=named), Run()).weights()


def test_the_kernel_is_the_sum_written_out() -> None:
    deltas = torch.tensor([[[1.0, 2.0]], [[3.0, -6.0]], [[5.0, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(
        linear_merge(deltas, weight=0.5), torch.tensor([[0.5 * 9 / 3, 0.5 * -3 / 3]], dtype=torch.float64)
    )


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("weight", [-0.5, 0.3, 1.0, 1.7])
def test_every_number_is_the_mixture_of_its_own(count: int, weight: float) -> None:
    """``(1 - weight) * base + weight * mean(donors)``, number by number."""
    base, donors = random_bag(0), [random_bag(1 + k) for k in range(count)]
    merged = merge(base, *donors, weight=weight)
    assert list(merged) == list(base.tensors)
    for name, tensor in merged.items():
        own = base.tensors[name].flatten().tolist()
        theirs = [donor.tensors[name].flatten().tolist() for donor in donors]
        wanted = [(1 - weight) * b + weight * sum(row[i] for row in theirs) / count for i, b in enumerate(own)]
        assert tensor.shape == base.tensors[name].shape
        assert tensor.flatten().tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_weight_0_is_the_base_bit_for_bit(dtype: torch.dtype) -> None:
    base = random_bag(0, dtype)
    merged = merge(base, random_bag(1, dtype), random_bag(2, dtype), weight=0.0)
    for name, tensor in base.tensors.items():
        assert merged[name].dtype == dtype
        assert torch.equal(merged[name], tensor)


def test_weight_1_is_the_mean_of_the_donors_whatever_the_base() -> None:
    donors = random_bag(1), random_bag(2)
    for base in (random_bag(0), random_bag(3)):
        merged = merge(base, *donors, weight=1.0)
        for name, tensor in merged.items():
            torch.testing.assert_close(tensor, (donors[0].tensors[name] + donors[1].tensors[name]) / 2)


def test_the_order_of_the_donors_changes_nothing() -> None:
    base, first, second, third = (random_bag(seed) for seed in range(4))
    forwards, backwards = (merge(base, *row, weight=0.6) for row in ((first, second, third), (third, first, second)))
    for name, tensor in forwards.items():
        torch.testing.assert_close(tensor, backwards[name])


def test_the_donor_that_is_the_base_only_dilutes() -> None:
    base, donor = random_bag(0), random_bag(1)
    half, both = merge(base, donor, weight=0.5), merge(base, donor, base, weight=1.0)
    for name, tensor in half.items():
        torch.testing.assert_close(tensor, both[name])


def test_bfloat16_is_added_up_in_float32() -> None:
    """Steps of 2 ** -8 and 2 ** -9 next to 1 are lost one by one in bfloat16; their sum is a step it can hold."""
    base = Bag(w=torch.ones(1, dtype=torch.bfloat16))
    donors = [Bag(w=torch.tensor([1 + 2.0**-8])), Bag(w=torch.tensor([1 + 2.0**-8])), Bag(w=torch.tensor([1.0]))]
    merged = merge(base, *donors, weight=1.5)["w"]  # 1.5 * (2 / 3) * 2 ** -8: half a step, to even
    assert (merged.dtype, float(merged)) == (torch.bfloat16, 1.0)
    merged = merge(base, *donors, weight=3.0)["w"]  # 3 * (2 / 3) * 2 ** -8 = one step of 2 ** -7
    assert (merged.dtype, float(merged)) == (torch.bfloat16, 1 + 2.0**-7)


def test_bfloat16_is_rounded_once() -> None:
    base, donors = random_bag(0, torch.bfloat16), [random_bag(1 + k, torch.bfloat16) for k in range(3)]
    merged = merge(base, *donors, weight=0.7)
    wide = [Bag(**{name: tensor.double() for name, tensor in bag.tensors.items()}) for bag in (base, *donors)]
    exact = merge(*wide, weight=0.7)
    for name, tensor in merged.items():
        assert torch.equal(tensor, exact[name].to(torch.bfloat16))


def test_tensors_that_are_no_floats_stay_the_bases() -> None:
    base = Bag(steps=torch.tensor([3, 4]), mask=torch.tensor([True, False]), w=torch.zeros(1))
    donor = Bag(steps=torch.tensor([7, 9]), mask=torch.tensor([False, True]), w=torch.ones(1))
    merged = merge(base, donor, weight=0.25)
    assert merged["steps"].tolist() == [3, 4]
    assert merged["mask"].tolist() == [True, False]
    assert merged["w"].tolist() == [0.25]


def test_base_and_donors_are_left_as_they_were() -> None:
    bags = [random_bag(seed) for seed in range(3)]
    before = [{name: tensor.clone() for name, tensor in bag.tensors.items()} for bag in bags]
    merged = merge(*bags, weight=0.9)
    for tensor in merged.values():
        tensor.add_(1.0)
    for bag, copy in zip(bags, before, strict=True):
        assert all(torch.equal(bag.tensors[name], tensor) for name, tensor in copy.items())


class TestRefused:
    BASE = Bag(a=torch.zeros(2), b=torch.zeros(3))

    @pytest.mark.parametrize("broadcastable", [(1,), (3,), (2, 2), ()])
    def test_another_shape_even_where_it_would_broadcast(self, broadcastable: tuple[int, ...]) -> None:
        odd = Bag(a=torch.zeros(broadcastable), b=torch.zeros(3))
        with pytest.raises(InputError, match=r"donors\.donor0: a: .* instead of \(2,\)"):
            merge(self.BASE, odd, weight=0.5)

    @pytest.mark.parametrize("names", [("a",), ("a", "b", "c"), ("a", "c")])
    def test_other_names(self, names: tuple[str, ...]) -> None:
        odd = Bag(**{name: self.BASE.tensors.get(name, torch.zeros(1)) for name in names})
        with pytest.raises(InputError, match="one side only"):
            merge(self.BASE, odd, weight=0.5)

    def test_every_odd_donor_is_told_at_once(self) -> None:
        with pytest.raises(InputError) as told:
            merge(self.BASE, Bag(a=torch.zeros(2)), self.BASE, Bag(a=torch.zeros(9), b=torch.zeros(3)), weight=0.5)
        assert [fault.place for fault in told.value.faults] == ["donors.donor0", "donors.donor2"]

    def test_no_donors(self) -> None:
        with pytest.raises(InputError, match="no donors"):
            merge(self.BASE, weight=0.5)

    def test_a_policy_without_weights(self) -> None:
        class Closed(Policy):
            sample, save, fingerprint = Bag.sample, Bag.save, Bag.fingerprint

        with pytest.raises(InputError, match=r"donors\.donor0: has no weights"):
            merge(self.BASE, Closed(), weight=0.5)

    @pytest.mark.parametrize("weight", [float("nan"), float("inf")])
    def test_a_weight_that_is_no_number(self, weight: float) -> None:
        with pytest.raises(InputError, match="weight"):
            Linear(weight=weight)


def test_between_small_models_only_the_ends_are_the_models() -> None:
    base, tuned = make_local(seed=0), make_local(seed=1)
    ends = [Linear(weight=weight)(base, Evidence(donors={"tuned": tuned}), Run()) for weight in (0.0, 0.5)]
    assert same_weights(ends[0], base)
    assert not same_weights(ends[1], base)
    halves = {name: (tensor + tuned.weights()[name]) / 2 for name, tensor in base.weights().items()}
    for name, tensor in ends[1].weights().items():
        torch.testing.assert_close(tensor, halves[name])


def test_weights_of_all_models() -> None:
    """``sum w_i theta_i``, over their sum or not."""
    base, donor = Bag(w=torch.tensor([1.0, 2.0])), Bag(w=torch.tensor([5.0, -2.0]))
    for normalize, divisor in ((True, 4.0), (False, 1.0)):
        made = Linear(weights=(1.0, 3.0), normalize=normalize)(base, Evidence(donors={"a": donor}), Run()).weights()
        assert made["w"].tolist() == [16 / divisor, -4 / divisor]


def test_weights_that_add_up_to_nothing_are_refused() -> None:
    base, donor = Bag(w=torch.ones(2)), Bag(w=torch.zeros(2))
    with pytest.raises(InputError, match="add up to nothing"):
        Linear(weights=(1.0, -1.0))(base, Evidence(donors={"a": donor}), Run())
    made = Linear(weights=(1.0, -1.0), normalize=False)(base, Evidence(donors={"a": donor}), Run())
    assert made.weights()["w"].tolist() == [1.0, 1.0]
