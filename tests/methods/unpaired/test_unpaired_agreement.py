"""KTO and APO against TRL's own code: values and gradients to 1e-6, in double precision.

``KTOTrainer._compute_loss`` is called with a stand-in for the trainer and for the models, which hand out given
log-probabilities; nothing of TRL's arithmetic is replaced. AOT and the cross-entropy of BCO are losses of its DPO
trainer, compared there (``tests/methods/preference/test_agreement.py``). TRL 1.16 has no BCO with a shift or with
matched distributions: what it had under ``experimental`` is gone.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ratings import double, whole

from truing.core.method import build
from truing.methods.unpaired._family import RatedLogps, UnpairedMethod

trl = pytest.importorskip("trl", minversion="1.16")

LABELS = [True, False, True, True, False, True]
SOURCE = torch.Generator().manual_seed(5)
POLICY = -torch.rand(6, 4, generator=SOURCE, dtype=torch.float64)
BASE = POLICY + torch.randn(6, 4, generator=SOURCE, dtype=torch.float64)
OTHERS = -torch.rand(2, 6, 4, generator=SOURCE, dtype=torch.float64)  # policy's and base's, of mismatched replies
BETA = 0.3


class Model(torch.nn.Module):
    """Hands out the log-probabilities of an example's own reply, or of the mismatched one where that is asked for."""

    def __init__(self, own: torch.Tensor, other: torch.Tensor) -> None:
        super().__init__()
        self.own, self.other = own, other

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        log_probs = self.other if bool(input_ids[0, 0]) else self.own
        zeros = torch.zeros_like(log_probs.detach())
        return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros)


def trls(loss_type: str, own: torch.Tensor, others: torch.Tensor, **weights: float) -> tuple[torch.Tensor, Any]:
    """``KTOTrainer._compute_loss`` and what it logs; one token of a prompt before four of a reply."""
    from trl import KTOTrainer

    model, base = Model(own, others[0]), Model(BASE, others[1])
    model.is_gradient_checkpointing = False
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value)
    trainer = SimpleNamespace(
        model=model, ref_model=base, accelerator=accelerator, calculate_KL=loss_type == "kto", loss_type=loss_type,
        beta=BETA, aux_loss_enabled=False, precompute_ref_logps=False, _metrics={"train": defaultdict(list)},
        _total_train_tokens=0, _tp_size=1, args=SimpleNamespace(gradient_checkpointing_kwargs=None), **weights,
    )  # fmt: skip
    trainer._compute_kl_logps = lambda of, batch: KTOTrainer._compute_kl_logps(trainer, of, batch)
    mask = torch.ones(6, 5, dtype=torch.int64)
    mask[:, 0] = 0
    plain = torch.zeros(6, 5, dtype=torch.int64)
    inputs = {
        "label": torch.tensor(LABELS), "input_ids": plain, "attention_mask": plain + 1, "completion_mask": mask,
        "KL_input_ids": plain + 1, "KL_attention_mask": plain + 1, "KL_completion_mask": mask,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KTOTrainer._compute_loss(trainer, model, inputs, False), trainer._metrics["train"]


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """TRL warns while it is imported, of things that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import trl.trainer.kto_trainer  # noqa: F401 - found by name afterwards


@pytest.mark.parametrize("above", [True, False], ids=["z above 0", "z cut off at 0"])
@pytest.mark.parametrize(("ours", "theirs"), [("kto", "kto"), ("apo_zero_unpaired", "apo_zero_unpaired")])
def test_values_and_gradients_are_trls(ours: str, theirs: str, above: bool) -> None:
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.6}
    others = OTHERS + double(2 if above else -2, 0)[:, None, None]
    method = build(f"unpaired/{ours}", beta=BETA, **weights)
    assert isinstance(method, UnpairedMethod)
    leaf = POLICY.clone().requires_grad_()
    given = RatedLogps(leaf.sum(1), BASE.sum(1), torch.tensor(LABELS))
    if method.sees_step:
        beside = RatedLogps(others[0].sum(1), others[1].sum(1), given.desirable)
        step = whole(method, beside)
        given = RatedLogps(given.policy, given.base, given.desirable, of_step=step.of_step)
    value = method.loss(given).mean()
    other = POLICY.clone().requires_grad_()
    wanted, logged = trls(theirs, other, others, **weights)
    torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(value, leaf)[0]
    torch.testing.assert_close(found, torch.autograd.grad(wanted, other)[0], rtol=1e-6, atol=1e-6)
    assert found.abs().max() > 1e-3
    if ours == "kto":
        assert (logged["kl"][0] > 0) == above
        assert method.step_metrics(given)["kl"][0].item() == pytest.approx(logged["kl"][0], abs=1e-9)
    rewards = BETA * given.ratio.detach()
    assert logged["rewards/chosen"] == pytest.approx([rewards[given.desirable].mean().item()])
    assert logged["rewards/margins"] == pytest.approx(
        [(rewards[given.desirable].mean() - rewards[~given.desirable].mean()).item()]
    )
