"""Fisher merging: each number by how much each model's likelihood depends on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le

from truing.core.errors import bad
from truing.core.evidence import Demo, Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Log, Run
from truing.engine.tensors import as_tensors
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import MergeMethod, checked_donors


def fisher_merge(deltas: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    """``sum f_i delta_i / sum f_i``. Matena and Raffel 2022, arXiv:2111.09832, eq. 4.

    Args:
        deltas: of the donors, ``(K, *S)``; the base's own is 0.
        importance: each model's weight times its Fisher information, the base's first, ``(1 + K, *S)``.

    Returns:
        ``(*S)``; 0 where nothing depends on the number.
    """
    total = importance.sum(0)
    return (importance[1:] * deltas).sum(0) / total.masked_fill(total == 0, 1.0)


def information(policy: Editable, demos: Sequence[Demo], log: Log) -> dict[str, torch.Tensor]:
    """The diagonal of the empirical Fisher information: over demonstrations, the mean of the squared gradient of a
    reply's log-probability, in 1/unit². Parameters that no reply reaches have zeros.
    """
    bench = policy.open()
    parameters = dict(bench.module.named_parameters())
    squares = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for done, demo in enumerate(demos):
        bench.module.zero_grad(set_to_none=True)
        bench.score([policy.encode(demo.prompt, [demo.reply])]).tokens.sum().backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                squares[name] += parameter.grad.square() / len(demos)
        log.progress("Fisher information", done + 1, len(demos))
    return {name: square.detach() for name, square in squares.items()}


@method(paper="arXiv:2111.09832", dial="weight", neutral={"weight": 0.0})
class Fisher(MergeMethod):
    """Averages base and donors, each number by how much its model's replies to the demonstrations depend on it.

    In memory: it takes as much again as base and donors, and gradients of one.

    Attributes:
        weight: of the donors together; the base has the rest.
        most: demonstrations that are used, the first ones.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"donors", "demos"})

    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    most: Annotated[int, Ge(1)] = 64

    @property
    def cut(self) -> bool:
        return True

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        count = (len(at.given) - 1) // 2  # donors, then the information of base and donors
        shares = torch.tensor([1 - self.weight, *[self.weight / count] * count], dtype=at.base.dtype)
        importance = torch.stack(at.donors[count:]) * shares[:, None].to(at.base.device)
        return at.base + fisher_merge(at.deltas[:count], importance)

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        from truing.engine.stream import gather

        if not evidence.demos:
            raise bad(self.card.name, "has no demonstrations", "Give data.demos: what the models are good at.")
        own, donors = checked_donors(self, base, evidence)
        everyone = [base, *(donor for donor in evidence.donors.values() if isinstance(donor, Editable))]
        facts = [information(policy, evidence.demos[: self.most], run.log) for policy in everyone]
        known = [as_tensors(_whole(fact, own)) for fact in facts]
        return base.with_weights(gather(self.merged(own, (*donors.values(), *known), run.rng("merge")), run.log))


def _whole(fact: Mapping[str, torch.Tensor], own: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Information on every tensor: a buffer has none, and is averaged by its weight."""
    return {name: fact[name] if name in fact else torch.ones_like(tensor) for name, tensor in own.items()}
