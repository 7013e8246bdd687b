"""Draws against the scorer, exact probabilities and transformers' own generation."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from odds import allowed, chance
from tiny import ARCHITECTURES, VOCABULARY, Notes, make_model, words

from truing.core.errors import InputError, RunError
from truing.core.policy import Draw, Sampling
from truing.core.rng import Rng
from truing.core.trees import Tree
from truing.engine.draw import Sampler
from truing.engine.score import score_plain

END = frozenset({2})
HEAD = [5 + 7 * k % 90 for k in range(20)]
SHORT = [[9], [30, 31, 32], [40, 41], [50, 51, 52, 53, 54], [60], [70, 71, 72, 73, 74, 75, 76, 77]]
SHARED = [HEAD + rest for rest in SHORT]


def letters(ids: Any) -> str:
    return "".join(chr(0x100 + i) for i in ids)  # one letter a token


def draw(model: Any, prompts: Any, *, n: int = 3, rows: int = 192, stop: frozenset[int] = END, **how: Any) -> Any:
    sampling = Sampling(**{"max_new_tokens": 14, **how})
    return Sampler(model, stop, letters, rows)(prompts, n=n, sampling=sampling, rng=Rng(3))


def flat(drawn: list[list[Draw]]) -> list[Draw]:
    return [one for row in drawn for one in row]


def agree(model: Any, prompts: Any, drawn: list[list[Draw]], atol: float = 1e-4) -> None:
    """Every draw's log-probabilities are those that the plain forward pass gives its tokens."""
    for prompt, row in zip(prompts, drawn, strict=True):
        with torch.no_grad():
            wanted = score_plain(model, [Tree(tuple(prompt), tuple(d.token_ids for d in row))]).tokens
        found = torch.tensor([value for d in row for value in d.logprobs])
        torch.testing.assert_close(found, wanted.float(), rtol=0, atol=atol)


@pytest.mark.parametrize("prompts", [SHORT, SHARED, [HEAD, HEAD[:-2]]], ids=["apart", "trunk", "begun"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probabilities_are_the_scorers(
    architecture: str, prompts: list[list[int]], tiny_model: Callable[[str], Any]
) -> None:
    """Rows leave and come in between (5 at once), contexts are longer than the sliding windows (6)."""
    model = tiny_model(architecture)
    sampler = Sampler(model, END, letters, 5)
    drawn = sampler(prompts, n=3, sampling=Sampling(max_new_tokens=14), rng=Rng(1))
    assert sampler.layout == "cascade"
    assert max(len(d.token_ids) for row in drawn for d in row) > 6
    agree(model, prompts, drawn)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_prompts_read_in_bands_are_read_whole(
    architecture: str, tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bands of two prompts, each read to its own end: at first from long to short, later in no order."""
    from truing.engine.cascade import Cascade

    most: list[int] = []
    running = Cascade.running
    monkeypatch.setattr("truing.engine.session.BAND", 2)
    monkeypatch.setattr(Cascade, "running", lambda s, *a: most.append(len(s.bands)) or running(s, *a))
    prompts = [[*rest, *HEAD[:cut]] for cut in (0, 3, 9) for rest in SHORT]
    drawn = draw(tiny_model(architecture), prompts, n=2, rows=12, stop=frozenset(range(0, VOCABULARY, 9)))
    agree(tiny_model(architecture), prompts, drawn)
    assert max(most) == 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_is_what_transformers_generates(architecture: str, tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model(architecture)
    drawn = draw(model, SHARED[:3], n=1, temperature=0, max_new_tokens=10)
    for prompt, (one,) in zip(SHARED[:3], drawn, strict=True):
        ids = torch.tensor([prompt])
        options = {"do_sample": False, "max_new_tokens": 10, "pad_token_id": 0, "eos_token_id": 2}
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert list(one.token_ids) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("prompts", [SHORT, SHARED], ids=["apart", "trunk"])
def test_a_draw_is_its_prompt_and_its_number(prompts: list[list[int]], tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("mistral")
    whole = words(draw(model, prompts, n=6))
    assert len({tokens for row in whole for tokens in row}) == 36
    for rows in (1, 4, 7, 13):  # one prompt at a time; refilled in the middle
        assert words(draw(model, prompts, n=6, rows=rows)) == whole
    assert words(draw(model, prompts, n=2)) == [row[:2] for row in whole]
    assert words(draw(model, prompts[::-1], n=6)) == whole[::-1]
    assert words(draw(model, prompts[2:3], n=6)) == whole[2:3]
    assert words(draw(model, [*prompts, prompts[1]], n=6)) == [*whole, whole[1]]
    longer = words(draw(model, prompts, n=6, max_new_tokens=20))
    assert [[tokens[:14] for tokens in row] for row in longer] == whole


def test_rows_that_end_at_once_leave_room(tiny_model: Callable[[str], Any]) -> None:
    """With fewer rows left than a prompt needs, and prompts waiting, the sampler must neither stall nor spin."""
    model = tiny_model("llama")
    stop = frozenset(range(0, VOCABULARY, 2))  # half of all tokens end a reply
    whole = words(draw(model, SHORT * 3, n=5, stop=stop))
    for rows in (1, 5, 7, 9):
        assert words(draw(model, SHORT * 3, n=5, rows=rows, stop=stop)) == whole
    assert any(len(tokens) == 1 for row in whole for tokens in row)


@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 1.3}, {"temperature": 0.6, "top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}],
    ids=str,
)
def test_first_tokens_follow_the_exact_probabilities(how: dict[str, Any], tiny_model: Callable[[str], Any]) -> None:
    model, n = tiny_model("qwen2"), 4000
    drawn = draw(model, SHORT[:2], n=n, max_new_tokens=1, **how)
    for prompt, row in zip(SHORT, drawn, strict=False):
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0, -1]
        tokens = torch.tensor([d.token_ids[0] for d in row])
        assert chance(tokens, allowed(logits, Sampling(**how))) > 0.001
        # The log-probability told is the untempered model's.
        torch.testing.assert_close(
            torch.tensor([d.logprobs[0] for d in row]), logits.log_softmax(-1)[tokens], rtol=0, atol=1e-5
        )


def test_second_tokens_follow_the_first(tiny_model: Callable[[str], Any]) -> None:
    """The chain: frequencies of the second token after the commonest first one."""
    model, how = tiny_model("llama"), {"temperature": 0.8, "top_p": 0.95}
    row = draw(model, [[9, 8, 7]], n=4000, max_new_tokens=2, stop=frozenset(), **how)[0]
    first = int(torch.bincount(torch.tensor([d.token_ids[0] for d in row])).argmax())
    seconds = torch.tensor([d.token_ids[1] for d in row if d.token_ids[0] == first])
    with torch.no_grad():
        logits = model(torch.tensor([[9, 8, 7, first]])).logits[0, -1]
    assert len(seconds) > 200
    assert chance(seconds, allowed(logits, Sampling(**how))) > 0.001


def test_stop_ids_end_a_draw_and_stay_in_its_tokens(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama")
    free, bound = (draw(model, SHORT, n=4, stop=stop) for stop in (frozenset(), frozenset(range(40))))
    for long, short in zip(flat(free), flat(bound), strict=True):
        at = next((i for i, token in enumerate(long.token_ids) if token < 40), None)
        if at is None:
            assert (short.text, short.token_ids, short.finish) == (long.text, long.token_ids, "length")
        else:
            assert short.token_ids == long.token_ids[: at + 1]
            assert short.text == letters(long.token_ids[:at])
            assert short.finish == "stop"
            assert len(short.logprobs) == at + 1


@pytest.mark.parametrize("width", [1, 2, 3])
def test_stop_texts_end_a_draw_and_are_cut_off(width: int, tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama")
    free = flat(draw(model, SHORT, n=4, stop=frozenset()))
    stop = free[5].text[6 : 6 + width]
    sampling = Sampling(max_new_tokens=14, stop=("never", stop))
    bound = flat(Sampler(model, frozenset(), letters)(SHORT, n=4, sampling=sampling, rng=Rng(3)))
    assert bound[5].finish == "stop"
    for long, short in zip(free, bound, strict=True):
        at = long.text.find(stop)
        if at < 0:
            assert (short.text, short.token_ids, short.finish) == (long.text, long.token_ids, "length")
        else:
            assert short.text == long.text[:at]
            assert short.token_ids == long.token_ids[: at + width]
            assert short.finish == "stop"


def test_the_longest_reply_is_as_long_as_asked(tiny_model: Callable[[str], Any]) -> None:
    for most in (1, 2, 9):
        drawn = draw(tiny_model("gemma3"), SHORT, n=2, stop=frozenset(), max_new_tokens=most)
        assert {len(d.token_ids) for row in drawn for d in row} == {most}
        assert {d.finish for row in drawn for d in row} == {"length"}


def test_no_prompts_no_draws(tiny_model: Callable[[str], Any]) -> None:
    assert draw(tiny_model("llama"), []) == []
    assert draw(tiny_model("llama"), SHORT[:2], n=0) == [[], []]


def test_memory_bounds_change_nothing(tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Few keys and values at once, prompts prefilled in portions, room for replies that grows."""
    model = tiny_model("mistral")
    whole = words(draw(model, SHORT, n=4))
    monkeypatch.setattr("truing.engine.session.PREFILL", 6)
    monkeypatch.setattr("truing.engine.session.FIRST", 2)
    for tokens in (1, 60, 200):
        sampler = Sampler(model, END, letters, tokens=tokens)
        assert words(sampler(SHORT, n=4, sampling=Sampling(max_new_tokens=14), rng=Rng(3))) == whole


def test_only_unfinished_rows_are_computed(tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token that is drawn after a reply's first costs one row of one pass, and nothing else does."""
    from truing.engine.session import Session

    sizes: list[int] = []
    run = Session._run

    def counted(self: Session, ids: torch.Tensor, positions: torch.Tensor, phase: str) -> torch.Tensor:
        sizes.append(ids.numel() if phase == "decode" else 0)
        return run(self, ids, positions, phase)

    model, stop = tiny_model("llama"), frozenset(range(0, VOCABULARY, 5))
    sampler = Sampler(model, stop, letters, 7, layout="cascade")
    monkeypatch.setattr(Session, "_run", counted)
    drawn = flat(sampler(SHORT, n=5, sampling=Sampling(max_new_tokens=14), rng=Rng(3)))
    assert len({len(d.token_ids) for d in drawn}) > 4
    assert sum(sizes) == sum(len(d.token_ids) - 1 for d in drawn)
    assert max(sizes) <= 7


def test_replies_that_do_not_fit_the_model_are_refused_before_work_starts(notes: Notes) -> None:
    from dataclasses import replace

    model = make_model("gpt2", max_position_embeddings=24)
    sampler = Sampler(model, frozenset(), letters, log=notes)
    fits, long = [*range(4, 24)], [*range(4, 26)]
    full = flat(sampler([[*fits, 7, 8, 9]], n=2, sampling=Sampling(max_new_tokens=1), rng=Rng(0)))
    assert [len(d.token_ids) for d in full] == [1, 1]
    assert sampler.layout == "cascade"  # the proof itself had room
    assert len(flat(sampler([fits], n=1, sampling=Sampling(max_new_tokens=4), rng=Rng(0)))[0].token_ids) == 4
    model.forward = model.transformer.forward = None  # nothing may be asked of it now
    with pytest.raises(InputError, match=r"max_new_tokens: 4 tokens .* behind 1 of 2 .*22 .* 24 positions.*to 2 or"):
        sampler([fits, long], n=1, sampling=Sampling(max_new_tokens=4), rng=Rng(0))
    with pytest.raises(InputError, match=r"Shorten the prompts\.$"):
        replace(sampler)([[*range(4, 28)]], n=1, sampling=Sampling(max_new_tokens=1), rng=Rng(0))


class TestProof:
    """A model whose attention the cascade does not reach must not be asked without its context."""

    @pytest.mark.parametrize("kind", ["Bloom", "Mamba"])
    def test_other_architectures_draw_without_a_cache(self, kind: str, notes: Notes) -> None:
        """ALiBi outside the attention interface; no attention at all."""
        import transformers

        config = getattr(transformers, f"{kind}Config")(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, n_layer=2, n_head=4, num_heads=4,
            initializer_range=0.3, eos_token_id=2, bos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        sampler = Sampler(model, END, letters, 5, notes)
        drawn = sampler(SHARED, n=2, sampling=Sampling(max_new_tokens=5), rng=Rng(1))
        assert sampler.layout == "plain"
        assert notes.said[0].startswith(f"warning: {kind}ForCausalLM answers otherwise under the shared cache")
        agree(model, SHARED, drawn)
        again = Sampler(model, END, letters, 2)(SHARED[2:4], n=1, sampling=Sampling(max_new_tokens=5), rng=Rng(1))
        assert words(again) == [row[:1] for row in words(drawn)[2:4]]

    def test_a_cascade_that_is_wrong_is_left(self, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
        from truing.engine import session as module

        model = make_model("llama")
        inner = module.project
        monkeypatch.setattr(module, "project", lambda model, hidden: inner(model, hidden) * 1.1)
        sampler = Sampler(model, END, letters, log=notes)
        drawn = sampler(SHORT, n=2, sampling=Sampling(max_new_tokens=6), rng=Rng(1))
        assert sampler.layout == "plain"
        assert len(notes.said) == 1
        agree(model, SHORT, drawn)


def test_a_model_that_gives_nan_is_told(tiny_model: Callable[[str], Any]) -> None:
    model = make_model("llama")
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(RunError, match="NaN"):
        draw(model, SHORT)


def test_the_models_own_attention_is_put_back(tiny_model: Callable[[str], Any]) -> None:
    for architecture, expected in (("llama", "sdpa"), ("gemma2", "eager")):
        model = tiny_model(architecture)
        before = SimpleNamespace(name=model.config._attn_implementation)
        draw(model, SHORT)
        assert model.config._attn_implementation == before.name == expected
