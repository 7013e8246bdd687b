"""Every objective that TRL has too, against TRL's own code: values and gradients to 1e-6, in double precision.

TRL computes losses inside its trainers. Their methods are called here with a stand-in for the trainer and for the
model, which hand out given log-probabilities; nothing of TRL's arithmetic is replaced.
"""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from objectives import from_tokens

from truing.core.method import build
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.unpaired._family import RatedLogps, UnpairedMethod

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
trl = pytest.importorskip("trl", minversion="1.16")

COUNTS = [4, 6, 1, 9, 30, 1, 7, 7, 12, 20]
SOURCE = torch.Generator().manual_seed(11)
POLICY = -torch.rand(sum(COUNTS), generator=SOURCE, dtype=torch.float64) - 0.05
BASE = POLICY + 0.5 * torch.randn(sum(COUNTS), generator=SOURCE, dtype=torch.float64)
BETA = 0.3


def sides(tokens: torch.Tensor) -> list[torch.Tensor]:
    """Token log-probabilities of the chosen replies, then of the rejected ones, as TRL lays a batch out."""
    parts = tokens.split(COUNTS)
    return [*parts[::2], *parts[1::2]]


def padded(tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(sides(tokens), batch_first=True)


class Model(torch.nn.Module):
    """Hands out log-probabilities instead of computing them."""

    is_gradient_checkpointing = False

    def __init__(self, tokens: torch.Tensor, collisions: torch.Tensor) -> None:
        super().__init__()
        self.log_probs = padded(tokens)
        zeros = torch.zeros_like(self.log_probs.detach())
        self.outputs = SimpleNamespace(
            log_probs=self.log_probs, log_sum_sq_probs=padded(collisions), entropy=zeros, mean_logits=zeros,
            is_top1=zeros.bool(),
        )  # fmt: skip

    def forward(self, **_: Any) -> SimpleNamespace:
        return self.outputs


def dpo_trainers(loss_type: str, **settings: Any) -> Callable[[PairLogps], torch.Tensor]:
    """``DPOTrainer._compute_loss`` of a loss type: the mean over the pairs, as TRL reduces."""

    def loss(pairs: PairLogps) -> torch.Tensor:
        from trl import DPOTrainer

        tokens = pairs.by_token
        nothing = torch.zeros_like(tokens.policy.detach()) if tokens.collisions is None else tokens.collisions
        model, base = Model(tokens.policy, nothing), Model(tokens.reference, nothing)
        sizes = torch.tensor([len(part) for part in sides(tokens.policy)])
        # A prompt of one token before each reply, whose log-probability nobody asks for.
        mask = torch.arange(int(sizes.max()) + 1)[None] <= sizes[:, None]
        mask[:, 0] = False
        accelerator = SimpleNamespace(
            device=torch.device("cpu"), gather_for_metrics=lambda value: value, gather=lambda value: value
        )
        trainer = SimpleNamespace(
            **{
                "ld_alpha": None, "precompute_ref_logps": False, "f_divergence_type": "reverse_kl", "beta": BETA,
                "f_alpha_divergence_coef": 0.5, "loss_types": [loss_type], "loss_weights": [1.0],
                "label_smoothing": 0.0, "use_weighting": False, "args": SimpleNamespace(
                    discopop_tau=0.05, gradient_checkpointing_kwargs=None
                ), "aux_loss_enabled": False, "_metrics": {"train": defaultdict(list)}, "_total_train_tokens": 0,
                "_tp_size": 1, "model": model, "ref_model": base, "accelerator": accelerator, **settings,
            }
        )  # fmt: skip
        ids = mask.long()
        inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": ids}
        return DPOTrainer._compute_loss(trainer, model, inputs, False)

    return loss


def cpo_trainers(loss_type: str, **settings: Any) -> Callable[[PairLogps], torch.Tensor]:
    """``CPOTrainer.cpo_loss``, without its imitation."""

    def loss(pairs: PairLogps) -> torch.Tensor:
        from trl.experimental.cpo import CPOTrainer

        given = pairs.averaged() if loss_type == "simpo" else pairs
        stand_in = SimpleNamespace(
            **{
                "alpha": 0.0, "beta": BETA, "simpo_gamma": 0.0, "label_smoothing": 0.0, "loss_type": loss_type,
                "accelerator": SimpleNamespace(device=torch.device("cpu")), **settings,
            }
        )  # fmt: skip
        return CPOTrainer.cpo_loss(stand_in, given.chosen, given.rejected)[0].mean()

    return loss


def ours(name: str, **settings: Any) -> Callable[[PairLogps], torch.Tensor]:
    """The mean over the pairs of our loss."""
    made = build(f"preference/{name}", **settings)
    assert isinstance(made, PreferenceMethod)
    return lambda pairs: made.loss(pairs).mean()


def averaged(name: str, **settings: Any) -> Callable[[PairLogps], torch.Tensor]:
    """Our loss of log-probabilities that were divided by each reply's length."""
    made = build(f"preference/{name}", **settings)
    assert isinstance(made, PreferenceMethod)
    return lambda pairs: made.loss(pairs.averaged()).mean()


def unpaired(name: str, times: float = 1, **settings: Any) -> Callable[[PairLogps], torch.Tensor]:
    """The mean of an unpaired objective over both replies of every pair."""
    made = build(f"unpaired/{name}", **settings)
    assert isinstance(made, UnpairedMethod)

    def loss(pairs: PairLogps) -> torch.Tensor:
        both = torch.cat([pairs.chosen, pairs.rejected]), torch.cat([pairs.ref_chosen, pairs.ref_rejected])
        given = RatedLogps(*both, torch.arange(len(both[0])) < len(pairs.chosen))
        if made.sees_step:
            given = replace(given, of_step=made.of_step(replace(given, policy=given.policy.detach())))
        return times * made.loss(given).mean()

    return loss


SAME = {
    "dpo": (ours("dpo", beta=BETA), dpo_trainers("sigmoid")),
    "hinge": (ours("hinge", beta=BETA), dpo_trainers("hinge")),
    "ipo, which TRL averages over tokens": (averaged("ipo", beta=BETA), dpo_trainers("ipo")),
    "exo": (ours("exo", beta=BETA, label_smoothing=0.01), dpo_trainers("exo_pair", label_smoothing=0.01)),
    "nca": (ours("nca", beta=BETA), dpo_trainers("nca_pair")),
    "robust": (ours("robust", beta=BETA, label_smoothing=0.2), dpo_trainers("robust", label_smoothing=0.2)),
    "bco_pair": (ours("bco_pair", beta=BETA), dpo_trainers("bco_pair")),
    "sppo_hard": (ours("sppo_hard", beta=BETA), dpo_trainers("sppo_hard")),
    "aot": (ours("aot", beta=BETA, label_smoothing=0.1), dpo_trainers("aot", label_smoothing=0.1)),
    "apo_zero": (ours("apo_zero", beta=BETA), dpo_trainers("apo_zero")),
    "aot_unpaired": (
        unpaired("aot_unpaired", beta=BETA, label_smoothing=0.1),
        dpo_trainers("aot_unpaired", label_smoothing=0.1),
    ),
    # Of a pair, TRL adds up the two replies; a mean over replies is half of that.
    "bco without shift": (unpaired("bco", times=2, beta=BETA, shift="none"), dpo_trainers("bco_pair")),
    "apo_down": (ours("apo_down", beta=BETA), dpo_trainers("apo_down")),
    "discopop": (ours("discopop", beta=BETA), dpo_trainers("discopop")),
    "ln_dpo": (ours("ln_dpo", beta=BETA), dpo_trainers("sigmoid_norm")),
    "ld_dpo": (ours("ld_dpo", beta=BETA, ld_alpha=0.3), dpo_trainers("sigmoid", ld_alpha=0.3)),
    "wpo": (ours("wpo", beta=BETA), dpo_trainers("sigmoid", use_weighting=True)),
    "f_dpo, forward KL": (
        ours("f_dpo", beta=BETA, f_divergence_type="forward_kl"),
        dpo_trainers("sigmoid", f_divergence_type="forward_kl"),
    ),
    "f_dpo, Jensen-Shannon": (
        ours("f_dpo", beta=BETA, f_divergence_type="js_divergence"),
        dpo_trainers("sigmoid", f_divergence_type="js_divergence"),
    ),
    "mpo": (
        ours("mpo", beta=BETA, loss_type=("dpo", "nca"), loss_weights=(0.8, 0.2)),
        dpo_trainers("", loss_types=["sigmoid", "nca_pair"], loss_weights=[0.8, 0.2]),
    ),
    "cpo": (
        ours("cpo", beta=BETA, cpo_alpha=0, label_smoothing=0.1),
        cpo_trainers("sigmoid", label_smoothing=0.1),
    ),
    "simpo": (ours("simpo", beta=2.0, simpo_gamma=0.7), cpo_trainers("simpo", beta=2.0, simpo_gamma=0.7)),
    "alphapo": (
        ours("alphapo", beta=2.0, simpo_gamma=0.7, alpha=0.4),
        cpo_trainers("simpo", beta=2.0, simpo_gamma=0.7, alpha=0.4),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """TRL warns while it is imported, of things that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import trl.experimental.cpo
        import trl.experimental.orpo
        import trl.trainer.dpo_trainer  # noqa: F401 - found by name afterwards


@pytest.mark.parametrize("case", SAME)
def test_values_and_gradients_are_trls(case: str) -> None:
    results = []
    for loss in SAME[case]:
        leaf = POLICY.clone().requires_grad_()
        value = loss(from_tokens(leaf, BASE, COUNTS))
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    (value, gradient), (trl_value, trl_gradient) = results
    torch.testing.assert_close(value, trl_value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, trl_gradient, rtol=1e-6, atol=1e-6)
    assert gradient.abs().max() > 1e-3


def test_trl_averages_imitation_over_the_batchs_tokens_and_we_over_each_reply() -> None:
    """The same for one pair; of several, TRL's weighs a reply by its length."""
    pairs = from_tokens(POLICY, BASE, COUNTS)
    lengths = pairs.by_token.counts[:, 0].double()
    made = build("preference/sft_chosen")
    assert isinstance(made, PreferenceMethod)
    each = made.loss(pairs)
    torch.testing.assert_close((lengths * each).sum() / lengths.sum(), dpo_trainers("sft")(pairs), rtol=1e-6, atol=1e-6)
    assert (each.mean() - dpo_trainers("sft")(pairs)).abs() > 0.01


def test_trl_ignores_the_label_smoothing_of_its_sigmoid_loss() -> None:
    """Ours is conservative DPO, as TRL's was."""
    pairs = from_tokens(POLICY, BASE, COUNTS)
    plain, smoothed = (dpo_trainers("sigmoid", label_smoothing=share)(pairs) for share in (0.0, 0.3))
    assert torch.equal(plain, smoothed)
    assert (ours("dpo", beta=BETA, label_smoothing=0.3)(pairs) - smoothed).abs() > 0.01


def test_the_alpha_divergence_is_trls_under_one_minus_alpha() -> None:
    """TRL's exponent has no bound in double precision, and its code no entry; so this one is in single."""
    pairs = from_tokens(POLICY.float(), BASE.float(), COUNTS)
    theirs = dpo_trainers("sigmoid", f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.7)(pairs)
    mine = ours("f_dpo", beta=BETA, f_divergence_type="alpha_divergence", alpha=0.3)(pairs)
    torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=1e-6)
    same_name = ours("f_dpo", beta=BETA, f_divergence_type="alpha_divergence", alpha=0.7)(pairs)
    assert (same_name - theirs).abs() > 0.01


def test_the_odds_ratio_of_orpo_is_trls() -> None:
    """Without imitation, which TRL extends to the prompt. TRL computes this one in single precision."""
    from trl.experimental.orpo import ORPOTrainer

    pairs = from_tokens(POLICY, BASE, COUNTS)
    mean = pairs.averaged()
    stand_in = SimpleNamespace(beta=BETA, accelerator=SimpleNamespace(device=torch.device("cpu")))
    theirs = -ORPOTrainer.odds_ratio_loss(stand_in, mean.chosen, mean.rejected)[0]
    made = build("preference/orpo", beta=BETA)
    assert isinstance(made, PreferenceMethod)
    torch.testing.assert_close(made.loss(pairs) + mean.chosen, theirs.double(), rtol=1e-5, atol=1e-6)
