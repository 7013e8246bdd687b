"""A small server that misbehaves on request, and ``transformers serve`` as it is."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from truing.core.errors import InputError, RunError
from truing.core.policy import Message, Sampling, user
from truing.core.rng import Rng
from truing.models.remote import Remote


class Server:
    """Answers with the seed it was sent; ``script`` holds answers to give first: a status, or raw bytes."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script: list[tuple[int, bytes, dict[str, str]] | None] = []
        self.finish = "stop"
        self.slow = 0  # how many requests to come are answered too late
        self.choices = 0  # how many are answered, where it is not as many as asked
        self.flying = self.most = 0
        self.lock = threading.Lock()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.seen.append({"path": self.path, **body})
                    server.headers.append(dict(self.headers))
                    server.flying += 1
                    server.most = max(server.most, server.flying)
                    planned = server.script.pop(0) if server.script else ()
                    late, server.slow = server.slow > 0, max(server.slow - 1, 0)
                time.sleep(0.5 if late else 0.01)
                with server.lock:
                    server.flying -= 1
                if planned is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                choices = [server.choice(body, i) for i in range(server.choices or body.get("n", 1))]
                status, raw, extra = planned or (200, json.dumps({"choices": choices[::-1]}).encode(), {})
                self.send_response(status)
                for name, value in {"Content-Length": str(len(raw)), **extra}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        text = f"seed {body['seed'] + index}"  # as vLLM makes the seeds of several replies
        made = {"index": index, "message": {"content": text}, "finish_reason": self.finish}
        tokens = [{"token": word, "logprob": -len(word) / 8} for word in text.split()]
        return {**made, "logprobs": {"content": tokens}} if body.get("logprobs") else made

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def ask(remote: Remote, *texts: str, n: int = 1, sampling: Sampling | None = None) -> list[list[str]]:
    draws = remote.sample([user(text) for text in texts], n=n, sampling=sampling or Sampling(), rng=Rng(0))
    return [[draw.text for draw in group] for group in draws]


def test_a_draw_depends_on_stream_chat_and_number_alone(server: Server) -> None:
    remote = Remote(base_url=server.url, model="m", concurrency=4)
    whole = ask(remote, "a", "b", n=5)
    assert len({text for group in whole for text in group}) == 10
    assert ask(remote, "b", "a", n=5) == whole[::-1]
    assert ask(remote, "a", n=2) == [whole[0][:2]]
    assert all(0 <= request["seed"] < 2**31 for request in server.seen)


def test_what_is_asked(server: Server) -> None:
    remote = Remote(base_url=server.url + "/", model="m", extra={"top_k": 3})
    chat = (Message("system", "be brief"), Message("user", "hi"))
    sampling = Sampling(max_new_tokens=7, temperature=0.5, top_p=0.9, stop=("END",))
    remote.sample([chat], n=1, sampling=sampling, rng=Rng(0))
    (request,) = server.seen
    assert request.pop("seed") >= 0
    assert request == {
        "path": "/v1/chat/completions",
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "top_k": 3,
    }
    assert "Authorization" not in server.headers[0]


def test_several_replies_a_request(server: Server) -> None:
    remote = Remote(base_url=server.url, model="m", per_request=3)
    whole = ask(remote, "a", "b", n=7)
    asked = [(request["messages"][0]["content"], request.get("n", 1)) for request in server.seen]
    assert sorted(asked) == [("a", 1), ("a", 3), ("a", 3), ("b", 1), ("b", 3), ("b", 3)]
    assert len({text for group in whole for text in group}) == 14
    seeds = [int(text.removeprefix("seed ")) for text in whole[0]]
    assert [seeds[k + 1] - seeds[k] for k in (0, 1, 3, 4)] == [1, 1, 1, 1]  # by index, in whatever order they came
    assert ask(remote, "b", "a", n=7) == whole[::-1]
    assert ask(Remote(base_url=server.url, model="m"), "a", n=7)[0][::3] == whole[0][::3]
    assert remote.fingerprint != Remote(base_url=server.url, model="m").fingerprint
    server.choices = 2
    with pytest.raises(RunError, match="3 replies were asked for and 2 came: set per_request to 1"):
        ask(remote, "a", n=3)


def test_a_reply_that_was_begun_is_gone_on_from(server: Server) -> None:
    chat = (*user("hi"), Message("assistant", "well,"))
    Remote(base_url=server.url, model="m", prefill=True).sample([chat, user("a")], n=1, sampling=Sampling(), rng=Rng(0))
    begun, fresh = sorted(server.seen, key=lambda request: -len(request["messages"]))
    assert begun["messages"][-1] == {"role": "assistant", "content": "well,"}
    assert (begun["continue_final_message"], begun["add_generation_prompt"]) == (True, False)
    assert not {"continue_final_message", "add_generation_prompt"} & fresh.keys()


def test_log_probabilities_where_they_are_asked_for_and_given(server: Server) -> None:
    remote = Remote(base_url=server.url, model="m", logprobs=True)
    draw = remote.sample([user("a")], n=1, sampling=Sampling(), rng=Rng(0))[0][0]
    assert server.seen[0]["logprobs"] is True
    assert draw.logprobs == tuple(-len(word) / 8 for word in draw.text.split())
    assert draw.token_ids == ()
    silent = b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop", "logprobs": null}]}'
    server.script = [(200, silent, {})]
    assert remote.sample([user("a")], n=1, sampling=Sampling(), rng=Rng(0))[0][0].logprobs == ()


def test_a_server_that_does_not_answer_in_time_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote(base_url=server.url, model="m", timeout=0.2, retries=2, backoff=0)
    calm = ask(remote, "a")
    server.slow = 1
    assert ask(remote, "a") == calm
    server.slow = 3
    with pytest.raises(RunError, match=r"no answer in 3 attempts \(.*timed out"):
        ask(remote, "a")


def test_requests_in_flight_are_bounded(server: Server) -> None:
    ask(Remote(base_url=server.url, model="m", concurrency=3), "a", n=30)
    assert 1 < server.most <= 3


@pytest.mark.parametrize(("said", "kept"), [("stop", "stop"), ("length", "length"), ("content_filter", "length")])
def test_finish(server: Server, said: str, kept: str) -> None:
    server.finish = said
    draw = Remote(base_url=server.url, model="m").sample([user("a")], n=1, sampling=Sampling(), rng=Rng(0))[0][0]
    assert (draw.finish, draw.token_ids, draw.logprobs) == (kept, (), ())


def test_trouble_that_passes_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("truing.models.remote.time.sleep", lambda s: waits.append(s) if s != 0.01 else None)
    calm = ask(Remote(base_url=server.url, model="m"), "a")
    server.script = [(503, b"busy", {}), (429, b"{}", {"Retry-After": "7"}), None, (500, b"", {})]
    assert ask(Remote(base_url=server.url, model="m", backoff=0.25), "a") == calm
    assert waits == [0.25, 7.0, 1.0, 2.0]


def test_trouble_that_stays_is_told(server: Server) -> None:
    server.script = [(503, b'{"error": {"message": "loading"}}', {})] * 3
    with pytest.raises(RunError, match=r"in 3 attempts \(HTTP 503: loading\)"):
        ask(Remote(base_url=server.url, model="m", retries=2, backoff=0), "a")
    server.script = [(200, b"<html>", {})]
    with pytest.raises(RunError, match="OpenAI-compatible"):
        ask(Remote(base_url=server.url, model="m"), "a")


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (401, b'{"error": "bad key"}', "set api_key_env"),
        (404, b'{"detail": "no such model"}', "have a model 'm'"),
        (400, b'{"error": {"message": "seed not allowed"}}', "seed not allowed"),
    ],
)
def test_a_refusal_is_bad_input_and_is_not_repeated(server: Server, status: int, body: bytes, word: str) -> None:
    server.script = [(status, body, {})]
    with pytest.raises(InputError, match=word):
        ask(Remote(base_url=server.url, model="m"), "a")
    assert len(server.seen) == 1


def test_nobody_at_home_names_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(RunError, match=rf"{url}.*refused.*Is the server running"):
        ask(Remote(base_url=url, model="m", retries=1, backoff=0), "a", "b", n=3)


def test_the_key_is_sent_and_never_kept(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    remote = Remote(base_url=server.url, model="m", api_key_env="SOME_KEY")
    with pytest.raises(InputError, match="SOME_KEY is not set"):
        ask(remote, "a")
    monkeypatch.setenv("SOME_KEY", "hush")
    ask(remote, "a")
    assert server.headers[0]["Authorization"] == "Bearer hush"
    remote.save(tmp_path)
    assert "hush" not in repr(remote) + (tmp_path / "remote.json").read_text()
    again = Remote.load(tmp_path)
    assert again == remote
    full = Remote(base_url=server.url, model="m", per_request=2, prefill=True, logprobs=True, extra={"top_k": 3})
    full.save(tmp_path)
    assert Remote.load(tmp_path) == full
    assert again.fingerprint == remote.fingerprint
    server.script = [(302, b"", {"Location": "http://127.0.0.1:1/v1/chat/completions"})]
    with pytest.raises(InputError, match="has moved"):  # the key must not follow
        ask(remote, "a")


def test_what_cannot_be_asked_is_refused_at_once(server: Server) -> None:
    remote = Remote(base_url=server.url, model="m")
    with pytest.raises(InputError, match="top_k"):
        ask(remote, "a", sampling=Sampling(top_k=5))
    with pytest.raises(InputError, match="only begin"):
        remote.sample([(Message("assistant", "I"),)], n=1, sampling=Sampling(), rng=Rng(0))
    with pytest.raises(InputError) as caught:
        Remote(base_url="ftp://me:pw@host/v1", model="m", retries=-1, extra={"seed": 1})
    assert len(caught.value.faults) == 4
    assert not server.seen
