"""Published losses as structures, and formulas as recipes write them."""

from __future__ import annotations

from functools import cache

from truing.core.errors import bad, did_you_mean
from truing.logic.parse import Reader
from truing.logic.structure import Structure
from truing.logic.worlds import FALSE, TRUE, atom


@cache
def known() -> dict[str, Structure]:
    """The losses that have names, each as what it wants true over what it wants false.

    ``ce`` imitates the chosen reply, ``unlikelihood`` unlearns the rejected one, ``ce_unlikelihood`` asks for both at
    once; ``implication`` is the semantic loss of "where the rejected one is valid, the chosen one is"; ``cpo`` is the
    contrast of CPO, SLiC and RRHF, ``orpo`` the odds ratio of ORPO, each without its imitation, which is a second loss
    beside it. ``dpo`` is ``cpo`` over a base: IPO, hinge and LN-DPO are the same with another link or with averages.

    Example:
        >>> known()["dpo"] == known()["cpo"].with_reference()
        True
    """
    W, L = atom("W"), atom("L")
    single = {
        "ce": Structure(W, ~W),
        "unlikelihood": Structure(~L, L),
        "ce_unlikelihood": Structure(W & ~L, ~(W & ~L)),
        "implication": Structure(~L | W, L & ~W),
        "cpo": Structure(W, L),
        "orpo": Structure(W & ~L, ~W & L),
    }
    return {**single, "simpo": single["cpo"].with_margin(), "dpo": single["cpo"].with_reference()}


def name_of(structure: Structure) -> str:
    """The name of a known loss; empty where it has none."""
    return next((name for name, one in known().items() if one == structure), "")


def read(text: str) -> Structure:
    """A structure from a name, from ``TOP over BOTTOM``, or from ``CORE given CONDITION either ADDITION``.

    Both constraints may be left out. Whether it is a loss is for :meth:`Structure.checked` to say.

    Example:
        >>> read("W over L") == read("L -> W given W | L either W & L") == read("cpo")
        True

    Raises:
        InputError: it cannot be read; with the column.
    """
    name = text.strip()
    if name in known():
        return known()[name]
    if name.isidentifier() and name.islower() and name not in ("true", "false", "not"):
        raise bad(repr(text), "no loss has that name", did_you_mean(name, known()))
    reader = Reader(text)
    first = reader.formula()
    if reader.passed("over"):
        structure = Structure(first, reader.formula())
    else:
        condition = reader.formula() if reader.passed("given") else TRUE
        addition = reader.formula() if reader.passed("either") else FALSE
        structure = Structure.of(first, condition, addition)
    reader.end("Write TOP over BOTTOM, or CORE given CONDITION either ADDITION.")
    return structure
