"""Supervised fine-tuning."""

from __future__ import annotations

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.imitation._family import ImitationMethod


def sft_loss(tokens: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each target token: ``(T,)`` log-probabilities to ``(T,)`` nats."""
    return -tokens


@method(paper="arXiv:2203.02155", dial="num_train_epochs", neutral={"max_steps": 0})
class SFT(ImitationMethod):
    """Maximum likelihood of the demonstrated replies, given their prompts."""

    learning_rate: float = 1e-5

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        return sft_loss(tokens)
