"""The rules of the house, held by reading the sources: layers, sizes, names, docstrings, and a light start."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import truing
from truing.core.method import find, names
from truing.core.recipe import load_recipe
from truing.pipeline import checking

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    "machine", "core", "engine", "units", "logic", "data", "models", "judges", "methods", "probes", "report",
    "pipeline", "arguments", "terminal", "manual", "cli", "__main__",
)  # fmt: skip
"""From the bottom up: a module imports from its own layer and from those before it."""
FOUND_BY_NAME = {("truing.core.method", "truing.methods")}
"""The catalogue looks into the folder of methods to find them; nothing in it is imported by name."""
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "deepspeed",
    "peft",
    "bitsandbytes",
    "plotly",
    "pyarrow",
    "pandas",
    "scipy",
    "ot",
    "ray",
)
LONGEST = 300


def sources(*folders: str) -> list[Path]:
    """Every Python file below some folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


PACKAGE = sources("truing")
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in PACKAGE}


def imported(module: str, path: Path) -> Iterator[str]:
    """The modules of this package that a module imports anywhere: at its top, in a function, or for types only."""
    parents = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "truing")
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names if source.split(".")[0] == "truing" else []:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES else source


def layer(module: str) -> int:
    """The place of a module from the bottom up; the package itself, which offers all of it, is at the top."""
    return LAYERS.index(module.split(".")[1]) if "." in module else len(LAYERS)


IMPORTS = [(module, other) for module, path in MODULES.items() for other in imported(module, path)]


def test_the_sources_are_seen() -> None:
    """A search that finds nothing proves nothing."""
    assert len(PACKAGE) > 60
    assert len(IMPORTS) > 200
    assert ("truing.methods.preference.dpo", "truing.methods.preference._family") in IMPORTS
    assert ("truing.cli", "truing.terminal") in IMPORTS


def test_every_part_has_a_place_among_the_layers() -> None:
    assert {module.split(".")[1] for module in MODULES if "." in module} == set(LAYERS)


def test_imports_point_down_only() -> None:
    upward = {(module, other) for module, other in IMPORTS if other != "truing" and layer(other) > layer(module)}
    assert upward - FOUND_BY_NAME == set()


def test_only_the_version_is_taken_from_the_package_itself() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "truing" and module != "truing":
                own = {alias.name for alias in node.names if f"truing.{alias.name}" not in MODULES}
                assert own <= {"__version__"}, module


def test_methods_never_import_each_other() -> None:
    """What two need is in a file whose name begins with an underscore, or in the engine."""
    members = {f"truing.methods.{name.replace('/', '.')}" for name in names()}
    assert len(members) >= 6
    assert [
        (module, other) for module, other in IMPORTS if module.startswith("truing.methods") and other in members
    ] == []


def test_no_file_is_long() -> None:
    long = {str(path.relative_to(ROOT)): count for path in sources("truing", "tests", "benchmarks")
            if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST}  # fmt: skip
    assert long == {}


@pytest.mark.parametrize("name", names())
def test_every_method_has_a_test_file_a_paper_and_a_dial(name: str) -> None:
    family, member = name.split("/")
    card = find(name).card
    assert (ROOT / "tests" / "methods" / family / f"test_{member}.py").is_file()
    assert re.match(r"arXiv:\d{4}\.\d{4,5}$|doi:10\.\d{4,}/\S+$|.*\b(19|20)\d\d\b", card.paper), card.paper
    assert card.dial in card.fields
    assert card.neutral
    assert card.summary


RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.name))
def test_every_recipe_passes_the_check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert checking.check(load_recipe(path)).lines


ELSEWHERE = re.compile(r"(?<![\w.~])/(?:work|root|home|tmp)/|\.\./shared|\b(?:peers|design|style|brief)[.]md\b")
"""Paths of one machine, and pages that are not in this project."""
WRITTEN = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".cfg", ".html", ".css", ".js"}


def test_nothing_points_outside_the_project() -> None:
    folders = ("truing", "tests", "recipes", "benchmarks", "docs", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    read = [path for path in files if path.suffix in WRITTEN or path.name in ("Makefile", "run")]
    assert {ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "README.md", *PACKAGE} <= set(read)
    assert {str(path): found for path in read if (found := ELSEWHERE.findall(path.read_text(encoding="utf-8")))} == {}


def test_every_public_name_has_a_docstring() -> None:
    bare = []
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
        bare += [f"{module}.{getattr(n, 'name', '')}" for n in (tree, *public) if not ast.get_docstring(n)]
    assert bare == []


def test_every_silenced_check_says_why() -> None:
    said = re.compile(r"#\s*(?:noqa: ?[A-Z]+\d+|type: ?ignore\[[\w, -]+\])(?:,? [A-Z]+\d+)*\s+\W?\s*\w[\w ']+")
    silenced = [line.strip() for path in PACKAGE for line in path.read_text(encoding="utf-8").splitlines()
                if re.search(r"#\s*(?:noqa|type: ?ignore)", line)]  # fmt: skip
    assert silenced
    assert [line for line in silenced if not said.search(line)] == []


def test_no_input_is_checked_by_assert() -> None:
    """``python -O`` drops them; what a user can get wrong is raised."""
    held = [module for module, path in MODULES.items() for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Assert)]  # fmt: skip
    assert held == []


def test_the_examples_in_docstrings_run() -> None:
    outcomes = [
        doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
        for module in MODULES
        if module != "truing.__main__"
    ]
    assert sum(outcome.attempted for outcome in outcomes) >= 8
    assert sum(outcome.failed for outcome in outcomes) == 0


EVERYTHING = [m.name for m in pkgutil.walk_packages(truing.__path__, "truing.") if m.name != "truing.__main__"]
LIGHT = {
    "import truing": "import truing",
    "truing methods": "from truing.cli import main; main(['methods'])",
    "truing check": "from truing.cli import main; main(['check', 'recipes/quickstart.yaml'])",
    "every module": "import importlib\nfor name in " + repr(EVERYTHING) + ": importlib.import_module(name)",
}


@pytest.mark.parametrize("program", LIGHT.values(), ids=LIGHT)
def test_nothing_heavy_is_imported_before_it_is_needed(program: str) -> None:
    told = f"{program}\nimport sys; print('HEAVY', *({set(HEAVY)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY"
