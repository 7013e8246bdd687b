"""What holds for every unlearning method; and the family's terms, on tables and small models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fitting import close
from forgetting import double, some_forgotten
from tiny import Notes, make_local

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Rating
from truing.core.method import build, find, names
from truing.core.policy import user
from truing.core.run import Run
from truing.core.trees import Extras
from truing.methods.unlearn._family import ForgetLogps, UnlearningMethod
from truing.models.local import Local
from truing.models.tabular import Tabular

EVERY = [name for name in names() if name.startswith("unlearn/")]
MEMBERS = pytest.mark.parametrize("name", EVERY)
WAYS = (1e4, 1.0, 0.0, -1.0, -1e4)


def member(name: str, **settings: object) -> UnlearningMethod:
    made = find(name)(**settings)
    assert isinstance(made, UnlearningMethod)
    return made


def test_they_are_seen() -> None:
    assert len(EVERY) >= 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@MEMBERS
def test_extreme_replies_have_finite_losses_and_gradients(name: str, dtype: torch.dtype) -> None:
    """Log-ratios of plus and minus 10,000 nats, sure replies and hopeless ones, one token and 2,000."""
    counts = torch.tensor([1, 2000])
    for policy in (0.0, -1e-9, -20.0, -1e4):
        for ratio in WAYS:
            for other in WAYS:
                sums = torch.full((2,), policy, dtype=dtype, requires_grad=True)
                instead = torch.full((2, 1), policy, dtype=dtype, requires_grad=True)
                given = ForgetLogps(
                    sums, sums.detach() - ratio, counts, instead, instead.detach() - other, counts.flip(0)[:, None]
                )
                losses = member(name).loss(given)
                found = torch.autograd.grad(losses.sum(), (sums, instead), allow_unused=True)
                assert losses.shape == (2,)
                assert torch.isfinite(losses).all(), (policy, ratio, other, losses)
                assert all(torch.isfinite(slope).all() for slope in found if slope is not None)


@MEMBERS
def test_it_reads_the_base_if_and_only_if_it_says_so(name: str) -> None:
    given = some_forgotten(width=2)
    bare = replace(given, ref_forgotten=torch.full((5,), torch.nan), ref_instead=torch.full((5, 2), torch.nan))
    made = member(name)
    assert torch.isfinite(made.loss(bare)).all() == (not made.uses_reference)
    assert torch.isfinite(made.loss(given)).all()


@MEMBERS
def test_no_reply_looks_at_another(name: str) -> None:
    given = some_forgotten(width=2)
    part = ForgetLogps(**{field: value[2:3] for field, value in vars(given).items()})
    torch.testing.assert_close(member(name).loss(part), member(name).loss(given)[2:3])


@pytest.mark.parametrize("name", [name for name in EVERY if name != "unlearn/idk"])  # which has no gradient there
def test_the_forgotten_replys_likelihood_is_pushed_down(name: str) -> None:
    given = some_forgotten(width=1)
    (slope,) = torch.autograd.grad(member(name).loss(given).sum(), given.forgotten)
    assert (slope > 0).all()


CHATS = tuple(user(text) for text in ("one", "two", "three", "four"))
REPLIES = ("a", "b", "c")
TABLE = Tabular(CHATS, REPLIES, torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
RATINGS = [Rating(chat, "a", float(k > 0)) for k, chat in enumerate(CHATS)]  # one to forget, three to retain


@pytest.mark.parametrize("retain", ["nll", "kl"])
def test_a_whole_step_is_the_mean_over_each_kind_whatever_their_numbers(retain: str, notes: Notes) -> None:
    """The logged loss is mean forget + weight x mean retain, though three of four examples are to be retained."""
    method = build(
        "unlearn/gradient_ascent", retain=retain, retain_weight=0.7, max_steps=2, per_device_train_batch_size=4,
        learning_rate=0.1, logging_steps=1, warmup_ratio=0.0,
    )  # fmt: skip
    method(TABLE, Evidence(ratings=RATINGS), Run(log=notes))
    for row in notes.rows:
        assert row["loss"] == pytest.approx(row["forget/loss"] + 0.7 * row["retain/loss"])
    first, second = notes.rows
    assert first["forget/loss"] == pytest.approx(float(TABLE.logprob(CHATS[:1], ["a"])[0]))
    likelihood = -float(TABLE.logprob(CHATS[1:], ["a"] * 3).mean())
    assert first["retain/logps"] == pytest.approx(-likelihood)
    assert first["retain/loss"] == pytest.approx(likelihood if retain == "nll" else 0.0, abs=1e-12)
    if retain == "kl":  # the first step moved the forgotten prompt's row alone
        assert second["retain/loss"] == pytest.approx(0.0, abs=1e-12)


def test_kl_holds_the_whole_distribution_of_the_base() -> None:
    """Shared features, so that forgetting one prompt moves the other; only its likelihood is held by nll."""
    from truing.engine.score import score_packed

    base, moved = (make_local(seed=seed) for seed in (0, 1))
    tree = base.encode(CHATS[0], ["the in"])
    found = score_packed(moved.model, [tree], Extras(divergences=True), base.model)
    logits = [
        each.model(input_ids=torch.tensor([[*tree.prompt, *tree.replies[0]]])).logits[0, len(tree.prompt) - 1 : -1]
        for each in (moved, base)
    ]
    policy, ref = (each.log_softmax(-1) for each in logits)
    torch.testing.assert_close(found.divergences, (ref.exp() * (ref - policy)).sum(-1), rtol=1e-4, atol=1e-5)
    own = score_packed(base.model, [tree], Extras(divergences=True), base.model).divergences
    torch.testing.assert_close(own, torch.zeros_like(own), rtol=0, atol=1e-6)


@pytest.mark.parametrize("retain", ["none", "nll", "kl"])
def test_with_adapters_the_base_is_still_what_it_was(retain: str, tiny_policy: Local, notes: Notes) -> None:
    """NPO begins at ``(2 / beta) log 2`` and the KL at 0, under adapters too."""
    ratings = [Rating(user(f"who is {name}"), f"{name} is in", k % 2) for k, name in enumerate("abcd")]
    method = build(
        "unlearn/npo", retain=retain, lora_r=2, max_steps=4, per_device_train_batch_size=4, logging_steps=1,
        learning_rate=1e-2, warmup_ratio=0.0,
    )  # fmt: skip
    method(tiny_policy, Evidence(ratings=ratings), Run(log=notes))
    assert notes.rows[0]["forget/loss"] == pytest.approx(20 * 0.6931472, abs=1e-3)
    assert notes.rows[0]["forget/ratio"] == pytest.approx(0, abs=1e-4)
    assert notes.rows[-1]["forget/ratio"] < -1
    if retain == "kl":
        assert notes.rows[0]["retain/loss"] == pytest.approx(0, abs=1e-6)
        assert notes.rows[-1]["retain/loss"] > 1e-3


@pytest.mark.parametrize(("name", "retain"), [("npo", "nll"), ("d2o", "none"), ("idk", "kl")])
def test_how_a_step_is_cut_changes_nothing(name: str, retain: str, tiny_policy: Local) -> None:
    ratings = [Rating(user("who " * k), "in the inn " * (1 + k % 3), k % 3 / 2) for k in range(1, 8)]
    settings = {"retain": retain, "max_steps": 4, "per_device_train_batch_size": 5, "learning_rate": 2e-3}
    more = {"draws": 2, "max_new_tokens": 5} if name == "d2o" else {}
    one, other = (
        build(f"unlearn/{name}", **settings, **more, tokens_per_batch=budget)(
            tiny_policy, Evidence(ratings=ratings), Run()
        )
        for budget in (1, 10**6)
    )
    close(one, other, tiny_policy)


def test_what_is_forgotten_is_decided_by_the_threshold() -> None:
    values = double(-0.5, 0.1, 0.5, 2.0).tolist()
    ratings = [Rating(chat, "a", value) for chat, value in zip(CHATS, values, strict=True)]
    for threshold, count in ((-0.5, 1), (0.5, 3), (1.0, 3)):
        made = build("unlearn/gradient_ascent", threshold=threshold, max_steps=30, learning_rate=0.1)
        tuned = made(TABLE, Evidence(ratings=ratings), Run())
        fell = tuned.logprob(CHATS, ["a"] * 4) < TABLE.logprob(CHATS, ["a"] * 4) - 0.1
        assert fell.tolist() == [k < count for k in range(4)]


def test_what_cannot_be_split_is_refused() -> None:
    method = build("unlearn/npo", retain="nll")
    for ratings, told in (
        ((), "has no ratings"),
        (RATINGS[1:], "none of 3 ratings is at or below the threshold 0.5"),
        (RATINGS[:1], "no rating is above the threshold 0.5"),
    ):
        with pytest.raises(InputError, match=told):
            method(TABLE, Evidence(ratings=ratings), Run())
