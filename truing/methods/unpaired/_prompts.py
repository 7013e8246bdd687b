"""How much likelier a prompt is among those with a desirable reply than among the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from truing.core.errors import bad
from truing.core.lazy import F, torch
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.engine.cache import digest, remember, tree_digest
from truing.engine.precision import Precision, autocast
from truing.engine.processes import here
from truing.engine.tree import batches

MOST = 1024
"""Examples that the classifier is fitted to."""
LEAST_RATIO, MOST_RATIO = 0.5, 10.0
"""Ratios beyond these count as these."""
BUDGET = 4096  # packed tokens a pass
ROUNDS = 1000


def density_ratios(
    base: Editable, prompts: Sequence[tuple[int, ...]], desirable: torch.Tensor, run: Run, precision: Precision
) -> torch.Tensor:
    """``p / (1 - p)``, ``p`` the chance that a prompt is of a desirable reply, were there as many of both: ``(N,)``.

    Underlying distribution matching, Jung et al. 2024, arXiv:2404.04656: a logistic regression on embeddings of 1,024
    of the prompts, its ratio cut to 0.5 and 10. Here an embedding is the base's mean last hidden state over a prompt.

    Args:
        prompts: ``N`` token sequences.
        desirable: ``(N,)`` bool.

    Raises:
        InputError: the base shows no hidden states.
    """
    known = list(dict.fromkeys(prompts))
    place = {prompt: k for k, prompt in enumerate(known)}
    points = prompt_embeddings(base, known, run, precision)[torch.tensor([place[prompt] for prompt in prompts])]
    few = torch.from_numpy(run.rng("unpaired", "udm").numpy().permutation(len(prompts))[:MOST])
    points = points - points[few].mean(0)
    points = points / points[few].square().sum(1).mean().sqrt().clamp_min(1e-12)
    slope, offset = separate(points[few], desirable[few])
    return (points @ slope + offset).exp().clamp(LEAST_RATIO, MOST_RATIO)


def prompt_embeddings(
    base: Editable, prompts: Sequence[tuple[int, ...]], run: Run, precision: Precision
) -> torch.Tensor:
    """The mean last hidden state of the base over each prompt, ``(P, D)`` float64, computed once and kept.

    Raises:
        InputError: the base shows no hidden states.
    """
    # Read as a reply to its own first token, and with one token more, a prompt shows a state for each of its tokens.
    trees = [Tree(prompt[:1], ((*prompt[1:], prompt[0]),)) for prompt in prompts]
    processes = here()

    def make() -> torch.Tensor:
        with autocast(precision):
            return processes.once(lambda: _embedded(base, trees))

    def read(file: Path) -> torch.Tensor:
        from safetensors.torch import load_file

        found: torch.Tensor = load_file(file)["embeddings"]
        if len(found) != len(trees):
            raise ValueError(f"{len(found)} instead of {len(trees)}")
        return found

    def write(file: Path, embeddings: torch.Tensor) -> None:
        from safetensors.torch import save_file

        save_file({"embeddings": embeddings}, file)

    path = None
    if run.cache is not None:
        key = digest("mean last state", base.fingerprint, tree_digest(trees), precision)
        path = run.cache / "prompts" / f"{key[:40]}.safetensors"
    hit = f"  prompt embeddings: from the cache ({len(trees)} prompts)"
    return remember(path, make, read=read, write=write, log=run.log, found=hit, processes=processes).double()


def _embedded(base: Editable, trees: Sequence[Tree]) -> torch.Tensor:
    """The mean state of each tree's one reply, ``(P, D)`` float32 on the CPU."""
    bench, parts = base.open(), []
    bench.module.eval()
    with torch.no_grad():
        for numbers in batches(trees, BUDGET):
            scores = bench.score([trees[i] for i in numbers])
            if scores.states is None:
                fact = "weights prompts by their hidden states, and this base shows none"
                raise bad("udm", fact, "Leave udm out, or train a language model that is scored in the packed layout.")
            states = scores.states.float()
            sums = states.new_zeros(len(numbers), states.shape[1]).index_add(0, scores.owner, states)
            parts.append((sums / scores.counts[:, None]).cpu())
    return torch.cat(parts)


def separate(points: torch.Tensor, positive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logistic regression, both classes of one weight: ``sum_i c_i softplus(-y_i (w x_i + b)) + |w|^2 / 2``.

    Args:
        points: ``(n, D)`` float64.
        positive: ``(n,)`` bool; ``c`` is ``n`` over twice the number of its class.

    Returns:
        ``w (D,)`` and ``b ()``; both 0 where there is one class only.
    """
    slope = torch.zeros(points.shape[1], dtype=points.dtype, requires_grad=True)
    offset = torch.zeros((), dtype=points.dtype, requires_grad=True)
    count, good = len(positive), int(positive.sum())
    if good in (0, count):
        return slope.detach(), offset.detach()
    sign = torch.where(positive, 1.0, -1.0).to(points)
    weight = torch.where(positive, count / (2 * good), count / (2 * (count - good))).to(points)
    search = torch.optim.LBFGS(
        [slope, offset], max_iter=ROUNDS, tolerance_grad=1e-9, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        search.zero_grad()
        value = (weight * F.softplus(-sign * (points @ slope + offset))).sum() + slope.square().sum() / 2
        value.backward()
        return value

    with torch.enable_grad():
        search.step(closure)
    return slope.detach(), offset.detach()
