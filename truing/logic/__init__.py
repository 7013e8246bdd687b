"""The logic of preference losses: formulas in, losses out, and back.

A loss is read as two propositions about a pair: what it wants true, over what it wants false. ``W`` and ``L`` say that
the model deems the chosen and the rejected reply valid; each is a coin that falls on "true" with the reply's
probability. The loss is a decreasing function of the log-ratio of the two propositions' weighted model counts.

Richardson et al. 2024, "Understanding the logic of direct preference alignment", arXiv:2412.17696.
"""

from __future__ import annotations

from truing.logic.known import known, name_of, read
from truing.logic.lattice import hasse, is_loss, preferences, propositions, recognise, structures
from truing.logic.parse import read_proposition
from truing.logic.simplify import formula, monomial, polynomial, prime_implicants
from truing.logic.structure import Structure, rank, stricter
from truing.logic.weigh import log_ratio, log_weight
from truing.logic.worlds import ATOMS, FALSE, TRUE, Proposition, atom, from_worlds

__all__ = [
    "ATOMS", "FALSE", "TRUE", "Proposition", "Structure", "atom", "formula", "from_worlds", "hasse", "is_loss",
    "known", "log_ratio", "log_weight", "monomial", "name_of", "polynomial", "preferences", "prime_implicants",
    "propositions", "rank", "read", "read_proposition", "recognise", "stricter", "structures",
]  # fmt: skip
