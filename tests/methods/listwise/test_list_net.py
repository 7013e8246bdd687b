"""ListNet: a cross entropy of two softmaxes."""

from __future__ import annotations

import torch
from ranking import learned, lists, slopes, some_list

from truing.core.errors import InputError
from truing.methods.listwise._family import ListLogps
from truing.methods.listwise.list_net import ListNet, list_net_loss


def loss(given: ListLogps, temperature: float = 0.5) -> torch.Tensor:
    return list_net_loss(given, given.labels(()), beta=0.3, temperature=temperature)


def test_value_and_gradient_as_written() -> None:
    given = some_list(0, 5)
    strength, wanted = 0.3 * given.ratio[0].detach(), (given.labels(())[0] / 0.5).softmax(0)
    torch.testing.assert_close(loss(given)[0], -(wanted * strength.log_softmax(0)).sum())
    torch.testing.assert_close(slopes(loss, given)[0], 0.3 * (strength.softmax(0) - wanted))


def test_of_cold_labels_the_best_alone_counts() -> None:
    given = lists(([0.5, -1.0, 2.0], (3, 7, 1)))
    cold = lambda one: loss(one, 1e-3)  # noqa: E731 - a name for a setting
    torch.testing.assert_close(cold(given)[0], -(0.3 * given.ratio[0]).log_softmax(0)[1])


def test_a_table_reaches_the_softmax_of_the_labels() -> None:
    """``ratio = label / (beta temperature)``, up to the constant that makes it a distribution."""
    found = learned(loss, (0.0, 0.25, 1.0), steps=3000, rate=0.05)
    torch.testing.assert_close(found - found[0], torch.tensor([0, 0.25, 1.0]).double() / 0.15, rtol=1e-4, atol=1e-4)


def test_a_temperature_of_zero_is_none() -> None:
    import pytest

    with pytest.raises(InputError, match="temperature"):
        ListNet(temperature=0.0)
