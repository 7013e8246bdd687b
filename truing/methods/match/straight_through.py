"""Matching by the loss halfway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from annotated_types import Ge, Gt, Le

from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.match._family import MatchMethod, Weights, anchored_spec, reordered
from truing.units.straight import straight_through


@method(paper="arXiv:2209.04836", dial="learning_rate", neutral={"max_steps": 0})
class StraightThrough(MatchMethod):
    """Orders each donor's units so that demonstrations are likely halfway between it and the base.

    Attributes:
        max_steps: of gradient descent, each with a matching; 0 leaves the donors as they are.
        learning_rate, momentum: of that descent.
        per_device_train_batch_size: demonstrations a step.
        max_sweeps: over all groups in each matching.
    """

    reads = frozenset({"donors", "demos"})

    max_steps: Annotated[int, Ge(0)] = 20
    learning_rate: Annotated[float, Gt(0)] = 1e-2
    momentum: Annotated[float, Ge(0), Le(1)] = 0.9
    per_device_train_batch_size: Annotated[int, Ge(1)] = 8
    max_sweeps: Annotated[int, Ge(0)] = 3

    @property
    def idle(self) -> bool:
        return self.max_steps == 0

    def aligned(self, base: Editable, donor: Editable, evidence: Evidence, run: Run) -> Editable:
        spec = anchored_spec(base, donor, self.card.name)
        rng = run.rng("match", "straight_through")
        demos = evidence.demos
        trees = base.encode_many([demo.prompt for demo in demos], [(demo.reply,) for demo in demos])
        size = min(self.per_device_train_batch_size, len(trees))

        def batch(step: int) -> list[Tree]:
            picks = rng.child("batch", step).numpy().permutation(len(trees))[:size]
            return [trees[i] for i in sorted(picks.tolist())]

        found = straight_through(
            spec,
            base.weights(),
            donor.weights(),
            likelihood_gradient(base, batch),
            steps=self.max_steps,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            max_sweeps=self.max_sweeps,
            rng=rng,
        )
        for loss in found.objective:
            run.log.metrics({"match/loss_halfway": loss})
        return reordered(spec, donor, found, run)


def likelihood_gradient(
    base: Editable, batch: Callable[[int], list[Tree]]
) -> Callable[[Weights, int], tuple[float, Mapping[str, torch.Tensor]]]:
    """The mean surprise of a batch's tokens, nats, and its gradient, at any weights of the base's shape."""
    bench = base.open()
    own = dict(bench.module.named_parameters())

    def gradient(weights: Weights, step: int) -> tuple[float, Mapping[str, torch.Tensor]]:
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])
                parameter.grad = None
        loss = -bench.score(batch(step)).tokens.mean()
        loss.backward()
        zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        return float(loss.detach()), zeros | {k: p.grad for k, p in own.items() if p.grad is not None}

    return gradient
