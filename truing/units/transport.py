"""Which unit goes where: assignments and transport plans.

A plan is ``(M, N)``, from ``M`` sources to ``N`` targets: an entry is how much of a source goes to a target. Sources
weigh alike among themselves and so do targets: rows sum to ``1 / M`` and columns to ``1 / N``.
"""

from __future__ import annotations

from types import ModuleType

from truing.core.errors import bad
from truing.core.lazy import torch

MEND = "Run: pip install 'truing[match]'"


def assignment(scores: torch.Tensor) -> torch.Tensor:
    """The one-to-one assignment of the greatest total: Kuhn and Munkres, as scipy's ``linear_sum_assignment``.

    Args:
        scores: ``(N, N)``, of giving source ``j`` (row) to target ``i`` (column); finite.

    Returns:
        ``(N,)`` int64, the source of each target.

    Raises:
        InputError: the scores are not square, or not finite, or scipy is not there.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise bad("assignment", f"scores are {tuple(scores.shape)}, not square", "A plan can have unequal sides.")
    _finite("assignment", scores)
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise bad("matching", f"scipy is not there ({error})", MEND) from error
    source, target = linear_sum_assignment(scores.detach().double().cpu().numpy(), maximize=True)
    index = torch.empty(len(source), dtype=torch.int64)
    index[torch.from_numpy(target)] = torch.from_numpy(source)
    return index


def emd(cost: torch.Tensor) -> torch.Tensor:
    """The cheapest plan: exact, by POT's network simplex.

    Args:
        cost: ``(M, N)``, of one unit of mass from a source to a target; finite.

    Returns:
        ``(M, N)`` float64; with ``M == N`` a permutation over ``N``.

    Raises:
        InputError: a cost that is not finite, or POT is not there.
    """
    _finite("emd", cost)
    if cost.shape[0] == cost.shape[1]:  # a vertex of the polytope: the assignment finds it, and faster
        plan = torch.zeros(cost.shape, dtype=torch.float64)
        plan[assignment(-cost), torch.arange(cost.shape[1])] = 1 / cost.shape[1]
        return plan
    made: torch.Tensor = torch.from_numpy(_pot().emd([], [], cost.detach().double().cpu().numpy(), numItermax=10**7))
    return made


def sinkhorn(
    cost: torch.Tensor, *, regularisation: float, iterations: int, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """The plan of least cost minus ``regularisation`` times its entropy. Cuturi 2013, arXiv:1306.0895.

    Computed on logarithms in float64, then brought onto the margins exactly (Altschuler et al. 2017, arXiv:1705.09634,
    Algorithm 2), so that they hold however few the iterations were.

    Args:
        cost: ``(M, N)``, finite.
        regularisation: > 0, in the unit of the cost; towards 0 it becomes :func:`emd`'s plan, large it becomes uniform.
        iterations: at most; it stops earlier where the margins hold to 1e-9.
        noise: ``(M, N)`` standard Gumbel noise that is added to ``-cost / regularisation``: a random plan whose
            rounding is a sample (Mena et al. 2018, arXiv:1802.08665).

    Returns:
        ``(M, N)`` float64.

    Raises:
        InputError: a cost that is not finite.
    """
    _finite("sinkhorn", cost)
    kernel = -cost.detach().double().cpu() / regularisation
    kernel = kernel if noise is None else kernel + noise.double()
    rows, columns = kernel.shape
    mass = -torch.tensor([rows, columns], dtype=torch.float64).log()
    right = torch.zeros(columns, dtype=torch.float64)
    left = mass[0] - kernel.logsumexp(1)
    for _ in range(iterations):
        right = mass[1] - (kernel + left[:, None]).logsumexp(0)
        left = mass[0] - (kernel + right).logsumexp(1)
        if bool(((kernel + left[:, None] + right).logsumexp(0).exp() - 1 / columns).abs().max() * columns < 1e-9):
            break
    return _on_the_margins((kernel + left[:, None] + right).exp())


def _on_the_margins(plan: torch.Tensor) -> torch.Tensor:
    rows, columns = plan.shape
    plan = plan * (1 / rows / plan.sum(1)).clamp(max=1)[:, None]
    plan = plan * (1 / columns / plan.sum(0)).clamp(max=1)
    lacking = 1 / rows - plan.sum(1), 1 / columns - plan.sum(0)
    total = lacking[0].sum()
    return plan + torch.outer(*lacking) / total if total > 0 else plan


def gumbel(shape: tuple[int, ...], numbers: torch.Generator) -> torch.Tensor:
    """Standard Gumbel noise, float64."""
    return -torch.empty(shape, dtype=torch.float64).exponential_(generator=numbers).log()


def for_outputs(plan: torch.Tensor) -> torch.Tensor:
    """A plan by which output axes are moved: columns sum to one, so a target is an average of sources."""
    return plan / plan.sum(-2, keepdim=True)


def for_inputs(plan: torch.Tensor) -> torch.Tensor:
    """A plan by which input axes are moved: rows sum to one, so what reads a source is divided among its targets.

    With both, widening a layer by repeating units leaves the function exactly as it was.
    """
    return plan / plan.sum(-1, keepdim=True)


def _finite(place: str, values: torch.Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise bad(place, "there is a value that is not finite", "Look for NaN in the weights or the features.")


def _pot() -> ModuleType:
    try:
        import ot
    except ImportError as error:
        raise bad("transport", f"POT is not there ({error})", MEND) from error
    module: ModuleType = ot
    return module
