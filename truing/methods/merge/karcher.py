"""The Karcher mean of models' directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from truing.core.lazy import np, torch
from truing.core.method import method
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import MergeMethod
from truing.methods.merge._sphere import Products, products, summed


def karcher_weights(inner: Products, *, weights: Sequence[float], max_iter: int, tol: float) -> list[float]:
    """The weights whose sum is the mean on the sphere, the point ``u`` with ``sum a_i log_u(v_i / |v_i|) = 0``, at the
    models' mean length. Karcher 1977; arXiv:2603.04972.

    From the normalised mean, ``u`` is moved along the mean of the tangents until that is shorter than ``tol``.

    Args:
        inner: inner products of the models, ``(M, M)``.
        weights: ``a``, >= 0, which add up to 1.
    """
    lengths = np.sqrt(np.diagonal(np.asarray(inner)))
    used = [i for i, weight in enumerate(weights) if weight and lengths[i] > tol]
    if not used:
        return [0.0] * len(weights)
    if sum(weight != 0 for weight in weights) == 1:
        return [float(weight != 0) for weight in weights]
    shares = np.asarray([weights[i] for i in used]) / sum(weights[i] for i in used)
    cosines = np.asarray(inner)[np.ix_(used, used)] / np.outer(lengths[used], lengths[used])
    at = shares.copy()
    norm = _length(at, cosines)
    at = at / norm if norm >= tol else np.eye(len(used))[0]
    for _ in range(max_iter):
        dots = np.clip(cosines @ at, -1, 1)
        angles = np.arccos(dots)
        far = angles >= tol
        pulls = np.where(far, shares * angles / np.where(far, np.sin(angles), 1.0), 0.0)
        step = pulls - (pulls @ dots) * at
        size = _length(step, cosines)
        if size < tol:
            break
        at = np.cos(size) * at + np.sin(size) / size * step
        at = at / _length(at, cosines)
    made = np.zeros(len(weights))
    made[used] = (np.asarray(weights) @ lengths) * at / lengths[used]
    return [float(x) for x in made]


def _length(weights: Any, cosines: Any) -> float:
    return float(np.sqrt(max(weights @ cosines @ weights, 0.0)))


@method(paper="arXiv:2603.04972", dial="weight", neutral={"weight": 0.0})
class Karcher(MergeMethod):
    """Takes the mean of base and donors on the sphere, tensor by tensor, at their mean length.

    Attributes:
        weight: of the donors together; the base has the rest. mergekit gives every model the same.
        weights: instead of ``weight``, one for the base and one for each donor.
        max_iter: most steps.
        tol: a shorter step is the last, radians.
    """

    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    weights: tuple[Annotated[float, Ge(0)], ...] = ()
    max_iter: Annotated[int, Ge(0)] = 10
    tol: Annotated[float, Gt(0)] = 1e-5

    @property
    def cut(self) -> bool:
        return True

    def survey(self, site: Site) -> list[float]:
        given = self.weights or (1 - self.weight, *[self.weight / site.count] * site.count)
        shares = [weight / sum(given) for weight in given]
        return karcher_weights(products(site, deltas=False), weights=shares, max_iter=self.max_iter, tol=self.tol)

    def blend(self, at: Stretch, found: list[float]) -> torch.Tensor:
        return summed(at.models, found)
