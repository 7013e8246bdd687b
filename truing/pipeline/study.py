"""A comparison, from its recipe to its page: arms are made, asked the same prompts, measured, and let go."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from truing import report
from truing.core.errors import InputError, bad
from truing.core.files import sweep, told, write_text
from truing.core.recipe import Point, Recipe, parse
from truing.core.run import Log, Quiet, Terminal
from truing.engine.processes import here, launched
from truing.methods._saved import load
from truing.models.local import Local
from truing.pipeline import cluster
from truing.pipeline.arm import Made, Workshop
from truing.pipeline.asking import BASE
from truing.pipeline.checking import recipe_faults
from truing.pipeline.inputs import read_inputs, token_limits
from truing.pipeline.records import Record, folder_faults
from truing.probes.catalogue import SILENT
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
    if ray is not None and launched() > 1:
        raise bad("--ray", "does not go with a launcher of several processes", "Start it as one process.")
    # Of several processes, the main one looks at the folder, before it begins to write into it.
    if faults := here().once(lambda: [*recipe_faults(recipe), *folder_faults(recipe, out, resume=resume)]):
        raise InputError(*faults)
    read_inputs(recipe)  # bad data is refused before a model loads; tokens are counted once the model is there
    with _alone(out):
        return _run(recipe, out, resume=resume, ray=ray)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the lock goes with the process, however that ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(out / ".lock", blocking=False)

    def take() -> None:
        with told(out):
            out.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:
                mend = "Wait until it is done, stop it, or give another --out."
                raise bad(str(out), "is being written to by another run", mend) from error

    here().once(take)
    try:
        yield
    finally:
        lock.release()


def _run(recipe: Recipe, out: Path, *, resume: bool, ray: str | None) -> Path:
    began, log = time.monotonic(), Terminal()
    shop = workshop(recipe, out, resume=resume, log=log)
    main = shop.processes.main
    for name, ledger in shop.inputs.ledgers.items() if main else ():
        log.say(f"  {name}: {ledger.brief()}")
    record, points = Record(out), (BASE, *recipe.points)
    if shop.processes.once(lambda: _opened(record, shop)):
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
        for part in ("shared", "arms"):  # checkpoints of a run that is done
            shutil.rmtree(out / "work" / part, ignore_errors=True)
        report.write([out])
    shop.processes.wait()
    return out / "report.html"


def _opened(record: Record, shop: Workshop) -> bool:
    """Begin or take up a run, and remove what killed processes left; whether it was finished already."""
    finished = record.open(shop.recipe, shop.inputs, shop.base.fingerprint)
    sweep(shop.out)
    return finished


def workshop(recipe: Recipe, out: Path, *, resume: bool, log: Log) -> Workshop:
    """Load the model and read the data, as every process that works on a run must."""
    processes = here()
    log = log if processes.main else Quiet()
    log.say(f"{recipe.name}: {recipe.model}, {len(recipe.points)} arms")
    base = load(recipe.model, log=log, adapter=recipe.adapter, load_in_4bit=recipe.load_in_4bit)
    inputs = read_inputs(recipe, **(token_limits(base.template, base.context) if isinstance(base, Local) else {}))
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
    raw["evaluate"] = dict(data or {})
    if set(probes) - SILENT:
        raw["evaluate"].setdefault("prompts", "constraints")
    if judge is not None:
        raw["judge"] = judge
    recipe = parse(raw, name=f"evaluate {model}")
    recipe = replace(recipe, faults=tuple(fault for fault in recipe.faults if fault.place != "arms"))
    return run(recipe, out)
