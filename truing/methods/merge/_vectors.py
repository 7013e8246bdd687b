"""Task vectors, donor minus base: what is kept of each, and how they are added up."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
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
    *,
    weights: Sequence[float],
    factors: Sequence[float],
    agree: bool,
    normalize: bool,
) -> torch.Tensor:
    """Add up task vectors: ``sum w_i d_i`` with ``d_i = factor_i delta_i``; with ``agree`` only where the sign of
    ``w_i d_i`` is that of the whole sum (0 counts as +), Yadav et al. 2023, arXiv:2306.01708, section 3.

    Args:
        deltas: ``(K, *S)``, zero where they were thinned.
        weights: ``w``, one for each donor.
        factors: what makes up for what was left out, one for each donor.
        normalize: divide by the sum of the weights, with ``agree`` of those that agreed; a sum of 0 divides by 1.

    Returns:
        ``(*S)``.
    """
    parts = torch.empty_like(deltas)
    for delta, part, weight, factor in zip(deltas, parts, weights, factors, strict=True):
        torch.mul(delta, weight * factor, out=part)
    if not agree:
        total = sum(weights)
        return total_of(parts).div_(total if normalize and abs(total) >= 1e-8 else 1.0)
    sign = torch.ones_like(parts[0]).copysign_(total_of(parts))
    mixed = total_of(parts.mul_(sign).relu_()).mul_(sign)  # what agrees with the elected sign is positive now
    if not normalize:
        return mixed
    divisor = total_of(parts.sign_().mul_(column(weights, deltas)))
    if min(weights) > 0:  # then no sum of some is smaller than the least, and there is no need to look for zeros
        return mixed.div_(divisor.clamp_min_(min(weights)))
    return mixed.div_(divisor.masked_fill_(divisor == 0, 1.0))


def total_of(rows: torch.Tensor) -> torch.Tensor:
    """The sum over the first axis, in its order: a third of the time that ``sum(0)`` takes of few rows."""
    made = rows[0].clone()
    for row in rows[1:]:
        made.add_(row)
    return made


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
        """What :meth:`thin` must know of the whole tensor."""
        return None

    def thin(self, at: Stretch, found: Any) -> torch.Tensor:
        """The task vectors with zeros for what is left out, ``(K, *S)``, not to be written to."""
        return at.deltas

    def factors(self, site: Site, found: Any) -> list[float]:
        """What each task vector is multiplied by after its numbers were left out."""
        return [1.0] * site.count

    def survey(self, site: Site) -> Survey:
        found = self.look(site)
        return Survey(found, self.factors(site, found))

    def blend(self, at: Stretch, found: Survey) -> torch.Tensor:
        weights, factors = each(self.weight, len(at.given)), found.factors
        thin = self.thin(at, found.found)
        mixed = mix(thin, weights=weights, factors=factors, agree=self.agree, normalize=self.normalize)
        return torch.add(at.base, mixed, alpha=self.lambda_)


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
    def thin(self, at: Stretch, found: Any) -> torch.Tensor: ...

    def factors(self, site: Site, found: Any) -> list[float]:
        densities = each(self.density, site.count)
        if self.rescale == "none":
            return [1.0] * site.count
        if self.rescale == "expectation":
            return [1 / density if density else 1.0 for density in densities]
        before, after = torch.zeros(2, site.count, dtype=torch.float64)
        for at in site.stretches():
            before += _sizes(at.deltas)
            after += _sizes(self.thin(at, found))
        small = (before < _TINY) | (after < _TINY)
        return [float(x) for x in torch.where(small, 1.0, before / after.masked_fill(small, 1.0))]


def _sizes(rows: torch.Tensor) -> torch.Tensor:
    """The sum of the sizes of each row, ``(K,)``, in float64."""
    return rows.flatten(1).abs().sum(1, dtype=torch.float64).cpu()


def dropped(at: Stretch, densities: Sequence[float]) -> torch.Tensor:
    """Task vectors of which each number is kept with probability ``density``, by a stream of its own tensor, donor and
    position; zeros for the others, ``(K, *S)``."""
    if all(density >= 1 for density in densities):
        return at.deltas
    made, count = torch.empty_like(at.deltas), at.base.numel()
    # Two numbers of 32 random bits at a draw, on the CPU whatever the models are on, so that masks are the same there:
    # a seventh of the time that bernoulli_ takes, and no share is further off than 2^-33.
    drawn = torch.empty(-(-count // 2), dtype=torch.int64)
    for delta, row, (donor, density) in zip(at.deltas, made, enumerate(densities), strict=True):
        stream = torch.Generator().manual_seed(at.site.rng.child(donor, at.start).integer())
        bits = drawn.random_(-(2**63), None, generator=stream).view(torch.int32)[:count]
        kept = (bits.numpy() < round(density * 2**32) - 2**31).view("int8")  # torch takes booleans six times slower
        torch.mul(delta, torch.from_numpy(kept).reshape(delta.shape).to(delta), out=row)
    return made
