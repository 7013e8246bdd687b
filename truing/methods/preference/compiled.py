"""A preference written as a formula, compiled to a loss."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from truing.core.errors import InputError
from truing.core.lazy import F, torch
from truing.core.method import method
from truing.logic.known import read
from truing.logic.structure import Structure
from truing.logic.weigh import log_ratio
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import logistic

Link = Literal["logistic", "hinge", "squared"]


def compiled_loss(
    pairs: PairLogps, *, structure: Structure, beta: float, link: Link, average: bool, simpo_gamma: float
) -> torch.Tensor:
    """A link function of ``rho = log WMC(top) - log WMC(bottom)``. Richardson et al. 2024, arXiv:2412.17696.

    Every atom is a coin that falls on true with its reply's probability: W and L under the policy, Rw and Rl under
    its base, Mw and Ml ``sigmoid(g)`` and ``sigmoid(-g)``, ``g = simpo_gamma / beta``, so that ``log m_l / m_w = -g``.
    Their weighted model counts are those of :func:`truing.logic.log_ratio`. The links are ``softplus(-beta rho)``,
    ``max(0, 1 - beta rho)`` and ``(rho - 1 / (2 beta))^2``. The gradient in ``log p`` of an atom is the link's slope
    times ``(P(atom | top) - P(atom | bottom)) / (1 - p)``, conditional chances in the worlds of either side.

    Args:
        pairs: reply log-probabilities under the policy, and under its base where the structure speaks of it, each
            summed over tokens, ``(B,)``, nats; with lengths where they are averaged.
        structure: what is wanted true, over what is wanted false.
        beta: scale of the log-ratio, > 0, in 1/nat.
        link: from the log-ratio to the loss.
        average: whether a reply's probability is the geometric mean of its tokens', or their product.
        simpo_gamma: the wanted margin after scaling, >= 0; read where the structure speaks of Mw or Ml.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    seen = pairs.averaged() if average else pairs
    prior = torch.full_like(pairs.chosen, simpo_gamma / beta).detach()
    rho = log_ratio(structure, {
        "W": seen.chosen, "L": seen.rejected, "Rw": seen.ref_chosen, "Rl": seen.ref_rejected,
        "Mw": F.logsigmoid(prior), "Ml": F.logsigmoid(-prior),
    })  # fmt: skip
    if link == "squared":
        return (rho - 1 / (2 * beta)).square()
    return F.relu(1 - beta * rho) if link == "hinge" else logistic(beta * rho, 0)


def _is_loss(text: str) -> str:
    try:
        read(text).checked("")
    except InputError as error:
        raise PydanticCustomError("formula", "{told}", {"told": str(error).rstrip(".")}) from None
    return text


@method(paper="arXiv:2412.17696", dial="beta", neutral={"max_steps": 0})
class Compiled(PreferenceMethod):
    """Any preference that can be written as a formula over "the model deems this reply valid".

    Attributes:
        formula: ``TOP over BOTTOM``, ``CORE given CONDITION either ADDITION``, or the name of a known loss, over the
            atoms W and L (the model deems the chosen and the rejected reply valid), Rw and Rl (the base does), Mw and
            Ml (a constant prior does), with ``~ & xor | -> <->`` and brackets.
        with_reference: adds Rl to the top and Rw to the bottom: the same loss over the base.
        beta: scale of the log-ratio; with averages in tokens a nat, and about a length larger than without.
        link: from the log-ratio to the loss: minus log sigmoid, a hinge, or a squared distance from ``1 / (2 beta)``.
        average: takes the geometric mean of a reply's token probabilities for its probability. That of a whole reply
            is next to 0, so that atoms under a negation would be true for certain and have no gradient.
        simpo_gamma: the margin that Mw and Ml stand for, after scaling.
    """

    compares = "means"
    formula: Annotated[str, AfterValidator(_is_loss)] = "W & Rl over L & Rw"
    with_reference: bool = False
    beta: Annotated[float, Gt(0)] = 2.0
    link: Link = "logistic"
    average: bool = True
    simpo_gamma: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        spoken_of = self.structure.checked(self.card.name).support
        # Of the formula, not of the class: a pass over the base is made where the formula speaks of it.
        object.__setattr__(self, "uses_reference", "Rw" in spoken_of or "Rl" in spoken_of)

    @cached_property
    def structure(self) -> Structure:
        """What is wanted true over what is wanted false, without the factors that cancel."""
        found = read(self.formula)
        return (found.with_reference() if self.with_reference else found).reduced()

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return compiled_loss(
            pairs, structure=self.structure, beta=self.beta, link=self.link, average=self.average,
            simpo_gamma=self.simpo_gamma,
        )  # fmt: skip

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        return super().rewards(pairs.averaged() if self.average else pairs)
