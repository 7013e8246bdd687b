"""Heterogeneous model averaging: early, middle and late blocks keep other fractions of the model before alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from truing.core.errors import Fault, InputError, bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method, method
from truing.core.policy import Chat, Editable, Reply, Sampling
from truing.core.run import Run
from truing.core.trees import Tree, TreeScores
from truing.engine.cache import draws
from truing.engine.fit import Objective, Training, fit, planned, split
from truing.engine.processes import here
from truing.methods.merge._parts import Blend, NormRule, Rule, Rules, blend_of
from truing.methods.merge._tuning import BlendBench, Kept, Opened


def part_fractions(logits: torch.Tensor, *, mean: float, floor: float) -> torch.Tensor:
    """``f_k = mean (s(a_k) + floor) / mean_j (s(a_j) + floor)``, ``s`` the logistic function.

    Section 5 of Lin et al. 2023, arXiv:2309.06256, in the form of its released code: the mean over parts is what was
    asked for at every step, up to rounding, and equal logits give exactly it. Where a fraction could exceed 1,
    ``floor`` is raised to ``(K mean - 1) / (K (1 - mean))``.

    Args:
        logits: ``(K,)``.
        mean: in [0, 1).
        floor: > 0; the larger, the less can parts differ.

    Returns:
        ``(K,)``, in [0, 1].
    """
    parts = len(logits)
    floor = max(floor, (parts * mean - 1) / (parts * (1 - mean)))
    weights = logits.sigmoid() + floor
    apart = weights - weights[0]  # in differences, so that equal logits leave no rounding
    return mean * (1 + (apart - apart.mean()) / (weights[0] + apart.mean()))


def unevenness(fractions: torch.Tensor, *, mean: float, weights: torch.Tensor) -> torch.Tensor:
    """``sum_k weights_k |f_k - mean|``, of ``(K,)`` fractions: the regulariser of the same code. A scalar."""
    return (weights * (fractions - mean).abs()).sum()


@method(paper="arXiv:2309.06256", dial="pretrained_fraction", neutral={"pretrained_fraction": 1.0})
class Heterogeneous(Training, Method[Editable, Editable]):
    """Averages base and donors by another fraction for early, middle and late blocks, found by likelihood.

    The base is the model before its alignment, the donor the aligned one (of several, their mean). Where the parts all
    take the mean, it is merge/linear with ``weight = 1 - pretrained_fraction``, to the bit; that is where training
    starts. All weights are frozen and one number a part is trained, by the likelihood of good replies: the plain
    average's own draws that a judge likes best, or the demonstrations and the chosen replies of pairs that there are.
    The best iterate on them is kept, so it is never worse on them than the plain average.

    Attributes:
        pretrained_fraction: how much of the base is in the mean of the parts, [0, 1]. 1 is the base, 0 the donor. The
            formula in print puts its letter on the aligned model, the released code on the base.
        parts: runs of blocks that share a fraction; 0 is one for every block. The paper found 3 better than 6 or 9.
        floor: the larger, the less can parts differ, > 0. With three parts and a mean of 0.2, 0.2 leaves 0.046 to 0.45.
        regularisation: weight of the sum over matrices of their part's distance from the mean.
        regularised: each matrix alike, or most in the middle: by ``(L - 1) / (|l - L / 2| + 1)`` in block l of L.
        draws: replies to each prompt that the plain average draws and the judge scores; the best is a good one. 0 takes
            demonstrations and pairs instead.
        max_new_tokens: the longest of these draws, tokens.
        embeddings: token and position embeddings, and a head tied to them: the mean, the base's or the donor's.
        head: a head of its own.
        norms: of blocks: their part's fraction, the mean one, the base's or the donor's. The released code takes norms
            and embeddings from the base.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"donors"})
    reads_any: ClassVar[frozenset[str]] = frozenset({"demos", "pairs", "prompts"})
    pretrained_fraction: Annotated[float, Ge(0), Le(1)] = 0.2
    parts: Annotated[int, Ge(0)] = 3
    floor: Annotated[float, Gt(0)] = 0.2
    regularisation: Annotated[float, Ge(0)] = 1e-4
    regularised: Literal["alike", "middle"] = "alike"
    draws: Annotated[int, Ge(0)] = 0
    max_new_tokens: Annotated[int, Ge(1)] = 64
    embeddings: Rule = "mean"
    head: Rule = "mean"
    norms: NormRule = "part"
    learning_rate: Annotated[float, Ge(0)] = 0.1
    num_train_epochs: Annotated[float, Gt(0)] = 3.0

    def faults(self, place: str = "") -> list[Fault]:
        names = ("lora_r", "unfrozen_parameters", "gradient_checkpointing")
        fact = f"is about weights, and {self.card.name} trains fractions"
        trained = [Fault(place, f"{name} {fact}", "Leave it out.") for name in names if getattr(self, name)]
        return [*super().faults(place), *trained]

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if found := self.faults(self.card.name):
            raise InputError(*found)
        blend = blend_of(base, evidence, Rules(self.parts, self.embeddings, self.head, self.norms), self.card.name)
        mean = self.pretrained_fraction
        if self.max_steps == 0 or blend.parts == 1 or mean in (0.0, 1.0):
            return base.with_weights(blend.weights([mean] * blend.parts))
        named = [donor.fingerprint for donor in evidence.donors.values()] if run.work is not None else []
        good: list[tuple[Chat, Reply]] = [(demo.prompt, demo.reply) for demo in evidence.demos]
        good += [(pair.prompt, pair.chosen) for pair in evidence.pairs]
        if self.draws:
            good = here().once(lambda: self._drawn(blend, evidence, run))
        if not good:
            mend = "Give demos or pairs; or prompts and a judge, and set draws; or max_steps: 0 for equal fractions."
            raise bad(self.card.name, "has no good replies to find fractions by", mend)
        trees = base.encode_many([prompt for prompt, _ in good], [(reply,) for _, reply in good])
        return self._tuned(blend, trees, named, run)

    def _drawn(self, blend: Blend, evidence: Evidence, run: Run) -> list[tuple[Chat, Reply]]:
        """The best of the plain average's draws to each prompt, by the judge; of equal ones the first."""
        if (judge := evidence.judge) is None:
            raise bad(self.card.name, f"draws = {self.draws}, and nobody judges them", "Name a judge, or set draws: 0.")
        plain = blend.base.with_weights(blend.weights([self.pretrained_fraction] * blend.parts))
        how, chats = Sampling(max_new_tokens=self.max_new_tokens), list(evidence.prompts)
        stream = run.rng("heterogeneous", "draws")
        pools = draws(plain, chats, n=self.draws, sampling=how, rng=stream, cache=run.cache, log=run.log)
        found: list[tuple[Chat, Reply]] = []
        for chat, pool in zip(chats, pools, strict=True):
            scores = judge.score([chat] * len(pool), [draw.text for draw in pool])
            found.append((chat, pool[scores.index(max(scores))]))
        return found

    def _tuned(self, blend: Blend, trees: Sequence[Tree], donors: Sequence[str], run: Run) -> Editable:
        mean, weights = self.pretrained_fraction, self._weights(blend)

        def shares(logits: torch.Tensor) -> torch.Tensor:
            return part_fractions(logits, mean=mean, floor=self.floor)

        def penalty(fractions: torch.Tensor) -> torch.Tensor:
            return self.regularisation * unevenness(fractions, mean=mean, weights=weights)

        start = torch.full((blend.parts,), mean, dtype=torch.float64, device=weights.device).logit()
        bench = BlendBench(blend, shares, start)
        seen = [trees[i] for i in split(len(trees), self.eval_fraction, run)[0]]

        def whole(logits: torch.Tensor) -> float:
            likelihood = bench.mean(logits, seen, self.tokens_per_batch, self.precision)
            return likelihood + float(penalty(shares(logits)))

        def loss(scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
            sums = scores.tokens.new_zeros(len(scores.counts)).index_add(0, scores.owner, -scores.tokens)
            told = {f"fraction/{k + 1}": each.detach()[None] for k, each in enumerate(bench.now)}
            return sums + scores.counts * penalty(bench.now).to(sums), {"logps/chosen": -sums.detach(), **told}

        per_epoch, total = planned(len(trees), self)
        kept = Kept(bench, whole, per_epoch, total)
        lengths = [float(len(tree.replies[0])) for tree in trees]
        made = fit(Opened(bench, donors), trees, Objective(lengths, loss, companion=kept), self, run)
        told = ", ".join(f"{each:.3g}" for each in bench.fractions(bench.best))
        run.log.say(f"  pretrained fractions {told}, mean {mean:g}; nats a token of good replies and regulariser:")
        run.log.say(f"  {kept.start:.4f} with equal ones, {bench.loss:.4f} with these")
        return made

    def _weights(self, blend: Blend) -> torch.Tensor:
        """The regulariser's weight of each part: its matrices, ``(K,)``."""
        blocks, place = len(blend.layers), next(iter(blend.deltas.values())).device
        weights = torch.zeros(blend.parts, dtype=torch.float64, device=place)
        for block, (part, matrices) in enumerate(zip(blend.layers, blend.matrices, strict=True)):
            central = (blocks - 1) / (abs(block - blocks / 2) + 1) if self.regularised == "middle" else 1.0
            weights[part] += matrices * central
        return weights
