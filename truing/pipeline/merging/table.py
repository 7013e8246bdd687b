"""mergekit's methods: what ours they are, and what each takes, with mergekit's defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

REQUIRED = object()
"""Has no default."""
WITHOUT_EFFECT = {
    "int8_mask": "masks are booleans here",
    "density": "nothing is left out by this method",
    "rescale": "nothing is left out by this method",
}
"""Parameters that mergekit's files carry where they change nothing."""


@dataclass(frozen=True)
class Rules:
    """One of mergekit's methods.

    Attributes:
        name: ours.
        base: whether a base model is needed, may be there, or is one of the models like any other.
        models: how many there are beside the base, fewest and most; all of them where the base is like any other.
        each: parameters of every model but the base, with their defaults.
        shared: parameters of the merge.
        ignored: parameters that change nothing.
    """

    name: str
    base: Literal["needed", "possible", "alike"]
    models: tuple[int, int | None] = (1, None)
    each: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    ignored: Sequence[str] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """Every parameter that may be written."""
        return (*self.each, *self.shared, *self.ignored)


def _vectors(name: str, *, normalize: bool, rescale: bool | None = None, **each: float) -> Rules:
    shared: dict[str, Any] = {"normalize": normalize, "lambda": 1.0}
    ignored = ["int8_mask"]
    if rescale is None:
        ignored += ["density", "rescale"]
    else:
        shared["rescale"], each = rescale, {"density": 1.0, **each}
    return Rules(f"merge/{name}", "needed", (1, None), {"weight": REQUIRED, **each}, shared, ignored)


METHODS: Mapping[str, Rules] = {
    "linear": Rules("merge/linear", "alike", (1, None), {"weight": REQUIRED}, {"normalize": True}),
    "slerp": Rules("merge/slerp", "needed", (1, 1), {}, {"t": REQUIRED}),
    "nuslerp": Rules(
        "merge/nuslerp", "possible", (2, 2), {"weight": REQUIRED}, {"nuslerp_flatten": True, "nuslerp_row_wise": False}
    ),
    "multislerp": Rules(
        "merge/multislerp", "possible", (1, None), {"weight": REQUIRED}, {"normalize_weights": True, "eps": 1e-8}
    ),
    "karcher": Rules("merge/karcher", "alike", (1, None), {}, {"max_iter": 10, "tol": 1e-5}),
    "task_arithmetic": _vectors("task_arithmetic", normalize=False),
    "ties": _vectors("ties", normalize=True, rescale=False),
    "dare_linear": _vectors("dare_linear", normalize=False, rescale=True),
    "dare_ties": _vectors("dare_ties", normalize=False, rescale=True),
    "della": _vectors("della", normalize=True, rescale=True, epsilon=0.15),
    "della_linear": _vectors("della_linear", normalize=False, rescale=True, epsilon=0.15),
    "breadcrumbs": _vectors("breadcrumbs", normalize=False, rescale=False, gamma=0.01),
    "breadcrumbs_ties": _vectors("breadcrumbs_ties", normalize=False, rescale=False, gamma=0.01),
    "sce": Rules("merge/sce", "needed", (1, None), {}, {"select_topk": 1.0}, ["int8_mask"]),
    "model_stock": Rules("merge/model_stock", "needed", (2, None), {}, {"filter_wise": False}),
    "nearswap": Rules("merge/nearswap", "needed", (1, 1), {}, {"t": REQUIRED}),
    "arcee_fusion": Rules("merge/arcee_fusion", "needed", (1, 1)),
    "ram": Rules("merge/ram", "needed", (1, None), {}, {"epsilon": 1e-5}),
    "ramplus_tl": Rules("merge/ramplus_tl", "needed", (1, None), {}, {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5}),
    "passthrough": Rules("merge/passthrough", "alike", (1, 1), {"scale": None}),
}


def settings(
    method: str, each: Sequence[Mapping[str, Any]], shared: Mapping[str, Any], *, base: bool
) -> dict[str, Any]:
    """The fields of our method at one tensor.

    Args:
        each: the parameters of every model, in their order, the base left out unless it is like any other.
        base: whether there is a base that the method is told of.
    """
    rules, fields = METHODS[method], dict(shared)
    if "lambda" in fields:
        fields["lambda_"] = fields.pop("lambda")
    if "rescale" in fields:
        fields["rescale"] = "l1" if fields["rescale"] in (True, "l1") else fields["rescale"] or "none"
    for name in rules.each:
        fields[name] = tuple(row[name] for row in each)
    if method == "linear":
        fields["weights"] = fields.pop("weight")
    if method == "karcher":
        fields["weights"] = (1.0,) * len(each)
    if method == "passthrough":
        (scale,) = fields["scale"]
        fields |= {"take": 1.0, "scale": 1.0 if scale is None else scale}
    if rules.base == "possible":
        fields["origin"] = "base" if base else "zero"
    return fields
