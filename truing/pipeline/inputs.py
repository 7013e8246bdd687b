"""What a recipe names, read: evidence, held-out prompts and the judge, with an account of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from truing.core.errors import Fault, InputError, bad
from truing.core.evidence import Evidence, Pair
from truing.core.policy import Chat, Reply
from truing.core.recipe import Recipe
from truing.data.contract import Ledger, Lengths, Measurer
from truing.data.facts import FactSet, load_facts
from truing.data.load import load, prompt_of
from truing.data.promptset import PromptSet, load_promptset
from truing.data.questions import Question, load_questions
from truing.data.refusals import RefusalSet, load_refusals
from truing.data.shapes import Kind
from truing.methods._saved import make_judge
from truing.models.template import Template
from truing.probes.catalogue import SILENT

SHIPPED = "constraints"
HELD_OUT = 0.1  # of the prompts, where the recipe names none to evaluate on
DERIVED = 64  # prompts, at most, to evaluate on where the recipe sets no limit


@dataclass
class Inputs:
    """Everything but models.

    Attributes:
        evidence: for the methods; donors are added by arm.
        prompts: held-out prompts that every arm is asked.
        pairs: held-out pairs whose replies every arm is asked to weigh.
        facts: what unlearning is measured on; None where the recipe names none.
        questions: with choices, where an arm is to be asked any.
        targets: held-out prompts with replies that nobody wants, for attacks.
        refusals: prompts that should and that should not be refused; None where the recipe names none.
        ledgers: by field, what became of the rows.
        digests: by field, SHA-256 of the rows that are used.
        notes: what a reader must know of how the data was used.
    """

    evidence: Evidence = field(default_factory=Evidence)
    prompts: Sequence[Chat] = ()
    pairs: Sequence[Pair] = ()
    facts: FactSet | None = None
    questions: Sequence[Question] = ()
    targets: Sequence[tuple[Chat, Reply]] = ()
    refusals: RefusalSet | None = None
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_inputs(recipe: Recipe, *, measurer: Measurer | None = None, longest: int | None = None) -> Inputs:
    """Read every source of a recipe.

    Args:
        measurer: counts tokens; without one nothing is refused for its length.
        longest: most tokens of a row where the recipe does not say: the model's context.

    Raises:
        InputError: every fault of every source at once.
    """
    inputs, faults = Inputs(), []
    derive = recipe.evaluate["prompts"] is None and "prompts" not in recipe.data  # prompts come from what is held out
    for name, spec in recipe.data.items():
        try:
            if name == "principles":
                inputs.evidence = inputs.evidence.merged(Evidence(principles=_principles(spec)))
                continue
            _read(inputs, name, spec, recipe, measurer, longest, derive=derive)
        except InputError as error:
            faults += [Fault(fault.place or f"data.{name}", fault.fact, fault.mend) for fault in error.faults]
    for place, gather in _GATHERED:
        try:
            gather(inputs, recipe, measurer, longest)
        except InputError as error:
            faults += [Fault(fault.place or f"evaluate.{place}", fault.fact, fault.mend) for fault in error.faults]
    if recipe.evaluate["prompts"] is None and not set(recipe.probes) - SILENT:
        inputs.prompts = []  # no probe hears an arm, and replies would cost more than a short training
        inputs.digests.pop("evaluate", None)
    if recipe.judge is not None:
        try:
            judge = make_judge(recipe.judge)
            inputs.evidence = inputs.evidence.merged(Evidence(judge=judge))
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*faults)
    return inputs


def token_limits(template: Template, context: int | None) -> dict[str, Any]:
    """How a model counts tokens, and how many it takes: what :func:`read_inputs` measures rows by."""

    def measurer(chats: Any, replies: Any) -> list[Lengths]:
        return [Lengths(prompt, sizes) for prompt, sizes in template.lengths(chats, replies)]

    return {"measurer": measurer, "longest": context}


def _read(
    inputs: Inputs,
    name: str,
    spec: Any,
    recipe: Recipe,
    measurer: Measurer | None,
    longest: int | None,
    *,
    derive: bool,
) -> None:
    if (shipped := _shipped(spec, "train")) is not None:
        if name != "prompts":
            raise bad(f"data.{name}", f"the shipped set {SHIPPED!r} has prompts only", "Write 'data.prompts'.")
        inputs.evidence = inputs.evidence.merged(Evidence(prompts=shipped.prompts))
        inputs.digests[name] = shipped.digest
        return
    kind = cast(Kind, name)
    given = dict(spec) if isinstance(spec, Mapping) and "source" in spec else {"source": spec}
    splits = name in ("pairs", "lists", "demos", "ratings")
    if derive and splits and _uses_held_out(recipe):
        given.setdefault("hold_out", HELD_OUT)
    limit = None if "max_length" in given or kind in ("contrasts", "texts") else longest
    loaded = load(kind, given, measurer=measurer, max_length=limit, place=f"data.{name}").at_least(1)
    found: dict[str, Any] = {name: loaded.rows}
    inputs.evidence = inputs.evidence.merged(Evidence(**found))
    inputs.ledgers[name], inputs.digests[name] = loaded.ledger, loaded.digest
    share = given.get("hold_out")
    if not splits or not share or given.get("side") == "held_out":
        return
    other = load(kind, {**given, "side": "held_out"}, measurer=measurer, max_length=limit, place=f"data.{name}")
    if name == "pairs" and recipe.evaluate["pairs"] is None:
        inputs.pairs, inputs.digests["evaluate.pairs"] = other.rows, other.digest
    if derive and not inputs.prompts:
        inputs.prompts = list(dict.fromkeys(prompt_of(row) for row in other.rows))[: _limit(recipe)]
        inputs.digests["evaluate"] = other.digest
        if inputs.prompts:
            inputs.notes.append(f"{share:.0%} of the prompts of {name} are held out, and evaluated on")
        else:
            inputs.notes.append(f"{name} has too few prompts to hold any out; name some under evaluate.prompts")


def _uses_held_out(recipe: Recipe) -> bool:
    """Whether some probe is of prompts, or of pairs, that would be held out: else all rows are trained on."""
    weighed = "preference" in recipe.probes and "pairs" in recipe.data and recipe.evaluate["pairs"] is None
    return weighed or bool(set(recipe.probes) - SILENT)


def _pairs(inputs: Inputs, recipe: Recipe, measurer: Measurer | None, longest: int | None) -> None:
    """The pairs that ``evaluate`` names; those that training holds out are there already."""
    spec = recipe.evaluate["pairs"]
    if spec is None:
        return
    limit = None if isinstance(spec, Mapping) and "max_length" in spec else longest
    loaded = load("pairs", spec, measurer=measurer, max_length=limit, place="evaluate.pairs").at_least(1)
    inputs.pairs, inputs.ledgers["evaluate.pairs"] = loaded.rows, loaded.ledger
    inputs.digests["evaluate.pairs"] = loaded.digest


def _prompts(inputs: Inputs, recipe: Recipe, measurer: Measurer | None, longest: int | None) -> None:
    """The prompts that ``evaluate`` names, or else those of the data."""
    spec = recipe.evaluate["prompts"]
    if spec is None and _shipped(recipe.data.get("prompts"), "train") is not None:
        spec = {"source": SHIPPED, "split": "test"}
    if spec is None:
        if inputs.evidence.prompts:
            inputs.prompts = list(inputs.evidence.prompts)[: _limit(recipe)]
        return
    if (shipped := _shipped(spec, "test")) is not None:
        inputs.prompts, inputs.digests["evaluate"] = shipped.prompts[: _limit(recipe)], shipped.digest
        return
    loaded = load("prompts", spec, place="evaluate.prompts").at_least(1)
    inputs.prompts = list(dict.fromkeys(loaded.rows))[: _limit(recipe)]
    inputs.ledgers["evaluate"], inputs.digests["evaluate"] = loaded.ledger, loaded.digest


def _facts(inputs: Inputs, recipe: Recipe, measurer: Measurer | None, longest: int | None) -> None:
    """What unlearning is measured on."""
    if (spec := recipe.evaluate["facts"]) is not None:
        inputs.facts = load_facts(spec, "evaluate.facts")
        inputs.digests["facts"] = inputs.facts.digest


def _questions(inputs: Inputs, recipe: Recipe, measurer: Measurer | None, longest: int | None) -> None:
    """What ``multiple_choice`` asks: the shipped questions, or those that ``evaluate`` names."""
    if "multiple_choice" in recipe.probes:
        given = load_questions(recipe.evaluate["questions"], "evaluate.questions")
        inputs.questions, inputs.digests["questions"] = given.questions, given.digest


def _targets(inputs: Inputs, recipe: Recipe, measurer: Measurer | None, longest: int | None) -> None:
    """Replies that nobody wants, which attacks lead to."""
    if (spec := recipe.evaluate["targets"]) is None:
        return
    limit = None if isinstance(spec, Mapping) and "max_length" in spec else longest
    loaded = load("demos", spec, measurer=measurer, max_length=limit, place="evaluate.targets").at_least(1)
    inputs.targets = [(row.prompt, row.reply) for row in loaded.rows]
    inputs.ledgers["targets"], inputs.digests["targets"] = loaded.ledger, loaded.digest


def _refusals(inputs: Inputs, recipe: Recipe, measurer: Measurer | None, longest: int | None) -> None:
    """What should and what should not be refused."""
    if (spec := recipe.evaluate["refusal"]) is not None:
        inputs.refusals = load_refusals(spec, "evaluate.refusal")
        inputs.digests["refusal"] = inputs.refusals.digest


_GATHERED = (
    ("prompts", _prompts), ("pairs", _pairs), ("facts", _facts), ("targets", _targets), ("refusal", _refusals),
    ("questions", _questions),
)  # fmt: skip


def _limit(recipe: Recipe) -> int:
    return int(recipe.evaluate["limit"] or DERIVED)


def _shipped(spec: Any, split: str) -> PromptSet | None:
    """The shipped prompt set, where that is what a source names."""
    source = spec.get("source") if isinstance(spec, Mapping) else spec
    if source != SHIPPED:
        return None
    found = load_promptset(SHIPPED, spec.get("split", split) if isinstance(spec, Mapping) else split)
    limit = spec.get("limit") if isinstance(spec, Mapping) else None
    if limit is None:
        return found
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise bad("", f"limit = {limit!r}", "Give a number of rows, 1 or more.")
    return PromptSet(found.prompts[:limit], found.ids[:limit], found.constraints, f"{found.digest}[:{limit}]")


def _principles(spec: Any) -> tuple[str, ...]:
    if isinstance(spec, list) and spec and all(isinstance(item, str) for item in spec):
        return tuple(spec)
    raise bad("data.principles", f"is {spec!r}", "Give a list of sentences.")
