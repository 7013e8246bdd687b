"""How much of the machine's matrix-product rate a training step turns into useful work, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from harness.flops import Load, Shape, shape_of, tree_load
from harness.side import Clock, job, tell
from ours_dpo import Steps, training

from truing.core.evidence import Evidence
from truing.core.lazy import F, torch
from truing.core.method import build
from truing.core.run import Quiet, Run
from truing.core.trees import Tree
from truing.data.load import load
from truing.engine.vocabulary import target_logprobs

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear"),
    "attention": ("scaled_dot_product", "flash_attention", "flex_attention", "softmax"),
    "optimiser": ("fused_adam",),
    "reading targets": ("logsumexp", "gather", "index_select"),
    "copies and new tensors": ("copy", "to_copy", "clone", "contiguous", "cat", "zeros", "empty", "fill", "zero"),
}
"""How the names of torch's operations begin, underscores left out."""


def timed(act: Callable[[], object], least: float = 0.5) -> float:
    """Seconds of one call: the mean over calls that take ``least`` seconds together, after one to warm up."""
    act()
    calls, seconds = 0, 0.0
    while seconds < least:
        with Clock() as clock:
            act()
        calls, seconds = calls + 1, seconds + clock.seconds
    return seconds / calls


def product_rates(shape: Shape, tokens: int, targets: int, dtype: Any, device: str) -> dict[str, float]:
    """Operations a second of plain matrix products: of large square ones, and of a step's own, forward and backward."""
    side = 2048 if device == "cpu" else 8192
    big = torch.randn(side, side, dtype=dtype, device=device)
    square = 2 * side**3 / timed(partial(torch.matmul, big, big))
    work = seconds = 0.0
    counts: dict[tuple[int, int, int], int] = {}
    for inputs, outputs in shape.matrices:
        counts[tokens, inputs, outputs] = counts.get((tokens, inputs, outputs), 0) + 1
    counts[targets, shape.hidden, shape.vocabulary] = 1
    for (rows, inputs, outputs), count in counts.items():
        x = torch.randn(rows, inputs, dtype=dtype, device=device)
        w = torch.randn(outputs, inputs, dtype=dtype, device=device)
        y = torch.randn(rows, outputs, dtype=dtype, device=device)
        # As torch.nn.Linear has them: the output, the gradient of its input, the gradient of its weight.
        taken = sum(timed(partial(torch.matmul, *both)) for both in ((x, w.T), (y, w), (y.T, x)))
        work, seconds = work + 6 * count * rows * inputs * outputs, seconds + count * taken
    return {"square": square, "own": work / seconds}


def loop(
    base: Any, pairs: Sequence[Any], steps: Sequence[Sequence[Tree]], shape: Shape, work: dict[str, Any]
) -> dict[str, float]:
    """Useful operations a second of the real training loop, its first step left out."""
    log = Steps()
    build("preference/dpo", **training(work))(base, Evidence(pairs=pairs), Run(work["seed"], log=log))
    useful = sum(tree_load(shape, trees).step for trees in steps[1 : len(log.at)])
    return {"work": float(useful), "seconds": log.at[-1] - log.at[0]}


def parts(base: Any, steps: Sequence[Sequence[Tree]], work: dict[str, Any], shape: Shape) -> dict[str, list[float]]:
    """(useful operations, seconds) of each part of a step, summed over steps; the first step warms up."""
    bench = base.open()
    own = [p for p in bench.module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(own, lr=1e-9, fused=True)
    found: dict[str, list[float]] = {}

    def note(name: str, useful: float, seconds: float) -> None:
        total = found.setdefault(name, [0.0, 0.0])
        total[0], total[1] = total[0] + useful, total[1] + seconds

    for number, trees in enumerate(steps):
        optimiser.zero_grad(set_to_none=True)
        load_ = tree_load(shape, trees)
        with Clock() as forward, torch.autocast(work["device"], dtype=torch.bfloat16, enabled=work["bf16"]):
            loss = objective(bench.score(trees).sums)
        with Clock() as backward:
            loss.backward()
        with Clock() as clipping:
            torch.nn.utils.clip_grad_norm_(own, 1.0)
        with Clock() as update:
            optimiser.step()
        if number:
            note("forward", load_.forward, forward.seconds)
            note("backward", 2 * load_.forward, backward.seconds)
            note("clipping", 0, clipping.seconds)
            note("optimiser", 0, update.seconds)
            note("of which: projection to the vocabulary", 3 * load_.projection, projection(base, trees, load_))
    return found


def projection(base: Any, trees: Sequence[Tree], load_: Load) -> float:
    """Seconds of the projection alone, forward and backward, on hidden states of the right size."""
    targets = torch.tensor([token for tree in trees for reply in tree.replies for token in reply])
    states = torch.randn(len(targets), base.model.config.get_text_config().hidden_size, dtype=base.model.dtype)
    states = states.to(base.model.device).requires_grad_()
    with Clock() as clock:
        target_logprobs(base.model, states, targets.to(base.model.device)).sum().backward()
    base.model.zero_grad(set_to_none=True)
    return clock.seconds


def objective(sums: torch.Tensor) -> torch.Tensor:
    """A loss on pairs; what it is matters little for time."""
    both = sums.view(-1, 2)
    return F.softplus(-0.1 * (both[:, 0] - both[:, 1])).mean()


def profile(base: Any, trees: Sequence[Tree], device: str) -> dict[str, float]:
    """Seconds of one step by kind of operation, from torch's profiler."""
    from torch.profiler import ProfilerActivity

    bench = base.open()
    own = [p for p in bench.module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(own, lr=1e-9, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        objective(bench.score(trees).sums).backward()
        optimiser.step()

    step()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with torch.profiler.profile(activities=kinds) as told:
        step()
    found: dict[str, float] = {}
    for event in told.key_averages():
        if device == "cuda" and not event.key.startswith("aten::"):
            continue  # a kernel, whose time its operation has too
        spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        found[kind_of(event.key)] = found.get(kind_of(event.key), 0.0) + spent / 1e6
    return found


def kind_of(key: str) -> str:
    """The kind of an operation by its name: ``aten::_fused_adamw_`` is the optimiser's."""
    name = key.rsplit("::", 1)[-1].strip("_")
    return next((kind for kind, words in KINDS.items() if name.startswith(words)), "the rest")


def main() -> None:
    """Measure the machine, the loop, its parts, and tell."""
    work = job()
    from truing.models import load_model

    base: Any = load_model(work["model"], device=work["device"])
    pairs = load("pairs", work["pairs"]).rows
    trees = base.encode_many([p.prompt for p in pairs], [(p.chosen, p.rejected) for p in pairs])
    size, shape = work["batch"], shape_of(base.model)
    visits = [trees[i] for i in work["order"]]
    steps = [visits[k : k + size] for k in range(0, len(visits), size)]
    mean = max(1, sum(tree.size for tree in trees) // len(steps))
    targets = max(1, sum(len(reply) for tree in trees for reply in tree.replies) // len(steps))
    dtype = torch.bfloat16 if work["bf16"] else torch.float32
    before = product_rates(shape, mean, targets, dtype, work["device"])
    base.tree_logprobs(trees[:1], Quiet())  # proves the layout, once
    with Clock() as clock:
        base.tree_logprobs(trees, Quiet())
    reference = {"work": float(tree_load(shape, trees).forward), "seconds": clock.seconds}
    told = loop(base, pairs, steps, shape, work)
    by_part = parts(base, steps[:4], work, shape)
    by_kind = profile(base, steps[0], work["device"])
    after = product_rates(shape, mean, targets, dtype, work["device"])
    machine = {name: max(before[name], after[name]) for name in before}
    tell(
        seconds=told["seconds"], machine=machine, reference=reference, loop=told, parts=by_part, kinds=by_kind,
        tokens_a_step=mean, targets_a_step=targets,
    )  # fmt: skip


if __name__ == "__main__":
    main()
