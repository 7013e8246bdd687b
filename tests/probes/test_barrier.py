"""The barrier on tables, where the path is a closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from truing.core.errors import InputError
from truing.core.policy import user
from truing.core.run import Run
from truing.models.tabular import Tabular
from truing.probes.barrier import GRID, at, barrier
from truing.probes.catalogue import PROBES

CHATS = tuple(user(text) for text in ("a", "b", "c"))


def table(rows: list[list[float]]) -> Tabular:
    return Tabular(CHATS, ("x", "y"), torch.tensor(rows))


LEFT, RIGHT = table([[3.0, -3.0]] * 3), table([[-5.0, 1.0], [3.0, 0.0], [1.0, 0.0]])
PASSAGES = [(CHATS[0], "x"), (CHATS[1], "x"), (CHATS[2], "y")]


def loss(t: float) -> float:
    """From the tables by hand: the surprise of a reply is softplus of the other's lead."""
    total = 0.0
    for row, (_, reply) in enumerate(PASSAGES):
        x, y = ((1 - t) * LEFT.logits[row] + t * RIGHT.logits[row]).tolist()
        total += math.log1p(math.exp((y - x) if reply == "x" else (x - y)))
    return total / 3


def test_it_is_the_greatest_height_over_the_line_between_the_ends() -> None:
    """The surprise of a table is convex along a line, so no barrier; against what is concave there is one."""
    found = {m.probe: m for m in barrier(RIGHT, PASSAGES, base=LEFT, run=Run())}
    assert tuple(found) == PROBES["barrier"].gives
    assert found["barrier"].value == 0
    for t in GRID:
        assert found[f"path.{t:g}"].value == pytest.approx(loss(t))
    assert found["barrier.midpoint"].value == pytest.approx(loss(0.5) - (loss(0) + loss(1)) / 2)
    assert found["barrier.midpoint"].value < 0
    assert found["barrier"].n == 3


def test_a_model_and_its_reordered_copy_have_one_until_they_are_matched(tmp_path: Path) -> None:
    from tiny import make_local

    from truing.core.evidence import Evidence
    from truing.core.method import build
    from truing.core.rng import Rng
    from truing.models.movable import movable
    from truing.units.permutations import apply, random

    base = make_local("llama")
    spec = movable(base)
    copy = base.with_weights(apply(spec, random(spec, Rng(1)), base.weights()))
    # Text that the model finds likely: its own.
    from truing.core.policy import Sampling

    draws = base.sample(CHATS, n=2, sampling=Sampling(max_new_tokens=24), rng=Rng(0))
    passages = [(chat, draw) for chat, row in zip(CHATS, draws, strict=True) for draw in row]
    run = Run(cache=tmp_path)
    before = barrier(copy, passages, base=base, run=run, grid=(0.25, 0.5, 0.75))
    donors = build("match/weights")(base, Evidence(donors={"d": copy}), Run()).donors
    after = barrier(donors["d"], passages, base=base, run=run, grid=(0.25, 0.5, 0.75))
    assert [m.probe for m in before][2:] == ["path.0", "path.0.25", "path.0.5", "path.0.75", "path.1"]
    assert before[0].value > 0.5
    assert before[0].low is not None
    assert before[0].low > 0
    assert before[0].low <= before[0].value <= before[0].high
    assert abs(after[0].value) < 1e-6
    assert before[2].value == pytest.approx(before[6].value, abs=1e-4)


def test_halfway_is_the_mean_and_the_ends_are_the_models_themselves() -> None:
    assert at(LEFT, RIGHT, 0.0) is LEFT
    assert at(LEFT, RIGHT, 1.0) is RIGHT
    torch.testing.assert_close(at(LEFT, RIGHT, 0.25).weights()["logits"], 0.75 * LEFT.logits + 0.25 * RIGHT.logits)


def test_no_passage_and_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="no neutral text"):
        barrier(RIGHT, [], base=LEFT, run=Run())
    other = Tabular(CHATS[:1], ("x", "y"), torch.zeros(1, 2))
    with pytest.raises(InputError, match="only within one architecture"):
        at(LEFT, other, 0.5)
