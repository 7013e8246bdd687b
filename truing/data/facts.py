"""Questions with known answers, on which it is measured what was forgotten and what is left."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from truing.core.errors import Fault, InputError, bad
from truing.core.method import coerce, field_faults
from truing.data.strict import every_row

FORGET, RETAIN = "forget", "retain"
Mean = Literal["arithmetic", "geometric"]


@dataclass(frozen=True)
class Fact:
    """A question and what may be said to it.

    Attributes:
        answer: the true one, as it was taught.
        paraphrase: the true one in other words; where a row has none, the answer.
        perturbed: false answers of the same form, at least one.
        split: ``forget``, ``retain``, or any other name, such as ``authors`` or ``facts``.
    """

    question: str
    answer: str
    paraphrase: str
    perturbed: tuple[str, ...]
    split: str


@dataclass(frozen=True, kw_only=True)
class FactSettings:
    """How facts are asked about.

    Attributes:
        retrained: a model that never saw what was to be forgotten, by name or folder; ``forget_quality`` needs it.
        utility_mean, quality_mean: over a fact's false answers, of their probabilities a token, in the truth ratio of
            ``model_utility`` and of ``forget_quality``. The defaults are those of TOFU's code; NPO's has ``geometric``
            in both. Numbers of two kinds of mean are not comparable.
        max_new_tokens: the longest generated answer, tokens.
    """

    retrained: str = ""
    utility_mean: Mean = "arithmetic"
    quality_mean: Mean = "geometric"
    max_new_tokens: Annotated[int, Ge(1)] = 64


@dataclass(frozen=True)
class FactSet:
    """Facts, how to ask about them, and a hash of both."""

    facts: Sequence[Fact]
    settings: FactSettings
    digest: str

    def of(self, split: str) -> list[Fact]:
        """The facts of one split, in order."""
        return [fact for fact in self.facts if fact.split == split]

    @property
    def kept(self) -> list[str]:
        """The splits that are not to be forgotten, in the order of their first fact."""
        return [split for split in dict.fromkeys(fact.split for fact in self.facts) if split != FORGET]


def load_facts(spec: object, place: str) -> FactSet:
    """Read facts: a source of rows, or a mapping with ``source`` and the fields of :class:`FactSettings`.

    A row has ``question``, ``answer``, ``perturbed`` (a text or a list of them), ``split`` and perhaps ``paraphrase``.
    None is left out: a measure over other questions is another measure.

    Raises:
        InputError: every fault of settings and rows at once.
    """
    given = dict(spec) if isinstance(spec, Mapping) else {"source": spec}
    source = given.pop("source", None)
    faults = field_faults(FactSettings, given, place)
    if source is None:
        raise InputError(*faults, Fault(place, "names no source", "Add 'source: FILE'."))
    facts, wrong = every_row(source, place, _row_faults, _fact)
    faults += wrong
    if faults:
        raise InputError(*faults)
    if not facts:
        raise bad(place, "has no rows", "Give at least one question.")
    told = json.dumps([[vars(fact) for fact in facts], given], ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
    return FactSet(tuple(facts), FactSettings(**coerce(FactSettings, given)), digest)


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case; nothing is stemmed."""
    return re.findall(r"\w+", text.lower())


def _fact(row: Mapping[str, Any]) -> Fact:
    false = row["perturbed"]
    perturbed = (false,) if isinstance(false, str) else tuple(false)
    return Fact(row["question"], row["answer"], row.get("paraphrase") or row["answer"], perturbed, row["split"])


def _row_faults(row: Mapping[str, object], place: str) -> list[Fault]:
    faults = [
        Fault(place, f"{key!r} is {row.get(key)!r}", "Give a text with a word in it.")
        for key in ("question", "answer", "split")
        if not _says(row.get(key))
    ]
    if row.get("paraphrase") is not None and not _says(row["paraphrase"]):
        faults.append(Fault(place, f"'paraphrase' is {row['paraphrase']!r}", "Give a text, or leave it out."))
    false = row.get("perturbed")
    texts = [false] if isinstance(false, str) else false
    if not isinstance(texts, list | tuple) or not texts or not all(map(_says, texts)):
        faults.append(Fault(place, f"'perturbed' is {false!r}", "Give one false answer or a list of them."))
    return faults


def _says(value: object) -> bool:
    return isinstance(value, str) and bool(words(value))
