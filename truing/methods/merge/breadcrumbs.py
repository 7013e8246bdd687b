"""Model breadcrumbs: task vectors without their smallest and their largest numbers."""

from __future__ import annotations

from truing.core.method import method
from truing.methods.merge._breadcrumbs import BreadcrumbsMethod


@method(paper="arXiv:2312.06795", dial="density", neutral={"lambda_": 0.0})
class Breadcrumbs(BreadcrumbsMethod):
    """Adds up what is neither among the smallest nor among the largest differences."""
