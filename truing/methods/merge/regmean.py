"""RegMean: linear layers by least squares of what each model's own gives on its own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le, Lt

from truing.core.errors import bad
from truing.core.evidence import Demo, Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Log, Run
from truing.methods.merge._family import MergeMethod, checked_donors

if TYPE_CHECKING:
    from truing.models.local import Local


def regmean_merge(deltas: torch.Tensor, grams: torch.Tensor) -> torch.Tensor:
    """``sum D_k G_k (sum G_i)^-1``: the least of ``sum w_i |X_i (W - W_i)^T|^2``. Jin et al. 2023, arXiv:2212.09849.

    Args:
        deltas: of the donors' layers, ``(K, m, n)``; the base's own is 0.
        grams: each model's weight ``w_i`` times ``X_i^T X_i`` of its inputs, the base's first, ``(1 + K, n, n)``; their
            sum is not singular.

    Returns:
        The difference to apply, ``(m, n)``.
    """
    pulled = (deltas @ grams[1:]).sum(0)
    change: torch.Tensor = torch.linalg.solve(grams.sum(0), pulled, left=False)
    return change


def shrunk(gram: torch.Tensor, alpha: float) -> torch.Tensor:
    """``alpha G + (1 - alpha) diag G``, ``(n, n)``: inputs are taken to go together less than they were seen to."""
    made = alpha * gram
    made.diagonal().copy_(gram.diagonal())
    return made


def linear_layers(model: Any) -> dict[str, tuple[Any, bool]]:
    """The linear layers of the blocks, by their weight's name, and whether it stands as ``(inputs, outputs)``."""
    from transformers.pytorch_utils import Conv1D

    blocks = set(model.base_model.modules())  # the output embedding is none of them
    kinds = (torch.nn.Linear, Conv1D)
    return {
        f"{name}.weight": (part, isinstance(part, Conv1D))
        for name, part in model.named_modules()
        if isinstance(part, kinds) and part in blocks
    }


def input_grams(policy: Local, demos: Sequence[Demo], log: Log) -> dict[str, torch.Tensor]:
    """``X^T X`` of what every linear layer of the blocks reads, ``(n, n)`` float64, a mean over the texts' tokens.

    Layers that read the same states share one tensor.
    """
    sums: dict[str, torch.Tensor] = {}
    owner: dict[str, str] = {}
    latest: list[Any] = [None, ""]  # the states that were read last, and by whom first

    def watch(name: str) -> Any:
        def told(module: Any, given: tuple[torch.Tensor, ...]) -> None:
            if given[0] is not latest[0]:
                latest[:] = given[0], name
                rows = given[0].flatten(0, -2).double()
                if name not in sums:
                    sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
                sums[name].addmm_(rows.T, rows)
            owner[name] = latest[1]

        return told

    hooks = [part.register_forward_pre_hook(watch(name)) for name, (part, _) in linear_layers(policy.model).items()]
    tokens = 0
    try:
        with torch.no_grad():
            for done, demo in enumerate(demos):
                tree = policy.encode(demo.prompt, [demo.reply])
                ids = torch.tensor([[*tree.prompt, *tree.replies[0]]], device=policy.model.device)
                policy.model.base_model(input_ids=ids, use_cache=False)
                tokens += ids.numel()
                log.progress("inputs of layers", done + 1, len(demos))
    finally:
        for hook in hooks:
            hook.remove()
    for total in sums.values():
        total /= tokens
    return {name: sums[first] for name, first in owner.items()}


@method(paper="arXiv:2212.09849", dial="weight", neutral={"weight": 0.0})
class RegMean(MergeMethod):
    """Refits linear layers to what those of base and donors make of their own inputs; averages the rest.

    In memory: base and donors, and for each of them the products of every layer's inputs.

    Attributes:
        weight: of the donors together; the base has the rest.
        alpha: how much of what inputs have in common is believed; 0 weighs each input by its size alone.
        most: demonstrations on which layers are watched, the first ones.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"donors", "demos"})

    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    alpha: Annotated[float, Ge(0), Lt(1)] = 0.9
    most: Annotated[int, Ge(1)] = 64

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        from truing.models.local import Local  # at first use, so that listing methods stays quick

        if not evidence.demos:
            raise bad(self.card.name, "has no demonstrations", "Give data.demos: what the models are good at.")
        own, donors = checked_donors(self, base, evidence)
        everyone = [policy for policy in (base, *evidence.donors.values()) if isinstance(policy, Local)]
        if len(everyone) <= len(donors):
            raise bad(self.card.name, "takes transformers, whose layers can be watched", "merge/fisher takes others.")
        layers = linear_layers(everyone[0].model)
        grams = [input_grams(policy, evidence.demos[: self.most], run.log) for policy in everyone]
        shares = [1 - self.weight, *[self.weight / len(donors)] * len(donors)]
        made: dict[str, torch.Tensor] = {}
        seen: list[torch.Tensor] = []  # the grams of the latest layers, and what they were weighed to
        weighed = torch.empty(0)
        for done, (name, tensor) in enumerate(own.items()):
            made[name] = tensor
            if tensor.is_floating_point():
                kind, place = torch.promote_types(tensor.dtype, torch.float32), tensor.device
                deltas = torch.stack([theirs[name].to(place, kind) - tensor.to(kind) for theirs in donors.values()])
                if name in layers and name in grams[0]:
                    turned = deltas.mT if layers[name][1] else deltas
                    if not seen or seen[0] is not grams[0][name]:
                        seen = [each[name] for each in grams]
                        weighed = self._weighed(seen, shares)
                    change = regmean_merge(turned.to(weighed), weighed).to(turned.dtype)
                    change = change.T if layers[name][1] else change
                else:
                    change = torch.tensordot(torch.tensor(shares[1:], dtype=kind, device=place), deltas, 1)
                made[name] = (tensor.to(kind) + change).to(tensor.dtype)
            run.log.progress("merging", done + 1, len(own))
        return base.with_weights(made)

    def _weighed(self, grams: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
        """Each model's share of its shrunk inputs, ``(1 + K, n, n)``."""
        made = torch.stack([share * shrunk(gram, self.alpha) for share, gram in zip(shares, grams, strict=True)])
        # An input that no model ever saw counts as one of size 1 in all of them: its column is averaged.
        sizes = made.diagonal(dim1=1, dim2=2)
        sizes += torch.tensor(shares).to(made)[:, None] * (sizes.sum(0) == 0)
        return made
