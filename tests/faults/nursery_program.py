"""A process that has imported everything and forks a child for each run: what takes seconds is done once.

Reads a JSON list a line, ``[{"words": [...], "before": "Python", "after": "Python", "seconds": number or null}, ...]``:
of these that run at once, each child executes ``before``, is then ``truing words``, and executes ``after``; after so
many seconds it gets SIGKILL. Answers with ``[{"code": ..., "seconds": ...}, ...]``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import accelerate  # noqa: F401 - for the children
import plotly.graph_objects  # noqa: F401 - for the children
import safetensors.torch  # noqa: F401 - for the children
import torch
import transformers
from transformers.models.llama import modeling_llama  # noqa: F401 - for the children

from truing.cli import main
from truing.pipeline import study  # noqa: F401 - for the children

transformers.AutoModelForCausalLM, transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast  # noqa: B018 - loads
torch.set_num_threads(1)


def child(order: dict[str, Any]) -> None:
    """What a fresh process would be after its imports; it never returns."""
    code = 70
    try:
        exec(order["before"], {})
        code = main(order["words"])
        exec(order["after"], {})
        sys.stdout.flush()
    finally:
        os._exit(code)


def born(order: dict[str, Any]) -> tuple[int, subprocess.Popen[bytes], float]:
    """A child, and who writes down what it says: its own files may be limited in size."""
    with open(order["log"], "wb") as log:
        scribe = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
    assert scribe.stdin is not None
    number = os.fork()
    if number == 0:
        os.dup2(scribe.stdin.fileno(), 1)
        os.dup2(scribe.stdin.fileno(), 2)
        child(order)
    return number, scribe, time.monotonic()


for line in sys.stdin:
    orders = json.loads(line)
    running = [born(order) for order in orders]
    answers = []
    for order, (number, scribe, began) in zip(orders, running, strict=True):
        deadline = began + (order["seconds"] if order["seconds"] is not None else 60.0)
        done, status = 0, 0
        while not done and time.monotonic() < deadline:
            done, status = os.waitpid(number, os.WNOHANG)
            time.sleep(0.001)
        if not done:
            os.kill(number, signal.SIGKILL)
            done, status = os.waitpid(number, 0)
        seconds = time.monotonic() - began
        assert scribe.stdin is not None
        scribe.stdin.close()
        answers.append({"code": os.waitstatus_to_exitcode(status), "seconds": seconds})
    for _, scribe, _ in running:
        scribe.wait()
    print(json.dumps(answers), flush=True)
