"""DELLA: parts of task vectors, drawn by their size."""

from __future__ import annotations

from typing import ClassVar

from truing.core.method import method
from truing.methods.merge._della import DellaMethod
from truing.methods.merge._vectors import Rescale


@method(paper="arXiv:2406.11617", dial="density", neutral={"lambda_": 0.0})
class Della(DellaMethod):
    """Draws what is kept of each row by the rank of its size, and adds up what has the elected sign.

    ``density - epsilon`` and ``density + epsilon`` must lie between 0 and 1. The paper divides each kept number by its
    own probability; here, as in mergekit, a task vector has one factor.
    """

    agree: ClassVar[bool] = True

    normalize: bool = True
    rescale: Rescale = "l1"
