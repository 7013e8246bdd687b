"""A disk that is full, too small or read-only: what was there stays, half a file never has its name, and the message
says which file, why, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from nursery import Ended, Nursery, Undisturbed
from soundness import check_sound, results, unfinished

FULL = """
import resource, sys
seen = []
def watch(event, given):
    if event == {event!r} and {name!r} in str(given[0]):
        seen.append(1)
        if len(seen) >= {number}:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
sys.addaudithook(watch)
"""
"""Python source: from the so-many-th time that this file is begun, no file can grow beyond 20 bytes."""


def full(name: str, number: int = 1) -> str:
    """The disk is full when a file whose temporary name begins so, or a log, is begun for the so-many-th time."""
    return FULL.format(event="os.mkdir" if name.startswith(".") else "open", name=name, number=number)


MOUNTED = """
import ctypes, os, sys
system = ctypes.CDLL(None, use_errno=True)
try:
    unshared = system.unshare(0x00020000) == 0 or system.unshare(0x10020000) == 0
    private = system.mount(b"none", b"/", None, 0x44000, None) == 0
    mounted = unshared and private and system.mount(b"tmpfs", {out!r}.encode(), b"tmpfs", {flags}, b"size={size}") == 0
except AttributeError:
    mounted = False
if not mounted:
    os._exit(77)
"""
"""Python source: a file system of its own for this process at ``out``; exit code 77 where that is not allowed."""


def message(ended: Ended) -> str:
    """What is told last, on one line."""
    return " ".join(ended.said[ended.said.find("The run failed") :].split())


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (".unfinished-run.json", "out/run.json"),
        (".unfinished-base.jsonl", "out/work/measures/base.jsonl"),
        ("dpo.training.jsonl", "out/arms/dpo.training.jsonl"),
        (".unfinished-state.safetensors", "out/work/arms/dpo/0/checkpoint/state.safetensors"),
        (".unfinished-dpo-", "out/arms/dpo"),
        (".unfinished-samples.jsonl", "out/samples.jsonl"),
        (".unfinished-report.html", "out/report.html"),
    ],
    ids=["record", "measures", "log", "checkpoint", "artefact", "samples", "report"],
)
def test_full(name: str, place: str, nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("run", home / "recipe.yaml", "--out", out)
    ended = nursery.run(*words, cache=tmp_path / "cache", before=full(name))
    assert ended.code == 1, ended.said
    told = message(ended)
    assert told.startswith(f"The run failed: {tmp_path / place}: cannot be written ("), told
    assert "File too large" in told
    assert told.endswith("Free some space, or make the folder writable, and go on with --resume."), told
    assert "Traceback" not in ended.said
    check_sound(out)
    assert unfinished(out) == []
    assert not (tmp_path / place).exists() or place.endswith(".training.jsonl")
    ended = nursery.run(*words, "--resume", cache=tmp_path / "cache")
    assert ended.code == 0, ended.said
    assert results(out) == results(undisturbed("recipe"))


def test_full_after_some_checkpoints(nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path) -> None:
    """The earlier one stays, and is taken up."""
    out = tmp_path / "out"
    words = ("run", home / "recipe.yaml", "--out", out)
    before = full(".unfinished-state.safetensors", 8)
    ended = nursery.run(*words, cache=tmp_path / "cache", before=before)
    assert (ended.code, "state.safetensors: cannot be written" in ended.said) == (1, True), ended.said
    check_sound(out)
    ended = nursery.run(*words, "--resume", cache=tmp_path / "cache")
    assert (ended.code, "resuming at step 7 of 12" in ended.said) == (0, True), ended.said
    assert results(out) == results(undisturbed("recipe"))


@pytest.mark.parametrize("kind", ["logprobs", "draws", "perplexity"])
def test_a_cache_that_is_full_costs_a_warning(
    kind: str, nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    """Nothing but the cache: the limit ends when the folder of the entry is gone."""
    before = FULL.format(event="os.mkdir", name=f"cache/{kind}/.unfinished-", number=1) + (
        "def free(event, given):\n"
        "    if event == 'shutil.rmtree' and '.unfinished-' in str(given[0]):\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "sys.addaudithook(free)\n"
    )
    out = tmp_path / "out"
    ended = nursery.run("run", home / "recipe.yaml", "--out", out, cache=tmp_path / "cache", before=before)
    assert ended.code == 0, ended.said
    assert f"warning: {tmp_path / 'cache' / kind}" in ended.said
    assert "cannot be kept (" in ended.said
    assert [path for path in (tmp_path / "cache").rglob("*") if path.parent.name == kind] == []
    assert results(out) == results(undisturbed("recipe"))


def test_a_cache_that_is_no_folder_costs_a_warning(
    nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    ended = nursery.run("run", home / "recipe.yaml", "--out", tmp_path / "out", cache=tmp_path / "file")
    assert ended.code == 0, ended.said
    assert ended.said.count("cannot be kept (") >= 3
    assert results(tmp_path / "out") == results(undisturbed("recipe"))


def test_a_disk_of_its_own_that_is_full(nursery: Nursery, home: Path, tmp_path: Path) -> None:
    """Not a limit but a file system of 200 kB: the checkpoint does not fit."""
    out = tmp_path / "out"
    out.mkdir()
    listed = f"import os\nprint('LEFT', [name for _, _, names in os.walk({str(out)!r}) for name in names])"
    before = MOUNTED.format(out=str(out), flags=0, size="200k")
    words = ("run", home / "recipe.yaml", "--out", out)
    ended = nursery.run(*words, cache=tmp_path / "cache", before=before, after=listed)
    if ended.code == 77:
        pytest.skip("a process may not mount anything here")
    assert ended.code == 1, ended.said
    told = message(ended)
    assert "state.safetensors: cannot be written (" in told
    assert "No space left on device" in told
    left = ended.said.rpartition("LEFT")[2]
    assert "run.json" in left
    assert "state.safetensors" not in left


def test_a_disk_that_is_mounted_for_reading(nursery: Nursery, home: Path, tmp_path: Path) -> None:
    """Told before a model loads, and to root as to anyone."""
    (tmp_path / "disk").mkdir()
    before = MOUNTED.format(out=str(tmp_path / "disk"), flags=1, size="200k")
    ended = nursery.run("run", home / "recipe.yaml", "--out", tmp_path / "disk" / "out", cache=tmp_path, before=before)
    if ended.code == 77:
        pytest.skip("a process may not mount anything here")
    assert ended.code == 2, ended.said
    assert "disk cannot be written to. Give another --out, or make it writable." in " ".join(ended.said.split())
    assert "2 arms" not in ended.said
