"""Multi-SLERP: the mean direction of several models, at their mean length."""

from __future__ import annotations

from collections.abc import Sequence

from truing.core.errors import bad
from truing.core.lazy import np
from truing.core.method import method
from truing.methods.merge._family import Each, each
from truing.methods.merge._sphere import AroundMethod, Products


def multislerp_weights(inner: Products, *, weights: Sequence[float], eps: float) -> list[float] | None:
    """The weights of ``L m / |m|`` with ``m = sum w_i v_i / |v_i|`` and ``L = sum w_i |v_i|``. Goddard 2025, mergekit.

    mergekit describes a step into the tangent space at ``m / |m|`` and back; the tangents' weighted sum is
    ``m - (m / |m|) |m| = 0`` whatever the vectors, so this is all of it.

    Args:
        inner: inner products of the vectors, ``(K, K)``.

    Returns:
        One weight a vector; None where ``m`` is shorter than ``eps`` and has no direction.
    """
    lengths = np.sqrt(np.diagonal(np.asarray(inner)))
    unit = np.asarray(weights) / (lengths + eps)
    mean = float(np.sqrt(max(unit @ np.asarray(inner) @ unit, 0.0)))
    return [float(x) for x in unit * (np.asarray(weights) @ lengths) / mean] if mean >= eps else None


@method(paper="Goddard 2025, Multi-SLERP, mergekit", dial="lambda_", neutral={"lambda_": 0.0})
class MultiSlerp(AroundMethod):
    """Gives the donors' differences their mean direction and their mean length.

    Attributes:
        weight: of each donor.
        normalize_weights: divide the weights by their sum.
        eps: lengths below this are none.
    """

    weight: Each = 1.0
    normalize_weights: bool = True
    eps: float = 1e-8

    def share(self, inner: Products) -> list[float]:
        weights, total = each(self.weight, len(inner)), sum(each(self.weight, len(inner)))
        if len(weights) == 1:
            return [1.0]
        if self.normalize_weights:
            if not total:
                raise bad(self.card.name, "the weights add up to nothing", "Set normalize_weights: false.")
            weights = [w / total for w in weights]
        found = multislerp_weights(inner, weights=weights, eps=self.eps)
        if found is None and len(weights) > 2 and any(inner[i][i] > self.eps**2 for i in range(len(weights))):
            raise bad(self.card.name, "opposite donors cancel out and leave no direction", "Give them other weights.")
        return weights if found is None else found
