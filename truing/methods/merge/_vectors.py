"""Task vectors, donor minus base: what is kept of each, and how they are added up."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from truing.core.lazy import torch
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import Each, MergeMethod, each

Rescale = Literal["expectation", "l1", "none"]
Share = Annotated[float, Ge(0), Le(1)]
Shares = Share | tuple[Share, ...]
_TINY = 1e-7  # sums of sizes below which nothing is rescaled


def column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Numbers that multiply the rows of ``like``, ``(K, *S)``, in its type."""
    made = torch.tensor(list(values), dtype=like.dtype, device=like.device)
    return made.reshape(-1, *[1] * (like.ndim - 1))


def mix(
    deltas: torch.Tensor,
    kept: torch.Tensor | None,
    *,
    weights: Sequence[float],
    factors: Sequence[float],
    agree: bool,
    normalize: bool,
) -> torch.Tensor:
    """Add up task vectors: ``sum w_i d_i`` with ``d_i = factor_i m_i delta_i``; with ``agree`` only where the sign of
    ``w_i d_i`` is that of the whole sum (0 counts as +), Yadav et al. 2023, arXiv:2306.01708, section 3.

    Args:
        deltas: ``(K, *S)``.
        kept: ``m``, ``(K, *S)`` of booleans; None keeps all.
        weights: ``w``, one for each donor.
        factors: what makes up for what was left out, one for each donor.
        normalize: divide by the sum of the weights, with ``agree`` of those that agreed; a sum of 0 divides by 1.

    Returns:
        ``(*S)``.
    """
    parts = deltas * column([w * f for w, f in zip(weights, factors, strict=True)], deltas)
    if kept is not None:
        parts.mul_(kept)
    if not agree:
        total = sum(weights)
        return parts.sum(0) / (total if normalize and abs(total) >= 1e-8 else 1.0)
    sign = torch.ones_like(parts[0]).copysign_(parts.sum(0))
    mixed = parts.mul_(sign).relu_().sum(0).mul_(sign)  # what agrees with the elected sign is positive now
    if not normalize:
        return mixed
    divisor = parts.sign_().mul_(column(weights, deltas)).sum(0)
    return mixed.div_(divisor.masked_fill_(divisor == 0, 1.0))


@dataclass(frozen=True)
class Survey:
    """What is known of a whole tensor.

    Attributes:
        found: what the method looked for itself.
        factors: one for each donor.
    """

    found: Any
    factors: list[float]


@dataclass(frozen=True, kw_only=True)
class VectorMethod(MergeMethod):
    """``base + lambda_ * mix(task vectors)``.

    Attributes:
        weight: of each donor's task vector: one number, or one for each donor.
        normalize: divide by the weights' sum.
        lambda_: scales what is added to the base; mergekit's ``lambda``.
    """

    agree: ClassVar[bool] = False

    weight: Each = 1.0
    normalize: bool = False
    lambda_: float = 1.0

    @property
    def cut(self) -> bool:
        return True

    @property
    def surveys(self) -> bool:
        return type(self).look is not VectorMethod.look

    def look(self, site: Site) -> Any:
        """What :meth:`keep` must know of the whole tensor."""
        return None

    def keep(self, at: Stretch, found: Any) -> torch.Tensor | None:
        """Which numbers of the task vectors are kept, ``(K, *S)`` of booleans; None for all."""
        return None

    def thin(self, at: Stretch, found: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The task vectors, and what is still to be left out of them; a member may know a shorter way than a mask."""
        return at.deltas, self.keep(at, found)

    def factors(self, site: Site, kept: Callable[[Stretch], torch.Tensor | None]) -> list[float]:
        """What each task vector is multiplied by after its numbers were left out."""
        return [1.0] * site.count

    def survey(self, site: Site) -> Survey:
        found = self.look(site)
        return Survey(found, self.factors(site, lambda at: self.keep(at, found)))

    def blend(self, at: Stretch, found: Survey) -> torch.Tensor:
        deltas, kept = self.thin(at, found.found)
        weights, factors = each(self.weight, len(at.given)), found.factors
        mixed = mix(deltas, kept, weights=weights, factors=factors, agree=self.agree, normalize=self.normalize)
        return at.base + self.lambda_ * mixed


@dataclass(frozen=True, kw_only=True)
class SparseMethod(VectorMethod):
    """Task vectors of which a share is kept.

    Attributes:
        density: the share that is kept: one number, or one for each donor.
        rescale: what is kept is multiplied by ``1 / density`` (``expectation``), or so that the sum of sizes stays
            (``l1``, what mergekit does), or not.
    """

    density: Shares = 0.5
    rescale: Rescale = "none"

    @property
    def surveys(self) -> bool:
        return super().surveys or self.rescale == "l1"

    @abstractmethod
    def keep(self, at: Stretch, found: Any) -> torch.Tensor | None: ...

    def factors(self, site: Site, kept: Callable[[Stretch], torch.Tensor | None]) -> list[float]:
        densities = each(self.density, site.count)
        if self.rescale == "none":
            return [1.0] * site.count
        if self.rescale == "expectation":
            return [1 / density if density else 1.0 for density in densities]
        before, after = torch.zeros(2, site.count, dtype=torch.float64)
        for at in site.stretches():
            sizes, mask = at.deltas.abs().flatten(1), kept(at)
            before += sizes.sum(1, dtype=torch.float64).cpu()
            left = sizes if mask is None else sizes * mask.flatten(1)
            after += left.sum(1, dtype=torch.float64).cpu()
        small = (before < _TINY) | (after < _TINY)
        return [float(x) for x in torch.where(small, 1.0, before / after.masked_fill(small, 1.0))]


def random_keep(at: Stretch, densities: Sequence[float]) -> torch.Tensor | None:
    """Each number with probability ``density``, from a stream of its own tensor, donor and position."""
    if all(density >= 1 for density in densities):
        return None
    kept = torch.empty(at.deltas.shape, dtype=torch.bool, device=at.base.device)
    drawn = torch.empty(at.base.shape, dtype=torch.int32, device=at.base.device)
    for row, (donor, density) in zip(kept, enumerate(densities), strict=True):
        stream = torch.Generator(at.base.device).manual_seed(at.site.rng.child(donor, at.start).integer())
        # Of 31 random bits: a fifth of the time that bernoulli_ takes, and no share is further off than 2^-32.
        border = round(density * 2**31)
        row.fill_(True) if border == 2**31 else torch.lt(drawn.random_(generator=stream), border, out=row)
    return kept
