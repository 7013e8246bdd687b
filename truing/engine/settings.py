"""What decides a training run: the fields that every training method has, its objective, its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from annotated_types import Ge, Gt, Le

from truing.core.lazy import torch
from truing.core.policy import Opening, Workbench
from truing.core.trees import NO_EXTRAS, Extras, Tree, TreeScores
from truing.engine.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, how fast and in what cuts a method trains, under the names of TRL and transformers.

    Attributes:
        learning_rate: peak of the schedule.
        num_train_epochs: passes over the data; may be a fraction.
        max_steps: optimiser steps, instead of epochs where >= 0; 0 trains nothing.
        per_device_train_batch_size: examples (pairs, demonstrations) a forward pass of a step.
        gradient_accumulation_steps: a step is this many times as many examples.
        lr_scheduler_type: shape after warm-up.
        warmup_ratio: share of the steps in which the rate rises linearly from 0.
        weight_decay: AdamW's, on matrices only.
        max_grad_norm: gradients are scaled down to this 2-norm; 0 is off.
        tokens_per_batch: packed tokens in memory at once; changes speed and memory, nothing else. A longer example goes
            alone, and what its blocks hold for the backward pass is computed again there.
        eval_fraction: share of the examples held out and scored at the end and every ``eval_steps``.
        eval_steps, logging_steps, save_steps: every so many steps; 0 is never.
        bf16: autocast to bfloat16, with float32 master weights; the reference pass too.
    """

    learning_rate: Annotated[float, Ge(0)] = 1e-6
    num_train_epochs: Annotated[float, Gt(0)] = 1.0
    max_steps: Annotated[int, Ge(-1)] = -1
    per_device_train_batch_size: Annotated[int, Ge(1)] = 8
    gradient_accumulation_steps: Annotated[int, Ge(1)] = 1
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: Annotated[float, Ge(0), Le(1)] = 0.1
    weight_decay: Annotated[float, Ge(0)] = 0.0
    max_grad_norm: Annotated[float, Ge(0)] = 1.0
    tokens_per_batch: Annotated[int, Ge(1)] = 2048
    eval_fraction: Annotated[float, Ge(0), Le(0.5)] = 0.0
    eval_steps: Annotated[int, Ge(0)] = 0
    logging_steps: Annotated[int, Ge(0)] = 5
    save_steps: Annotated[int, Ge(0)] = 200
    bf16: bool = False

    @property
    def step_size(self) -> int:
        """Examples an optimiser step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def precision(self) -> Precision:
        """Of the forward passes."""
        return "bf16" if self.bf16 else "float32"


@dataclass(frozen=True, kw_only=True)
class Training(Opening, Schedule):
    """The fields of every method that trains."""


class Companion(Protocol):
    """Something that goes along with a run and belongs to its state: a moving reference, a running mean."""

    def follow(self, module: torch.nn.Module, step: int) -> None:
        """The weights as they are after ``step`` steps, counted from 1."""

    def state(self) -> dict[str, torch.Tensor]:
        """All that decides what it does from here on."""

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of :meth:`state`."""


FREE = frozenset(("tokens_per_batch", "gradient_checkpointing", "eval_steps", "logging_steps", "save_steps"))
"""Fields that change how much memory a step takes and what is told of it, and nothing that is learned."""
CUTS = FREE | {"per_device_train_batch_size", "gradient_accumulation_steps"}
"""The same with fields of which, at one step size, nothing depends on either."""


@dataclass(frozen=True)
class Objective:
    """What is minimised: ``sum of losses / sum of weights`` over the examples of a step.

    Attributes:
        weights: ``N`` numbers, one an example: 1 for a mean over examples, its tokens for a mean over tokens.
        loss: from the scores of some trees and their numbers to ``(B,)`` losses and metrics, each ``(n,)``: of all B or
            of those that it is about.
        inspect: more metrics, of as many of these examples as it likes, each ``(n,)``; asked with the scores' graph.
        survey: is shown all examples of a step, scored without gradient, before the loss of any is asked for; for
            losses that depend on the whole step. It costs one more forward pass.
        beside: from the examples of a step to as many trees, which the survey is shown in their place.
        derive: what follows from the means that are logged, and is logged with them.
        companion: what goes along.
        extras: what scores must tell beside log-probabilities.
        perturb: how the prompts' embeddings are moved before some trees are scored, ``(P, D)``; asked in every pass, so
            that it is of the weights as they are. It leaves their gradients alone.
        regularise: from the module that is trained to terms by name, scalars with gradient, which are added to the mean
            of a step's losses and logged by their names; asked once a step, of the weights as they are.
    """

    weights: Sequence[float]
    loss: Callable[[TreeScores, Sequence[int]], tuple[torch.Tensor, Mapping[str, torch.Tensor]]]
    inspect: Callable[[Workbench, TreeScores, Sequence[int]], Mapping[str, torch.Tensor]] | None = None
    survey: Callable[[TreeScores, Sequence[int]], None] | None = None
    beside: Callable[[Sequence[int]], Sequence[Tree]] | None = None
    derive: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    companion: Companion | None = None
    extras: Extras = NO_EXTRAS
    perturb: Callable[[Workbench, Sequence[Tree]], torch.Tensor] | None = None
    regularise: Callable[[torch.nn.Module], Mapping[str, torch.Tensor]] | None = None


def learning_rate(settings: Training, step: int, total: int) -> float:
    """The rate of step ``step`` (from 0) of ``total``: linear warm-up, then the schedule down to 0."""
    warm = math.ceil(settings.warmup_ratio * total)
    if step < warm:
        return settings.learning_rate * (step + 1) / (warm + 1)
    left = (total - step) / max(1, total - warm)
    shape = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left)))}
    return settings.learning_rate * shape[settings.lr_scheduler_type]
