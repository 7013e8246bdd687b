"""A remote policy against a real server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from truing.core.errors import InputError
from truing.core.policy import Sampling, user
from truing.core.rng import Rng
from truing.models.remote import Remote


def tiny_model(folder: Path) -> None:
    """A random Llama with a tokenizer of bytes and a chat template of two lines."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    words.chat_template = (
        "{% for m in messages %}{{ '<s>' + m['role'] + ' ' + m['content'] + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(pieces), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    # The server draws only where the generation config of its model does.
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, top_k=0, bos_token_id=0, eos_token_id=1, pad_token_id=1
    )
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def test_transformers_serve(tmp_path: Path) -> None:
    """A real server in a process of its own, on loopback."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    tiny_model(tmp_path / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(tmp_path / "tiny")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, tmp_path / "log")
        remote = Remote(base_url=f"http://127.0.0.1:{port}/v1", model=str(tmp_path / "tiny"), concurrency=1)
        sampling = Sampling(max_new_tokens=12)
        chats = [user("one"), user("two")]
        whole = remote.sample(chats, n=3, sampling=sampling, rng=Rng(0))
        assert len({draw.text for group in whole for draw in group}) == 6
        assert all(draw.finish in {"stop", "length"} for group in whole for draw in group)
        assert remote.sample(chats[1:], n=2, sampling=sampling, rng=Rng(0)) == [whole[1][:2]]
        greedy = remote.sample(chats[:1], n=2, sampling=Sampling(max_new_tokens=5, temperature=0), rng=Rng(0))[0]
        assert greedy[0] == greedy[1]
        wrong = Remote(base_url=f"http://127.0.0.1:{port}/v2", model="tiny")
        with pytest.raises(InputError, match="HTTP 404"):
            wrong.sample(chats, n=1, sampling=sampling, rng=Rng(0))
    finally:
        process.terminate()
        process.wait(20)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")
