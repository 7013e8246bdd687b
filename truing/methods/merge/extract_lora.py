"""What a donor changed, as an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.engine.tensors import as_tensors
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import MergeMethod

if TYPE_CHECKING:
    from truing.models.adapters import Adapter
    from truing.models.local import Local


def low_rank(delta: torch.Tensor, *, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``B`` and ``A`` whose product is the nearest matrix of that rank to ``delta``: ``B`` its first left singular
    vectors, from the eigenvectors of ``delta deltaᵀ`` in float64, and ``A = Bᵀ delta``. Eckart and Young 1936.

    Args:
        delta: ``(out, in)``.

    Returns:
        ``(out, r)`` with orthonormal columns, and ``(r, in)``; ``r`` is at most the smaller side.
    """
    rank = min(rank, *delta.shape)
    wide = delta.double()
    vectors = torch.linalg.eigh(wide @ wide.T).eigenvectors
    up = vectors.flip(1)[:, :rank]
    return up.to(delta.dtype), (up.T @ wide).to(delta.dtype)


@method(paper="doi:10.1007/BF02288367", dial="rank", neutral={"rank": 0})
class ExtractLora(MergeMethod):
    """Brings the donor's changes of the linear layers to a small rank; all else stays the base's.

    The artefact is the merged model with peft's folder in ``adapter/``.

    Attributes:
        rank: of each matrix's change; 0 changes nothing.
    """

    counts: ClassVar[tuple[int, int | None]] = (1, 1)

    rank: Annotated[int, Ge(0)] = 16

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        if not self.rank or at.base.ndim != 2 or not _adaptable(at.site.name):
            return at.base
        up, down = low_rank(at.deltas[0], rank=self.rank)
        return at.base + up @ down

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        from truing.models.local import Local

        made = super().__call__(base, evidence, run)
        if isinstance(made, Local) and isinstance(base, Local) and self.rank:
            made.adapter = self._adapter(base, made)
        return made

    def _adapter(self, base: Local, made: Local) -> Adapter:
        """The two factors of every changed matrix, from what was merged: its change has that rank already."""
        from peft import LoraConfig

        from truing.models.adapters import PREFIX, Adapter

        own, merged = as_tensors(base.weights()), as_tensors(made.weights())
        kinds = {name: type(base.model.get_submodule(name.removesuffix(".weight"))).__name__ for name in own
                 if name.endswith(".weight") and _adaptable(name) and len(own.spec(name).shape) == 2}  # fmt: skip
        kinds = {name: kind for name, kind in kinds.items() if kind in ("Linear", "Conv1D")}
        tensors: dict[str, torch.Tensor] = {}
        for name, kind in kinds.items():
            delta = merged[name].detach().cpu().float() - own[name].detach().cpu().float()
            up, down = low_rank(delta.T if kind == "Conv1D" else delta, rank=self.rank)
            module = name.removesuffix(".weight")
            tensors[f"{PREFIX}{module}.lora_A.weight"] = down.contiguous()
            tensors[f"{PREFIX}{module}.lora_B.weight"] = up.contiguous()
        ranks = {name.removesuffix(".weight"): min(self.rank, *own.spec(name).shape) for name in kinds}
        config = LoraConfig(
            r=self.rank, lora_alpha=self.rank, target_modules=sorted(ranks), task_type="CAUSAL_LM",
            fan_in_fan_out="Conv1D" in kinds.values(),
            rank_pattern={module: rank for module, rank in ranks.items() if rank < self.rank},
            alpha_pattern={module: rank for module, rank in ranks.items() if rank < self.rank},
            base_model_name_or_path=base.origin,
        )  # fmt: skip
        return Adapter(config, tensors)


def _adaptable(name: str) -> bool:
    """Whether a matrix is neither an embedding nor a head."""
    return not any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
