"""Sums that stay where they are computed, and are read once a log interval."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from fitting import train
from tiny import Notes
from torch.utils._python_dispatch import TorchDispatchMode

from truing.core.errors import RunError
from truing.core.run import Run
from truing.engine import loop
from truing.engine.meter import Meter
from truing.models.local import Local


class TestMeter:
    def test_means_of_each_group_over_its_own_count(self) -> None:
        meter = Meter()
        meter.add({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([True, False])})
        meter.add({"a": torch.tensor([6.0]), "b": torch.tensor([True])})
        meter.add({"loss": torch.tensor([3.0, 5.0])}, 16.0)
        meter.add({"rare": torch.zeros(0)})
        assert meter.read() == {"a": 3.0, "b": pytest.approx(2 / 3), "loss": 0.5}
        assert meter.read() == {}

    def test_names_of_one_group_may_be_of_different_examples(self) -> None:
        """A pass with examples of one kind only tells of none of the other."""
        meter = Meter()
        meter.add({"a": torch.tensor([1.0, 3.0]), "b": torch.zeros(0)})
        meter.add({"a": torch.zeros(0), "b": torch.tensor([5.0])})
        meter.restore(json.loads(json.dumps(meter.state())))
        meter.add({"a": torch.tensor([5.0]), "b": torch.zeros(0)})
        assert meter.read() == {"a": 3.0, "b": 5.0}

    def test_what_was_written_down_goes_on_to_the_same_bits(self) -> None:
        values = [torch.tensor([0.1 * k, 1 / (k + 1)]) for k in range(6)]
        whole, first, second = Meter(), Meter(), Meter()
        for value in values:
            whole.add({"x": value})
        for value in values[:3]:
            first.add({"x": value})
        second.restore(json.loads(json.dumps(first.state())))
        for value in values[3:]:
            second.add({"x": value})
        assert first.state()  # writing down forgets nothing
        assert second.read() == whole.read()

    @pytest.mark.parametrize("call", ["check", "read", "state"])
    @pytest.mark.parametrize("bad", [(float("nan"), 1.0), (1.0, float("inf"))])
    def test_the_first_step_that_is_not_finite_is_named_by_whatever_looks_first(
        self, call: str, bad: tuple[float, float]
    ) -> None:
        meter = Meter()
        for step, (loss, norm) in enumerate([(1.0, 2.0), bad, (float("nan"), float("nan")), (1.0, 1.0)], 1):
            meter.add({"loss": torch.tensor([loss])})
            meter.watch(step, torch.tensor(loss), torch.tensor(norm))
        with pytest.raises(RunError, match=rf"step 2: .*\({bad[0]}, {bad[1]}\)"):
            getattr(meter, call)()


class TestSeveralProcesses:
    """Adding up is all that is asked of them; here a second process is played by a tensor that it would send."""

    @staticmethod
    def beside(other: list[float]) -> Meter:
        def add_up(tensors: Sequence[torch.Tensor]) -> None:
            for tensor in tensors:
                tensor.add_(torch.tensor(other, dtype=tensor.dtype))

        return Meter(add_up)

    def test_means_are_over_all_of_them(self) -> None:
        """Here 1, 2 and 6; there 5 values with a sum of 31."""
        meter = self.beside([0.0, 31.0, 5.0])
        meter.add({"a": torch.tensor([1.0, 2.0])})
        meter.add({"a": torch.tensor([6.0])})
        meter.add({"a": torch.tensor([float("nan"), 9.0])}, counts=False)  # only kept step
        assert meter.read() == {"a": 40 / 8}

    def test_all_stop_together(self) -> None:
        meter = self.beside([1.0])
        meter.watch(3, torch.tensor(1.0), torch.tensor(1.0))
        with pytest.raises(RunError, match="not finite in another process; nothing was saved"):
            meter.check()

    def test_what_was_written_down_is_counted_once(self) -> None:
        whole, main, second = Meter(), Meter(), Meter()
        whole.add({"a": torch.tensor([1.0, 2.0])})
        state = json.loads(json.dumps(whole.state()))
        main.restore(state)
        second.restore(state, mine=False)
        assert main.state() == whole.state()
        assert second.state() == [(["a"], [0.0], [0.0])]


class Counting(TorchDispatchMode):
    """Counts where the host asks a tensor for its value, which makes it wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero):
            self.asked[str(function)] += 1
        return function(*args, **(kwargs or {}))


def test_a_step_asks_the_device_for_nothing(tiny_policy: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is cut into micro-batches. The one reading of a log interval is counted by its own call."""
    base = Local(tiny_policy.model, tiny_policy.tokenizer)
    base.scorer.layout = "packed"  # proving the layout, once a run, looks at numbers
    reads, counted = [], []
    inner, step = Meter.read, loop.Loop.one_step
    monkeypatch.setattr(Meter, "read", lambda self: reads.append(1) or inner(self))

    def watched(self: loop.Loop) -> None:
        with Counting() as mode:
            step(self)
        counted.append(sum(mode.asked.values()))

    monkeypatch.setattr(loop.Loop, "one_step", watched)
    train(base, max_steps=12, logging_steps=5, tokens_per_batch=60)
    assert counted == [0] * 12
    assert len(reads) == 3  # after steps 5 and 10, and at the end


@pytest.mark.parametrize("settings", [{}, {"logging_steps": 0}, {"logging_steps": 7, "save_steps": 3}])
def test_a_nan_is_never_saved_and_stops_the_run_soon(
    settings: dict[str, int], tiny_policy: Local, notes: Notes, tmp_path: Any
) -> None:
    calls: list[int] = []

    def loss(scores: Any, numbers: Any) -> Any:
        calls.append(1)
        return -scores.sums * (torch.nan if len(calls) == 5 else 1.0), {}

    given = {"max_steps": 40, "logging_steps": 7, "save_steps": 0, **settings}
    with pytest.raises(RunError, match="step 5: loss or gradient is not finite"):
        train(tiny_policy, run=Run(work=tmp_path, log=notes), loss=loss, tokens_per_batch=10**6, **given)
    assert len(calls) <= 10
    assert notes.rows == []
    saved = tmp_path / "checkpoint" / "state.safetensors"
    assert saved.exists() is (given["save_steps"] > 0)
    if saved.exists():
        from safetensors.torch import load_file

        assert all(torch.isfinite(tensor).all() for tensor in load_file(saved).values())
        assert int(load_file(saved)["optimiser.0.step"]) == 3
