"""merge/ties."""

from __future__ import annotations

import pytest
import torch
from bags import close, merged, vector

ZERO = vector(0, 0, 0)


def test_the_case_of_the_specification() -> None:
    """Full density: (1, -2, 3) and (2, 1, -1); only the numbers with the elected sign are averaged."""
    close(merged("merge/ties", ZERO, vector(1, -2, 3), vector(2, 1, -1), density=1.0), [1.5, -2, 3])


def brute(base: list[float], donors: list[list[float]], weights: list[float], densities: list[float], normalize: bool):  # type: ignore[no-untyped-def] # a list of numbers
    """Number by number, as the paper has it."""
    deltas = []
    for donor, density in zip(donors, densities, strict=True):
        delta = [d - b for d, b in zip(donor, base, strict=True)]
        order = sorted(range(len(delta)), key=lambda i: (-abs(delta[i]), i))[: int(density * len(delta))]
        deltas.append([d if i in order else 0.0 for i, d in enumerate(delta)])
    made = []
    for i, own in enumerate(base):
        votes = [(w * delta[i], w) for w, delta in zip(weights, deltas, strict=True)]
        sign = 1 if sum(vote for vote, _ in votes) >= 0 else -1
        agreed = [(vote, w) for vote, w in votes if vote * sign > 0]
        total = sum(w for _, w in agreed) or 1.0
        made.append(own + sum(vote for vote, _ in agreed) / (total if normalize else 1.0))
    return made


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [(0.7, 1.3), (0.7, -1.3), (0.7, 0.0)])
@pytest.mark.parametrize("densities", [(0.5, 0.5), (0.2, 0.9), (1.0, 0.3), (0.0, 0.4)])
def test_every_number_is_as_written_out(
    normalize: bool, weights: tuple[float, ...], densities: tuple[float, ...]
) -> None:
    """Also where weights have two signs, and what agreed may add up to no weight."""
    source = torch.Generator().manual_seed(3)
    base, one, other = torch.randn(3, 41, generator=source, dtype=torch.float64)
    wanted = brute(base.tolist(), [one.tolist(), other.tolist()], list(weights), list(densities), normalize)
    close(merged("merge/ties", base, one, other, weight=weights, density=densities, normalize=normalize), wanted)


def test_of_equal_sizes_the_first_are_kept() -> None:
    close(merged("merge/ties", vector(*[0] * 6), vector(2, -2, 2, 2, 3, 1), density=0.5), [2, -2, 0, 0, 3, 0])


def test_the_sum_of_sizes_can_be_restored() -> None:
    """Sizes 4 and 3 of 4, 3, 2, 1 are kept: 10 / 7 of each."""
    made = merged("merge/ties", vector(0, 0, 0, 0), vector(4, -3, 2, 1), density=0.5, rescale="l1")
    close(made, [40 / 7, -30 / 7, 0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_many_numbers_over_several_stretches(dtype: torch.dtype) -> None:
    """More than a stretch holds, with many equal sizes: exactly the share is kept."""
    from truing.engine.tensors import STRETCH

    size = 2 * STRETCH + 17
    delta = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    made = merged("merge/ties", torch.zeros(size, dtype=dtype), delta, density=0.3)
    kept = made != 0
    assert int(kept.sum()) == int(0.3 * size)
    assert float(delta[kept].abs().min()) >= float(delta[~kept].abs().max())


@pytest.mark.parametrize("kind", ["even", "sorted", "few values", "zeros"])
def test_the_bar_is_the_sorted_ones_whatever_the_sample_says(kind: str) -> None:
    """Where the sample is right, where it is far off, and where there is nothing to tell sizes apart."""
    from truing.methods.merge._rank import largest

    sizes = torch.randn(400_000, generator=torch.Generator().manual_seed(0)).abs()
    sizes = {"even": sizes, "sorted": sizes.sort().values, "few values": (sizes * 3).floor(), "zeros": sizes * 0}[kind]
    ranks = [1, 7, 1000, 123_456, 399_999]
    ordered = sizes.sort(descending=True).values
    for sample in (None, sizes[None, ::40], sizes[None, :10_000]):
        (bars,) = largest(
            lambda: [(0, sizes[None, :250_000]), (250_000, sizes[None, 250_000:])], [ranks], len(sizes), sample
        )
        for k, bar in zip(ranks, bars, strict=True):
            kept = bar.over(sizes, 0)
            if kind != "zeros":
                assert int(kept.sum()) == k or bar.size == 0
            assert bar.size == float(ordered[k - 1])
