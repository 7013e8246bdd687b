"""How high the loss stands between two networks trained from different seeds: as they are, matched, transported.

    python benchmarks/barriers.py --pairs 3

MLPs of some widths and small vision transformers learn the same images, two of each from different seeds, each with
batches of its own. Then the path of weights between the two is walked over a grid: naive, after matching by weights, by
activations and by the loss halfway (straight-through), and after soft and exact transport. A further way to bring one
network into another's order is one entry of ``WAYS``.

Digits are scikit-learn's (``pip install scikit-learn``); ``--data made-up`` are ten overlapping clouds, which need
nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.arguments import common, start
from harness.record import settle
from harness.side import versions
from harness.vision import Images, Shape, asked, evaluated, trained
from torch import nn

from truing.core.lazy import F, torch
from truing.core.rng import Rng
from truing.units.features import activation_tables, match_activations
from truing.units.fusion import transported
from truing.units.matching import match_weights
from truing.units.permutations import PermutationSpec, apply
from truing.units.singular import singular_alignment
from truing.units.straight import module_gradient, straight_through

Weights = Mapping[str, "torch.Tensor"]
GRID = [i / 24 for i in range(25)]


@dataclass(frozen=True)
class Two:
    """Two networks of one shape, and what they may be matched by."""

    spec: PermutationSpec
    nets: tuple[nn.Module, nn.Module]
    data: Images
    seed: int

    @property
    def weights(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Of both."""
        one, two = ({k: v.detach() for k, v in net.state_dict().items()} for net in self.nets)
        return one, two


def naive(two: Two) -> Weights:
    """The second as it is."""
    return two.weights[1]


def by_weights(two: Two) -> Weights:
    """Matched by weights."""
    one, other = two.weights
    found = match_weights(two.spec, one, other, max_sweeps=100, rng=Rng(two.seed))
    return apply(two.spec, found.permutation, other)


def by_activations(two: Two) -> Weights:
    """Matched by correlations over the training images, labels unseen."""
    one, other = two.weights
    batches = [{"input": x} for x in two.data.x.split(500)]
    tables = activation_tables(two.spec, *two.nets, batches, correlation=True)
    return apply(two.spec, match_activations(two.spec, one, other, tables).permutation, other)


def straight(two: Two) -> Weights:
    """Matched by the training loss halfway."""
    one, other = two.weights
    x, y = two.data.x, two.data.y

    def loss(net: Callable[[torch.Tensor], torch.Tensor], step: int) -> torch.Tensor:
        return F.cross_entropy(net(x), y)

    found = straight_through(
        two.spec,
        one,
        other,
        module_gradient(two.nets[0], loss),
        steps=STEPS,
        learning_rate=1e-2,
        momentum=0.9,
        max_sweeps=100,
        rng=Rng(two.seed),
    )
    return apply(two.spec, found.permutation, other)


def fusion(regularisation: float) -> Callable[[Two], Weights]:
    """Transported by plans of that entropy."""

    def way(two: Two) -> Weights:
        one, other = two.weights
        options: dict[str, Any] = {"regularisation": regularisation, "iterations": 2000, "residual": "mean"}
        return transported(two.spec, two.spec, other, one, **options)

    return way


STEPS = 100
WAYS: Mapping[str, Callable[[Two], Weights]] = {
    "naive": naive,
    "weights": by_weights,
    "activations": by_activations,
    "straight-through": straight,
    "transport, exact": fusion(0.0),
    "transport, soft": fusion(0.06),
}
"""From two networks to the second one's weights in the first one's order."""


def path(two: Two, moved: Weights, seconds: float) -> dict[str, float]:
    """The figures of one way.

    The barrier is the greatest height over the line between the two networks as they were trained; up to halfway for
    one that was transported softly, as the far end of its path is no longer one of the two.
    """
    one, other = two.weights
    net, data = two.nets[0], two.data
    ends = {side: [evaluated(net, w, data, side)[0] for w in (one, other)] for side in ("train", "test")}
    row = {"seconds": seconds}
    grid = [t for t in GRID if t <= 0.5] if not evaluated_same(net, moved, other, data) else GRID
    for side, (first, last) in ends.items():
        heights = []
        for t in grid:
            between = {k: torch.lerp(v, moved[k], t) if v.is_floating_point() else v for k, v in one.items()}
            loss, accuracy = evaluated(net, between, data, side)
            heights.append(loss - (1 - t) * first - t * last)
            if t == 0.5:
                row[f"{side}/halfway"], row[f"{side}/accuracy"] = heights[-1], accuracy
        row[f"{side}/barrier"] = max(heights)
    gap = [sum(float((one[k] - w[k]).square().sum()) for k in two.spec.tensors) ** 0.5 for w in (moved, other)]
    row["distance"] = gap[0] / gap[1]
    row["alignment"] = singular_alignment(one, moved, gamma=0.3)
    return row


def evaluated_same(net: nn.Module, moved: Weights, other: Weights, data: Images) -> bool:
    """Whether a network still computes what it did."""
    return abs(evaluated(net, moved, data, "test")[0] - evaluated(net, other, data, "test")[0]) < 1e-4


def table(rows: Mapping[str, list[dict[str, float]]], ends: list[float]) -> str:
    """One shape's table: means over pairs, and the least and the greatest of the barrier."""
    lines = [
        "| way | barrier, train | barrier, test | least to greatest | accuracy halfway | distance | R(0.3) | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way, found in rows.items():
        mean = {key: sum(row[key] for row in found) / len(found) for key in found[0]}
        heights = [row["test/barrier"] for row in found]
        lines.append(
            f"| {way} | {mean['train/barrier']:.3f} | {mean['test/barrier']:.3f} | {min(heights):.3f} to "
            f"{max(heights):.3f} | {mean['test/accuracy']:.1%} | {mean['distance']:.2f} | {mean['alignment']:.2f} | "
            f"{mean['seconds']:.2f} |"
        )
    return "\n".join([*lines, "", f"Accuracy of the networks themselves: {sum(ends) / len(ends):.1%}."])


def measured(shape: Shape, data: Images, pairs: int) -> tuple[dict[str, list[dict[str, float]]], list[float]]:
    """Every way's figures for every pair, and the accuracies of the trained networks."""
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    ends = []
    for pair in range(pairs):
        nets = tuple(trained(shape, data, seed) for seed in (2 * pair, 2 * pair + 1))
        two = Two(shape.spec(nets[0].state_dict()), (nets[0], nets[1]), data, pair)
        ends += [evaluated(net, net.state_dict(), data, "test")[1] for net in nets]
        for way, bring in WAYS.items():
            began = time.perf_counter()
            moved = bring(two)
            rows[way].append(path(two, moved, time.perf_counter() - began))
    return rows, ends


def main() -> None:
    """Train, bring into order, walk."""
    summary = (__doc__ or "").split("\n")[0]
    words, data, kinds = asked("barriers", summary, widths="64,256", dims="32,64")
    tables, runs = {}, {}
    for shape in kinds:
        rows, ends = measured(shape, data, words.pairs)
        tables[shape.name] = table(rows, ends)
        print(f"{shape.name}\n\n{tables[shape.name]}\n", file=sys.stderr, flush=True)
        runs |= {
            f"{shape.name}: {way}": [{**row, "versions": versions()} for row in told] for way, told in rows.items()
        }
    work = {
        "data": words.data,
        "pairs": words.pairs,
        "grid": len(GRID),
        "images": len(data.x),
        "held_out": len(data.x_test),
    }
    settle("barriers", common(words), work=work, runs=runs, tables=tables)


if __name__ == "__main__":
    start(main)
