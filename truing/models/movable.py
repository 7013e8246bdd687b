"""What may move in a policy."""

from __future__ import annotations

from truing.core.errors import Fault, InputError
from truing.core.policy import Editable
from truing.models.architecture import describe
from truing.models.architectures.symmetry import permutations
from truing.units.permutations import Part, PermutationSpec


def movable(policy: Editable) -> PermutationSpec:
    """What may move in a policy: what its architecture allows; in a table, nothing.

    Raises:
        InputError: the architecture is not described.
    """
    from truing.models.local import Local  # at first use, so that listing methods stays quick

    if isinstance(policy, Local):
        return permutations(describe(policy.model.config.get_text_config()))
    return PermutationSpec({}, {k: tuple((Part(n),) for n in v.shape) for k, v in policy.weights().items()})


def opened(name: str, donor: object, base: Editable) -> Editable:
    """A donor whose weights can be brought into the base's order.

    Raises:
        InputError: it has no weights, or another vocabulary: the order of tokens is what everything is matched by.
    """
    from truing.models.local import Local

    if not isinstance(donor, Editable):
        raise InputError(Fault(f"donors.{name}", "has no weights to match", "Give a model, not a wrapped policy."))
    if isinstance(donor, Local) and isinstance(base, Local):
        same = donor.tokenizer is base.tokenizer or donor.tokenizer.get_vocab() == base.tokenizer.get_vocab()
        if not same:
            fact = "has another vocabulary than the base, and tokens are what everything else is matched by"
            raise InputError(Fault(f"donors.{name}", fact, "Give models of one tokenizer."))
    return donor
