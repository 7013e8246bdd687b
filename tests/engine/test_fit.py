"""The training loop: its outcome, its schedule, its updates, and what stops it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import LENGTHS, TREES, flat, likelihood, train
from tiny import Notes, make_local, make_model, same_weights

from truing.core.errors import InputError, RunError
from truing.core.run import Run
from truing.core.trees import Tree, TreeScores
from truing.engine.fit import Training, split
from truing.engine.score import score_plain
from truing.engine.settings import learning_rate
from truing.models.local import Local


class TestOutcome:
    def test_training_lowers_the_loss_and_leaves_the_base_alone(self, tiny_policy: Local, notes: Notes) -> None:
        before = flat(tiny_policy)
        train(tiny_policy, run=Run(log=notes), per_device_train_batch_size=16, max_steps=20)
        losses = notes.series("loss")
        assert losses[-1] < losses[0] - 0.3
        assert torch.equal(flat(tiny_policy), before)

    def test_dropout_of_the_configuration(self) -> None:
        """It would draw from ambient randomness: one seed would give many outcomes."""
        noisy = make_local("gpt2", resid_pdrop=0.4, embd_pdrop=0.4, attn_pdrop=0.4)
        calm = make_local("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        assert torch.equal(flat(train(noisy)), flat(train(calm)))

    def test_the_seed_decides(self, tiny_policy: Local) -> None:
        first, again, other = (train(tiny_policy, run=Run(seed=seed)) for seed in (1, 1, 2))
        assert same_weights(first, again)
        assert not same_weights(first, other)

    def test_two_precisions_in_one_process(self, tiny_policy: Local) -> None:
        """Accelerate keeps its state for the whole process; an arm in bfloat16 may follow one in float32."""
        plain = train(tiny_policy)
        half = train(tiny_policy, bf16=True)
        assert same_weights(train(tiny_policy), plain)
        assert not same_weights(half, plain)
        assert {p.dtype for p in half.model.parameters()} == {torch.float32}
        moved = (flat(plain) - flat(tiny_policy)).norm()
        assert (flat(half) - flat(plain)).norm() < 0.5 * moved


class TestStops:
    @pytest.mark.parametrize(
        "error",
        [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    )
    def test_memory_that_is_full(self, tiny_policy: Local, error: RuntimeError) -> None:
        calls = []

        def loss(scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
            calls.append(1)
            if len(calls) == 3:
                raise error
            return -scores.sums, {}

        with pytest.raises(RunError, match=r"step 3: memory is full at tokens_per_batch = 2048. Lower it, .* --resume"):
            train(tiny_policy, loss=loss, tokens_per_batch=2048)

    def test_another_error_of_the_runtime_is_shown_as_it_is(self, tiny_policy: Local) -> None:
        def loss(scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
            raise RuntimeError("shapes do not fit")

        with pytest.raises(RuntimeError, match="shapes do not fit") as told:
            train(tiny_policy, loss=loss)
        assert not isinstance(told.value, RunError)

    def test_a_loss_that_is_nan(self, tiny_policy: Local, tmp_path: Path) -> None:
        calls = []

        def loss(scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
            calls.append(1)
            return -scores.sums * (torch.nan if len(calls) > 2 else 1.0), {}

        with pytest.raises(RunError, match="step 3: loss or gradient is not finite"):
            train(tiny_policy, run=Run(work=tmp_path), loss=loss, save_steps=1)
        assert all(torch.isfinite(p).all() for p in tiny_policy.model.parameters())

    def test_a_loss_that_is_nan_with_a_sound_gradient(self, tiny_policy: Local) -> None:
        with pytest.raises(RunError, match="step 1: loss or gradient"):
            train(tiny_policy, loss=lambda scores, numbers: (-scores.sums + torch.tensor(torch.nan), {}))

    def test_a_gradient_that_overflows(self, tiny_policy: Local) -> None:
        with pytest.raises(RunError, match="step 1: loss or gradient"):
            train(tiny_policy, loss=lambda scores, numbers: ((-scores.sums).exp() * 1e38, {}))

    def test_no_examples(self, tiny_policy: Local) -> None:
        for steps in (-1, 5):
            with pytest.raises(InputError, match="nothing to train on"):
                train(tiny_policy, [], [], max_steps=steps)

    def test_no_steps_give_the_base(self, tiny_policy: Local) -> None:
        assert train(tiny_policy, max_steps=0) is tiny_policy


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
def test_the_schedule_in_closed_form(shape: str, tiny_policy: Local, notes: Notes) -> None:
    """Ten steps, two of them warm-up: a third, two thirds, the peak, then down in eight equal parts."""
    settings = {"lr_scheduler_type": shape, "warmup_ratio": 0.2, "max_steps": 10, "learning_rate": 3e-4}
    train(tiny_policy, run=Run(log=notes), per_device_train_batch_size=1, **settings)
    down = [(8 - k) / 8 for k in range(8)]
    shapes = {
        "linear": down,
        "cosine": [(1 + math.cos(math.pi * (1 - x))) / 2 for x in down],
        "constant": [1.0] * 8,
    }
    assert notes.series("learning_rate") == pytest.approx([3e-4 * x for x in [1 / 3, 2 / 3, *shapes[shape]]])


def test_the_schedule_at_its_edges() -> None:
    plain = Training(learning_rate=1.0, warmup_ratio=0.0)
    assert [learning_rate(plain, k, 4) for k in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert learning_rate(plain, 0, 1) == 1.0
    all_warm = Training(learning_rate=1.0, warmup_ratio=1.0)
    assert [learning_rate(all_warm, k, 3) for k in range(3)] == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 4), (2, 8), (0.5, 2), (1.1, 5)])
def test_epochs(epochs: float, steps: int, tiny_policy: Local, notes: Notes) -> None:
    """13 examples in steps of 4: four steps, the last of one example; every epoch sees each example once."""
    seen: list[int] = []

    def loss(scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        seen.extend(numbers)
        return likelihood(scores, numbers)

    settings = {"max_steps": -1, "num_train_epochs": epochs, "per_device_train_batch_size": 4}
    train(tiny_policy, TREES[:13], LENGTHS[:13], Run(log=notes), loss, **settings)
    assert notes.rows[-1]["step"] == steps
    for first in range(0, len(seen) - 12, 13):
        assert sorted(seen[first : first + 13]) == list(range(13))
    if epochs == 2:
        assert seen[:13] != seen[13:]
        assert set(Counter(seen).values()) == {2}


class TestUpdate:
    def gradients(self, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
        """The gradient of every step, as the loop clips it."""
        found: list[torch.Tensor] = []
        inner = torch.nn.utils.clip_grad_norm_

        def spy(parameters: Any, most: float) -> torch.Tensor:
            parameters = list(parameters)
            found.append(torch.cat([p.grad.flatten().clone() for p in parameters]))
            return inner(parameters, most)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
        return found

    @pytest.mark.parametrize("weights", ["tokens", "examples"])
    def test_the_gradient_is_that_of_the_mean_over_the_whole_step(
        self, weights: str, tiny_policy: Local, monkeypatch: pytest.MonkeyPatch, notes: Notes
    ) -> None:
        """Brute force: every sequence alone, one sum, one division by all tokens (or examples) of the step."""
        found = self.gradients(monkeypatch)
        norms = LENGTHS if weights == "tokens" else [1.0] * 16
        settings = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
        train(tiny_policy, TREES, norms, Run(log=notes), tokens_per_batch=50, **settings)
        model = make_model("llama")
        loss = -score_plain(model, TREES).tokens.sum() / sum(norms)
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        assert (found[0] - expected).norm() < 1e-4 * expected.norm()
        assert notes.rows[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert notes.rows[0]["grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-4)
        assert notes.rows[0]["num_tokens"] == sum(tree.size for tree in TREES)

    def test_weight_decay_shrinks_matrices_and_nothing_else(self) -> None:
        """No gradient: AdamW leaves ``(1 - rate * decay) ** steps`` of a matrix, and all of a vector."""
        base = make_local("qwen2")
        done = train(
            base,
            loss=lambda scores, numbers: (0 * scores.sums, {}),
            weight_decay=0.5,
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_steps=3,
        )
        for before, after in zip(base.model.parameters(), done.model.parameters(), strict=True):
            factor = (1 - 0.1 * 0.5) ** 3 if before.ndim > 1 else 1.0
            torch.testing.assert_close(after, before * factor)

    def test_the_first_step_is_adams_closed_form(self, tiny_policy: Local, monkeypatch: pytest.MonkeyPatch) -> None:
        """After one step the moments cancel: every parameter moves by ``rate * g / (|g| + eps)``."""
        found = self.gradients(monkeypatch)
        done = train(tiny_policy, max_steps=1, max_grad_norm=0.0, learning_rate=1e-3, per_device_train_batch_size=16)
        gradient = found[0].double()
        expected = flat(tiny_policy) - 1e-3 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(flat(done), expected, rtol=0, atol=1e-6)

    def test_clipping_bounds_the_norm(self, tiny_policy: Local, monkeypatch: pytest.MonkeyPatch) -> None:
        after: list[float] = []
        inner = torch.optim.AdamW.step

        def spy(self: Any, *given: Any) -> Any:
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            after.append(float(torch.cat([g.flatten() for g in grads]).norm()))
            return inner(self, *given)

        monkeypatch.setattr(torch.optim.AdamW, "step", spy)
        train(tiny_policy, max_grad_norm=0.01, max_steps=1)
        train(tiny_policy, max_grad_norm=0.0, max_steps=1)
        assert after[0] == pytest.approx(0.01, rel=1e-3)
        assert after[1] > 0.5


class TestHeldOut:
    def test_the_split_is_the_seeds(self) -> None:
        train_part, held = split(20, 0.25, Run(seed=3))
        assert (train_part, held) == split(20, 0.25, Run(seed=3))
        assert held != split(20, 0.25, Run(seed=4))[1]
        assert len(held) == 5
        assert sorted(train_part + held) == list(range(20))
        assert split(7, 0.0, Run()) == (list(range(7)), [])

    def test_what_is_held_out_is_scored_and_never_trained_on(self, tiny_policy: Local, notes: Notes) -> None:
        _, held = split(16, 0.25, Run())
        settings = {"eval_fraction": 0.25, "eval_steps": 2, "max_steps": 5, "tokens_per_batch": 40}
        done = train(tiny_policy, run=Run(log=notes), **settings)
        rows = [row for row in notes.rows if "eval_loss" in row]
        assert [row["step"] for row in rows] == [2, 4, 5]
        with torch.no_grad():
            scores = score_plain(done.model, [TREES[i] for i in held])
        assert rows[-1]["eval_loss"] == pytest.approx(float(-scores.tokens.mean()), rel=1e-5)
        assert rows[-1]["eval_logps/chosen"] == pytest.approx(float(scores.sums.mean()), rel=1e-5)
        # Other held-out replies, the same training: they are no part of it.
        other = list(TREES)
        for i in held:
            other[i] = Tree(TREES[i].prompt, (tuple(reversed(TREES[i].replies[0])),))
        assert same_weights(train(tiny_policy, other, **settings), done)
