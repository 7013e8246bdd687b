"""merge/heterogeneous: its fractions in closed form, the blend by brute force, and what training may do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from blends import DEMOS, PAIRS, by_hand, given, models, nats
from tiny import Notes, make_exact, make_local, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Demo, Evidence, Judge
from truing.core.policy import Chat, Sampling
from truing.core.recipe import parse
from truing.core.run import Run
from truing.methods.imitation.sft import SFT
from truing.methods.merge._parts import Rules, blend_of, divided
from truing.methods.merge._tuning import BlendBench
from truing.methods.merge.heterogeneous import Heterogeneous, part_fractions, unevenness
from truing.methods.merge.linear import Linear
from truing.models.local import Local
from truing.pipeline.checking import recipe_faults

PLAIN = Rules(2, "mean", "mean", "part")
QUICK: dict[str, Any] = {"parts": 2, "pretrained_fraction": 0.5, "warmup_ratio": 0.0, "logging_steps": 1}


def merged(base: Local, donor: Local, run: Run | None = None, **settings: Any) -> Local:
    made = Heterogeneous(**{**QUICK, **settings})(base, given(donor), run or Run())
    assert isinstance(made, Local)
    return made


@pytest.mark.parametrize("parts", [1, 2, 3, 9, 26])
@pytest.mark.parametrize("mean", [0.02, 0.2, 0.5, 0.9, 0.999])
def test_whatever_the_logits_the_mean_is_kept_and_nothing_leaves_the_models(parts: int, mean: float) -> None:
    source = torch.Generator().manual_seed(0)
    for scale in (0.1, 3.0, 1e3):
        logits = scale * torch.randn(parts, generator=source, dtype=torch.float64)
        found = part_fractions(logits, mean=mean, floor=0.2)
        assert float(found.mean()) == pytest.approx(mean, abs=1e-14)
        assert bool((found >= 0).all())
        assert bool((found <= 1 + 1e-14).all())
    equal = torch.full((parts,), -1.3, dtype=torch.float64)
    assert part_fractions(equal, mean=mean, floor=0.2).tolist() == [mean] * parts


def test_fractions_are_the_shares_of_a_floored_logistic() -> None:
    """Written out for three parts; and the range that the floor leaves, one part at its end and two at the other."""
    logits = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    floored = 1 / (1 + torch.exp(-logits)) + 0.2
    torch.testing.assert_close(part_fractions(logits, mean=0.2, floor=0.2), 0.2 * 3 * floored / floored.sum())
    high = part_fractions(torch.tensor([80.0, -80.0, -80.0], dtype=torch.float64), mean=0.2, floor=0.2)
    low = part_fractions(torch.tensor([-80.0, 80.0, 80.0], dtype=torch.float64), mean=0.2, floor=0.2)
    assert (float(high[0]), float(low[0])) == (pytest.approx(0.6 * 1.2 / 1.6), pytest.approx(0.6 * 0.2 / 2.6))


def test_unevenness_is_a_sum_over_matrices() -> None:
    fractions = torch.tensor([0.1, 0.2, 0.6])
    found = unevenness(fractions, mean=0.3, weights=torch.tensor([7.0, 14.0, 2.0]))
    assert float(found) == pytest.approx(7 * 0.2 + 14 * 0.1 + 2 * 0.3)


def test_the_regulariser_weighs_the_middle_most() -> None:
    """Of 26 blocks 25 / (|l - 13| + 1), as the released code has it; seven matrices a block, 13 blocks a part."""
    base = make_local(num_hidden_layers=26)
    blend = blend_of(base, given(base), PLAIN, "here")
    found = Heterogeneous(regularised="middle")._weights(blend)
    wanted = [sum(25 / (abs(block - 13) + 1) for block in half) * 7 for half in (range(13), range(13, 26))]
    assert found.tolist() == pytest.approx(wanted)
    assert Heterogeneous()._weights(blend).tolist() == [91.0, 91.0]


SIZES = [(26, 3, [8, 9, 9]), (30, 3, [10] * 3), (5, 0, [1] * 5), (7, 1, [7])]


@pytest.mark.parametrize(("blocks", "parts", "sizes"), SIZES)
def test_parts_cover_each_block_once(blocks: int, parts: int, sizes: list[int]) -> None:
    found = divided(blocks, parts, "here")
    assert list(found) == sorted(found)
    assert [found.count(part) for part in range(len(sizes))] == sizes


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "gemma", "phi3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_fractions_are_the_plain_average_and_the_ends_the_models(architecture: str, dtype: torch.dtype) -> None:
    """To the bit, norms, embeddings and a tied head included."""
    base, donor = models(architecture, dtype=dtype)
    for kept in (0.0, 0.3, 0.5, 1.0):
        found = merged(base, donor, pretrained_fraction=kept, max_steps=0)
        plain = Linear(weight=1 - kept)(base, given(donor), Run())
        assert same_weights(found, donor if kept == 0 else plain)
    assert same_weights(merged(base, donor, pretrained_fraction=1.0), base)
    assert same_weights(merged(base, donor, pretrained_fraction=0.0), donor)


def test_of_several_donors_it_is_their_mean() -> None:
    base, donor = models()
    donors = {"a": donor, "b": make_local(seed=2, num_hidden_layers=4)}
    found, plain = (
        how(base, Evidence(donors=donors), Run()) for how in (Heterogeneous(max_steps=0), Linear(weight=0.8))
    )
    assert same_weights(found, plain)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_parts_fraction_changes_the_tensors_of_its_blocks_alone(architecture: str) -> None:
    base, donor = models(architecture)
    blend = blend_of(base, given(donor), PLAIN, "here")
    plain = blend.weights([0.5, 0.5])
    for part, blocks in enumerate((("0", "1"), ("2", "3"))):
        moved = blend.weights([0.3 if k == part else 0.5 for k in range(2)])
        changed = {name for name in plain if not torch.equal(plain[name], moved[name])}
        inside = {name for name in plain if any(f".{block}." in name for block in blocks)}
        assert inside <= changed
        assert changed - inside <= {name for name in plain if ".layers." not in name and ".h." not in name}
    head = "lm_head.weight" if architecture == "llama" else "transformer.wte.weight"
    assert torch.equal(blend.weights([0.4, 0.6])[head], plain[head])


def test_what_is_in_no_part_follows_its_rule() -> None:
    base, donor = models()
    settings = {"embeddings": "pretrained", "head": "aligned", "norms": "pretrained", "max_steps": 0}
    found, own, theirs = merged(base, donor, **settings).weights(), base.weights(), donor.weights()
    assert torch.equal(found["model.embed_tokens.weight"], own["model.embed_tokens.weight"])
    assert torch.equal(found["lm_head.weight"], theirs["lm_head.weight"])
    for name in ("model.norm.weight", "model.layers.1.input_layernorm.weight"):
        assert torch.equal(found[name], own[name])
    name = "model.layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(found[name], (own[name] + theirs[name]) / 2)


@pytest.mark.parametrize("kept", [(0.2, 0.8), (0.5, 0.1)])
def test_the_blend_of_parts_is_the_one_by_hand(kept: tuple[float, float]) -> None:
    base, donor = models()
    found = base.with_weights(blend_of(base, given(donor), PLAIN, "here").weights(kept))
    wanted = by_hand(base, donor, (kept[0], kept[0], kept[1], kept[1]), sum(kept) / 2).weights()
    for name, tensor in found.weights().items():
        torch.testing.assert_close(tensor, wanted[name].float())


def test_the_gradient_of_a_logit_is_that_of_models_with_blended_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Central differences over models that are really made, in float64; the head is projected by in many chunks."""
    monkeypatch.setattr("truing.engine.vocabulary.CHUNK", 3)
    torch.manual_seed(0)
    base = make_exact("llama")
    donor = base.with_weights({name: t + 0.1 * torch.randn_like(t) for name, t in base.weights().items()})
    blend = blend_of(base, given(donor), PLAIN, "here")
    trees = base.encode_many([demo.prompt for demo in DEMOS], [(demo.reply,) for demo in DEMOS])
    logits = torch.tensor([0.4, -0.7], dtype=torch.float64)
    bench = BlendBench(blend, lambda given: part_fractions(given, mean=0.3, floor=0.2), logits)
    scores = bench.score(trees)
    loss = -scores.tokens.mean()
    loss.backward()
    found = dict(bench.module.named_parameters())["logits"].grad
    assert sum(p.numel() for p in bench.module.parameters() if p.requires_grad) == 2
    assert not any(p.requires_grad or p.grad is not None for p in bench.inner.module.parameters())
    assert nats(base.with_weights(blend.weights(bench.fractions(logits)))) == pytest.approx(
        float(loss.detach()), abs=1e-9
    )
    for k in range(2):
        ends = []
        for change in (1e-4, -1e-4):
            moved = logits + change * torch.nn.functional.one_hot(torch.tensor(k), 2)
            # What is in no part keeps the mean, whatever the logits.
            ends.append(nats(base.with_weights(blend.weights(bench.fractions(moved)))))
        assert found is not None
        assert float(found[k]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)


def test_what_training_finds_is_better_on_good_replies_and_has_the_mean() -> None:
    """The base knows the replies, and the donor's first half is spoilt: more of the base is kept there."""
    base = SFT(learning_rate=1e-2, max_steps=20)(models()[0], given(models()[0]), Run())
    assert isinstance(base, Local)
    noise = torch.Generator().manual_seed(0)
    spoilt = {
        name: t + 0.3 * torch.randn(t.shape, generator=noise) if "layers.0" in name or "layers.1" in name else t
        for name, t in base.weights().items()
    }
    donor, notes = base.with_weights(spoilt), Notes()
    found = merged(base, donor, Run(log=notes), regularisation=0.0, learning_rate=0.5, num_train_epochs=6)
    plain = Linear(weight=0.5)(base, given(donor), Run())
    assert isinstance(plain, Local)
    assert nats(found) < nats(plain) - 0.01
    firsts, seconds = notes.series("fraction/1"), notes.series("fraction/2")
    assert [a + b for a, b in zip(firsts, seconds, strict=True)] == pytest.approx([1.0] * len(firsts), abs=1e-6)
    assert firsts[0] == seconds[0] == 0.5
    assert firsts[-1] > 0.7
    assert found.trained_parameters == 2
    said = next(line for line in notes.said if "with equal ones" in line)
    assert f"{nats(plain):.4f} with equal ones, {nats(found):.4f} with these" in said


def test_the_best_iterate_is_kept_however_far_training_goes() -> None:
    """The donor is better throughout, so no split is better than equal ones by much; a huge rate jumps about."""
    for seed in range(3):
        base, donor = models()
        found = merged(base, donor, Run(seed=seed), regularisation=0.0, learning_rate=100.0, num_train_epochs=2)
        plain = merged(base, donor, max_steps=0)
        assert nats(found) <= nats(plain) + 1e-6


def test_a_strong_regulariser_leaves_the_plain_average() -> None:
    base, donor = models()
    assert same_weights(merged(base, donor, regularisation=1e3), merged(base, donor, max_steps=0))


def test_chosen_replies_of_pairs_are_good_replies_too() -> None:
    """The demonstrations as the chosen replies of pairs: the same training."""
    base, donor = models()
    of_pairs = Heterogeneous(**QUICK)(base, given(donor, demos=(), pairs=PAIRS), Run())
    assert same_weights(of_pairs, merged(base, donor))
    with pytest.raises(InputError, match="has no good replies"):
        Heterogeneous(**QUICK)(base, given(donor, demos=()), Run())


class Vowels(Judge):
    """More of them is better."""

    name = "vowels"

    def score(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
        return [float(sum(map(reply.count, "aeiou"))) for reply in replies]


def test_the_best_of_the_plain_averages_own_draws_are_good_replies() -> None:
    """The same training as on demonstrations that were drawn and picked by hand."""
    base, donor = models()
    chats = [demo.prompt for demo in DEMOS]
    plain = merged(base, donor, max_steps=0)
    how = Sampling(max_new_tokens=6)
    pools = plain.sample(chats, n=5, sampling=how, rng=Run().rng("heterogeneous", "draws"))
    best = [max(pool, key=lambda draw: Vowels().score([()], [draw.text])[0]) for pool in pools]
    demos = tuple(Demo(chat, draw) for chat, draw in zip(chats, best, strict=True))
    wanted = Heterogeneous(**QUICK)(base, given(donor, demos=demos), Run())
    asking = Heterogeneous(**QUICK, draws=5, max_new_tokens=6)
    found = asking(base, given(donor, prompts=tuple(chats), judge=Vowels()), Run())
    assert same_weights(found, wanted)
    assert not same_weights(found, plain)
    with pytest.raises(InputError, match="nobody judges"):
        asking(base, given(donor), Run())


def test_a_part_for_every_block() -> None:
    base, donor = models()
    notes = Notes()
    merged(base, donor, Run(log=notes), parts=0, max_steps=2)
    assert "fraction/4" in notes.rows[-1]
    assert "fraction/5" not in notes.rows[-1]


def test_a_stopped_training_goes_on_to_the_same_fractions(tmp_path: Any) -> None:
    base, donor = models()
    settings: dict[str, Any] = {"learning_rate": 0.5, "per_device_train_batch_size": 2, "save_steps": 1}
    whole = merged(base, donor, **settings)
    with pytest.raises(KeyboardInterrupt):
        merged(base, donor, Run(work=tmp_path, log=Notes(stop_at=4)), **settings)
    assert same_weights(merged(base, donor, Run(work=tmp_path, resume=True), **settings), whole)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"parts": 5}, "parts = 5, and the model has 4 blocks"), ({"lora_r": 4}, "lora_r is about weights")],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    base, donor = models()
    with pytest.raises(InputError, match=told):
        merged(base, donor, **settings)


def test_models_that_do_not_fit() -> None:
    base, donor = models()
    with pytest.raises(InputError, match="has no donors"):
        Heterogeneous()(base, Evidence(), Run())
    wide = make_local(num_hidden_layers=4, intermediate_size=64)
    with pytest.raises(InputError, match=r"donors\.aligned: .*mlp.*: \(.*\) instead of"):
        merged(base, wide)
    base.model.config.model_type = "unheard_of"
    with pytest.raises(InputError, match="no description, so no merging by block"):
        merged(base, donor)


def test_what_cannot_be_is_a_fault_of_the_recipe() -> None:
    """Settings about weights; and good replies that nobody gives, where any of three fields would do."""
    arm = {"donors": {"a": "smollm2"}, "steps": [{"merge/heterogeneous": {"gradient_checkpointing": True}}]}
    raw: dict[str, Any] = {"model": "smollm2", "arms": {"it": arm}}
    lacking, weights = recipe_faults(parse(raw, name="here"))
    assert (lacking.place, weights.place) == ("arms.it[0]",) * 2
    assert lacking.fact == "merge/heterogeneous reads demos or pairs or prompts, and nothing gives any"
    assert "gradient_checkpointing is about weights" in weights.fact
    for field in ("demos", "pairs", "prompts"):
        assert len(recipe_faults(parse({**raw, "data": {field: "somewhere"}}, name="here"))) == 1
