"""merge/fisher."""

from __future__ import annotations

import pytest
import torch
from bags import close

from truing.core.errors import InputError
from truing.core.evidence import Demo, Evidence
from truing.core.policy import user
from truing.core.run import Quiet, Run
from truing.methods.merge.fisher import Fisher, fisher_merge, information
from truing.models.tabular import Tabular

CHATS, REPLIES = (user("a"), user("b")), ("x", "y", "z")


def table(seed: int) -> Tabular:
    return Tabular(
        CHATS, REPLIES, torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )


DEMOS = (Demo(CHATS[0], "x"), Demo(CHATS[0], "z"), Demo(CHATS[1], "y"))


def test_the_kernel_is_the_mean_by_importance() -> None:
    deltas, importance = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0], [3.0, 5.0, 0.0]])
    close(fisher_merge(deltas, importance), [0.75, 2.0, 0.0])


def test_the_information_of_a_softmax() -> None:
    """The gradient of a reply's log-probability is its indicator less the probabilities."""
    policy = table(0)
    (weights,) = policy.weights().values()
    probabilities = weights.softmax(1)
    wanted = torch.zeros(2, 3, dtype=torch.float64)
    for row, column in ((0, 0), (0, 2), (1, 1)):
        wanted[row] += (torch.eye(3, dtype=torch.float64)[column] - probabilities[row]).square() / 3
    (found,) = information(policy, DEMOS, Quiet()).values()
    close(found, wanted, 1e-9)


def test_every_number_is_as_written_out() -> None:
    policies = [table(seed) for seed in range(3)]
    facts = [next(iter(information(policy, DEMOS, Quiet()).values())) for policy in policies]
    numbers = [next(iter(policy.weights().values())) for policy in policies]
    shares = (0.4, 0.3, 0.3)
    total = sum(s * f for s, f in zip(shares, facts, strict=True))
    wanted = sum(s * f * x for s, f, x in zip(shares, facts, numbers, strict=True)) / total
    donors = {"a": policies[1], "b": policies[2]}
    made = Fisher(weight=0.6)(policies[0], Evidence(donors=donors, demos=DEMOS), Run())
    close(next(iter(made.weights().values())), wanted, 1e-9)


def test_no_demonstrations() -> None:
    with pytest.raises(InputError, match="has no demonstrations"):
        Fisher()(table(0), Evidence(donors={"a": table(1)}), Run())
