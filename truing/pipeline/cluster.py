"""The arms of a comparison as tasks of a Ray cluster: Ray places and orders them, and repeats those that are lost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from truing.core.artefact import save_policy
from truing.core.errors import RunError, bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.policy import Policy
from truing.core.recipe import Recipe
from truing.core.run import Terminal
from truing.methods._saved import load
from truing.pipeline.arm import Made, Workshop
from truing.pipeline.asking import BASE

LOCAL = "local"
RETRIES = 3  # of an arm whose worker died; what it had saved is taken up
PASSED = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "MKL_CBWR", "TOKENIZERS_PARALLELISM")


@dataclass(frozen=True)
class Site:
    """What a worker must know to stand where the driver stands. Its paths are the same on every machine.

    Attributes:
        home: the working folder, from which a recipe's paths count.
        environment: variables that decide where models are found and how sums are done.
        threads: processor threads an arm.
    """

    recipe: Recipe
    out: Path
    home: Path
    environment: Mapping[str, str]
    threads: int

    def workshop(self) -> Workshop:
        """The same workshop as the driver's, in this process. What was begun is always taken up."""
        from truing.pipeline.study import workshop

        os.environ.update(self.environment)
        os.chdir(self.home)
        torch.set_num_threads(self.threads)
        return workshop(self.recipe, self.out, resume=True, log=Terminal())


@dataclass(frozen=True)
class Begun:
    """What shared steps gave: a folder where they gave a policy, and evidence but for models and the judge."""

    folder: Path | None
    evidence: Evidence


def arms(shop: Workshop, address: str) -> Iterator[Made]:
    """Every arm, as soon as it is done.

    Args:
        address: of a cluster, as Ray takes it, or ``local`` to start one on this machine.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
        RunError: an arm failed, or its worker died once too often.
    """
    try:
        import ray
    except ImportError as error:
        raise bad("--ray", "needs Ray, which is not installed", "Run: pip install 'truing[ray]'") from error
    try:
        ray.init(address=None if address == LOCAL else address, include_dashboard=False if address == LOCAL else None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise bad(
            "--ray", f"no cluster at {address!r} ({error})", "Start one with 'ray start', or say local."
        ) from error
    try:
        yield from _each(shop, _site(shop), ray)
    finally:
        ray.shutdown()


def _site(shop: Workshop) -> Site:
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    environment = {**passed, "TRUING_CACHE": str(shop.cache.resolve())}
    return Site(shop.recipe, shop.out.resolve(), Path.cwd(), environment, torch.get_num_threads())


def _each(shop: Workshop, site: Site, ray: Any) -> Iterator[Made]:
    threads = min(site.threads, max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
    place = {"num_cpus": threads, "num_gpus": int("GPU" in ray.cluster_resources()), "max_retries": RETRIES}
    task, start = ray.remote(_arm), None
    if shop.recipe.shared:
        start = ray.remote(_begin).options(**place, name="shared steps").remote(site)
    refs: dict[str, Any] = {}
    for point in (BASE, *shop.recipe.points):
        needed = [refs[name] for name in shop.needs(point)]
        refs[point.name] = task.options(**place, name=point.name).remote(site, point.name, start, *needed)
    names = {ref: name for name, ref in refs.items()}
    while names:
        (ref,), _ = ray.wait(list(names), num_returns=1)
        name = names.pop(ref)
        try:
            made = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise RunError(f"{name}: its worker was lost {RETRIES + 1} times ({error})") from error
        shop.log.say(f"{name}: done, {len(names)} of {len(refs)} to go")
        yield made


def _begin(site: Site) -> Begun:
    """The shared steps, in a worker."""
    shop = site.workshop()
    folder = site.out / "work" / "start"
    policy, evidence = shop.begin()
    evidence = replace(evidence, judge=None, donors={})
    if policy is shop.base:
        return Begun(None, evidence)
    if not folder.exists():
        save_policy(policy, folder)
    return Begun(folder, evidence)


def _arm(site: Site, name: str, begun: Begun | None, *needed: Made) -> Made:
    """One arm, in a worker."""
    shop = site.workshop()
    start = (shop.base, shop.inputs.evidence) if begun is None else _started(shop, begun)
    point = next(point for point in (BASE, *shop.recipe.points) if point.name == name)
    return shop.arm(point, start, {made.name: made.pool for made in needed if made.pool is not None})


def _started(shop: Workshop, begun: Begun) -> tuple[Policy, Evidence]:
    evidence = shop.inputs.evidence.merged(begun.evidence)
    if begun.folder is None:
        return shop.base, evidence
    policy: Any = load(str(begun.folder), log=shop.log)
    policy.origin = None  # a part of this run, which an artefact holds a copy of instead of naming it
    return policy, evidence
