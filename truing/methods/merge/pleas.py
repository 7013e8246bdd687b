"""Partial merging: what is alike becomes one, the rest stays side by side, layers are refitted."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method, method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.models.architecture import Architecture, describe
from truing.models.movable import movable, opened
from truing.units.features import activation_tables, match_activations
from truing.units.matching import check_alike, match_weights
from truing.units.partial import Partial, allotted, least_alike, unit_scores
from truing.units.permutations import PermutationSpec, apply
from truing.units.pleas import Batches, merge_modules
from truing.units.regress import layers

if TYPE_CHECKING:
    from truing.models.local import Local

WIDENED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
"""Model types whose configuration says how wide an MLP is and how many heads there are, for all blocks alike."""
SWEEPS = 100
CHUNKS = 16  # steps in which a budget is spent on a kind of unit

Masks = dict[str, "torch.Tensor"]


@method(paper="arXiv:2407.02447", dial="separate_fraction", neutral={"weight": 0.0, "separate_fraction": 0.0})
class PLeaS(Method[Editable, Editable]):
    """Merges neurons and heads that are alike, keeps the others of every model, and refits layers to all of them.

    The result is a wider model of the same architecture: 1 + fraction times as many neurons with one donor. All blocks
    are widened alike, since a configuration has one width for all. The residual stream is merged: its norms would see
    both models' channels. The norms' own weights are averaged.

    Attributes:
        weight: of the donors together in what is merged; 0 is the base.
        separate_fraction: share of the neurons of every MLP that stay separate.
        separate_heads: share of the KV groups, each with its query heads, that stay separate; rounded to whole ones.
        budget: at > 0, multiplications a token of the result in units of one model's, 1 or more; the two fractions are
            then chosen to spend it where units are least alike, and must be left at 0.
        match: how donors are brought into the base's order before: by activations, weights, or as they stand.
        max_prompts: how many prompts are read for activations and least squares.
        least_squares: whether layers are refitted; without, blocks are averaged.
        ridge: pull of the refit towards the averaged blocks, in mean squares of a layer's inputs.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"donors", "prompts"})

    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    separate_fraction: Annotated[float, Ge(0), Le(1)] = 0.0
    separate_heads: Annotated[float, Ge(0), Le(1)] = 0.0
    budget: Annotated[float, Ge(0)] = 0.0
    match: Literal["activations", "weights", "none"] = "activations"
    max_prompts: Annotated[int, Ge(1)] = 64
    least_squares: bool = True
    ridge: Annotated[float, Gt(0)] = 1e-3

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if not evidence.donors:
            raise bad(self.card.name, "has no donors", "Give the arm 'donors:', or --donor NAME=MODEL.")
        if not evidence.prompts:
            raise bad(self.card.name, "has no prompts to calibrate with", "Give 'data.prompts'.")
        if not (self.weight or self.separate_fraction or self.separate_heads or self.budget):
            return base
        local, described = self._checked(base)
        spec = movable(base)
        device = local.model.device
        batches = [
            {"input_ids": torch.tensor([ids], device=device), "use_cache": False}
            for ids in local.template.prompts(evidence.prompts[: self.max_prompts])
        ]
        donors = [self._aligned(local, name, donor, spec, batches, run) for name, donor in evidence.donors.items()]
        masks = self._separate(local, donors, spec, described, batches)
        shares = [1 - self.weight, *[self.weight / len(donors)] * len(donors)]
        modules = [local.model, *(donor.model for donor in donors)]
        inner = [name for name in layers(local.model, spec) if name.startswith(described.prefix.partition("{")[0])]
        merged = merge_modules(
            modules, spec, masks, shares, batches if self.least_squares else (), ridge=self.ridge, names=inner
        )
        if merged.fitted:
            before, after = (sum(getattr(f, key) for f in merged.fitted.values()) for key in ("before", "after"))
            run.log.say(f"  least squares: the features' error falls from {before:.3g} to {after:.3g}")
        made = _built(local, described, masks, len(modules), merged.tensors)
        partial = Partial(spec, masks, shares)
        work = sum(partial.numbers(f"{name}.weight") for name in inner)
        size = sum(p.numel() for p in made.model.parameters())
        if size != sum(p.numel() for p in local.model.parameters()):
            made.footprint = {"parameters": size, "multiplications": work}
        return made

    def _checked(self, base: Editable) -> tuple[Local, Architecture]:
        """The base and its description, if it can be widened so."""
        from truing.models.local import Local  # at first use, so that listing methods stays quick

        mend = f"It takes: {', '.join(WIDENED)}."
        if not isinstance(base, Local):
            raise bad(self.card.name, "the base is no transformer whose layers could be watched", mend)
        described = describe(base.model.config.get_text_config())
        if described.model_type not in WIDENED:
            raise bad(self.card.name, f"{described.model_type} has no configuration for another width", mend)
        if self.budget and (self.separate_fraction or self.separate_heads):
            raise bad("budget", "is given beside fractions", "Give one or the other.")
        if 0 < self.budget < 1:
            raise bad("budget", f"is {self.budget:g}, less than one model", "Give 1 to the number of models.")
        if self.separate_heads and described.qk_norm:
            fact = "queries and keys have a norm that all heads share, which cannot be both models'"
            raise bad("separate_heads", fact, "Leave heads merged.")
        return base, described

    def _aligned(
        self, base: Local, name: str, given: object, spec: PermutationSpec, batches: Batches, run: Run
    ) -> Local:
        from truing.models.local import Local  # at first use, so that listing methods stays quick

        donor = opened(name, given, base)
        if not isinstance(donor, Local):
            raise bad(f"donors.{name}", "is no transformer whose layers could be watched", "Give a model.")
        check_alike(spec, base.weights(), donor.weights())
        if self.match == "none":
            return donor
        if self.match == "weights":
            rng = run.rng("pleas", name)
            found = match_weights(spec, base.weights(), donor.weights(), max_sweeps=SWEEPS, rng=rng)
        else:
            tables = activation_tables(spec, base.model, donor.model, batches, correlation=True)
            found = match_activations(spec, base.weights(), donor.weights(), tables)
        return donor.with_weights(apply(spec, found.permutation, donor.weights()))

    def _separate(
        self, base: Local, donors: Sequence[Local], spec: PermutationSpec, described: Architecture, batches: Batches
    ) -> Masks:
        """Which neurons and KV groups stay separate: those that move least together with their partners."""
        several = [
            unit_scores(spec, activation_tables(spec, base.model, donor.model, batches, correlation=True))
            for donor in donors
        ]
        scores = {group: torch.stack([found[group] for found in several]).mean(0) for group in several[0]}
        blocks = range(described.sizes.blocks)
        kinds = {"neurons": [f"neurons.{i}" for i in blocks]}
        if not described.qk_norm:
            kinds["groups"] = [f"groups.{i}" for i in blocks]
        if self.budget:
            worth = {kind: float(sum((1 - scores[g]).mean() for g in names)) for kind, names in kinds.items()}
            counts = allotted(spec, kinds, worth, self.budget, 1 + len(donors), chunks=CHUNKS)
        else:
            wanted = {"neurons": self.separate_fraction, "groups": self.separate_heads}
            counts = {kind: round(wanted[kind] * spec.groups[kinds[kind][0]].units) for kind in kinds}
        return {group: least_alike(scores[group], counts[kind]) for kind, names in kinds.items() for group in names}


def _built(
    base: Local, described: Architecture, masks: Masks, models: int, tensors: Mapping[str, torch.Tensor]
) -> Local:
    """A model of the new widths."""
    import transformers

    from truing.models.local import Local  # at first use, so that listing methods stays quick

    config: Any = copy.deepcopy(base.model.config)
    sizes = described.sizes
    more = {
        kind: (models - 1) * int(masks[f"{kind}.0"].sum()) for kind in ("neurons", "groups") if f"{kind}.0" in masks
    }
    config.intermediate_size = sizes.intermediate + more["neurons"]
    groups = sizes.kv_heads + more.get("groups", 0)
    if groups != sizes.kv_heads:
        config.head_dim = sizes.head_dim
        config.num_attention_heads, config.num_key_value_heads = groups * (sizes.heads // sizes.kv_heads), groups
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=base.model.dtype, attn_implementation=base.model.config._attn_implementation
    )
    model.load_state_dict(dict(tensors))
    model.generation_config = copy.deepcopy(base.model.generation_config)
    return Local(model.to(base.model.device), base.tokenizer, name=base.name, log=base.log)
