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


@pytest.mark.parametrize(("limit", "read"), [(1, 1), (3, 3), (1000, len(TALK))])
def test_it_reads_no_more_prompts_than_it_was_told_to(limit: int, read: int) -> None:
    base, passes = base_model(), list[int]()
    base.model.register_forward_pre_hook(lambda owner, given: passes.append(1))
    evidence = Evidence(donors={"d": reordered(base, 4)}, prompts=TALK)
    build("match/activations", max_prompts=limit)(base, evidence, Run())
    assert len(passes) == 2 * read  # a donor that was copied from the base has its hook too


def test_without_prompts_it_says_what_is_lacking() -> None:
    base = base_model()
    with pytest.raises(InputError, match=r"has no prompts.*Give 'data\.prompts'"):
        build("match/activations")(base, Evidence(donors=given(base).donors), Run())
