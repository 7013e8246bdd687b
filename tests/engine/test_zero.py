"""What is read of a DeepSpeed configuration: how the work is cut. The rest is a recipe's, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from truing.core.errors import InputError
from truing.engine import processes
from truing.engine.zero import refuse

OFF: dict[str, Any] = {"device": "none", "nvme_path": None}
USUAL: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": 4,
    "gradient_clipping": 1.0,
    "steps_per_print": float("inf"),
    "fp16": {"enabled": False, "loss_scale": 0},
    "bf16": {"enabled": False},
    "zero_optimization": {
        "stage": 2,
        "overlap_comm": True,
        "reduce_bucket_size": "auto",
        "offload_optimizer": OFF,
        "offload_param": OFF,
        "stage3_gather_16bit_weights_on_model_save": False,
    },
}
"""What accelerate writes, and what is often found in a file of one's own."""


def test_a_usual_configuration_is_taken() -> None:
    refuse(USUAL)


@pytest.mark.parametrize(
    ("named", "more"),
    [
        ("optimizer", {"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}}),
        ("scheduler", {"scheduler": {"type": "WarmupLR"}}),
        ("fp16", {"fp16": {"enabled": True}}),
        ("bf16", {"bf16": {"enabled": True}}),
        ("torch_autocast", {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}),
        ("prescale_gradients", {"prescale_gradients": True}),
        ("communication_data_type", {"communication_data_type": "fp16"}),
    ],
)
def test_what_would_change_what_is_learned_is_refused(named: str, more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"asks DeepSpeed for {named}, which"):
        refuse({**USUAL, **more})


@pytest.mark.parametrize(
    ("named", "more"),
    [("offload_optimizer", {"device": "cpu"}), ("zero_quantized_gradients", True), ("zenflow", {"topk_ratio": 0.1})],
)
def test_what_is_not_tested_is_refused(named: str, more: object) -> None:
    with pytest.raises(InputError, match=f"asks DeepSpeed for zero_optimization.{named}, which"):
        refuse({**USUAL, "zero_optimization": {**USUAL["zero_optimization"], named: more}})


@pytest.mark.parametrize(("stage", "mend"), [(3, "fsdp_version: 2 shards the weights too"), (0, "copies.yaml")])
def test_stages_that_have_a_better_way(stage: int, mend: str) -> None:
    with pytest.raises(InputError, match=f"stage {stage} of DeepSpeed's ZeRO.*{mend}"):
        refuse({"zero_optimization": {"stage": stage}})


def test_deepspeed_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr("accelerate.utils.is_deepspeed_available", lambda: False)
    with pytest.raises(InputError, match=r"truing\[deepspeed\]"):
        processes.asked("DEEPSPEED")
