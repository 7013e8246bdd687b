"""Any OpenAI-compatible endpoint: it can be asked, and that is all.

Written on urllib: a policy that needs no torch shall need no HTTP package either, and the one that comes along
with transformers has changed its name between versions.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message as Headers
from pathlib import Path
from typing import IO, Any, cast

from truing.core.errors import Fault, InputError, RunError, bad
from truing.core.policy import Chat, Draw, Policy, Sampling
from truing.core.rng import Rng

ORIGIN = "remote.json"
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_WAIT = 60.0
_OURS = frozenset({
    "model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "stream", "logprobs",
    "continue_final_message", "add_generation_prompt",
})  # fmt: skip
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True)
class Remote(Policy):
    """A model behind ``BASE_URL/chat/completions``.

    Each draw is one request with a seed of its own, taken from ``rng.child(chat, k)``. So a draw does not depend on
    what else is asked, provided that the server keeps to the seed of a request: one that shares a generator
    among requests in flight (``transformers serve`` does) needs ``concurrency=1`` for that. A server that samples
    only where its model's generation config says so (the same one) answers greedily where it does not.
    A server that keeps prompts in its cache (vLLM, SGLang) reads the prompt once for all of them.

    Attributes:
        base_url: up to and with ``/v1``.
        model: the name under which the server knows it.
        api_key_env: the environment variable that holds the key; None sends none. The key itself is read when a
            request is made, and is never kept, shown or saved.
        timeout: of one request, seconds.
        retries: how often a request is made again after 429, 5xx or a broken connection, >= 0.
        backoff: seconds before the first retry; each next wait is twice as long, 60 at most.
        concurrency: requests in flight, >= 1.
        per_request: draws asked for in one request, >= 1, for a server that charges the prompt each time. The seed is
            then that of the first of them, and how the others follow from it is the server's affair.
        prefill: the server knows ``continue_final_message`` (vLLM, SGLang), so that a chat may end with the
            assistant's turn and is gone on from there. Others would begin anew, so it is asked for by name.
        logprobs: ask for log-probabilities; a draw has them where the server gives them. Whether they are the
            untempered ones, and whether the end of turn is among them, is the server's affair.
        extra: further fields of every request, e.g. ``{"top_k": 20}`` for servers that know it. They are saved:
            put no secret here.

    Raises:
        InputError: a URL that is not http(s) or that carries a password, or a number out of range.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 0.5
    concurrency: int = 8
    per_request: int = 1
    prefill: bool = False
    logprobs: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.base_url)
        faults = []
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            mend = "Write it as http://localhost:8000/v1."
            faults.append(Fault("base_url", "this is no http or https address", mend))
        if parts.username or parts.password or parts.query:
            faults.append(Fault("base_url", "it carries a password or a query", "Name api_key_env instead."))
        if not self.timeout > 0 or self.retries < 0 or self.backoff < 0 or min(self.concurrency, self.per_request) < 1:
            faults.append(Fault("remote", "timeout, retries, backoff, concurrency or per_request is out of range"))
        if taken := sorted(_OURS & set(self.extra)):
            faults.append(Fault("extra", f"{', '.join(taken)} cannot be set here", "Use Sampling's own fields."))
        if faults:
            raise InputError(*faults)
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        """``n`` replies to each chat. Draws have text and finish, no tokens, and log-probabilities where asked for.

        Raises:
            InputError: the server refused the request, the key or the model; a chat is empty, or ends with the
                assistant's turn without ``prefill``; or ``sampling`` asks for what the protocol has no field for.
            RunError: the server cannot be reached, or does not answer sensibly, after all retries.
        """
        faults = [
            Fault(f"sampling.{name}", "the protocol has no such field", "If the server knows it, set it in extra.")
            for name in ("top_k", "min_p")
            if getattr(sampling, name)
        ]
        if any(not chat or (chat[-1].role == "assistant" and not self.prefill) for chat in chats):
            mend = "A remote model can only begin a reply, unless its server knows how to go on: then set prefill."
            faults.append(Fault("chat", "one is empty or ends with the assistant's turn", mend))
        if faults:
            raise InputError(*faults)
        bodies = [
            self._body(chat, sampling, rng, k, min(self.per_request, n - k))
            for chat in chats
            for k in range(0, n, self.per_request)
        ]
        headers = self._headers()
        pool = ThreadPoolExecutor(max_workers=self.concurrency)
        try:
            answers = list(pool.map(lambda asked: self._ask(asked[0], asked[1], headers), bodies))
        finally:
            pool.shutdown(cancel_futures=True)  # after the first failure nothing further is asked
        draws = [draw for answer in answers for draw in answer]
        return [draws[i * n : (i + 1) * n] for i in range(len(chats))]

    def _body(self, chat: Chat, sampling: Sampling, rng: Rng, k: int, count: int) -> tuple[bytes, int]:
        """A request for the draws from number ``k`` on, and how many they are."""
        messages = [{"role": turn.role, "content": turn.content} for turn in chat]
        name = json.dumps([[turn.role, turn.content] for turn in chat], ensure_ascii=False)
        fields: dict[str, Any] = {
            **self.extra,
            "model": self.model,
            "messages": messages,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": rng.child(name, k).integer() % 2**31,
        }
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        if chat[-1].role == "assistant":
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        if self.logprobs:
            fields["logprobs"] = True
        if count > 1:
            fields["n"] = count
        return json.dumps(fields).encode(), count

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env)
            if not key:
                raise bad(
                    "api_key_env", f"{self.api_key_env} is not set", f"export {self.api_key_env}=… and run again."
                )
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _ask(self, body: bytes, count: int, headers: Mapping[str, str]) -> list[Draw]:
        url = f"{self.base_url}/chat/completions"
        reason = ""
        for attempt in range(self.retries + 1):
            wait = self.backoff * 2**attempt
            try:
                with _opener(url).open(
                    urllib.request.Request(url, body, dict(headers)), timeout=self.timeout
                ) as answer:
                    return _draws(answer.read(), count)
            except urllib.error.HTTPError as error:
                said = _said(error)
                if error.code not in _AGAIN:
                    raise self._refused(error.code, said) from error
                reason, wait = f"HTTP {error.code}: {said}", max(wait, _asked_wait(error.headers))
            except _GarbledError as error:
                raise RunError(f"{url}: {error}. Is this an OpenAI-compatible endpoint?") from error
            except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
                reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            if attempt < self.retries:
                time.sleep(min(wait, _LONGEST_WAIT))
        mend = "Is the server running, and is base_url right?"
        raise RunError(f"{url}: no answer in {self.retries + 1} attempts ({reason}). {mend}")

    def _refused(self, code: int, said: str) -> InputError:
        where = self.api_key_env or "no variable: set api_key_env"
        mends = {
            401: f"The key is read from {where}.",
            403: f"The key is read from {where}.",
            404: f"Does base_url end in /v1, and does the server have a model {self.model!r}?",
        }
        mend = mends.get(code, "Its address has moved: name the new one." if code < 400 else "")
        return bad(self.base_url, f"HTTP {code}: {said}", mend)

    def save(self, folder: Path) -> None:
        """``remote.json``: where it is and how to ask, with the name of the key's variable, not the key."""
        (folder / ORIGIN).write_text(json.dumps(self._settings(), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Remote:
        """What :meth:`save` wrote.

        Raises:
            InputError: there is nothing of the kind in the folder.
        """
        if not (folder / ORIGIN).is_file():
            raise bad(str(folder), f"no {ORIGIN}", "Name the folder that a remote policy was saved to.")
        return Remote(**json.loads((folder / ORIGIN).read_text(encoding="utf-8")))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of address, model and what is asked. Whether the server's model stays the same cannot be known."""
        asked = [self.base_url, self.model, dict(self.extra), self.per_request, self.logprobs]
        text = json.dumps(asked, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _settings(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "extra": dict(self.extra)}


class _GarbledError(Exception):
    """An answer that is not a chat completion."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would carry the key to a host that nobody named."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def _opener(url: str) -> urllib.request.OpenerDirector:
    here = urllib.parse.urlsplit(url).hostname in _LOOPBACK
    return urllib.request.build_opener(_Stay, *([urllib.request.ProxyHandler({})] if here else []))


def _draws(raw: bytes, count: int) -> list[Draw]:
    try:
        choices = json.loads(raw)["choices"]
        draws = [_draw(choice) for choice in sorted(choices, key=lambda choice: choice.get("index") or 0)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _GarbledError(f"the answer is no chat completion: {raw[:200]!r}") from error
    if len(draws) < count:
        raise _GarbledError(f"{count} replies were asked for and {len(draws)} came: set per_request to 1")
    return draws[:count]


def _draw(choice: Mapping[str, Any]) -> Draw:
    text, finish = choice["message"].get("content") or "", choice.get("finish_reason")
    told = (choice.get("logprobs") or {}).get("content") or ()
    # A filter cuts a reply before its end, as the limit does; everything else is an end.
    return Draw(
        cast("str", text),
        logprobs=tuple(float(token["logprob"]) for token in told),
        finish="length" if finish in {"length", "content_filter"} else "stop",
    )


def _said(error: urllib.error.HTTPError) -> str:
    raw = error.read(4096).decode("utf-8", "replace")
    try:
        said = json.loads(raw)
        inner = said.get("error", said.get("detail", said))
        return str(inner.get("message", inner) if isinstance(inner, dict) else inner)[:300]
    except (ValueError, AttributeError):
        return " ".join(raw.split())[:300] or str(error.reason)


def _asked_wait(headers: Headers) -> float:
    """Seconds of ``Retry-After``; 0 where there is none or it is a date."""
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
