"""The choice of a token against brute force, transformers' own filters, and a little noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from odds import allowed, chance

from truing.core.policy import Sampling
from truing.core.rng import Rng
from truing.engine.choose import BLOCK, LIKELY, Chooser, Row, filtered, pick, race_width

HOW: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 3},
    {"top_k": 100},
    {"top_p": 0.6},
    {"top_p": 1e-6},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 5, "top_p": 0.7, "min_p": 0.3, "temperature": 1.7},
]
EIGHT = torch.tensor([0.1, 2.0, -1.0, 1.2, 0.7, -4.0, 1.9, 0.3])


def waits(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(Rng(seed).numpy().standard_exponential((rows, race_width(size))))


def some_logits(rows: int, size: int, *, spread: float = 2.0, seed: int = 0) -> torch.Tensor:
    return spread * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("how", HOW, ids=str)
def test_shares_of_tokens_are_the_filtered_probabilities(how: dict[str, Any]) -> None:
    tokens, _ = pick(EIGHT.expand(20000, -1), waits(20000, 8), Sampling(**how))
    assert chance(tokens, allowed(EIGHT, Sampling(**how))) > 0.001


@pytest.mark.parametrize("how", [{}, {"temperature": 1.5, "top_k": 300}, {"top_p": 0.8}], ids=str)
@pytest.mark.parametrize("size", [BLOCK, 2 * BLOCK, 2 * BLOCK + 88])
def test_two_races_are_one(size: int, how: dict[str, Any]) -> None:
    """Several blocks, the last one shorter."""
    logits = some_logits(1, size)[0]
    logits[5] = 6.0  # one likely token in the first block
    tokens, _ = pick(logits.expand(40000, -1), waits(40000, size), Sampling(**how))
    assert chance(tokens, allowed(logits, Sampling(**how))) > 0.001


def test_what_has_no_weight_never_wins() -> None:
    """Waits of zero, which would let anything win, do not help it."""
    logits = torch.full((3, 2 * BLOCK + 3), -torch.inf)
    logits[0, 0], logits[1, BLOCK + 7], logits[2, 2 * BLOCK + 2] = 0.0, -50.0, 3.0
    for numbers in (waits(3, logits.shape[1]), torch.zeros(3, race_width(logits.shape[1]), dtype=torch.float64)):
        tokens, logprobs = pick(logits, numbers, Sampling())
        assert tokens.tolist() == [0, BLOCK + 7, 2 * BLOCK + 2]
        assert logprobs.tolist() == [0, 0, 0]


@pytest.mark.parametrize("how", [*HOW, {"temperature": 0}], ids=str)
def test_log_probabilities_are_the_untempered_ones(how: dict[str, Any]) -> None:
    logits = some_logits(50, 700).double()
    tokens, logprobs = pick(logits, waits(50, 700), Sampling(**how))
    wanted = logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    torch.testing.assert_close(logprobs, wanted, rtol=0, atol=1e-12)


def theirs(logits: torch.Tensor, how: Sampling) -> torch.Tensor:
    """Probabilities after transformers' processors, in the order of its ``generate``."""
    from transformers.generation import logits_process as own

    chain: list[Any] = [own.TemperatureLogitsWarper(float(how.temperature))] if how.temperature != 1 else []
    chain += [own.TopKLogitsWarper(how.top_k)] if how.top_k else []
    chain += [own.TopPLogitsWarper(how.top_p)] if how.top_p < 1 else []
    chain += [own.MinPLogitsWarper(how.min_p)] if how.min_p else []
    for step in chain:
        logits = step(None, logits)
    return logits.softmax(-1)


@pytest.mark.parametrize("spread", [0.3, 4.0], ids=["flat", "steep"])
@pytest.mark.parametrize(
    "how", [*HOW, {"top_k": 1}, {"top_p": 0.999}, {"top_k": 40, "top_p": 0.9}, {"min_p": 0.05}], ids=str
)
def test_filters_are_those_of_transformers(how: dict[str, Any], spread: float) -> None:
    """Nuclei of a few tokens, and of thousands: more than are looked at first."""
    logits = some_logits(20, 6 * LIKELY, spread=spread).double()
    ours, wanted = filtered(logits.clone(), Sampling(**how)), theirs(logits, Sampling(**how))
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), wanted, rtol=1e-9, atol=1e-15)
    assert torch.equal(ours > 0, wanted > 0)


def test_a_nucleus_ends_where_its_mass_is_reached() -> None:
    """Probabilities that are exact in binary, and masses that fall on their borders."""
    logits = torch.tensor([[0.125, 0.5, 0.25, 0.125]], dtype=torch.float64).log()
    for mass, kept in ((0.25, [1]), (0.5, [1]), (0.500001, [1, 2]), (0.75, [1, 2])):
        assert filtered(logits, Sampling(top_p=mass))[0].nonzero().flatten().tolist() == kept


def test_ties_stay_together() -> None:
    """transformers keeps all that tie with the k-th, but cuts a nucleus between equals by their order."""
    logits = torch.tensor([[1.0, 3.0, 1.0, 0.0, 1.0]])
    for k in (2, 3, 4):
        assert torch.equal(filtered(logits, Sampling(top_k=k)) > 0, theirs(logits, Sampling(top_k=k)) > 0)
        assert filtered(logits, Sampling(top_k=k))[0].tolist()[3] == 0
    for mass in (0.75, 0.85, 0.9):
        ours, other = (f(logits, Sampling(top_p=mass)) > 0 for f in (filtered, theirs))
        assert ours[0].tolist() == [True, True, True, False, True]
        assert not (other & ~ours).any()


def test_rounding_hardly_ever_changes_a_draw() -> None:
    """Noise as between two shapes of a matrix product, on a long flat tail with one likely token in front."""
    logits = some_logits(4000, 3000, spread=0.1)
    logits[:, 0] = 8.0  # half of the mass
    noise = 1e-5 * some_logits(4000, 3000, spread=1.0, seed=1)
    first, second = (pick(x, waits(4000, 3000), Sampling())[0] for x in (logits, logits + noise))
    assert 0.3 < float((first == 0).float().mean()) < 0.7
    assert int((first != second).sum()) <= 1


def only(token: int, size: int) -> torch.Tensor:
    return torch.full((1, size), -torch.inf).index_fill(1, torch.tensor(token), 0.0)


def spell(text: bytes, stop: tuple[str, ...], most: int = 256) -> Row:
    """A row to which a model of bytes gives these, until it ends."""
    chooser = Chooser(
        frozenset(), lambda ids: bytes(ids).decode(errors="replace"), Sampling(stop=stop, max_new_tokens=most)
    )
    row = Row(0, 0, np.random.default_rng(0))
    for byte in text:
        if row.finish is None:
            chooser([row], only(byte, 256))
    return row


def test_a_stop_text_ends_a_row_at_its_last_token() -> None:
    assert bytes(spell(b"abENDcd", ("END",)).tokens) == b"abEND"
    assert bytes(spell(b"abENDcd", ("never", "ND", "END")).tokens) == b"abEND"
    assert spell(b"abEN", ("END",)).finish is None
    assert spell(b"abEND", ("END",), most=5).finish == "stop"  # both at once
    assert spell(b"abEN", ("END",), most=4).finish == "length"


def test_a_stop_text_of_many_tokens_a_letter_is_seen() -> None:
    """Ten letters that are four byte tokens each."""
    wave = "\U0001f30a" * 10
    row = spell(b"ab" + wave.encode() + b"cd", (wave,))
    assert bytes(row.tokens).decode() == "ab" + wave
