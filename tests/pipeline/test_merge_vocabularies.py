"""Vocabularies that differ: rows by token, never by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from merges import merge, model_folder, weights

import truing
from truing.core.errors import InputError

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def change_tokens(folder: str, new: dict[str, int]) -> None:
    """Give a model's tokenizer other added tokens, and its matrices rows for them: each row is its token's number."""
    from safetensors.torch import save_file

    path = Path(folder)
    raw = json.loads((path / "tokenizer.json").read_text())
    row = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    raw["added_tokens"] += [{"id": number, "content": token, **row} for token, number in new.items()]
    (path / "tokenizer.json").write_text(json.dumps(raw))
    tensors, rows = weights(folder), max(new.values(), default=0) + 1
    for name in (EMBEDDING, HEAD):
        tensors[name] = torch.cat([tensors[name], torch.zeros(max(0, rows - len(tensors[name])), 32)])
        for number in new.values():
            tensors[name][number] = float(number) + (1000 if "b" in folder.split("/")[-1] else 0)
    save_file(tensors, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    config["vocab_size"] = len(tensors[EMBEDDING])
    (path / "config.json").write_text(json.dumps(config))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str, int]:
    """Model a has <one> and <two>, b <two> and <three> at other numbers; and how many tokens both have."""
    a, b = model_folder(tmp_path / "a", 0), model_folder(tmp_path / "b", 1)
    size = len(weights(a)[EMBEDDING])
    change_tokens(a, {"<one>": size, "<two>": size + 1})
    change_tokens(b, {"<two>": size, "<three>": size + 1})
    return a, b, size


def rows(a: str, b: str, **more: Any) -> dict[str, Any]:
    models = [{"model": m, "parameters": {"weight": w}} for m, w in ((a, 0.75), (b, 0.25))]
    return {"models": models, "merge_method": "linear", **more}


def test_without_a_word_it_is_refused(folders: tuple[str, str, int], tmp_path: Path) -> None:
    a, b, _ = folders
    with pytest.raises(InputError, match=r"3 tokens have other numbers, '<one>' first\. Set tokenizer_source: union"):
        merge(tmp_path / "m", rows(a, b))


def test_the_union_has_every_token_once(folders: tuple[str, str, int], tmp_path: Path) -> None:
    """Who lacks a token takes the other's row; who has it gives its own, whatever its number."""
    a, b, size = folders
    made = merge(tmp_path / "m", rows(a, b, tokenizer_source="union"))
    loaded: Any = truing.load(str(tmp_path / "m" / "out"))
    assert loaded.tokenizer.convert_tokens_to_ids(["<one>", "<two>", "<three>"]) == [size, size + 1, size + 2]
    assert loaded.model.config.vocab_size == size + 3
    for name in (EMBEDDING, HEAD):
        one, other = weights(a)[name], weights(b)[name]
        torch.testing.assert_close(made[name][:size], 0.75 * one[:size] + 0.25 * other[:size])
        wanted = [one[size], 0.75 * one[size + 1] + 0.25 * other[size], other[size + 1]]
        torch.testing.assert_close(made[name][size:], torch.stack(wanted))


def test_the_base_takes_its_own_tokens(folders: tuple[str, str, int], tmp_path: Path) -> None:
    a, b, size = folders
    made = merge(tmp_path / "m", rows(a, b, tokenizer_source="base", base_model=a))
    assert len(made[EMBEDDING]) == size + 2
    torch.testing.assert_close(made[EMBEDDING][size], weights(a)[EMBEDDING][size])  # <one>: b lacks it
    wanted = 0.75 * weights(a)[EMBEDDING][size + 1] + 0.25 * weights(b)[EMBEDDING][size]
    torch.testing.assert_close(made[EMBEDDING][size + 1], wanted)


def test_another_models_tokenizer_and_its_special_numbers(folders: tuple[str, str, int], tmp_path: Path) -> None:
    a, b, size = folders
    config = json.loads((Path(a) / "config.json").read_text())
    (Path(a) / "config.json").write_text(json.dumps({**config, "pad_token_id": size + 1, "eos_token_id": size}))
    made = merge(tmp_path / "m", rows(a, b, tokenizer_source=b, base_model=a))
    torch.testing.assert_close(made[EMBEDDING][size + 1], weights(b)[EMBEDDING][size + 1])
    told = json.loads((tmp_path / "m" / "out" / "config.json").read_text())
    assert (told["pad_token_id"], told["eos_token_id"]) == (size, None)  # <two> has another number; <one> is gone
    assert (tmp_path / "m" / "out" / "tokenizer.json").read_bytes() == (Path(b) / "tokenizer.json").read_bytes()


def test_rules_for_single_tokens_and_padding(folders: tuple[str, str, int], tmp_path: Path) -> None:
    a, b, size = folders
    tokens = {
        "<one>": {"source": {"kind": "zero"}},
        "<two>": {"source": b, "force": True},
        "<three>": {"source": {"kind": "model_token", "model": a, "token": "<one>"}},
    }
    made = merge(tmp_path / "m", rows(a, b, tokenizer={"source": "union", "tokens": tokens, "pad_to_multiple_of": 16}))
    table, one, other = made[EMBEDDING], weights(a)[EMBEDDING], weights(b)[EMBEDDING]
    assert len(table) % 16 == 0
    torch.testing.assert_close(table[size], 0.75 * one[size])
    torch.testing.assert_close(table[size + 1], other[size])
    torch.testing.assert_close(table[size + 2], 0.75 * one[size] + 0.25 * other[size + 1])
    torch.testing.assert_close(table[size + 3 :], table[: size + 3].mean(0).expand(len(table) - size - 3, -1))


def test_padding_rows_are_the_bases(tmp_path: Path) -> None:
    """One vocabulary, more rows in one model than in the other: what is no token is not mixed."""
    a, b = model_folder(tmp_path / "a", 0), model_folder(tmp_path / "b", 1)
    size = len(weights(a)[EMBEDDING])
    change_tokens(b, {})
    from safetensors.torch import save_file

    tensors = weights(b)
    for name in (EMBEDDING, HEAD):
        tensors[name] = torch.cat([tensors[name], torch.ones(7, 32)])
    save_file(tensors, Path(b) / "model.safetensors")
    made = merge(tmp_path / "m", rows(a, b))
    torch.testing.assert_close(made[EMBEDDING], 0.75 * weights(a)[EMBEDDING] + 0.25 * tensors[EMBEDDING][:size])
    made = merge(tmp_path / "n", rows(b, a))
    torch.testing.assert_close(made[EMBEDDING][size:], torch.ones(7, 32))


def test_the_most_common_chat_template(folders: tuple[str, str, int], tmp_path: Path) -> None:
    a, b, _ = folders
    (Path(b) / "chat_template.jinja").write_text("{{ other }}")
    merge(tmp_path / "m", rows(a, b, tokenizer_source="union", chat_template="{{ mine }}"))
    assert (tmp_path / "m" / "out" / "chat_template.jinja").read_text() == "{{ mine }}"


def test_a_tokenizer_may_come_from_a_folder_without_weights(folders: tuple[str, str, int], tmp_path: Path) -> None:
    a, b, size = folders
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_bytes((Path(b) / "tokenizer.json").read_bytes())
    made = merge(tmp_path / "m", rows(a, b, tokenizer_source=str(tmp_path / "tokenizer"), base_model=a))
    torch.testing.assert_close(made[EMBEDDING][size + 1], weights(b)[EMBEDDING][size + 1])
