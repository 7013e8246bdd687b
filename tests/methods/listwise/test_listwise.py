"""What holds for every listwise objective, at its default settings; a new one is tested as soon as it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from ranking import learned, lists, slopes, some_list, true_ndcg

from truing.core.method import find, names
from truing.methods.listwise._family import ListLogps, ListMethod, list_metrics
from truing.methods.listwise._terms import gains, most_dcg, ndcg, places

EVERY = [name for name in names() if name.startswith("listwise/")]
OBJECTIVES = pytest.mark.parametrize("name", EVERY)
MIXED: list[tuple[Sequence[float], Sequence[float]]] = [
    ((0.5, -1.0), (0, 1)),
    ((2.0, -1.0, 0.3, 4.0, -2.5), (5, 1, 1, 3, 5)),
    ((0.0, 1.0, -3.0), (0.2, 0.1, 0.9)),
]


def objective(name: str) -> ListMethod:
    made = find(name)()
    assert isinstance(made, ListMethod)
    return made


def moved(given: ListLogps, order: Sequence[int]) -> ListLogps:
    """The same lists with their replies in another order; the log-probabilities are new leaves."""
    found = {name: getattr(given, name).detach()[:, list(order)] for name in ("base", "scores", "there", "tokens")}
    return ListLogps(policy=given.policy.detach()[:, list(order)].requires_grad_(), **found)


@OBJECTIVES
@pytest.mark.parametrize("levels", [0, 2, 3])
def test_another_order_of_the_list_is_the_same_gradient_in_that_order(name: str, levels: int) -> None:
    made, given, order = objective(name), some_list(3, 6, levels=levels), [4, 0, 5, 2, 1, 3]
    torch.testing.assert_close(made.loss(moved(given, order)), made.loss(given).detach())
    found = slopes(made.loss, moved(given, order))
    torch.testing.assert_close(found, slopes(made.loss, given)[:, order])
    assert found.abs().max() > 1e-6


@OBJECTIVES
def test_a_constant_on_all_log_ratios_changes_nothing(name: str) -> None:
    """Nor does a scale or a shift of the scores: what counts is between the worst and the best of a list."""
    made, given = objective(name), some_list(1, 6)
    wanted = slopes(made.loss, given)
    higher = replace(given, base=given.base - 7)
    torch.testing.assert_close(made.loss(higher), made.loss(given))
    torch.testing.assert_close(slopes(made.loss, higher), wanted)
    torch.testing.assert_close(wanted.sum(), wanted.new_zeros(()), rtol=0, atol=1e-12)
    other = replace(given, scores=3 * given.scores - 100)
    torch.testing.assert_close(slopes(made.loss, other), wanted)


@OBJECTIVES
def test_lists_of_several_lengths_stand_for_themselves(name: str) -> None:
    """Side by side or alone: the same losses, the same gradients, none where there is no reply."""
    made, together = objective(name), lists(*MIXED)
    losses, found = made.loss(together), slopes(made.loss, together)
    for b, row in enumerate(MIXED):
        alone = lists(row)
        torch.testing.assert_close(made.loss(alone)[0], losses[b])
        torch.testing.assert_close(slopes(made.loss, alone)[0], found[b, : len(row[0])])
        assert not found[b, len(row[0]) :].any()


@OBJECTIVES
def test_at_the_base_the_best_reply_rises_against_the_worst(name: str) -> None:
    """In a list and in a pair, also where all log-ratios are level only up to rounding."""
    for scores in ((3, 1, 2, 0), (1, 0), (1, 0, 0, 0), (2, 2, 1)):
        exact = slopes(objective(name).loss, lists(([0.0] * len(scores), scores)))[0]
        assert exact[scores.index(max(scores))] < -1e-4
        assert exact[scores.index(min(scores))] > 1e-4
        noise = 1e-6 * torch.randn(len(scores), generator=torch.Generator().manual_seed(1))
        near = slopes(objective(name).loss, lists((noise.tolist(), scores)))[0]
        torch.testing.assert_close(near, exact, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@OBJECTIVES
def test_extreme_lists_have_finite_losses_and_gradients(name: str, dtype: torch.dtype) -> None:
    """Log-ratios of plus and minus 10,000 nats, alone, together and level, with and without ties of scores."""
    ways = (1e4, 1.0, 0.0, -1.0, -1e4)
    scores = [(3, 2, 1, 0), (0, 1, 2, 3), (1, 1, 0, 0), (0, 0, 0, 1), (1, 1, 1, 0)]
    rows = [((a, b, c, a), said) for a in ways for b in ways for c in ways for said in scores]
    for beta in (0.1, 10.0):
        made = find(name)(beta=beta)
        given = lists(*rows, ((1e4, -1e4), (0, 1)), dtype=dtype)
        losses = made.loss(given)
        assert losses.shape == (len(rows) + 1,)
        assert torch.isfinite(losses).all()
        found = slopes(made.loss, given)
        assert torch.isfinite(found).all()
        assert torch.isfinite(found.square().sum())


@OBJECTIVES
def test_a_table_of_five_replies_learns_their_order(name: str) -> None:
    scores = (0.1, 0.9, 0.4, 0.7, 0.2)
    found = learned(find(name)().loss, scores)
    assert found.argsort().tolist() == [0, 4, 2, 3, 1]
    assert true_ndcg(found.tolist(), scores) == pytest.approx(1, abs=1e-9)


def test_the_gain_of_an_order_against_a_textbook() -> None:
    for seed in range(20):
        given = some_list(seed, 7, levels=4)
        labels = given.labels(())[0].tolist()
        assert float(ndcg(given, ())) == pytest.approx(true_ndcg(given.ratio[0].detach().tolist(), labels), abs=1e-12)


def test_level_replies_share_the_gain_of_all_their_orders() -> None:
    """Three of five level: the mean over the six orders that they could stand in."""
    from itertools import permutations

    scores = (0.0, 1.0, 0.3, 0.8, 0.6)
    given = lists(([2.0, 0.0, 0.0, 0.0, -1.0], scores))
    broken = [[2.0, *(k / 10 for k in order), -1.0] for order in permutations(range(3))]
    wanted = sum(true_ndcg(row, scores) for row in broken) / 6
    assert float(ndcg(given, ())) == pytest.approx(wanted, abs=1e-12)
    found = places(given)
    assert found.level[0].sum(1).tolist() == [1, 3, 3, 3, 1]
    distances = [abs(1 / k - 1 / m) for k, m in permutations([2**0.5, 3.0, 1.0], 2)]
    assert len(distances) == 6
    mean = torch.tensor([1 / torch.log2(torch.tensor(1.0 + k)) for k in (2, 3, 4)], dtype=torch.float64)
    wanted_apart = (mean[:, None] - mean).abs().sum() / 6
    torch.testing.assert_close(found.apart[0, 1], wanted_apart, rtol=1e-6, atol=0)


def test_labels_are_scaled_by_the_list_or_by_a_range() -> None:
    given = lists(*MIXED[:2])
    torch.testing.assert_close(given.labels(())[0, :2].tolist(), [0.0, 1.0])
    assert given.labels(())[1].tolist() == [1, 0, 0, 0.5, 1]
    assert given.labels((0, 10))[1].tolist() == [0.5, 0.1, 0.1, 0.3, 0.5]
    assert given.labels((-10, 10))[0].tolist() == [0.5, 0.55, 0, 0, 0]
    assert float(most_dcg(gains(given.labels(()))[:1])) == 1.0


def test_metrics_by_hand() -> None:
    """Best replies of a list are its chosen ones, worst its rejected ones; level pairs are half right."""
    given = lists(([3.0, 1.0, 1.0, -2.0], (2, 2, 1, 0)))
    found = {name: float(value.detach()) for name, value in list_metrics(given, 0.5, ()).items()}
    assert found["rewards/chosen"] == pytest.approx(1.0)
    assert found["rewards/rejected"] == pytest.approx(-1.0)
    assert found["rewards/margins"] == pytest.approx(2.0)
    assert found["rewards/accuracies"] == pytest.approx(4.5 / 5)
    assert found["logps/chosen"] == pytest.approx(-48.0)
    assert found["logps/rejected"] == pytest.approx(-52.0)
    assert found["displacement/chosen"] == pytest.approx(2.0)
    assert found["lengths/longer_rewarded"] == found["lengths/longer_chosen"] == 0.5
    assert found["ndcg"] < 1
    longer = replace(given, tokens=torch.tensor([[9, 2, 5, 5]]))
    found = {name: float(value.detach()) for name, value in list_metrics(longer, 0.5, ()).items()}
    # The pairs 0-2, 0-3, 1-2, 1-3, 2-3: the longer is chosen in two, rejected in two, and one is even.
    assert found["lengths/longer_chosen"] == pytest.approx(0.5)
    assert found["lengths/longer_rewarded"] == pytest.approx((1 + 1 + 0.5 + 0 + 0.5) / 5)
