"""The fold: recipe -> data -> model -> steps -> artefact -> probes -> report."""

from __future__ import annotations

from truing.pipeline.checking import Checked as Checked
from truing.pipeline.checking import check as check
from truing.pipeline.study import evaluate as evaluate
from truing.pipeline.study import run as run

__all__ = ["Checked", "check", "evaluate", "run"]
