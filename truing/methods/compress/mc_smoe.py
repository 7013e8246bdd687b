"""Experts as products of two thin matrices, plus a few rows of what those leave over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.trees import Tree
from truing.engine.fit import Companion
from truing.methods.compress._family import CompressMethod
from truing.methods.compress._routing import Routing, wide
from truing.models.experts import Factors, Made, factored, mixtures, rebuilt

if TYPE_CHECKING:
    from truing.models.local import Local

MEMORY = 0.85  # of a row's score; the paper's


def low_rank(weights: torch.Tensor, *, rank_ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The best ``left @ right`` of the rank whose two factors hold ``rank_ratio`` of the numbers. Li et al. 2024,
    arXiv:2310.01334, Section 3.3.

    Args:
        weights: ``(m, h, w)``, in float32 or better.
        rank_ratio: in (0, 1]; the rank is ``rank_ratio h w / (h + w)``, rounded up.

    Returns:
        ``(m, h, r)`` and ``(m, r, w)``, each with the root of the singular values.
    """
    high, across = weights.shape[1:]
    rank = min(high, across, math.ceil(rank_ratio * high * across / (high + across)))
    u, s, v = torch.linalg.svd(weights, full_matrices=False)
    root = s[:, :rank].sqrt()
    return u[:, :, :rank] * root[:, None], root[:, :, None] * v[:, :rank]


def row_scores(rows: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """How much the loss would feel each row's loss, to first order: the mean of ``|S dL/dS|`` over it, ``(m, h)``.

    Li et al. 2023, arXiv:2306.11222, Equation 8, without its uncertainty.

    Args:
        rows, gradient: ``(m, h, w)``.
    """
    return (rows * gradient).abs().mean(2)


def remaining_share(done: float, *, final: float, begin: float, end: float) -> float:
    """The share of rows that is left after a share of the steps: 1, then down by a cube, then ``final``.

    Zhu and Gupta 2017, arXiv:1710.01878, Equation 1.

    Args:
        done: share of the steps that are done, in [0, 1].
        begin, end: where it begins to fall, and where it has reached ``final``.
    """
    if done >= end:
        return final
    left = 1 - max(0.0, done - begin) / (end - begin)
    return final + (1 - final) * left**3


@method(paper="arXiv:2310.01334", dial="kept_rows", neutral={"kept_rows": 1.0, "max_steps": 0})
class MCSMoE(CompressMethod):
    """Writes each expert's matrices as low-rank products plus their few most important rows of the rest.

    Follows ``compress/m_smoe``, whose experts are of lower rank than those that they stand for. Rows fall away while
    the model recovers; with ``max_steps: 0`` all at once, by the gradient on the calibration text. Gate and up are one
    matrix, since they read the same.

    Attributes:
        kept_rows: share of the rows that keep what the product leaves over; 1 leaves the experts as they are.
        rank_ratio: share of a matrix's numbers that its two factors hold.
        prune_begin, prune_end: shares of the steps between which rows fall away.
    """

    kept_rows: Annotated[float, Gt(0), Le(1)] = 0.1
    rank_ratio: Annotated[float, Gt(0), Le(1)] = 0.15
    prune_begin: Annotated[float, Ge(0), Lt(1)] = 0.1
    prune_end: Annotated[float, Gt(0), Le(1)] = 0.8

    @property
    def idle(self) -> bool:
        return self.kept_rows == 1

    def reduced(self, model: Any, seen: Mapping[int, Routing]) -> Any:
        if self.prune_begin >= self.prune_end:
            raise bad("prune_end", f"{self.prune_end:g} is not after prune_begin, {self.prune_begin:g}")
        if any(factored(model)):
            raise bad(self.card.name, "the base's experts are factors already", "Compress the model before that.")
        made: dict[int, Made] = {}
        for mixture in mixtures(model):
            up, down = (self._factors(part) for part in mixture.weights())
            made[mixture.block] = (mixture.members, up, down)
        return rebuilt(model, made, "compact")

    def _factors(self, weights: torch.Tensor) -> Factors:
        left, right = (part.to(weights.dtype) for part in low_rank(wide(weights), rank_ratio=self.rank_ratio))
        rest = (wide(weights) - wide(left) @ wide(right)).to(weights.dtype)
        rows = torch.arange(weights.shape[1], device=weights.device).expand(weights.shape[:2]).contiguous()
        return Factors(left, right, rest, rows)

    def companion(self, steps: int) -> Companion:
        return _Pruning(self, steps)

    def settled(self, policy: Local, trees: Sequence[Tree], companion: Companion | None) -> Local:
        pruning = companion if isinstance(companion, _Pruning) else _Pruning(self, 0)
        if self.max_steps == 0:
            self._watch(policy, trees[: self.max_calibration], pruning)
        made: dict[int, Made] = {}
        for mixture in mixtures(policy.model):
            path = f"{mixture.path}.experts"
            up, down = (pruning.cut(f"{path}.{name}", getattr(mixture.experts, name)) for name in ("up", "down"))
            plain = self.storage == "plain"  # what is measured is what is saved: such a folder has no factors
            made[mixture.block] = (mixture.members, up.whole() if plain else up, down.whole() if plain else down)
        from truing.models.local import Local  # at first use, so that listing methods stays quick

        done = Local(rebuilt(policy.model, made, self.storage), policy.tokenizer, name=policy.name, log=policy.log)
        done.trained_parameters = policy.trained_parameters
        return done

    def _watch(self, policy: Local, trees: Sequence[Tree], pruning: _Pruning) -> None:
        """Scores from the gradient of the likelihood, without a step."""
        bench = policy.open()
        for first in range(0, len(trees), self.step_size):
            bench.module.zero_grad(set_to_none=True)
            torch.autograd.backward(-bench.score(trees[first : first + self.step_size]).tokens.mean())
            pruning.observe(bench.module)


@dataclass
class _Pruning(Companion):
    """Remembers how important rows are, and empties those that are not.

    Attributes:
        scores: module -> ``(m, h)``, a moving mean.
    """

    settings: MCSMoE
    steps: int
    scores: dict[str, torch.Tensor] = field(default_factory=dict)

    def observe(self, module: torch.nn.Module) -> None:
        """Take in the gradients as they stand."""
        for name, part in factored(module):
            now = row_scores(part.kept.detach(), part.kept.grad)
            before = self.scores.get(name)
            self.scores[name] = now if before is None else MEMORY * before + (1 - MEMORY) * now

    def follow(self, module: torch.nn.Module, step: int) -> None:
        self.observe(module)
        s = self.settings
        share = remaining_share(step / self.steps, final=s.kept_rows, begin=s.prune_begin, end=s.prune_end)
        with torch.no_grad():
            for name, part in factored(module):
                index = self._best(name, part, share)
                part.kept.mul_(torch.zeros_like(part.kept[:, :, :1]).scatter_(1, index[:, :, None], 1))

    def cut(self, name: str, part: Any) -> Factors:
        """The factors with the best rows alone."""
        index = self._best(name, part, self.settings.kept_rows).sort(1).values
        held = part.factors()
        kept = held.kept.gather(1, index[:, :, None].expand(-1, -1, held.kept.shape[2]))
        return Factors(held.left.clone(), held.right.clone(), kept, index)

    def _best(self, name: str, part: Any, share: float) -> torch.Tensor:
        """``(m, k)``: the rows of the highest scores, those that are empty already last."""
        empty = (part.kept == 0).all(2)
        scores = self.scores[name].masked_fill(empty, -1)
        return scores.topk(math.ceil(share * scores.shape[1]), 1).indices

    def state(self) -> dict[str, torch.Tensor]:
        return dict(self.scores)

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.scores = dict(tensors)
