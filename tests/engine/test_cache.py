"""The cache may only ever save time: a hit is a miss, and damage is a miss that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Notes, make_local, random_trees

from truing.core.policy import Chat, Draw, Sampling, user
from truing.core.rng import Rng
from truing.core.run import Log, Run
from truing.core.trees import Tree
from truing.engine.cache import digest, draws, reference_logprobs, tree_digest
from truing.models.local import Local
from truing.models.tabular import Tabular

TREES = [*random_trees(2, 6), Tree((5, 6), ((), (7,)))]
CHATS = (user("one"), user("two"))
SAMPLING = Sampling(max_new_tokens=6)


@pytest.fixture
def counted(tiny_policy: Local, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One word for every real pass."""
    calls: list[str] = []
    score, sample = Local.tree_logprobs, Local.sample

    def tree_logprobs(self: Local, trees: Sequence[Tree], log: Log) -> list[torch.Tensor]:
        calls.append("score")
        return score(self, trees, log)

    def counting(self: Local, chats: Sequence[Chat], **given: Any) -> list[list[Draw]]:
        calls.append("draw")
        return sample(self, chats, **given)

    monkeypatch.setattr(Local, "tree_logprobs", tree_logprobs)
    monkeypatch.setattr(Local, "sample", counting)
    return calls


def equal(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def entry(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


class TestLogprobs:
    def test_a_hit_is_a_miss_bit_for_bit(
        self, tiny_policy: Local, counted: list[str], tmp_path: Path, notes: Notes
    ) -> None:
        run = Run(cache=tmp_path, log=notes)
        miss, hit = reference_logprobs(tiny_policy, TREES, run), reference_logprobs(tiny_policy, TREES, run)
        assert counted == ["score"]
        assert equal(miss, hit)
        assert equal(hit, reference_logprobs(tiny_policy, TREES, Run()))
        assert "from the cache (" in notes.said[-1]

    def test_another_model_or_another_cut_is_another_entry(
        self, tiny_policy: Local, counted: list[str], tmp_path: Path
    ) -> None:
        run, one = Run(cache=tmp_path), TREES[:1]
        reference_logprobs(tiny_policy, one, run)
        moved = Tree((*one[0].prompt, *one[0].replies[0][:1]), (one[0].replies[0][1:], *one[0].replies[1:]))
        for policy, trees in ((make_local(seed=1), one), (tiny_policy, [moved]), (tiny_policy, TREES[:2])):
            found = reference_logprobs(policy, trees, run)
            assert equal(found, policy.tree_logprobs(trees, run.log))
        assert len(list((tmp_path / "logprobs").iterdir())) == 4

    @pytest.mark.parametrize("damage", ["noise", "cut", "empty", "other"])
    def test_a_damaged_entry_is_made_again_with_a_warning(
        self, damage: str, tiny_policy: Local, counted: list[str], tmp_path: Path, notes: Notes
    ) -> None:
        run = Run(cache=tmp_path, log=notes)
        miss = reference_logprobs(tiny_policy, TREES, run)
        file = entry(tmp_path / "logprobs")
        sound = file.read_bytes()
        if damage == "other":
            from safetensors.torch import save_file

            save_file({"tokens": torch.zeros(3)}, file)
        else:
            file.write_bytes({"noise": b"\xff" * 100, "cut": sound[:-9], "empty": b""}[damage])
        assert equal(reference_logprobs(tiny_policy, TREES, run), miss)
        assert notes.said[-1].startswith("warning: the cache entry ")
        assert entry(tmp_path / "logprobs").read_bytes() == sound
        assert counted == ["score", "score"]

    def test_a_table_keeps_its_float64(self, tmp_path: Path) -> None:
        table = Tabular((user("a"),), ("x", "y", "z"), torch.tensor([[0.1, 0.2, 0.7]], dtype=torch.float64).log())
        trees, run = [table.encode(user("a"), ("x", "z"))], Run(cache=tmp_path)
        miss, hit = reference_logprobs(table, trees, run), reference_logprobs(table, trees, run)
        assert equal(miss, hit)
        assert hit[0].dtype == torch.float64

    def test_no_trees(self, tiny_policy: Local, tmp_path: Path) -> None:
        assert [list(reference_logprobs(tiny_policy, [], Run(cache=tmp_path))) for _ in range(2)] == [[], []]


class TestDraws:
    def ask(self, policy: Local, cache: Path | None, notes: Notes | None = None, **given: Any) -> list[list[Draw]]:
        options = {"n": 3, "sampling": SAMPLING, "rng": Rng(0).child("here"), **given}
        return draws(policy, CHATS, cache=cache, log=notes, **options)

    def test_a_hit_is_a_miss(self, tiny_policy: Local, counted: list[str], tmp_path: Path) -> None:
        miss, hit = self.ask(tiny_policy, tmp_path), self.ask(tiny_policy, tmp_path)
        assert counted == ["draw"]
        assert hit == miss == self.ask(tiny_policy, None)
        assert all(isinstance(d.token_ids, tuple) and isinstance(d.logprobs, tuple) for row in hit for d in row)

    def test_everything_that_decides_is_in_the_key(
        self, tiny_policy: Local, counted: list[str], tmp_path: Path
    ) -> None:
        self.ask(tiny_policy, tmp_path)
        others: list[dict[str, Any]] = [
            {"n": 2},
            {"rng": Rng(1).child("here")},
            {"rng": Rng(0).child("there")},
        ]
        changes: dict[str, Any] = {
            "max_new_tokens": 5, "temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "stop": ("e",),
        }  # fmt: skip
        others += [{"sampling": replace(SAMPLING, **{name: value})} for name, value in changes.items()]
        for number, other in enumerate(others):
            assert self.ask(tiny_policy, tmp_path, **other) == self.ask(tiny_policy, None, **other)
            assert len(list((tmp_path / "draws").iterdir())) == number + 2

    @pytest.mark.parametrize("damage", ["", "[[[", "[]", "[[], []]", '{"a": 1}', "[[[1, 2]]]", "\udcff"])
    def test_a_damaged_entry_is_drawn_again_with_a_warning(
        self, damage: str, tiny_policy: Local, tmp_path: Path, notes: Notes
    ) -> None:
        miss = self.ask(tiny_policy, tmp_path, notes)
        entry(tmp_path / "draws").write_bytes(damage.encode("utf-8", "surrogateescape"))
        assert self.ask(tiny_policy, tmp_path, notes) == miss
        assert len(notes.said) == 1
        assert notes.said[0].startswith("warning: the cache entry ")
        assert self.ask(tiny_policy, tmp_path, notes) == miss
        assert len(notes.said) == 1


class TestKeys:
    @pytest.mark.parametrize("policy", ["config", "stop", "template"])
    def test_what_changes_the_answers_changes_the_fingerprint(self, policy: str) -> None:
        """Two policies with one fingerprint answer alike, so more than the weights must be in it."""
        makers: dict[str, Callable[[], Local]] = {
            "config": lambda: make_local("mistral", sliding_window=5),
            "template": lambda: make_local(
                "mistral", template="{% for m in messages %}{{ m.content }}<end>{% endfor %}"
            ),
        }

        def stopping() -> Local:
            made = make_local("mistral")
            made.model.generation_config.eos_token_id = [2, 9]
            return made

        plain, other = make_local("mistral"), makers.get(policy, stopping)()
        assert plain.fingerprint == make_local("mistral").fingerprint
        assert plain.fingerprint != other.fingerprint

    def test_a_saved_and_loaded_policy_keeps_its_fingerprint(self, tmp_path: Path) -> None:
        from truing.models.local import load_local

        for architecture in ("llama", "gemma2", "gpt2"):
            policy = make_local(architecture)
            (tmp_path / architecture).mkdir()
            policy.save(tmp_path / architecture)
            assert load_local(str(tmp_path / architecture)).fingerprint == policy.fingerprint

    def test_boundaries_count(self) -> None:
        trees = [Tree((1, 2), ((3,), ())), Tree((1,), ((2, 3), ())), Tree((1, 2), ((), (3,))), Tree((1, 2), ((3,),))]
        assert len({tree_digest([tree]) for tree in trees}) == 4
        assert tree_digest([trees[0], trees[3]]) != tree_digest([trees[3], trees[0]])
        assert digest("a", "b") != digest("ab") != digest(["a", "b"])
