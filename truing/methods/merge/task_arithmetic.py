"""Task arithmetic."""

from __future__ import annotations

from truing.core.method import method
from truing.methods.merge._vectors import VectorMethod


@method(paper="arXiv:2212.04089", dial="lambda_", neutral={"lambda_": 0.0})
class TaskArithmetic(VectorMethod):
    """Adds the donors' task vectors to the base: ``base + lambda_ * sum w_i delta_i``."""
