"""match/activations."""

from __future__ import annotations

import pytest
from matched import CHATS, base_model, given, reordered
from tiny import same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.method import build
from truing.core.policy import user
from truing.core.run import Run

TALK = tuple(user(f"{chat[0].content} {i} and the {i * 7}th time") for i in range(6) for chat in CHATS)


@pytest.mark.parametrize("likeness", ["correlation", "product"])
def test_a_reordered_donor_comes_back_to_the_last_bit(likeness: str) -> None:
    base = base_model()
    donor = reordered(base, 4)
    evidence = Evidence(donors={"d": donor}, prompts=TALK)
    found = build("match/activations", likeness=likeness)(base, evidence, Run())
    assert same_weights(found.donors["d"], base)
    assert found.provided == {"donors"}


def test_it_reads_no_more_prompts_than_it_was_told_to() -> None:
    """With one prompt of a few tokens the units cannot be told apart."""
    base = base_model()
    evidence = Evidence(donors={"d": reordered(base, 4)}, prompts=(user("a"), *TALK))
    found = build("match/activations", max_prompts=1)(base, evidence, Run())
    assert not same_weights(found.donors["d"], base)


def test_without_prompts_it_says_what_is_lacking() -> None:
    base = base_model()
    with pytest.raises(InputError, match=r"has no prompts.*Give 'data\.prompts'"):
        build("match/activations")(base, Evidence(donors=given(base).donors), Run())
