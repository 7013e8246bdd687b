from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
import torch
from pools import Best, Soft, Table, pool

from truing.core.errors import InputError
from truing.core.evidence import Pair
from truing.core.policy import Policy, user
from truing.core.run import Run
from truing.models.tabular import Tabular
from truing.probes.catalogue import PROBES, measure, probe_faults
from truing.probes.cost import Spent
from truing.probes.material import Material

SCORES = [[0.0, 1.0, 1.0], [2.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
TEXTS = [f"{p} {i}" for p, i in product(range(3), range(3))]


class Notes:
    """A log that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, *_: object) -> None:
        pass

    def metrics(self, *_: object) -> None:
        pass


class Mute(Policy):
    sample = save = None
    fingerprint = "mute"


def settings(**changed: object) -> dict[str, object]:
    base = pool(SCORES, arm="base", source="base")
    known = {
        "base": base,
        "others": {"dpo": pool(np.array(SCORES) + 1, arm="dpo"), "bon": replace(base, choose=Best(2))},
        "policy": Table({text: np.log([0.5, 0.5, 0.5]) for text in TEXTS}, name="arm"),
        "base_policy": Table({text: np.log([0.5, 0.5, 0.25]) for text in TEXTS}, name="base"),
        "judge": None,
        "neutral": [((), "0 0"), ((), "1 1")],
        "spent": Spent(seconds=1.0),
        "pairs": [Pair(user("q"), "0 0", "0 2")],
        "run": Run(),
    }
    parts = {field.name for field in fields(Material)}
    given = {**known, **changed}
    material = Material(**{name: value for name, value in given.items() if name in parts})
    return {**{name: value for name, value in given.items() if name not in parts}, "material": material}


def test_every_probe_gives_what_it_promises_in_the_order_asked() -> None:
    names = ["cost", "kl", "length", "win_rate", "win_rate.bon", "reward", "preference", "perplexity"]
    found = measure(names, pool(np.array(SCORES) + 0.5), **settings())
    assert [m.probe for m in found] == [
        "cost.seconds", "kl", "length", "length.cut", "win_rate", "win_rate.bon", "reward",
        *PROBES["preference"].gives, "perplexity", "perplexity.ratio",
    ]  # fmt: skip
    promised = {name for probe in PROBES.values() for name in probe.gives}
    assert {m.probe for m in found} - {"win_rate.bon"} <= promised
    assert {m.arm for m in found} == {""}
    assert next(m.value for m in found if m.probe == "kl") == pytest.approx(np.log(2))
    assert found == measure(names, pool(np.array(SCORES) + 0.5), **settings())


def test_rivals_are_taken_by_name() -> None:
    base = settings()["base"]
    half, ahead = measure(["win_rate.bon", "win_rate.dpo"], replace(base, choose=Best(2)), **settings())
    assert half.value == 0.5
    assert ahead.value < 0.5


def test_what_cannot_be_taken_is_left_out_aloud() -> None:
    log, names = Notes(), ["kl", "preference", "perplexity", "cost", "length"]
    bare = settings(policy=Mute(), base_policy=Mute(), spent=None, run=Run(log=log))
    found = measure(names, pool(SCORES), **bare)
    assert [m.probe for m in found] == ["length", "length.cut"]
    assert [line.split(":")[1].strip() for line in log.said] == [f"{n} is left out" for n in names[:4]]


def test_best_of_n_needs_no_density_of_its_own_but_another_reranker_has_no_kl() -> None:
    log, base = Notes(), settings()["base"]
    muted = settings(policy=Mute(), run=Run(log=log))
    found = measure(["kl"], replace(base, choose=Best(2)), **muted)
    assert [(m.probe, m.kind) for m in found] == [("kl", "estimate"), ("kl_bound", "bound")]
    assert measure(["kl"], replace(base, choose=Soft(2)), **muted) == []
    assert measure(["kl"], replace(base, source="else", choose=Best(2)), **muted) == []
    assert len(log.said) == 2


def test_an_attack_is_taken_of_an_arm_with_embeddings_and_of_no_other() -> None:
    log, text = Notes(), "0 0"
    open_arm = Tabular((user("a"),), (text, "1 1"), torch.tensor([[0.0, 1.0]]))
    asked = settings(policy=open_arm, targets=[(user("a"), text)], run=Run(log=log))
    found = measure(["embedding_attack"], pool(SCORES), **asked)
    assert tuple(m.probe for m in found) == PROBES["embedding_attack"].gives
    assert measure(["embedding_attack"], pool(SCORES), **settings(policy=open_arm, run=Run(log=log))) == []
    assert measure(["embedding_attack"], pool(SCORES), **{**asked, "policy": Mute()}) == []
    assert [line.rpartition(": ")[2] for line in log.said if "left out" in line] == [
        "there are no harmful replies", "the arm has no embeddings of its own",
    ]  # fmt: skip


def test_every_fault_is_told_with_its_mend() -> None:
    names = ["winrate", "kl", "win_rate.dop", "lenght", "kl", "win_rate.", "win_rate.dpo", "length.cut"]
    faults = probe_faults(names, ["base", "dpo"], "probes")
    assert [fault.place for fault in faults] == [f"probes[{at}]" for at in (0, 2, 3, 4, 5, 7)]
    assert [fault.mend for fault in faults[:3]] == [
        "Did you mean 'win_rate'?",
        "Did you mean 'dpo'?",
        "Did you mean 'length'?",
    ]
    assert probe_faults([*PROBES, "win_rate.dpo"], ["dpo"], "probes") == []
    with pytest.raises(InputError) as refused:
        measure(["nonsense", "win_rate.nobody"], pool(SCORES), **settings())
    assert len(refused.value.faults) == 2


def test_importing_the_probes_does_not_import_torch() -> None:
    code = (
        "import pkgutil, importlib, sys, truing.probes as p\n"
        "for m in pkgutil.iter_modules(p.__path__): importlib.import_module('truing.probes.' + m.name)\n"
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
