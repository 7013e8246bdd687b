"""From what a recipe says to a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from truing.core.errors import bad, did_you_mean
from truing.core.evidence import Judge
from truing.core.policy import Policy, Sampling
from truing.data.promptset import PromptSet, load_promptset
from truing.judges.constraints import ConstraintJudge
from truing.judges.function import FunctionJudge, load_function
from truing.judges.remote import GREEDY, RemoteJudge
from truing.judges.wording import CRITERIA

KNOWN = ("constraints", "python", "remote")
_FORMS = "Write 'constraints', 'python:module:function', 'python:path.py:function' or {remote: {...}}."


def resolve_judge(
    spec: str | Mapping[str, object] | Judge,
    *,
    promptset: PromptSet | None = None,
    remote: Callable[[Mapping[str, object]], Policy] | None = None,
) -> Judge:
    """The judge that a recipe names.

    Args:
        spec: a judge; ``constraints`` (the shipped prompts, both splits, or ``promptset``); ``python:`` and a place
            as :class:`FunctionJudge` takes it (a :class:`Judge`, or a subclass that needs no arguments, may stand
            there too); or a mapping of one of ``constraints`` (a prompt set's name or file), ``python`` (a place)
            and ``remote`` (``criteria``, ``name`` and ``max_new_tokens`` are the judge's, all else the endpoint's).
        promptset: the prompts and constraints of this run, where they are not the shipped ones.
        remote: makes the policy of an endpoint from its settings.

    Raises:
        InputError: the spec names no judge, or what it names cannot be made.
    """
    if isinstance(spec, Judge):
        return spec
    if isinstance(spec, str):
        kind, _, value = spec.partition(":")
        return _make(kind, value or None, spec, promptset, remote)
    if isinstance(spec, Mapping) and len(spec) == 1:
        kind, settings = next(iter(spec.items()))
        return _make(str(kind), settings, str(kind), promptset, remote)
    raise bad("judge", f"{spec!r} names no judge", _FORMS)


def _make(
    kind: str,
    value: object,
    spec: str,
    promptset: PromptSet | None,
    remote: Callable[[Mapping[str, object]], Policy] | None,
) -> Judge:
    if kind == "constraints" and (value is None or isinstance(value, str)):
        chosen = load_promptset(value) if value is not None else promptset or load_promptset()
        return ConstraintJudge(cast(Mapping[str, Any], chosen.constraints))
    if kind == "python" and isinstance(value, str):
        return _python(value)
    if kind == "remote" and isinstance(value, Mapping):
        return _remote(value, remote)
    if kind in KNOWN:
        raise bad("judge", f"{spec!r} is not complete", _FORMS)
    raise bad("judge", f"there is no judge {spec!r}", did_you_mean(spec, KNOWN))


def _python(place: str) -> Judge:
    found = load_function(place)
    if isinstance(found, Judge):
        return found
    if isinstance(found, type) and issubclass(found, Judge):
        return found()
    return FunctionJudge(found, name=f"python:{place}")


def _remote(settings: Mapping[str, object], make: Callable[[Mapping[str, object]], Policy] | None) -> Judge:
    if make is None:
        raise bad("judge", "no endpoint can be reached from here", "Pass a RemoteJudge, or a judge that runs locally.")
    own = {"criteria": CRITERIA, "name": "remote", "max_new_tokens": GREEDY.max_new_tokens}
    own |= {key: settings[key] for key in own if key in settings}
    tokens = own["max_new_tokens"]
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        raise bad("judge", f"remote: max_new_tokens = {tokens!r}: should be a whole number of at least 1")
    policy = make({key: value for key, value in settings.items() if key not in own})
    sampling = Sampling(temperature=0.0, max_new_tokens=tokens)
    return RemoteJudge(policy, name=str(own["name"]), criteria=str(own["criteria"]), sampling=sampling)
