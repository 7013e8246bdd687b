"""A comparison, from its recipe to its page: arms are made, asked the same prompts, measured, and let go."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from truing import report
from truing.core.artefact import write_text
from truing.core.errors import InputError, bad
from truing.core.policy import Policy
from truing.core.recipe import Point, Recipe, parse
from truing.core.run import Log, Quiet, Terminal
from truing.data.contract import Lengths
from truing.engine.processes import here, launched
from truing.methods._saved import load
from truing.pipeline import cluster
from truing.pipeline.arm import Made, Workshop
from truing.pipeline.asking import BASE
from truing.pipeline.checking import recipe_faults
from truing.pipeline.inputs import read_inputs
from truing.pipeline.records import Record
from truing.probes.pool import Pool


def cache_folder() -> Path:
    """Where what can be computed again is kept: ``$TRUING_CACHE``, else ``~/.cache/truing``."""
    return Path(os.environ.get("TRUING_CACHE") or Path.home() / ".cache" / "truing")


def run(recipe: Recipe, out: Path, *, resume: bool = False, ray: str | None = None) -> Path:
    """Run a comparison.

    Args:
        out: a new folder, or with ``resume`` one in which this recipe was begun.
        ray: the address of a Ray cluster whose workers make the arms, or ``local`` for one on this machine; they must
            see ``out``, the cache and the recipe's files under the same paths.

    Returns:
        The report page.

    Raises:
        InputError: every fault of recipe and data, before any work starts.
        RunError: it began and could not be finished.
    """
    if faults := recipe_faults(recipe):
        raise InputError(*faults)
    if ray is not None and launched() > 1:
        raise bad("--ray", "does not go with a launcher of several processes", "Start it as one process.")
    read_inputs(recipe)  # bad data is refused before a model loads; tokens are counted once the model is there
    began, log = time.monotonic(), Terminal()
    shop = workshop(recipe, out, resume=resume, log=log)
    main = shop.processes.main
    for name, ledger in shop.inputs.ledgers.items() if main else ():
        log.say(f"  {name}: {ledger.brief()}")
    record, points = Record(out), (BASE, *recipe.points)
    if shop.processes.once(lambda: record.open(recipe, shop.inputs, shop.base.fingerprint, resume=resume)):
        log.say("  finished already")
    else:
        pools: dict[str, Pool] = {}
        for made in in_turn(shop) if ray is None else cluster.arms(shop, ray):
            if made.pool is not None:
                pools[made.name] = made.pool
                record.arm(next(point for point in points if point.name == made.name), made)
        if main:
            gather(shop, points, pools)
            record.close(time.monotonic() - began, [point.name for point in points])
    if main:
        report.write([out])
    shop.processes.wait()
    return out / "report.html"


def workshop(recipe: Recipe, out: Path, *, resume: bool, log: Log) -> Workshop:
    """Load the model and read the data, as every process that works on a run must."""
    processes = here()
    log = log if processes.main else Quiet()
    log.say(f"{recipe.name}: {recipe.model}, {len(recipe.points)} arms")
    base = load(recipe.model, log=log, **({"adapter": recipe.adapter} if recipe.adapter else {}))
    inputs = read_inputs(recipe, **_limits(base))
    return Workshop(recipe, inputs, base, out, cache_folder(), resume, log, processes)


def in_turn(shop: Workshop) -> Iterator[Made]:
    """Shared steps, then every arm, here and one after another."""
    start, pools = shop.begin(), dict[str, Pool]()
    for number, point in enumerate((BASE, *shop.recipe.points)):
        if number:
            shop.log.say(f"arm {number} of {len(shop.recipe.points)}: {point.name}")
        made = shop.arm(point, start, {name: pools[name] for name in shop.needs(point) if name in pools})
        if made.pool is not None:
            pools[point.name] = made.pool
        yield made


def gather(shop: Workshop, points: Sequence[Point], pools: Mapping[str, Pool]) -> None:
    """The arms' measures and samples in one file each, in the recipe's order."""
    rows = [line for point in points for line in shop.file(point).read_text("utf-8").splitlines()]
    write_text(shop.out / "measures.jsonl", "\n".join(rows) + "\n")
    samples = shop.asking.samples({point.name: pools[point.name] for point in points})
    write_text(shop.out / "samples.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in samples))


def evaluate(
    model: str, *, probes: Sequence[str], out: Path, data: Mapping[str, object] | None, judge: str | None, seed: int
) -> Path:
    """Measure one model as it is.

    Returns:
        The report page.
    """
    raw: dict[str, Any] = {"model": model, "seed": seed, "probes": list(probes)}
    if data:
        raw["evaluate"] = dict(data) if "prompts" in data else {"prompts": data}
    else:
        raw["evaluate"] = {"prompts": "constraints"}
    if judge is not None:
        raw["judge"] = judge
    recipe = parse(raw, name=f"evaluate {model}")
    recipe = replace(recipe, faults=tuple(fault for fault in recipe.faults if fault.place != "arms"))
    return run(recipe, out)


def _limits(base: Policy) -> dict[str, Any]:
    """How the model counts tokens, and how many it takes."""
    template = getattr(base, "template", None)
    if template is None:
        return {}

    def measurer(chats: Any, replies: Any) -> list[Lengths]:
        return [Lengths(prompt, sizes) for prompt, sizes in template.lengths(chats, replies)]

    config = base.model.config.get_text_config()  # type: ignore[attr-defined] # a policy with a template is local
    return {"measurer": measurer, "longest": getattr(config, "max_position_embeddings", None)}
