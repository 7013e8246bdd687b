"""What is to be kept, as replies: the base's own to some prompts, or those that pairs prefer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.policy import Editable, Reply, Sampling
from truing.core.run import Run
from truing.core.trees import Tree
from truing.engine.cache import draws


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Fields of members that read replies in which the base is as it should stay.

    Attributes:
        keep: whose replies: the base's ``own`` draws to the prompts, one each (the Fisher information of these is the
            true one), or the ``chosen`` ones of the pairs (the empirical one, of safe references).
        keep_prompts: how many prompts or pairs are read at most, the first ones.
        keep_max_new_tokens: the longest draw, tokens.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"demos", "prompts"})
    keep: Literal["own", "chosen"] = "own"
    keep_prompts: Annotated[int, Ge(1)] = 256
    keep_max_new_tokens: Annotated[int, Ge(1)] = 64

    def kept(self, name: str, base: Editable, evidence: Evidence, run: Run) -> list[Tree]:
        """A tree for each, with one reply of one token at least.

        Raises:
            InputError: there are no prompts, or no pairs where their chosen replies are to be kept.
        """
        chats = list(evidence.prompts[: self.keep_prompts])
        if self.keep == "own":
            if not chats:
                raise bad(name, "has no prompts on which to stay as it is", "Give 'data.prompts'.")
            how = Sampling(max_new_tokens=self.keep_max_new_tokens)
            rng = run.rng("retain", "kept")
            made = draws(base, chats, n=1, sampling=how, rng=rng, cache=run.cache, log=run.log)
            replies: list[tuple[Reply, ...]] = [(row[0],) for row in made]
        else:
            if not evidence.pairs:
                raise bad(name, "keep = 'chosen', and there are no pairs", "Give 'data.pairs', or set keep: own.")
            pairs = evidence.pairs[: self.keep_prompts]
            chats, replies = [pair.prompt for pair in pairs], [(pair.chosen,) for pair in pairs]
        found = [tree for tree in base.encode_many(chats, replies) if tree.replies[0]]
        if not found:
            raise bad(name, "every reply that is to be kept is empty", "Give other prompts or pairs.")
        return found
