"""What objectives share whose prompts are attacked while they train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from truing.core.lazy import torch
from truing.core.policy import Workbench
from truing.core.trees import Tree
from truing.engine.attack import embedding_attack


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """Before pairs are scored, their prompts are shifted towards the rejected replies, which are taken to be harmful.

    Attributes:
        attack_epsilon: how far a token of the prompt is shifted at most, in mean 2-norms of the embedding matrix.
        attack_step_size: of each coordinate and step, in the unit of the embeddings; it does not scale with epsilon.
        attack_steps: steps of sign descent; each costs a pass forward and back.
    """

    attack_epsilon: Annotated[float, Ge(0)] = 0.05
    attack_step_size: Annotated[float, Ge(0)] = 1e-4
    attack_steps: Annotated[int, Ge(0)] = 10

    @property
    def perturbation(self) -> Callable[[Workbench, Sequence[Tree]], torch.Tensor]:
        """The attack, of as many steps and as wide as the fields say."""
        return self._shift

    def _shift(self, bench: Workbench, trees: Sequence[Tree]) -> torch.Tensor:
        """``(P, D)`` for all prompts; 0 for those of examples that have no rejected reply."""
        attacked = [Tree(tree.prompt, tree.replies[1:]) for tree in trees if tree.replies[1]]
        found = embedding_attack(
            bench, attacked, epsilon=self.attack_epsilon, step_size=self.attack_step_size, steps=self.attack_steps
        )
        if len(attacked) == len(trees):
            return found
        rest = iter(found.split([len(tree.prompt) for tree in attacked]))
        calm = found.new_zeros(max(len(tree.prompt) for tree in trees), found.shape[1])
        return torch.cat([next(rest) if tree.replies[1] else calm[: len(tree.prompt)] for tree in trees])
