"""One training step spread over processes: what the loop asks of an engine, whichever the launcher chose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from truing.core.lazy import torch
from truing.core.policy import Editable, Workbench
from truing.core.trees import Tree, TreeScores
from truing.engine.processes import Processes, here, shares
from truing.engine.tree import batches

Pass = tuple[list[int], bool]
"""Examples of one forward pass, and whether they count: some only keep step with the other processes."""


class Spread(ABC):
    """The engine of a training run.

    A step's gradient is the same sum however it is spread. Losses are divided by the weight of the whole step, and
    gradients are added over processes, where the engines themselves would average.

    Attributes:
        whole: whether each process holds every weight whole outside of a pass too.
        parameters: what is trained, in the order of the model; shards where they are not whole.
        names: of the parameters.
    """

    whole: ClassVar[bool] = True

    def __init__(self, bench: Workbench, optimiser: torch.optim.Optimizer, most: float) -> None:
        """Keep a bench and its optimiser.

        Args:
            most: the 2-norm that a step's gradient is scaled down to.
        """
        self.bench, self.optimiser, self.most = bench, optimiser, most
        self.processes: Processes = here()
        self.parameters = trained(bench.module)
        self.names = [name for name, parameter in bench.module.named_parameters() if parameter.requires_grad]

    def passes(self, trees: Sequence[Tree], members: Sequence[int], budget: int) -> list[Pass]:
        """This process's forward passes over some examples: as many as every other process makes.

        Shards are gathered or added up in every pass, so no process may make one more than another; who has fewer
        repeats the smallest example and counts it zero times.
        """
        cuts = []
        for part in shares([trees[i].size for i in members], self.processes.count):
            mine = [members[i] for i in part]
            cuts.append([[mine[k] for k in cut] for cut in batches([trees[i] for i in mine], budget)])
        own: list[Pass] = [(cut, True) for cut in cuts[self.processes.index]]
        smallest = min(members, key=lambda i: (trees[i].size, i))
        return own + [([smallest], False)] * (max(map(len, cuts)) - len(own))

    def begin(self) -> None:
        """Forget the gradient of the step before."""
        self.optimiser.zero_grad(set_to_none=True)

    def score(self, trees: Sequence[Tree], shift: torch.Tensor | None = None) -> TreeScores:
        """Log-probabilities of some trees, with gradient where gradients are enabled; shards take no shift."""
        return self.bench.score(trees, shift)

    @abstractmethod
    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a part of the step's loss. Every process must, as often as the others."""

    @abstractmethod
    def step(self, rate: float) -> torch.Tensor:
        """Complete the step's gradient, scale it down, move the weights; the norm that the gradient had."""

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and moments by number, whole, where the main process can write them. Every process must ask."""
        tensors: dict[str, torch.Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            tensors[f"weight.{i}"] = self.kept(parameter.detach())
            tensors |= {f"optimiser.{i}.{name}": self.kept(value) for name, value in self.moments(parameter)}
        return tensors

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of :meth:`state`, whatever number of processes and whichever engine that was of."""
        moments: list[dict[str, torch.Tensor]] = [{} for _ in self.parameters]
        for key in tensors:
            if key.startswith("optimiser."):
                _, number, name = key.split(".")
                moments[int(number)][name] = tensors[key]
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                self.put(parameter, tensors[f"weight.{i}"], moments[i])

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor as a checkpoint holds it."""
        return tensor

    def moments(self, parameter: torch.nn.Parameter) -> Iterable[tuple[str, torch.Tensor]]:
        """What the optimiser knows of a parameter, by name."""
        found: Mapping[str, torch.Tensor] = self.optimiser.state[parameter]
        return found.items()

    def put(self, parameter: torch.nn.Parameter, weight: torch.Tensor, moments: Mapping[str, torch.Tensor]) -> None:
        """Give a parameter a weight and moments, whole ones."""
        parameter.copy_(placed(weight, parameter))
        self.optimiser.state[parameter] = {name: placed(value.clone(), parameter) for name, value in moments.items()}

    def not_finite(self) -> str | None:
        """The name of a parameter that holds a number that is not finite, in whichever process; None if all are."""
        held = zip(self.names, self.parameters, strict=True)
        found = next((name for name, parameter in held if not torch.isfinite(own(parameter)).all()), None)
        return next((name for name in self.processes.gathered(found) if name is not None), None)

    def forget(self) -> None:
        """Let go of gradients and moments: there is no further step."""
        self.optimiser.zero_grad(set_to_none=True)
        self.optimiser.state.clear()

    def close(self, opened: Callable[[], Workbench]) -> Editable:
        """What the bench has become, whole in every process; ``opened`` gives one like it, as it began."""
        return self.bench.close()


def trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that training changes, in the module's order."""
    return [p for p in module.parameters() if p.requires_grad]


def moved(optimiser: Any, parameters: Sequence[torch.nn.Parameter], rate: float, most: float) -> torch.Tensor:
    """One step of torch's own: the gradient scaled down to the 2-norm ``most``, and the norm that it had."""
    norm = whole(torch.nn.utils.clip_grad_norm_(parameters, most))
    at_rate(optimiser, rate)
    optimiser.step()
    return norm


def at_rate(optimiser: Any, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, gathered where each process holds a part of it. Every process must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that lies in this process."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placed(value: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """A whole tensor as another lies: on its device, and of a shape like its own, cut as it is cut."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(where.device)
    if value.shape != where.shape or not isinstance(where, DTensor):
        return value
    return distribute_tensor(value, where.device_mesh, where.placements)
