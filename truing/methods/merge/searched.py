"""The best-aligned blend of a base and its aligned model within a tax, found by measuring blends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method, method
from truing.core.policy import Editable, Workbench
from truing.core.run import Run
from truing.core.trees import Tree
from truing.data.promptset import load_neutral
from truing.engine.cache import digest, remember, tree_digest
from truing.engine.tree import batches
from truing.methods.merge._front import Candidate, search, undominated
from truing.methods.merge._parts import Blend, NormRule, Rule, Rules, blend_of

BUDGET = 4096
"""Packed tokens a scoring pass."""


@method(paper="arXiv:2309.06256", dial="tax", neutral={"evaluations": 0})
class Searched(Method[Editable, Editable]):
    """Averages base and donors part by part as a search finds best: the most alignment that a tax allows.

    The base is the model before its alignment, the donor the aligned one (of several, their mean). Alignment is how
    much further chosen and rejected replies of the pairs are apart than under the base, a mean in nats a pair; or the
    mean log-likelihood of the chosen ones, in nats a token. The tax is how much worse than by the base demonstrations
    are predicted, nats a token: what the model must still be able to do. Where there are none, it is plain prose, other
    passages than those that the probe ``perplexity`` measures on.

    The search is over the whole front, and kept in the cache: arms that differ in ``tax`` alone share one.

    Attributes:
        tax: nats a token that may be lost; 0.01 is one percent of perplexity.
        evaluations: blends to measure, each once over pairs and passages; 0 gives the base.
        alignment: what is sought.
        parts: runs of blocks that share a fraction; 0 is one for every block.
        passages: of prose, where there are no demonstrations.
        embeddings: token and position embeddings, and a head tied to them: the mean, the base's or the donor's.
        head: a head of its own.
        norms: of blocks: their part's fraction, the mean one, the base's or the donor's.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"donors", "pairs"})
    tax: Annotated[float, Ge(0)] = 0.01
    evaluations: Annotated[int, Ge(0)] = 40
    alignment: Literal["margin", "likelihood"] = "margin"
    parts: Annotated[int, Ge(0)] = 3
    passages: Annotated[int, Ge(1)] = 16
    embeddings: Rule = "mean"
    head: Rule = "mean"
    norms: NormRule = "part"

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if self.evaluations == 0:
            return base
        found = self.measured(base, evidence, run)
        within = [each for each in found if each.tax <= self.tax]
        best = max(within, key=lambda each: each.alignment)  # the base itself is always there: it was measured first
        told = ", ".join(f"{each:.3g}" for each in best.fractions)
        front = len(undominated(found))
        run.log.say(f"  {len(found)} blends measured, {front} on the front; pretrained fractions {told}:")
        run.log.say(f"  alignment {best.alignment:.4g}, tax {best.tax:.4g} nats a token")
        return base.with_weights(self._blend(base, evidence).weights(best.fractions))

    def front(self, base: Editable, evidence: Evidence, run: Run) -> list[Candidate]:
        """The blends that no other beats, by rising tax; the base and the donor among all that were measured."""
        return undominated(self.measured(base, evidence, run))

    def measured(self, base: Editable, evidence: Evidence, run: Run) -> list[Candidate]:
        """Every blend that the search measured, in its order, the base first.

        Raises:
            InputError: there are no donors, no pairs, or the models do not fit.
        """
        if not evidence.pairs:
            raise bad(self.card.name, "has no pairs", "Give 'data.pairs', or put synthesize/best_and_worst before it.")
        pairs, demos = evidence.pairs, evidence.demos
        trees = base.encode_many([pair.prompt for pair in pairs], [(pair.chosen, pair.rejected) for pair in pairs])
        if demos:
            kept = base.encode_many([demo.prompt for demo in demos], [(demo.reply,) for demo in demos])
        else:
            texts = load_neutral()[-self.passages :]  # from the end: the probe reads from the beginning
            kept = base.encode_many([()] * len(texts), [(text,) for text in texts])

        def evaluate(bench: Workbench) -> tuple[float, float]:
            sums, counts = _scored(bench, trees)
            chosen, rejected = sums.view(-1, 2).unbind(1)
            gained = (chosen - rejected).mean() if self.alignment == "margin" else chosen.sum() / counts[::2].sum()
            lost, tokens = _scored(bench, kept)
            return float(gained), -float(lost.sum() / tokens.sum())

        def make() -> list[Candidate]:
            blend = self._blend(base, evidence)
            found = search(blend, evaluate, evaluations=self.evaluations, log=run.log)
            return [Candidate(c.fractions, c.alignment - found[0].alignment, c.tax - found[0].tax) for c in found]

        path = None
        if run.cache is not None:
            models = [policy.fingerprint for policy in (base, *evidence.donors.values())]
            settings = {name: value for name, value in vars(self).items() if name != "tax"}
            key = digest(models, tree_digest(trees), tree_digest(kept), settings)
            path = run.cache / "fronts" / f"{key[:40]}.json"
        return remember(path, make, read=_read, write=_write, log=run.log, found="  the search: from the cache")

    def _blend(self, base: Editable, evidence: Evidence) -> Blend:
        return blend_of(base, evidence, Rules(self.parts, self.embeddings, self.head, self.norms), self.card.name)


def _scored(bench: Workbench, trees: Sequence[Tree]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each reply, float64 nats, and its tokens: ``(S,)`` and ``(S,)``."""
    sums, counts = [], []
    with torch.no_grad():
        for members in batches(trees, BUDGET):
            scores = bench.score([trees[i] for i in members])
            sums.append(scores.tokens.new_zeros(len(scores.counts), dtype=torch.float64).index_add(
                0, scores.owner, scores.tokens.double()
            ))  # fmt: skip
            counts.append(scores.counts)
    return torch.cat(sums), torch.cat(counts)


def _read(file: Path) -> list[Candidate]:
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [Candidate(tuple(map(float, fractions)), float(gain), float(tax)) for fractions, gain, tax in rows]


def _write(file: Path, found: Sequence[Candidate]) -> None:
    file.write_text(json.dumps([[c.fractions, c.alignment, c.tax] for c in found]), encoding="utf-8")
