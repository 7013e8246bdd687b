"""What a recipe names, read: evidence, held-out prompts, the judge, and every fault of them at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small import write_judge
from tiny import make_local

from truing.core.errors import InputError
from truing.core.policy import Chat, user
from truing.core.recipe import Recipe, parse
from truing.data.contract import Lengths
from truing.data.load import held_out
from truing.data.promptset import load_promptset
from truing.judges.constraints import ConstraintJudge
from truing.pipeline.checking import check
from truing.pipeline.inputs import DERIVED, HELD_OUT, Inputs, read_inputs

PAIRS = [{"prompt": f"Question {i}?", "chosen": f"good {i}", "rejected": "bad"} for i in range(900)]
DEMOS = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]


def recipe(**keys: Any) -> Recipe:
    """A recipe that trains on whatever is given."""
    return parse({"model": "m", "arms": {"a": ["prompt/exemplars"]}, **keys}, name="inputs")


def read(**keys: Any) -> Inputs:
    """What such a recipe comes to."""
    return read_inputs(recipe(**keys))


def test_a_tenth_of_the_prompts_is_held_out_and_never_trained_on() -> None:
    found = read(data={"pairs": PAIRS}, evaluate={"limit": 1000})
    trained = {pair.prompt for pair in found.evidence.pairs}
    asked = set(found.prompts)
    assert not trained & asked
    assert trained | asked == {user(row["prompt"]) for row in PAIRS}
    expected = HELD_OUT * len(PAIRS)
    assert abs(len(asked) - expected) < 4 * (expected * (1 - HELD_OUT)) ** 0.5, "a binomial share"
    assert found.notes == ["10% of the prompts of pairs are held out, and evaluated on"]


def test_other_held_out_rows_are_other_data() -> None:
    """A run that is taken up must ask what it asked before."""
    found = read(data={"pairs": PAIRS})
    fewer = read(data={"pairs": [row for row in PAIRS if user(row["prompt"]) != found.prompts[0]]})
    assert fewer.digests["pairs"] == found.digests["pairs"]
    assert fewer.digests["evaluate"] != found.digests["evaluate"]


def test_rows_of_one_prompt_are_on_one_side() -> None:
    twice = [{**row, "chosen": row["chosen"] + mark} for row in PAIRS[:200] for mark in ("", "!")]
    found = read(data={"pairs": twice})
    assert len(found.prompts) == len(set(found.prompts)), "a prompt is asked once"
    assert len(found.evidence.pairs) == 2 * (200 - len(found.prompts))


def test_what_one_kind_holds_out_no_other_trains_on() -> None:
    found = read(data={"pairs": PAIRS, "demos": DEMOS}, evaluate={"limit": 1000})
    asked = set(found.prompts)
    assert asked
    assert not asked & {demo.prompt for demo in found.evidence.demos}
    assert not asked & {pair.prompt for pair in found.evidence.pairs}


def test_without_a_limit_there_are_at_most_so_many_prompts() -> None:
    assert len(read(data={"pairs": PAIRS}).prompts) == DERIVED
    assert len(read(data={"pairs": PAIRS}, evaluate={"limit": 5}).prompts) == 5


def test_named_prompts_leave_all_data_for_training() -> None:
    found = read(data={"pairs": PAIRS}, evaluate={"prompts": [{"prompt": "Else?"}, {"prompt": "Else?"}]})
    assert len(found.evidence.pairs) == len(PAIRS)
    assert list(found.prompts) == [user("Else?")]
    assert found.notes == []
    assert set(found.digests) == {"pairs", "evaluate"}


def test_the_user_s_own_hold_out_is_kept() -> None:
    found = read(data={"pairs": {"source": PAIRS, "hold_out": 0.5}})
    assert len(found.evidence.pairs) == sum(not held_out(user(row["prompt"]), 0.5) for row in PAIRS)
    assert {pair.prompt for pair in found.pairs} == {user(row["prompt"]) for row in PAIRS} - trained(found)
    assert set(found.prompts) <= {pair.prompt for pair in found.pairs}
    assert len(found.prompts) == DERIVED
    assert found.notes == ["50% of the prompts of pairs are held out, and evaluated on"]


def trained(found: Inputs) -> set[Chat]:
    """The prompts of the pairs that are trained on."""
    return {pair.prompt for pair in found.evidence.pairs}


def test_nothing_is_held_out_where_the_user_says_so() -> None:
    found = read(data={"pairs": {"source": PAIRS, "hold_out": 0.0}})
    assert (len(found.evidence.pairs), list(found.prompts), list(found.pairs)) == (len(PAIRS), [], [])


def test_nothing_is_held_out_where_no_probe_would_look_at_it() -> None:
    """No prompts are asked, and pairs are not weighed, or others are."""
    both = {"pairs": PAIRS, "demos": DEMOS}
    for keys in ({"probes": []}, {"probes": ["preference"], "evaluate": {"pairs": PAIRS[:3]}}):
        found = read(data=both, **keys)
        assert (len(found.evidence.pairs), len(found.evidence.demos)) == (len(PAIRS), len(DEMOS))
    found = read(data=both, probes=["preference", "perplexity"])
    weighed = {pair.prompt for pair in found.pairs}
    assert weighed
    assert not weighed & {demo.prompt for demo in found.evidence.demos}


def test_held_out_pairs_are_weighed_and_never_trained_on() -> None:
    found = read(data={"pairs": PAIRS})
    assert found.pairs
    assert not {pair.prompt for pair in found.pairs} & trained(found)
    assert len(found.pairs) + len(found.evidence.pairs) == len(PAIRS)


def test_named_pairs_leave_all_data_for_training() -> None:
    named = {"source": [{"prompt": "Else?", "chosen": "Yes.", "rejected": "No."}]}
    found = read(data={"pairs": PAIRS}, evaluate={"prompts": [{"prompt": "Else?"}], "pairs": named})
    assert len(found.evidence.pairs) == len(PAIRS)
    assert [pair.chosen for pair in found.pairs] == ["Yes."]
    assert found.ledgers["evaluate.pairs"].usable == 1
    with pytest.raises(InputError, match="0 usable pairs of 1 rows"):
        read(evaluate={"pairs": [{"prompt": "Else?"}]})


def test_too_few_prompts_to_hold_any_out_are_told() -> None:
    kept = [row for row in PAIRS if not held_out(user(row["prompt"]), HELD_OUT)][:3]
    found = read(data={"pairs": kept})
    assert list(found.prompts) == []
    assert found.notes == ["pairs has too few prompts to hold any out; name some under evaluate.prompts"]


def test_prompts_alone_are_asked_themselves() -> None:
    rows = [{"prompt": f"Ask {i}."} for i in range(DERIVED + 6)]
    found = read(data={"prompts": rows}, evaluate={"draws": 2})
    assert list(found.prompts) == [user(row["prompt"]) for row in rows][:DERIVED]


def test_shipped_prompts_are_split_and_limited() -> None:
    found = read(data={"prompts": {"source": "constraints", "limit": 7}}, evaluate={"limit": 5})
    train, test = load_promptset(split="train"), load_promptset(split="test")
    assert list(found.evidence.prompts) == list(train.prompts[:7])
    assert list(found.prompts) == list(test.prompts[:5])
    assert not set(train.prompts) & set(test.prompts)
    assert found.digests == {"prompts": f"{train.digest}[:7]", "evaluate": test.digest}
    named = read(evaluate={"prompts": {"source": "constraints", "split": "train", "limit": 3}})
    assert list(named.prompts) == list(train.prompts[:3])


@pytest.mark.parametrize("limit", [0, -1, True, "7"])
def test_a_limit_of_shipped_prompts_is_a_number_of_rows(limit: object) -> None:
    with pytest.raises(InputError, match=rf"data\.prompts: limit = {limit!r}"):
        read(data={"prompts": {"source": "constraints", "limit": limit}})


def test_shipped_prompts_are_no_pairs() -> None:
    with pytest.raises(InputError, match=r"data\.pairs: the shipped set 'constraints' has prompts only"):
        read(data={"pairs": "constraints"})


def test_judges_remember_the_words_for_them(tmp_path: Path) -> None:
    spec = write_judge(tmp_path)
    judge = read(judge=spec).evidence.judge
    assert judge is not None
    assert judge.score([user("q")] * 2, ["banana", "xyz"]) == [3.0, 0.0]
    assert judge.spec == spec
    shipped = read(judge="constraints").evidence.judge
    assert isinstance(shipped, ConstraintJudge)
    assert shipped.spec == "constraints"
    remote = read(judge={"remote": {"base_url": "http://localhost:1/v1", "model": "j"}}).evidence.judge
    assert remote is not None
    assert remote.spec == {"remote": {"base_url": "http://localhost:1/v1", "model": "j"}}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("constrants", "Did you mean 'constraints'"),
        ("python:none.py:f", "there is no such file"),
        ({"remote": {"model": "j"}}, "base_url"),
        ({"remote": {"base_url": "http://localhost:1/v1", "model": "j", "heat": 1}}, "heat"),
        (3, "3 names no judge"),
    ],
)
def test_a_judge_that_cannot_be_made_is_refused(spec: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(judge=spec)


def test_every_fault_of_every_source_at_once(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n', encoding="utf-8")
    keys = {
        "data": {"pairs": "nowhere.jsonl", "demos": str(bad), "principles": "one"},
        "evaluate": {"prompts": "gone.jsonl"},
        "judge": "constrants",
        "probes": ["lenth"],
    }
    with pytest.raises(InputError) as caught:
        read_inputs(recipe(**keys))
    text = str(caught.value)
    for part in ("nowhere.jsonl", "bad.jsonl", "data.principles: is 'one'", "gone.jsonl", "Did you mean 'constraints'"):
        assert part in text, part
    assert all(fault.place for fault in caught.value.faults)
    with pytest.raises(InputError) as checked:
        check(recipe(**keys))
    assert {fault.place for fault in checked.value.faults} > {fault.place for fault in caught.value.faults}


def test_principles_are_sentences() -> None:
    assert read(data={"principles": ["Be kind.", "Be brief."]}).evidence.principles == ("Be kind.", "Be brief.")


def test_rows_that_are_too_long_for_the_model_are_counted_not_trained_on() -> None:
    def count(chats: Any, replies: Any) -> list[Lengths]:
        return [Lengths(1, tuple(len(reply) for reply in group)) for group in replies]

    rows = [{"prompt": "a", "chosen": "b" * size, "rejected": "c"} for size in (3, 30)]
    asked = {"prompts": [{"prompt": "Else?"}]}
    found = read_inputs(recipe(data={"pairs": rows}, evaluate=asked), measurer=count, longest=10)
    assert [pair.chosen for pair in found.evidence.pairs] == ["bbb"]
    assert found.ledgers["pairs"].refusals()
    own = recipe(data={"pairs": {"source": rows, "max_length": 100}}, evaluate=asked)
    assert len(read_inputs(own, measurer=count, longest=10).evidence.pairs) == 2


def test_a_check_counts_tokens_where_it_is_asked_to(tmp_path: Path) -> None:
    """With the model's own tokenizer and its context (512 tokens here); the weights are not even there."""
    folder = tmp_path / "model"
    make_local().save(folder)
    (folder / "model.safetensors").unlink()
    rows = [{"prompt": "a", "chosen": "b" * size, "rejected": "c"} for size in (3, 600)]
    asked = recipe(model=str(folder), data={"pairs": rows}, evaluate={"prompts": [{"prompt": "Else?"}]})
    assert check(asked).ledgers["pairs"].usable == 2
    (refusal,) = check(asked, lengths=True).ledgers["pairs"].refusals()
    assert "for 512" in refusal
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="tokenizer cannot be read"):
        check(asked, lengths=True)


def test_the_digest_is_of_the_rows_and_not_of_the_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS[:40]), encoding="utf-8")
    asked = {"prompts": [{"prompt": "Else?"}]}
    digests = [read(data={"pairs": str(tmp_path / f"{n}.jsonl")}, evaluate=asked).digests for n in ("one", "two")]
    assert digests[0] == digests[1]
    assert read(data={"pairs": PAIRS[1:40]}, evaluate=asked).digests["pairs"] != digests[0]["pairs"]
