"""transformers' side of sampling: generate, with one prefill where it can, a cache, left padding, one batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.side import Clock, job, tell


def main() -> None:
    """Load, warm up, draw under the clock, tell."""
    work = job()
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, set_seed

    from truing.models.folder import load_tokenizer

    set_seed(work["seed"])
    tokenizer: Any = load_tokenizer(work["model"])
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    loaded = AutoModelForCausalLM.from_pretrained(work["model"], dtype=getattr(torch, work["dtype"]))
    model: Any = loaded.to(work["device"]).eval()
    end = model.generation_config.eos_token_id if work["stops"] else None
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
    ends = set(end if isinstance(end, list) else [end])
    chats = json.loads(Path(work["prompts"]).read_text(encoding="utf-8"))
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if work["cache"] != "dynamic":
        options["cache_implementation"] = work["cache"]

    def draw(asked: list[Any], n: int, most: int) -> int:
        """Draw and count the tokens up to each reply's end."""
        texts = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        with torch.inference_mode():
            out = model.generate(**batch, **options, num_return_sequences=n, max_new_tokens=most)
        replies = out[:, batch.input_ids.shape[1] :].tolist()
        return sum(next((k + 1 for k, token in enumerate(ids) if token in ends), len(ids)) for ids in replies)

    draw(chats[:2], 2, 2)
    workloads = {}
    for name, asked, n in (("draws of one prompt", chats[:1], work["draws"]), ("different prompts", chats, 1)):
        with Clock() as clock:
            tokens = draw(asked, n, work["tokens"])
        workloads[name] = {"seconds": clock.seconds, "tokens": tokens}
    tell(seconds=sum(part["seconds"] for part in workloads.values()), workloads=workloads)


if __name__ == "__main__":
    main()
