"""One tensor of a merge by our own method, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from truing.core.method import build
from truing.core.rng import Rng
from truing.engine.tensors import Held, Spec
from truing.methods.merge._blend import Blend, Part, Source
from truing.pipeline.merging.table import METHODS


def one(
    method: str, name: str, models: list[dict[str, torch.Tensor]], settings: Mapping[str, Any], seed: int
) -> torch.Tensor:
    """The tensor of base and donors, 0 and 1 .. by the method's fields under our names, alike for all donors."""
    rules = METHODS[method]
    held = [Source(Held(model), name) for model in models]
    fields = {key: value for key, value in settings.items() if key not in ("int8_mask",)}
    if "lambda" in fields:
        fields["lambda_"] = fields.pop("lambda")
    if "rescale" in fields:
        fields["rescale"] = "l1" if fields["rescale"] else "none"
    if method == "passthrough":
        return models[1][name]
    base, donors = (held[0], held[1:]) if rules.base != "alike" else (held[1], held[2:])
    if rules.base == "alike":
        fields["weights"] = (0.6, 0.6)
        fields.pop("weight", None)
    if rules.models == (1, 1):
        donors = donors[:1]
    if rules.base == "possible":
        fields["origin"] = "zero"
    made = build(rules.name, **fields)
    tensor = models[0][name]
    parts = {name: Part(Spec(tuple(tensor.shape), tensor.dtype), base, tuple(donors), made)}
    return Blend(parts, Rng(seed).child("merge"))[name]
