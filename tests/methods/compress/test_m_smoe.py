"""compress/m_smoe."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from mixing import DEMOS, EVIDENCE, TOKENS, alike_in_router, cloned, logits_of, parameters, skewed, told
from tiny import MIXTURES, Notes, make_local, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.run import Run
from truing.methods.compress._routing import aligned, routing, similarity
from truing.methods.compress.m_smoe import MSMoE, dominant_experts, grouped, merged
from truing.models.experts import mixtures


def merge(policy: Any, run: Run | None = None, **settings: Any) -> Any:
    return MSMoE(**{"max_steps": 0, **settings})(policy, EVIDENCE, run or Run())


def test_frequencies_are_the_shares_of_all_routes_text_by_text() -> None:
    """Against the model's own router logits, one text after another; nothing stands beside the texts' own tokens."""
    policy = make_local("mixtral")
    trees = policy.encode_many([demo.prompt for demo in DEMOS], [(demo.reply,) for demo in DEMOS])
    counts: list[Counter[int]] = [Counter(), Counter()]
    for tree in trees:
        ids = torch.tensor([[*tree.prompt, *tree.replies[0]]])
        with torch.no_grad():
            told_by_model = policy.model(ids, output_router_logits=True).router_logits
        for block, logits in enumerate(told_by_model):
            counts[block].update(logits.topk(2).indices.flatten().tolist())
    seen = routing(policy.model, trees, Notes())
    tokens = sum(tree.size for tree in trees)
    for block, found in seen.items():
        wanted = torch.tensor([counts[block][row] for row in range(4)]).double() / (2 * tokens)
        torch.testing.assert_close(found.frequency, wanted)
        assert found.frequency.sum() == pytest.approx(1)


def test_how_many_experts_a_token_passes() -> None:
    seen = told([[0, 1], [2, 3], [1, 2]], 4)
    assert seen.distinct(torch.arange(4)) == 2
    assert seen.distinct(torch.tensor([0, 0, 1, 1])) == pytest.approx(4 / 3)
    assert seen.distinct(torch.zeros(4, dtype=torch.int64)) == 1


def test_dominant_experts_against_every_choice() -> None:
    """Of all sets of that size with the best of each block, the one with the highest frequencies."""
    source = torch.Generator().manual_seed(0)
    shares = [torch.rand(4, generator=source), 0.1 * torch.rand(4, generator=source)]
    every = list(itertools.product(range(2), range(4)))
    best = {(0, int(shares[0].argmax())), (1, int(shares[1].argmax()))}
    for kept in range(2, 9):
        sets = [set(chosen) for chosen in itertools.combinations(every, kept) if best <= set(chosen)]
        wanted = max(sets, key=lambda chosen: sum(float(shares[b][j]) for b, j in chosen))
        found = {(b, int(j)) for b, rows in enumerate(dominant_experts(shares, kept)) for j in rows}
        assert found == wanted


def test_where_all_are_level_there_are_still_exactly_so_many() -> None:
    found = dominant_experts([torch.full((4,), 0.25)] * 3, 7)
    assert sum(map(len, found)) == 7
    assert [rows.tolist() for rows in found] == [[0, 1, 2, 3], [0, 1], [0]]
    assert sum(map(len, dominant_experts([torch.full((4,), 0.25)] * 3, 1))) == 3


def test_every_other_expert_joins_the_dominant_one_it_is_most_like() -> None:
    alike = torch.rand(6, 6, generator=torch.Generator().manual_seed(1))
    members = grouped(alike, torch.tensor([1, 4]))
    for row in range(6):
        wanted = {1: 0, 4: 1}.get(row, int(alike[row, 4] > alike[row, 1]))
        assert members[row] == wanted


def test_merging_is_a_mean_by_frequency() -> None:
    experts = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(2))
    members = torch.tensor([0, 0, 1, 1])
    level = merged(experts, torch.full((4,), 0.25), members)
    torch.testing.assert_close(level, torch.stack([experts[:2].mean(0), experts[2:].mean(0)]))
    weighed = merged(experts, torch.tensor([0.6, 0.2, 0.0, 0.2]), members)
    torch.testing.assert_close(weighed[0], 0.75 * experts[0] + 0.25 * experts[1])
    torch.testing.assert_close(weighed[1], experts[3], rtol=0, atol=0)  # expert 2 was never used
    unused = merged(experts, torch.tensor([0.5, 0.5, 0.0, 0.0]), members)
    torch.testing.assert_close(unused[1], experts[2:].mean(0))


@pytest.mark.parametrize("how", ["weights", "activations"])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_reordered_copies_of_one_expert_become_one_and_the_function_stays(architecture: str, how: Any) -> None:
    policy = cloned(architecture)
    made = merge(policy, expert_fraction=0.25, align=how)
    blocks = mixtures(policy.model)
    torch.testing.assert_close(logits_of(made), logits_of(policy), rtol=0, atol=1e-4)
    expert = 3 * blocks[0].weights()[1][0].numel()
    assert parameters(policy) - parameters(made) == 3 * len(blocks) * expert


def test_to_a_millionth_in_float64_and_not_without_alignment() -> None:
    policy = cloned()
    policy.model.double().config._experts_implementation = "eager"  # grouped products know no float64
    assert (logits_of(merge(policy)) - logits_of(policy)).abs().max() < 1e-6
    assert (logits_of(merge(policy, align="none")) - logits_of(policy)).abs().max() > 1e-2


@pytest.mark.parametrize("how", ["router_logits", "router_weights", "weights", "outputs"])
def test_every_similarity_finds_the_groups_that_are_there(how: Any) -> None:
    policy = alike_in_router(cloned(groups=2), 2)
    trees = policy.encode_many([demo.prompt for demo in DEMOS], [(demo.reply,) for demo in DEMOS])
    seen = routing(policy.model, trees, Notes())
    for mixture in mixtures(policy.model):
        sample = seen[mixture.block]
        alike = similarity(mixture, aligned(mixture, "weights", sample.inputs), how, sample)
        assert grouped(alike, torch.tensor([0, 1])).tolist() == [0, 1, 0, 1]
        assert alike.min() >= 0
        assert alike.max() <= 1 + 1e-9


def test_similarities_against_their_definitions() -> None:
    policy = make_local("mixtral")
    trees = policy.encode_many([demo.prompt for demo in DEMOS], [(demo.reply,) for demo in DEMOS])
    mixture = mixtures(policy.model)[1]
    seen = routing(policy.model, trees, Notes())[1]
    parts = aligned(mixture, "none", seen.inputs)
    logits = seen.inputs @ mixture.router.weight.detach().T
    outputs = []
    for row in range(4):
        only = torch.full((len(seen.inputs), 1), row)
        with torch.no_grad():
            outputs.append(mixture.experts(seen.inputs, only, torch.ones(len(seen.inputs), 1)).flatten())
    for how, rows in (("router_logits", logits.T), ("outputs", torch.stack(outputs))):
        cosine = torch.nn.functional.cosine_similarity(rows[:, None].double(), rows[None].double(), dim=-1)
        found = similarity(mixture, parts, how, seen)  # type: ignore[arg-type] # one of the four words
        torch.testing.assert_close(found, (cosine + 1) / 2, rtol=1e-5, atol=1e-6)


def test_a_token_sent_twice_to_one_expert_gets_both_weights() -> None:
    """With all experts one, a Mixtral is dense: its router's weights sum to one."""
    policy = cloned()
    made = merge(policy)
    for mixture in mixtures(made.model):
        states = torch.randn(7, 32, generator=torch.Generator().manual_seed(5))
        up, down = (part[0] for part in mixture.weights())
        gate, rest = (states @ up.T).chunk(2, dim=1)
        wanted = (torch.nn.functional.silu(gate) * rest) @ down.T
        _, weights, rows = mixture.router(states)
        assert len(set(rows.flatten().tolist())) > 1
        with torch.no_grad():
            torch.testing.assert_close(mixture.experts(states, rows, weights), wanted, rtol=1e-4, atol=1e-5)


def test_used_experts_count_for_more() -> None:
    """What changes on the calibration text is less with frequencies than without, where a router takes few experts."""
    policy = skewed(make_local("mixtral", seed=4), 6.0)
    trees = policy.encode_many([demo.prompt for demo in DEMOS], [(demo.reply,) for demo in DEMOS])

    def changed(weighting: Any) -> float:
        made = merge(policy, weighting=weighting, align="none")
        total = 0.0
        for tree in trees:
            ids = torch.tensor([[*tree.prompt, *tree.replies[0]]])
            with torch.no_grad():
                total += float((made.model(ids).logits - policy.model(ids).logits).square().sum())
        return total

    assert changed("frequency") < changed("uniform")


def test_whole_blocks_are_left_alone_and_the_router_always_is() -> None:
    policy = make_local("mixtral")
    made = merge(policy, expert_fraction=0.25, whole_blocks=(0,))
    (first, second), (old, older) = mixtures(made.model), mixtures(policy.model)
    assert all(torch.equal(a, b) for a, b in zip(first.weights(), old.weights(), strict=True))
    assert len(second.weights()[0]) == 1
    assert torch.equal(second.router.weight, older.router.weight)
    with torch.no_grad():
        hidden = [p.model.model(TOKENS, output_hidden_states=True).hidden_states[1] for p in (made, policy)]
    torch.testing.assert_close(*hidden)


def test_what_is_saved_is_told() -> None:
    notes = Notes()
    made = merge(make_local("mixtral"), Run(log=notes), expert_fraction=0.5)
    assert made.footprint["parameters"] == parameters(made)
    expert = 3 * 20 * 32
    assert 2 * expert <= made.footprint["multiplications"] <= 2 * 2 * expert  # two blocks, one or two experts a token
    (line,) = [line for line in notes.said if "compress/m_smoe" in line]
    assert "8 experts to 4" in line
    assert "less" in line
    assert "multiplications a token" in line


@pytest.mark.parametrize("warmth", [1.0, 2.0])
def test_recovery_trains_shared_experts_towards_the_unmerged_model(warmth: float) -> None:
    """The KL that is logged first is of the merged model from the unmerged; it falls, and experts stay shared."""
    policy, notes = make_local("mixtral", seed=2), Notes()
    settings: dict[str, Any] = {"max_steps": 25, "learning_rate": 3e-3, "logging_steps": 1, "warmup_ratio": 0.0}
    settings |= {"kd_weight": 50.0, "kd_temperature": warmth, "per_device_train_batch_size": 4}
    made = merge(policy, Run(log=notes), **settings)
    start = merge(policy)
    trees = policy.encode_many([demo.prompt for demo in DEMOS], [(demo.reply,) for demo in DEMOS])
    per_demo = []
    for tree in trees:
        ids = torch.tensor([[*tree.prompt, *tree.replies[0]]])
        with torch.no_grad():
            logits = [p.model(ids).logits[0, len(tree.prompt) - 1 : -1] for p in (policy, start)]
        rows = [(each / warmth).log_softmax(-1) for each in logits]
        per_demo.append(warmth**2 * (rows[0].exp() * (rows[0] - rows[1])).sum(-1).mean())
    series = notes.series("kd")
    assert series[0] == pytest.approx(float(torch.stack(per_demo).mean()), rel=1e-3)
    assert series[-1] < 0.7 * series[0]
    assert all(len(mixture.weights()[0]) == 1 for mixture in mixtures(made.model))
    assert parameters(made) == parameters(start)


def test_nothing_is_changed_in_the_base_and_all_experts_is_the_base() -> None:
    policy = make_local("mixtral")
    before = copy.deepcopy(policy.model.state_dict())
    assert same_weights(merge(policy, expert_fraction=1.0), policy)
    merge(policy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.model.state_dict().items())


def test_bases_that_cannot_be_merged_are_refused() -> None:
    with pytest.raises(InputError, match="the base has no experts"):
        merge(make_local("llama"))
    with pytest.raises(InputError, match="no demonstrations"):
        MSMoE()(make_local("mixtral"), Evidence(), Run())
    with pytest.raises(InputError, match=r"whole_blocks: block 7 has no experts\. Those that have: \[1\]"):
        merge(make_local("qwen2_moe"), whole_blocks=(7,))
    with pytest.raises(InputError, match="merged already"):
        merge(merge(make_local("mixtral"), expert_fraction=0.5))
