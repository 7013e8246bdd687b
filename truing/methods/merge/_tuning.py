"""What trains the fractions of a blend: the model that is blended within the forward pass, and the best iterate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.policy import WHOLE, Chat, Draw, Editable, Opening, Reply, Sampling, Workbench
from truing.core.rng import Rng
from truing.core.trees import Tree, TreeScores
from truing.engine.cache import digest
from truing.engine.precision import Precision, autocast
from truing.engine.tree import batches
from truing.methods.merge._parts import Blend

Shares = Callable[["torch.Tensor"], "torch.Tensor"]
"""From ``(K,)`` logits to ``(K,)`` pretrained fractions."""


class BlendBench(Workbench):
    """A blend whose ``K`` logits are all that is trained.

    Weights are frozen and blended anew in every pass. What follows a rule and no part is blended once, before: the
    head among it, which the engine projects by again in the backward pass, where the blended weights are gone.

    Attributes:
        now: ``(K,)`` fractions of the last pass, with its graph.
        best: ``(K,)`` logits of the best iterate so far.
        loss: of the best iterate, over all examples.
    """

    def __init__(self, blend: Blend, shares: Shares, start: torch.Tensor) -> None:
        self.blend, self.shares = blend, shares
        self.module = torch.nn.ParameterDict({"logits": torch.nn.Parameter(start.clone())})
        self.inner = blend.base.open()
        blend.paint(self.inner.module, self.fractions(start))
        self.inner.module.requires_grad_(False)
        self.parted = {name: part for name, part in blend.members.items() if isinstance(part, int)}
        self.caller = _caller(self.inner)
        self.best, self.loss = start.clone(), float("inf")

    @property
    def logits(self) -> torch.Tensor:
        """``(K,)``."""
        held: Any = self.module
        found: torch.Tensor = held["logits"]
        return found

    def fractions(self, logits: torch.Tensor) -> list[float]:
        """The pretrained fraction of each part."""
        with torch.no_grad():
            return [float(each) for each in self.shares(logits)]

    @property
    def embeddings(self) -> torch.Tensor:
        return self.inner.embeddings

    def score(self, trees: Sequence[Tree], shift: torch.Tensor | None = None) -> TreeScores:
        self.now = self.shares(self.logits)
        return self._scored(self.now, trees, shift)

    def _scored(self, fractions: torch.Tensor, trees: Sequence[Tree], shift: torch.Tensor | None = None) -> TreeScores:
        own = dict(self.inner.module.named_parameters())
        parted = {
            f"inner.{name}": self.blend.tensor(name, fractions[part]).to(own[name].dtype)
            for name, part in self.parted.items()
        }
        found: TreeScores = torch.func.functional_call(self.caller, parted, (trees, shift))
        return found

    def mean(self, logits: torch.Tensor, trees: Sequence[Tree], budget: int, precision: Precision) -> float:
        """The mean negative log-likelihood of the trees' tokens under the blend of some logits, nats a token."""
        total, count = 0.0, 0
        with torch.no_grad(), autocast(precision):
            fractions = self.shares(logits)
            for members in batches(trees, budget):
                scores = self._scored(fractions, [trees[i] for i in members])
                total -= float(scores.tokens.double().sum())
                count += len(scores.tokens)
        return total / count

    def close(self) -> Editable:
        """The blend of the best iterate."""
        made = self.blend.base.with_weights(self.blend.weights(self.fractions(self.best)))
        made.trained_parameters = self.logits.numel()
        return made


class Kept:
    """Keeps the best iterate: every so many steps, and after the last one, all examples are scored.

    The start is the first to be kept, so what is kept is never worse than it on these examples.
    """

    def __init__(self, bench: BlendBench, objective: Callable[[torch.Tensor], float], every: int, last: int) -> None:
        self.bench, self.objective, self.every, self.last = bench, objective, every, last
        self.consider(bench.best)
        self.start = bench.loss

    def consider(self, logits: torch.Tensor) -> None:
        """Keep some logits if they are better than the best."""
        loss = self.objective(logits)
        if loss < self.bench.loss:
            self.bench.best, self.bench.loss = logits.detach().clone(), loss

    def follow(self, module: torch.nn.Module, step: int) -> None:
        if step % self.every == 0 or step == self.last:
            self.consider(self.bench.logits.detach())

    def state(self) -> dict[str, torch.Tensor]:
        return {"best": self.bench.best, "loss": torch.tensor([self.start, self.bench.loss], dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.bench.best = tensors["best"].clone()
        self.start, self.bench.loss = (float(each) for each in tensors["loss"])


class Opened(Editable):
    """The base as a training sees it: it opens to the bench, and its fingerprint is of all that is blended."""

    def __init__(self, bench: BlendBench, donors: Sequence[str]) -> None:
        self.base, self.bench, self.donors = bench.blend.base, bench, donors

    @property
    def fingerprint(self) -> str:
        return digest(self.base.fingerprint, *self.donors)

    def open(self, how: Opening = WHOLE, seed: int = 0) -> Workbench:
        return self.bench

    def weights(self) -> Mapping[str, torch.Tensor]:
        return self.base.weights()

    def with_weights(self, weights: Mapping[str, torch.Tensor]) -> Editable:
        return self.base.with_weights(weights)

    def encode(self, chat: Chat, replies: Sequence[Reply]) -> Tree:
        return self.base.encode(chat, replies)

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        return self.base.sample(chats, n=n, sampling=sampling, rng=rng)

    def token_logprobs(self, chats: Sequence[Chat], replies: Sequence[Reply]) -> list[torch.Tensor]:
        return self.base.token_logprobs(chats, replies)

    def save(self, folder: Path) -> None:
        raise bad("blend", "is being trained, and cannot be saved", "Save what training gives.")


def _caller(bench: Workbench) -> torch.nn.Module:
    """A module whose forward pass is a bench's scoring, so that parameters can be replaced for the time of a pass."""

    class Scoring(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = bench.module

        def forward(self, trees: Sequence[Tree], shift: torch.Tensor | None) -> TreeScores:
            return bench.score(trees, shift)

    return Scoring()
