"""Attacks on prompts in the space of embeddings: what a model can be made to say by a small shift of what it is asked.

Steps are gradients in the input, orders of magnitude cheaper than a search over tokens, and stronger: no text need
have these embeddings. Schwinn et al. 2024, arXiv:2402.09063; in training: Xhonneux et al. 2024, arXiv:2405.15589.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from truing.core.lazy import torch
from truing.core.policy import Workbench
from truing.core.trees import Tree


def radius(bench: Workbench, epsilon: float) -> float:
    """``epsilon`` times the mean 2-norm of a token's embedding: how far one token may be shifted."""
    return epsilon * float(bench.embeddings.float().norm(dim=1).mean())


def embedding_attack(
    bench: Workbench, trees: Sequence[Tree], *, epsilon: float, step_size: float, steps: int
) -> torch.Tensor:
    """Shifts of the prompts' tokens under which the trees' replies are likelier. arXiv:2405.15589.

    ``d <- project(d - step_size sign(grad_d CE(replies | prompt + d)))``, from 0, where each token's ``d`` is held in
    a 2-norm ball. Signs make every tree's shift its own, whatever it is batched with and however the cross entropy is
    averaged. All tokens of a prompt are shifted, its template's too; replies are not. The last shift is given, which
    need not be the best: the authors' code keeps the best loss and gives the last shift too.

    No gradient of a weight is computed, and none that is there is changed.

    Args:
        trees: prompts with the replies to attack towards.
        epsilon: radius of the ball, in mean 2-norms of the embedding matrix, >= 0.
        step_size: of each coordinate, in the unit of the embeddings, >= 0; it does not scale with epsilon.
        steps: how many, each one pass forward and back, >= 0.

    Returns:
        ``(P, D)``, the prompts' tokens tree by tree, without gradient.
    """
    embeddings = bench.embeddings
    most = radius(bench, epsilon)
    kind = torch.promote_types(embeddings.dtype, torch.float32)
    count = sum(len(tree.prompt) for tree in trees)
    shift = torch.zeros(count, embeddings.shape[1], dtype=kind, device=embeddings.device)
    if not count or not most:
        return shift
    with torch.enable_grad(), _frozen(bench.module):
        for _ in range(steps):
            shift.requires_grad_()
            surprise = -bench.score(trees, shift).tokens.sum()
            (slope,) = torch.autograd.grad(surprise, shift)
            shift = torch.renorm(shift.detach() - step_size * slope.sign(), 2, 0, most)
    return shift.detach()


@contextmanager
def _frozen(module: torch.nn.Module) -> Iterator[None]:
    """Within it no weight takes a gradient, so that none is computed only to be thrown away."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
