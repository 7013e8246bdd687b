"""The first blocks of a model, and what they make of a prompt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from truing.core.lazy import torch
from truing.core.trees import Tree
from truing.engine.score import states
from truing.engine.tree import pack
from truing.models.adapters import share
from truing.models.architecture import describe
from truing.models.local import Local


class Cut:
    """A model that ends after some of its blocks: no later block, no final norm.

    Args:
        policy: is left as it is; what is not to be changed stays on its storage.
        blocks: how many are kept, from the first.
        own: names of parameters that can be changed and have a gradient.

    Raises:
        InputError: the architecture has no description.
    """

    def __init__(self, policy: Local, blocks: int, own: Collection[str] = ()) -> None:
        described = describe(policy.model.config.get_text_config())
        described.require("steering")
        self.module = share(policy.model, own.__contains__)
        self.parameters = {name: p for name, p in self.module.named_parameters() if name in own}
        path = described.prefix.rpartition(".")[0]
        self._replace(path, self.module.get_submodule(path)[:blocks])
        last = described.slot("final_norm")
        if last is not None:
            self._replace(last.name.removesuffix(".weight"), torch.nn.Identity())
        self.scorer = policy.scorer

    def _replace(self, path: str, part: torch.nn.Module) -> None:
        parent, _, leaf = path.rpartition(".")
        setattr(self.module.get_submodule(parent), leaf, part)

    def states(self, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """The hidden state behind the last block at the last token of each prompt, ``(N, D)``.

        In the packed layout where the whole model is proved to score alike in it, else one prompt at a time.
        """
        self.scorer.prove([Tree(prompt, (prompt[-1:],)) for prompt in prompts[:2]])
        if self.scorer.layout == "packed":
            packed = pack([Tree(prompt, ()) for prompt in prompts])
            ends = packed.layout.trunk + torch.tensor([own for own, _ in packed.layout.shapes]).cumsum(0) - 1
            return states(self.module, replace(packed, reads=ends).to(self.module.device))
        rows = (torch.tensor([prompt], device=self.module.device) for prompt in prompts)
        lasts = [self.module.base_model(input_ids=row, use_cache=False).last_hidden_state[0, -1] for row in rows]
        return torch.stack(lasts)
