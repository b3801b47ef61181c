"""Imports go one way: a package imports only from the rows above its own, and no two modules import each other.

The imports are read from the syntax tree, so those inside functions and under ``TYPE_CHECKING`` count as well.
"""

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hf_rlsearch"

LAYERS: list[set[str]] = [
    {"errors", "_typing", "_validation", "_version"},
    {"space", "metrics", "embedded"},
    {"observation"},
    {"tasks"},
    {"envs", "agent"},
    {"optuna"},
    {"meta_training", "report"},
    {"trainer.session"},
    {"trainer.hyperparameters"},
    {"trainer.setup"},
    {"trainer.storage"},
    {"trainer.generation_tuning"},
    {"trainer.search"},
    {"trainer.api"},
    {"trainer.register", "integrations"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
RANK = {package: rank for rank, packages in enumerate(LAYERS) for package in packages}

# Packages that only these may import: the sampler runs without transformers, a space needs no torch.
MAY_IMPORT: dict[str, set[str]] = {
    "torch": {"metrics", "tasks", "envs", "agent", "meta_training", "trainer", "cli"},
    "transformers": {"metrics", "trainer", "cli"},
    "stable_baselines3": {"envs", "agent", "meta_training"},
    "gymnasium": {"envs", "agent", "meta_training"},
    "ray": {"integrations"},
    "altair": {"report"},
    "vl_convert": {"report"},
    "typer": {"cli"},
    "submitit": {"cli"},
    "evaluate": {"metrics"},
    "datasets": {"metrics", "embedded", "trainer", "cli"},
}
MOST_FILES_IN_A_FOLDER, MOST_FILES = 12, 155

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def package_of(module: str) -> str:
    """``trainer.search.loop`` -> ``trainer.search``; ``space.roles`` -> ``space``."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "trainer" and len(parts) > 1 else parts[0]


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Absolute dotted names of everything that `source`, the module `module` of our package, imports."""
    parent = f"hf_rlsearch.{module}" if is_package else f"hf_rlsearch.{module}".rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, parent) if node.level else relative
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_module(target: str) -> str | None:
    """The module of our package that an import loads, without ``hf_rlsearch.``; None for a library."""
    top, _, rest = target.partition(".")
    if top != "hf_rlsearch":
        return None
    parts = rest.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in MODULES), "__init__")


def problems(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What `source`, as the module `module`, imports although the tables forbid it."""
    package = package_of(module)
    if package not in RANK and package != "trainer":
        return [f"{module}: the package {package} is in no row of LAYERS"]
    found = []
    for target in imports(source, module, is_package=is_package):
        own, library = own_module(target), target.partition(".")[0]
        if own is not None:
            other = package_of(own)
            if other != package and RANK.get(other, -1) >= RANK.get(package, -1):
                found.append(f"{module} imports {own}, which is not above it in LAYERS")
        elif package.partition(".")[0] not in MAY_IMPORT.get(library, {package.partition(".")[0]}):
            found.append(f"{module} imports {library}: only {sorted(MAY_IMPORT[library])} may")
    return found


def graph() -> dict[str, set[str]]:
    """Which modules of our package each of them imports."""
    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        targets = imports(path.read_text(), module, is_package=path.name == "__init__.py")
        edges[module] = {own for target in targets if (own := own_module(target)) not in (None, module)}  # type: ignore[misc]
    return edges


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way(module: str) -> None:
    path = MODULES[module]
    assert problems(module, path.read_text(), is_package=path.name == "__init__.py") == []


def test_no_modules_import_each_other() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_the_entry_points_import_meta_training() -> None:
    users = [m for m, targets in graph().items() if any(package_of(t) == "meta_training" for t in targets)]
    assert {package_of(module) for module in users} <= {"meta_training", "__init__", "cli"}


def test_folders_stay_small() -> None:
    folders: dict[Path, int] = {}
    for path in MODULES.values():
        folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {str(folder): n for folder, n in folders.items() if n > MOST_FILES_IN_A_FOLDER} == {}
    assert len(MODULES) <= MOST_FILES


def test_every_row_exists() -> None:
    assert {package for package in RANK if not list(PACKAGE.glob(f"{package.replace('.', '/')}*"))} == set()


def test_every_library_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {re.match(r"[\w-]+", line).group().replace("-", "_") for line in project["dependencies"] + extras}  # type: ignore[union-attr]
    brought = {"tqdm", "yaml", "sqlalchemy"}  # dependencies of transformers and Optuna
    renamed = {"sklearn": "scikit_learn", "vl_convert": "vl_convert_python"}
    named = set()
    for module, path in MODULES.items():
        tops = {t.partition(".")[0] for t in imports(path.read_text(), module, is_package=path.name == "__init__.py")}
        named |= tops - sys.stdlib_module_names - {"hf_rlsearch"}
    assert {renamed.get(name, name) for name in named} - brought <= declared


@pytest.mark.parametrize(
    ("module", "source", "text"),
    [
        ("space.roles", "from hf_rlsearch.optuna import RLSampler", "not above it"),
        ("space.roles", "import torch", "imports torch"),
        ("envs.search_env", "def f():\n    from hf_rlsearch.trainer import api", "not above it"),
        ("agent.agent", "from hf_rlsearch.envs import search_env", "not above it"),
        ("trainer.setup.config", "from hf_rlsearch.trainer.search import loop", "not above it"),
        ("optuna.sampler", "import transformers", "imports transformers"),
        ("brand_new", "import json", "in no row"),
        ("errors", "from hf_rlsearch import cli", "not above it"),
        ("optuna.sampler", "from ..trainer.search import loop", "not above it"),
    ],
)
def test_the_check_can_fail(module: str, source: str, text: str) -> None:
    assert any(text in line for line in problems(module, source))
