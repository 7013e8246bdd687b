"""Our side of scaling: read, check and tokenise a long list of pairs, score and train on its beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.pairs import measurer, visited
from harness.side import Clock, job, tell
from ours_dpo import Steps, training

from truing.core.errors import RunError
from truing.core.lazy import F, torch
from truing.core.method import build
from truing.core.run import Quiet, Run
from truing.core.trees import TreeScores
from truing.data.load import load
from truing.engine.fit import Objective, fit
from truing.engine.memory import resident
from truing.probes.memory import Peak


def loss(scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """A loss on pairs that needs no reference: the reference of every pair would have to be computed first."""
    both = scores.sums.view(-1, 2)
    return F.softplus(-0.1 * (both[:, 0] - both[:, 1])), {}


def main() -> None:
    """Every stage under its clock, then tell."""
    work = job()
    from truing.models import load_model

    base: Any = load_model(work["model"], device=work["device"])
    at_rest = resident()
    with Peak() as reading, Clock() as loading:
        rows = load("pairs", work["pairs"], max_length=work["max_length"], measurer=measurer(base.template)).rows
    if len(rows) != work["rows"]:
        raise RunError(f"{len(rows)} of {work['rows']} rows were kept; the lengths could not be compared")
    with Peak() as tokens, Clock() as encoding:
        trees = base.encode_many([p.prompt for p in rows], [(p.chosen, p.rejected) for p in rows])
    sample = [trees[i] for i in visited(len(trees), work["seed"])[: work["sample"]]]
    base.tree_logprobs(sample[:1], Quiet())  # proves the layout, once
    with Clock() as scoring:
        base.tree_logprobs(sample, Quiet())
    method: Any = build("preference/dpo", **{**training(work), "max_steps": work["steps"]})
    log = Steps()
    with Peak() as fitting:
        fit(base, trees, Objective([1.0] * len(trees), loss), method, Run(work["seed"], log=log))
    trained = log.rows[-1]["num_tokens"] - log.rows[0]["num_tokens"]
    seconds = log.at[-1] - log.at[0]
    tell(
        seconds=seconds, rows=len(rows), load=loading.seconds, encode=encoding.seconds,
        reference_per_token=scoring.seconds / sum(tree.size for tree in sample), training_per_token=seconds / trained,
        above={"reading": reading.host - at_rest, "tokens": tokens.host - at_rest, "training": fitting.host - at_rest},
    )  # fmt: skip


if __name__ == "__main__":
    main()
