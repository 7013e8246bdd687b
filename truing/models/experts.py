"""Mixtures of experts with fewer experts than their router has rows: in memory, and as folders.

The router is left as it is: it scores a token for each of its E rows, and ``members`` says which of the m experts
stands for each row. Where two rows that a token is sent to mean one expert, it is run once, with both weights summed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from truing.core.errors import bad
from truing.core.lazy import F, torch
from truing.models.architecture import describe
from truing.models.architectures.layout import Sizes

NOTE, COMPACT = "experts.json", "experts.safetensors"
Storage = Literal["plain", "compact"]


@dataclass(frozen=True)
class Mixture:
    """The experts of one block.

    Attributes:
        path: of the module that holds router and experts.
        router, experts: modules; the experts transformers' own, or shared ones.
    """

    block: int
    path: str
    router: Any
    experts: Any

    @property
    def shared(self) -> bool:
        """Whether they are fewer than the router's rows, or may be."""
        return isinstance(self.experts, _modules()[0])

    @property
    def members(self) -> torch.Tensor:
        """``(E,)`` int64, the expert that stands for each of the router's rows."""
        if self.shared:
            return self.experts.members  # type: ignore[no-any-return] # a buffer of a module
        return torch.arange(len(self.experts.down_proj), device=self.experts.down_proj.device)

    def weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(m, 2 I, H)`` gates above ups, and ``(m, H, I)`` downs, multiplied out where they are factors."""
        if self.shared:
            return self.experts.up.whole(), self.experts.down.whole()
        return self.experts.gate_up_proj.detach(), self.experts.down_proj.detach()


@dataclass(frozen=True)
class Factors:
    """Matrices as ``left @ right`` plus a few rows.

    Attributes:
        left: ``(m, h, r)``.
        right: ``(m, r, w)``.
        kept: ``(m, k, w)``, what is added to some rows.
        rows: ``(m, k)`` int64, to which.
    """

    left: torch.Tensor
    right: torch.Tensor
    kept: torch.Tensor
    rows: torch.Tensor

    def whole(self) -> torch.Tensor:
        """``(m, h, w)``."""
        dense = self.left @ self.right
        return dense.scatter_add(1, self.rows[:, :, None].expand_as(self.kept), self.kept)


def mixtures(model: Any) -> tuple[Mixture, ...]:
    """The mixtures of a model of transformers, in order; none where it has none, or is not described."""
    config = model.config.get_text_config()
    if not Sizes.of(config).experts:
        return ()
    described = describe(config)
    found = []
    for block in described.mixtures:
        slot = described.slot("router", block)
        path = slot.name.removesuffix(".gate.weight") if slot else ""
        inner = model.get_submodule(path)
        found.append(Mixture(block, path, inner.gate, inner.experts))
    return tuple(found)


Made = tuple["torch.Tensor", "torch.Tensor | Factors", "torch.Tensor | Factors"]


def rebuilt(model: Any, made: Mapping[int, Made], storage: Storage) -> Any:
    """A model of its own with other experts; ``model`` is left as it is.

    Args:
        made: of every mixture: block -> ``(E,)`` members, and its matrices ``(m, 2 I, H)`` and ``(m, H, I)``, each
            whole or as :class:`Factors`.
        storage: how it is to be saved.
    """
    memo: dict[int, Any] = {}
    for mixture in mixtures(model):
        if mixture.block in made:
            old = mixture.experts
            kind = old.kind if mixture.shared else type(old)
            memo[id(old)] = _modules()[0](*made[mixture.block], old.act_fn, kind)
    new = copy.deepcopy(model, memo)
    new.experts_storage = storage
    return new.eval()


def expanded(model: Any) -> Any:
    """The model as transformers would make it: every row of the router with an expert of its own."""
    memo: dict[int, Any] = {}
    for mixture in mixtures(model):
        if mixture.shared:
            with torch.device("meta"):
                plain = mixture.experts.kind(model.config.get_text_config())
            ups, downs = (part[mixture.members] for part in mixture.weights())
            plain.gate_up_proj, plain.down_proj = torch.nn.Parameter(ups), torch.nn.Parameter(downs)
            memo[id(mixture.experts)] = plain
    return copy.deepcopy(model, memo)


def collapsed(model: Any, members: Mapping[int, torch.Tensor]) -> Any:
    """The inverse of :func:`expanded`; where experts that should be one differ, the model as it is."""
    made: dict[int, Made] = {}
    for mixture in mixtures(model):
        if mixture.block in members:
            index = members[mixture.block]
            first = torch.tensor([index.tolist().index(k) for k in range(int(index.max()) + 1)])
            up, down = mixture.weights()
            if not all(torch.equal(part[first][index], part) for part in (up, down)):
                return model  # somebody trained it further, one by one: it is an ordinary mixture again
            made[mixture.block] = (index, up[first], down[first])
    return rebuilt(model, made, "plain")


def save_model(model: Any, folder: Path) -> None:
    """Weights and configuration.

    A model with shared experts is a plain folder, each expert written once for every row that it stands for, beside a
    note by which :func:`load_model` makes them one again; or, if it is to be compact, a folder that only that reads.
    """
    found = [mixture for mixture in mixtures(model) if mixture.shared]
    if not found:
        model.save_pretrained(folder, safe_serialization=True)
        return
    if model.experts_storage == "plain":
        expanded(model).save_pretrained(folder, safe_serialization=True)
    else:
        from safetensors.torch import save_file

        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        # Under a name at which other programs find no weights: they would fill in random ones for what is not there.
        rows = {name: tensor for name, tensor in model.named_buffers() if name.endswith(".rows")}
        held = {**dict(model.named_parameters()), **rows}
        tensors = {name: tensor.detach().contiguous() for name, tensor in held.items()}
        save_file(tensors, folder / COMPACT, metadata={"format": "pt"})
    members = {str(mixture.block): mixture.members.tolist() for mixture in found}
    text = json.dumps({"storage": model.experts_storage, "members": members}, indent=2)
    (folder / NOTE).write_text(text + "\n", encoding="utf-8")


def load_model(name: str, *, dtype: str, **options: Any) -> Any:
    """A causal language model of transformers, and what :func:`save_model` wrote.

    Raises:
        InputError: the note on shared experts cannot be read.
    """
    import transformers

    note = Path(name) / NOTE
    if not note.exists():
        return transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **options)
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
        members = {int(block): torch.tensor(rows) for block, rows in told["members"].items()}
        compact = told["storage"] == "compact"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise bad(str(note), f"cannot be read: {error!r}", "Save the model again.") from error
    if not compact:
        return collapsed(transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **options), members)
    return _compact(Path(name), members, dtype)


def _compact(folder: Path, members: Mapping[int, torch.Tensor], dtype: str) -> Any:
    import transformers
    from safetensors.torch import load_file

    tensors = load_file(folder / COMPACT)
    config = transformers.AutoConfig.from_pretrained(folder)
    field = "num_local_experts" if hasattr(config, "num_local_experts") else "num_experts"
    many = getattr(config, field)
    setattr(config, field, 1)  # so that no memory is asked for experts that are not there
    wide = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=wide)
    for told in (config, model.config):
        setattr(told, field, many)
    if (folder / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    made = {}
    for mixture in mixtures(model):
        mixture.router.num_experts = many
        mixture.router.weight = torch.nn.Parameter(mixture.router.weight.new_empty(many, model.config.hidden_size))
        if mixture.block not in members:
            raise bad(str(folder / NOTE), f"says nothing of block {mixture.block}", "Save the model again.")
        parts = (_stack(tensors, f"{mixture.path}.experts.{part}") for part in ("up", "down"))
        made[mixture.block] = (members[mixture.block], *parts)
    model = rebuilt(model, made, "compact").to(wide)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model


def _stack(tensors: Mapping[str, torch.Tensor], path: str) -> Any:
    if f"{path}.weight" in tensors:
        return tensors[f"{path}.weight"]
    return Factors(*(tensors[f"{path}.{name}"] for name in ("left", "right", "kept", "rows")))


def factored(model: Any) -> Iterator[tuple[str, Any]]:
    """The modules that hold factors, by name."""
    kind = _modules()[1]
    return ((name, module) for name, module in model.named_modules() if isinstance(module, kind))


@cache
def _modules() -> tuple[Any, Any]:
    """The class of shared experts, and that of factors as a module. Classes of torch are made when torch is there."""

    class Whole(torch.nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(weight)

        def whole(self) -> torch.Tensor:
            return self.weight.detach()

        def forward(self, states: torch.Tensor, expert: int) -> torch.Tensor:
            return F.linear(states, self.weight[expert])

    class Factored(torch.nn.Module):
        rows: torch.Tensor

        def __init__(self, factors: Factors) -> None:
            super().__init__()
            self.left, self.right = torch.nn.Parameter(factors.left), torch.nn.Parameter(factors.right)
            self.kept = torch.nn.Parameter(factors.kept)
            self.register_buffer("rows", factors.rows)

        def factors(self) -> Factors:
            return Factors(self.left.detach(), self.right.detach(), self.kept.detach(), self.rows)

        def whole(self) -> torch.Tensor:
            return self.factors().whole()

        def forward(self, states: torch.Tensor, expert: int) -> torch.Tensor:
            low = F.linear(F.linear(states, self.right[expert]), self.left[expert])
            return low.index_add(1, self.rows[expert], F.linear(states, self.kept[expert]))

    class SharedExperts(torch.nn.Module):
        members: torch.Tensor

        def __init__(self, members: torch.Tensor, up: Any, down: Any, act: Any, kind: type) -> None:
            super().__init__()
            self.register_buffer("members", members)
            self.up, self.down = (Factored(p) if isinstance(p, Factors) else Whole(p) for p in (up, down))
            self.act_fn, self.kind, self.many = act, kind, int(members.max()) + 1

        def forward(self, states: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            routed = weights.new_zeros(len(states), self.many).scatter_add(1, self.members[rows], weights)
            out = torch.zeros_like(states)
            for expert in range(self.many):
                hit = routed[:, expert].detach().nonzero().squeeze(1)
                gate, up = self.up(states[hit], expert).chunk(2, dim=-1)
                found = self.down(self.act_fn(gate) * up, expert) * routed[hit, expert, None]
                out = out.index_add(0, hit, found.to(out.dtype))
            return out

    return SharedExperts, Factored
