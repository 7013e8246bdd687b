"""Experts merged against quality, memory and multiplications, on a small mixture assembled from SmolLM2's own MLPs.

    python benchmarks/experts.py --data instructions.jsonl --rows 240

Some blocks' MLPs become mixtures: copies of the MLP, each moved by noise and its neurons in another order, under a
random router (Komatsuzaki et al. 2023, arXiv:2212.05055). They are trained shortly so that the router and the experts
go apart; then `compress/m_smoe` and `compress/mc_smoe` run on them. Perplexity is of neutral text that nothing trained
on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.arguments import common, parser, start
from harness.figures import table

from truing.core.evidence import Demo, Evidence
from truing.core.lazy import torch
from truing.core.method import build
from truing.core.run import Quiet, Run, Terminal
from truing.data.load import load
from truing.data.promptset import load_neutral
from truing.methods.compress._family import multiplications
from truing.methods.compress._routing import routing
from truing.models import load_model
from truing.models.experts import mixtures
from truing.models.local import Local
from truing.probes.perplexity import perplexity

TRAINED = (r"mlp\.experts", r"mlp\.gate\.weight")


def options() -> argparse.Namespace:
    """The command line."""
    made = parser("experts", (__doc__ or "").split("\n")[0], repeats=1)
    made.add_argument("--data", default="neutral", help="demonstrations to train on; or every second neutral passage")
    made.add_argument("--rows", type=int, default=240, help="of the data (%(default)s)")
    made.add_argument("--blocks", type=int, nargs="+", default=[20, 21, 22, 23], help="that become mixtures")
    made.add_argument("--experts", type=int, default=8, help="of each (%(default)s)")
    made.add_argument("--noise", type=float, default=0.1, help="of a weight, in its standard deviations (%(default)s)")
    made.add_argument("--steps", type=int, default=30, help="of training the mixture (%(default)s)")
    made.add_argument("--recovery", type=int, default=8, help="steps of recovery (%(default)s)")
    made.add_argument("--batch", type=int, default=4, help="rows a step (%(default)s)")
    made.add_argument("--calibration", type=int, default=24, help="rows that routers are watched on (%(default)s)")
    made.add_argument("--passages", type=int, default=16, help="neutral ones that perplexity is of (%(default)s)")
    words = made.parse_args()
    if words.short:
        words.rows, words.steps, words.recovery, words.passages, words.experts = 4, 1, 1, 2, 2
        words.blocks = words.blocks[:1]
    return words


def upcycled(base: Local, blocks: Sequence[int], experts: int, noise: float, run: Run) -> Local:
    """A Qwen2-MoE that computes what a Llama did but for the noise: its other blocks, its attention, its embeddings.

    Each expert is the block's MLP with its neurons in an order of its own. The MLP beside the experts is nothing: it
    has one neuron whose weights are 0.
    """
    import transformers

    own = base.model.config
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
            "rope_parameters", "pad_token_id", "bos_token_id", "eos_token_id")  # fmt: skip
    config = transformers.Qwen2MoeConfig(
        **{name: getattr(own, name) for name in kept},
        qkv_bias=False,
        num_experts=experts,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        moe_intermediate_size=own.intermediate_size,
        shared_expert_intermediate_size=1,
        mlp_only_layers=[i for i in range(own.num_hidden_layers) if i not in blocks],
    )
    made = transformers.Qwen2MoeForCausalLM(config).to(base.model.dtype)
    source = torch.Generator().manual_seed(run.rng("upcycle").integer() % 2**31)
    tensors = dict(base.weights())
    for i in blocks:
        at = f"model.layers.{i}.mlp"
        gate, up, down = (tensors.pop(f"{at}.{part}_proj.weight").detach() for part in ("gate", "up", "down"))
        ups, downs = [], []
        for _ in range(experts):
            order = torch.randperm(len(gate), generator=source)
            parts = [moved(part, noise, source) for part in (gate, up, down)]
            ups.append(torch.cat([parts[0][order], parts[1][order]]))
            downs.append(parts[2][:, order])
        tensors[f"{at}.experts.gate_up_proj"], tensors[f"{at}.experts.down_proj"] = torch.stack(ups), torch.stack(downs)
        router = torch.randn(experts, gate.shape[1], generator=source) * gate.std()
        tensors |= {f"{at}.gate.weight": router, f"{at}.shared_expert_gate.weight": torch.zeros(1, gate.shape[1])}
        for name, shape in (("gate", (1, -1)), ("up", (1, -1)), ("down", (-1, 1))):
            tensors[f"{at}.shared_expert.{name}_proj.weight"] = torch.zeros(gate.shape[1]).view(shape)
    made.load_state_dict(tensors, strict=False)
    made.tie_weights()
    made.generation_config = base.model.generation_config
    return Local(made, base.tokenizer, name="upcycled", log=base.log)


def moved(tensor: torch.Tensor, noise: float, source: torch.Generator) -> torch.Tensor:
    """A tensor and noise of so many of its standard deviations."""
    return tensor + noise * tensor.std() * torch.randn(tensor.shape, generator=source)


def arms(words: argparse.Namespace) -> list[tuple[str, str, str, dict[str, Any]]]:
    """What is compared: a name, the arm that it goes on from, a method and its settings."""
    still: dict[str, Any] = {"max_steps": 0, "max_calibration": words.calibration}
    train: dict[str, Any] = {
        **still, "max_steps": words.recovery, "learning_rate": 2e-4, "per_device_train_batch_size": words.batch,
        "unfrozen_parameters": TRAINED,
    }  # fmt: skip
    start, merge, cut = "trained: all experts", "compress/m_smoe", "compress/mc_smoe"
    quarter = {"expert_fraction": 0.25}
    return [
        ("1/2", start, merge, {"expert_fraction": 0.5, **still}),
        ("1/4", start, merge, {**quarter, **still}),
        ("1/8", start, merge, {"expert_fraction": 0.125, **still}),
        ("1/4, not aligned", start, merge, {**quarter, **still, "align": "none"}),
        ("1/4, uniform", start, merge, {**quarter, **still, "weighting": "uniform"}),
        ("1/4, by weights", start, merge, {**quarter, **still, "similarity": "weights"}),
        ("1/4, recovered", start, merge, {**quarter, **train}),
        ("1/4, LR + S", "1/4", cut, {"storage": "compact", **still}),
        ("1/4, recovered, LR + S, recovered", "1/4, recovered", cut, {"storage": "compact", **train}),
    ]


def main() -> None:
    """Assemble, train, compress, measure."""
    words = options()
    shared = common(words)
    run, log = Run(log=Quiet()), Terminal()
    torch.set_num_threads(shared.threads)
    passages = load_neutral()
    demos: list[Demo] = [Demo((), text) for text in passages[1::2]]
    if words.data != "neutral":
        demos = list(load("demos", words.data, limit=words.rows).rows)
    demos, held = demos[: words.rows], [((), text) for text in passages[::2]][: words.passages]
    base = load_model(words.model, log=Quiet())
    if not isinstance(base, Local):
        raise TypeError("the model has no weights here")
    mixture = upcycled(base, words.blocks, words.experts, words.noise, run)
    sft = build("imitation/sft", max_steps=words.steps, learning_rate=5e-4, unfrozen_parameters=TRAINED,
                per_device_train_batch_size=words.batch)  # fmt: skip
    evidence = Evidence(demos=demos)
    rows: list[dict[str, Any]] = []

    def measured(name: str, policy: Any, seconds: float) -> None:
        (found, *_) = perplexity(policy, held, run=run)
        inner = mixtures(policy.model)
        count = sum(int(m.members.max()) + 1 for m in inner)
        held_by = sum(p.numel() for m in inner for p in m.experts.parameters())
        trees = policy.encode_many([d.prompt for d in demos[:6]], [(d.reply,) for d in demos[:6]])
        work = multiplications(policy.model, routing(policy.model, trees, Quiet())) if inner else 0.0
        row = {
            "arm": name, "experts": count, "perplexity": round(found.value, 2), "low": round(found.low or 0, 2),
            "high": round(found.high or 0, 2), "M numbers in experts": round(held_by / 1e6, 1),
            "M multiplications a token": round(work / 1e6, 2), "seconds": round(seconds, 1),
        }  # fmt: skip
        rows.append(row)
        log.say(json.dumps(row))

    measured("SmolLM2 as it is", base, 0.0)
    measured("assembled", mixture, 0.0)
    began = time.monotonic()
    made: dict[str, Any] = {"trained: all experts": sft(mixture, evidence, run)}
    measured("trained: all experts", made["trained: all experts"], time.monotonic() - began)
    for name, source, method, settings in arms(words):
        began = time.monotonic()
        made[name] = build(method, **settings)(made[source], evidence, run)
        measured(name, made[name], time.monotonic() - began)
    print(table(rows))
    words.out.parent.mkdir(parents=True, exist_ok=True)
    Path(words.out).write_text(json.dumps({"rows": rows, "machine": shared.machine}, indent=2, default=str) + "\n")


if __name__ == "__main__":
    start(main)
