"""match/weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from matched import base_model, given, reordered
from tiny import Notes, make_tokenizer, same_weights

import truing
from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.method import build
from truing.core.policy import Policy, user
from truing.core.recipe import parse
from truing.core.run import Run
from truing.models.local import Local


class Mute(Policy):
    """It answers, and has no weights."""

    sample = save = None  # type: ignore[assignment] # never asked
    fingerprint = "mute"  # type: ignore[assignment] # a plain name


def test_reordered_donors_come_back_to_the_last_bit_and_merge_to_the_base() -> None:
    base = base_model()
    donors = reordered(base, 1), reordered(base, 2)
    log = Notes()
    found = build("match/weights")(base, given(*donors), Run(log=log))
    assert list(found.donors) == ["d0", "d1"]
    assert all(same_weights(donor, base) for donor in found.donors.values())
    assert not same_weights(donors[0], base)
    assert any("moved stream" in line for line in log.said)
    merge = build("merge/linear", weight=0.5)
    after = merge(base, dataclasses.replace(given(), donors=found.donors), Run())
    naive = merge(base, given(*donors), Run())
    assert same_weights(after, base)
    assert not same_weights(naive, base)


def test_a_tied_model_too() -> None:
    base = base_model(tie_word_embeddings=True)
    found = build("match/weights")(base, given(reordered(base, 3)), Run())
    assert same_weights(found.donors["d0"], base)


def test_a_donor_of_the_same_lineage_is_left_in_its_order_and_the_log_says_so() -> None:
    base, log = base_model(), Notes()
    numbers = torch.Generator().manual_seed(0)
    tuned = {k: v + 0.01 * torch.randn(v.shape, generator=numbers) for k, v in base.weights().items()}
    donor = base.with_weights(tuned)
    found = build("match/weights")(base, given(donor), Run(log=log))
    assert same_weights(found.donors["d0"], donor)
    assert any("every unit is where the base has it" in line for line in log.said)


def test_a_donor_that_cannot_be_matched_is_refused() -> None:
    base, weights = base_model(), build("match/weights")
    with pytest.raises(InputError, match="take other widths"):
        weights(base, given(base_model(intermediate_size=64)), Run())
    other = make_tokenizer()
    other.add_tokens(["more"])
    with pytest.raises(InputError, match="another vocabulary"):
        weights(base, given(Local(base.model, other)), Run())
    with pytest.raises(InputError, match="has no weights to match"):
        weights(base, Evidence(donors={"d": Mute()}), Run())


def test_a_chain_of_matching_and_merging_is_checked() -> None:
    raw = {"model": "m", "arms": {"it": {"steps": ["match/weights", "merge/linear"], "donors": {"a": "x"}}}}
    assert not parse(raw, name="here").faults
    raw["arms"]["it"].pop("donors")  # type: ignore[index, union-attr, attr-defined] # a plain recipe
    assert all("donors" in fault.fact for fault in parse(raw, name="here").faults)


@pytest.mark.slow
def test_a_copy_of_the_real_model_is_found_to_the_last_bit() -> None:
    base = truing.load("smollm2")
    copy = reordered(base, 11)
    found = build("match/weights", max_sweeps=2)(base, given(copy), Run()).donors["d0"]
    assert same_weights(found, base)
    chats = [user("What is the capital of France?")]
    before, after = (model.logprob(chats, ["It is Paris."]) for model in (base, copy))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3)
