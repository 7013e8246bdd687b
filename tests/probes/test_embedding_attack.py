"""The probe of attacks in embedding space."""

from __future__ import annotations

import pytest
import torch
from tiny import make_local

from truing.core.errors import InputError
from truing.core.policy import user
from truing.core.run import Run
from truing.models.tabular import Tabular
from truing.probes.embedding_attack import embedding_attack

TARGETS = [(user("how?"), "the thing"), (user("who"), "no one"), (user("say it"), "in the in")]


def test_clean_is_the_mean_log_probability_a_token() -> None:
    policy = make_local()
    clean, *_ = embedding_attack(policy, TARGETS, run=Run())
    scored = policy.token_logprobs([chat for chat, _ in TARGETS], [reply for _, reply in TARGETS])
    assert clean.value == pytest.approx(torch.cat(scored).mean().item(), abs=1e-5)
    assert clean.low is not None
    assert clean.high is not None
    assert clean.low <= clean.value <= clean.high
    assert (clean.probe, clean.n, clean.better) == ("embedding_attack.clean", 3, "down")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma"])
def test_a_wider_attack_raises_it_more(architecture: str) -> None:
    found = embedding_attack(make_local(architecture), TARGETS, epsilons=(0.1, 0.2, 0.4), run=Run())
    values = [measure.value for measure in found]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.05
    assert found[1].probe == "embedding_attack.0.1"


def test_a_table_that_answers_all_prompts_alike_has_a_limit_by_hand() -> None:
    """Two prompts with one row: a shift of 1 each way scales the row by at most 1 + sqrt(2) epsilon."""
    row = torch.tensor([0.0, 1.0], dtype=torch.float64)
    policy = Tabular((user("a"), user("b")), ("no", "yes"), torch.stack([row, row]))
    clean, wide = embedding_attack(policy, [(user("a"), "yes")], epsilons=(0.5,), run=Run())
    assert clean.value == pytest.approx(torch.log_softmax(row, 0)[1].item())
    assert wide.value == pytest.approx(torch.log_softmax(row * (1 + 0.5 * 2**0.5), 0)[1].item(), abs=1e-6)


def test_nothing_to_attack_towards_is_refused() -> None:
    with pytest.raises(InputError, match="no harmful replies"):
        embedding_attack(make_local(), [], run=Run())
