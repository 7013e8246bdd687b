"""Model breadcrumbs: task vectors without their smallest and their largest numbers, with an election of signs."""

from __future__ import annotations

from typing import ClassVar

from truing.core.method import method
from truing.methods.merge._breadcrumbs import BreadcrumbsMethod


@method(paper="arXiv:2312.06795", dial="density", neutral={"lambda_": 0.0})
class BreadcrumbsTies(BreadcrumbsMethod):
    """Adds up what is neither among the smallest nor among the largest differences, where signs agree."""

    agree: ClassVar[bool] = True
