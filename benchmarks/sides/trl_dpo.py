"""TRL's side: one run of its DPO trainer on given texts in a given order. Runs in TRL's own environment."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from harness.side import Clock, job, tell, token_digest


def main() -> None:
    """Load, train under the clock, tell."""
    work = job()
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

    trl: Any = importlib.import_module("trl")  # it is in an environment of its own: no checker of types sees it

    def load() -> Any:
        model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
        return model.to(work["device"])

    set_seed(work["seed"])
    # As tokenizer.json says: AutoTokenizer builds some pre-tokenizers anew, and the tokens would differ from ours.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work["model"])
    lines = Path(work["pairs"]).read_text(encoding="utf-8").splitlines()
    rows = Dataset.from_list([{**json.loads(line), "length": len(line)} for line in lines])
    settings = {
        "output_dir": str(Path(work["scratch"]) / "out"),
        "per_device_train_batch_size": work["batch"],
        "learning_rate": work["learning_rate"],
        "lr_scheduler_type": "constant",
        "num_train_epochs": 1,
        "beta": work["beta"],
        "max_length": work["max_length"],
        "bf16": work["bf16"],
        "use_cpu": work["device"] == "cpu",
        "seed": work["seed"],
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **work["settings"],
    }
    model = load()
    reference = None if settings.get("precompute_ref_log_probs") else load()
    with Clock() as clock:
        trainer = trl.DPOTrainer(
            model, ref_model=reference, args=trl.DPOConfig(**settings), train_dataset=rows, processing_class=tokenizer
        )
        with Clock() as training:
            trainer.train()
        if work["save"]:
            trainer.save_model(str(Path(work["scratch"]) / "model"))
    steps = [row for row in trainer.state.log_history if "loss" in row]
    trees = [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in trainer.train_dataset]
    told = {name: value for name, value in settings.items() if name not in ("output_dir", "disable_tqdm")}
    digest = token_digest(trees)
    tell(seconds=clock.seconds, training_seconds=training.seconds, steps=steps, tokens=digest, settings=told)


if __name__ == "__main__":
    main()
