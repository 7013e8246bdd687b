"""Two networks merged into one of growing width: accuracy against multiplications, with and without least squares.

    python benchmarks/pleas.py --pairs 3

Two networks of each shape learn the same images from different seeds; or each learns five of the ten classes and has to
tell all ten once merged. The second is brought into the first one's order by activations; then the units that are least
alike stay separate (`truing.units.pleas`). Images and networks are those of `barriers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.arguments import common, start
from harness.record import settle
from harness.vision import Images, Shape, asked, evaluated, trained
from torch import nn

from truing.core.lazy import torch
from truing.units.features import activation_tables, match_activations
from truing.units.partial import Partial, least_alike, unit_scores
from truing.units.permutations import PermutationSpec, apply
from truing.units.pleas import merge_modules, with_tensors

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
HALF = (0.5, 0.5)
RIDGE = 1e-3


def networks(shape: Shape, data: Images, pair: int, task: str) -> tuple[nn.Module, nn.Module]:
    """Two of one shape: of all classes, or of five each."""
    made = []
    for half in (0, 1):
        rows = (data.y // 5 == half) if task == "five classes each" else data.y >= 0
        made.append(trained(shape, replace(data, x=data.x[rows], y=data.y[rows]), 2 * pair + half))
    return made[0], made[1]


def tensors_of(net: nn.Module) -> Mapping[str, torch.Tensor]:
    """Its weights."""
    return {name: tensor.detach() for name, tensor in net.state_dict().items()}


def separable(spec: PermutationSpec) -> list[str]:
    """The groups that may be widened: neurons; in an MLP all are, in a transformer those of its blocks."""
    names = [name for name in spec.groups if name.startswith("neurons.")]
    return names or list(spec.groups)


def measured(shape: Shape, data: Images, pairs: int, task: str) -> list[dict[str, Any]]:
    """Means over pairs, a row a width: multiplications times one network's, loss and accuracy on held-out images."""
    found: dict[str, list[dict[str, float]]] = {}
    for pair in range(pairs):
        one, two = networks(shape, data, pair, task)
        spec = shape.spec(tensors_of(one))
        batches = [{"input": x} for x in data.x.split(500)]
        plain = [(a + b) / 2 for a, b in zip(tensors_of(one).values(), tensors_of(two).values(), strict=True)]
        note(found, "average as they are", 1.0, one, dict(zip(tensors_of(one), plain, strict=True)), data)
        tables = activation_tables(spec, one, two, batches, correlation=True)
        order = match_activations(spec, tensors_of(one), tensors_of(two), tables).permutation
        two = with_tensors(two, apply(spec, order, tensors_of(two)))
        scores = unit_scores(spec, activation_tables(spec, one, two, batches, correlation=True))
        base = sum(Partial(spec, {}, HALF).numbers(name) for name in spec.tensors)
        for fraction in FRACTIONS:
            masks = {name: least_alike(scores[name], round(fraction * len(scores[name]))) for name in separable(spec)}
            cost = sum(Partial(spec, masks, HALF).numbers(name) for name in spec.tensors) / base
            for fit in (False, True):
                made = merge_modules((one, two), spec, masks, HALF, batches if fit else (), ridge=RIDGE).tensors
                name = f"separate {fraction:g}, {'least squares' if fit else 'blocks'}"
                note(found, name, cost, with_tensors(one, made), made, data)
        both = [evaluated(net, tensors_of(net), data, "test") for net in (one, two)]
        found.setdefault("the two themselves", []).append(
            {"cost": 2.0, "loss": sum(b[0] for b in both) / 2, "accuracy": sum(b[1] for b in both) / 2}
        )
        ensemble(found, one, two, data)
    return [
        {"network": name, **{key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}}
        for name, rows in found.items()
    ]


def note(
    found: dict[str, list[dict[str, float]]],
    name: str,
    cost: float,
    net: nn.Module,
    weights: Mapping[str, torch.Tensor],
    data: Images,
) -> None:
    """Evaluate a network at some weights."""
    loss, accuracy = evaluated(net, weights, data, "test")
    found.setdefault(name, []).append({"cost": cost, "loss": loss, "accuracy": accuracy})


def ensemble(found: dict[str, list[dict[str, float]]], one: nn.Module, two: nn.Module, data: Images) -> None:
    """The mean of both networks' logits: what everything separate gives."""
    with torch.no_grad():
        logits = (one(data.x_test) + two(data.x_test)) / 2
    loss = float(nn.functional.cross_entropy(logits, data.y_test))
    accuracy = float((logits.argmax(1) == data.y_test).double().mean())
    found.setdefault("mean of the logits", []).append({"cost": 2.0, "loss": loss, "accuracy": accuracy})


def shown(rows: list[dict[str, Any]]) -> str:
    """One table."""
    lines = ["| network | multiplications | loss | accuracy |", "| --- | --- | --- | --- |"]
    for row in rows:
        lines.append(f"| {row['network']} | {row['cost']:.2f} | {row['loss']:.3f} | {row['accuracy']:.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Train, merge, evaluate."""
    summary = (__doc__ or "").split("\n")[0]
    words, data, kinds = asked("pleas", summary, widths="64", dims="32")
    tables, runs = {}, {}
    for shape in kinds:
        for task in ("all classes", "five classes each"):
            rows = measured(shape, data, words.pairs, task)
            tables[f"{shape.name}, {task}"] = shown(rows)
            told = {"versions": {"torch": torch.__version__}}
            runs |= {f"{shape.name}, {task}: {row['network']}": [{**row, **told}] for row in rows}
    settle("pleas", common(words), work={"data": words.data, "pairs": words.pairs}, runs=runs, tables=tables)


if __name__ == "__main__":
    start(main)
