"""Imports go one way only: each module has a number, and imports only from lower ones.

The imports are read from the syntax tree, so those inside functions and under ``TYPE_CHECKING`` count as well.
"""

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hf_rlsearch"

# The one table: a module or a folder (the longest name that fits counts) -> its layer; decimals order those inside one.
LAYERS: dict[str, float] = {
    "errors": 0,
    "_typing": 0,
    "_validation": 0,
    "_version": 0,
    "knowledge": 0.5,
    "presets": 1,
    "optim": 4,
    "space": 1,
    "history": 1.5,
    "storage": 1,
    "metrics": 1,
    "curve_features": 1,
    "tasks.prior_space": 1.6,
    "tasks.prior_axes": 1.7,
    "tasks.prior_architecture": 1.8,
    "tasks.prior_training": 1.85,
    "tasks.prior_generic": 1.8,
    "decision": 1,
    "tasks.prior": 2,
    "tasks.curves": 2,
    "observation": 2.5,
    "tasks": 2.7,
    "env": 3,
    "vec_env": 3.5,
    "stop_env": 3.6,
    "stopped_play": 3.7,
    "policy": 4,
    "weights": 4,
    "agent": 5,
    "predictor_training": 5,
    "stop_training": 5,
    "choice_training": 5.2,
    "meta_train": 5.5,
    "sampler.tried": 5.5,
    "sampler.spending": 5.5,
    "sampler": 6,
    "pruner": 6,
    "ray_tune": 6.5,
    "report": 6,
    "embedded": 6,
    "backend.confirm": 5,  # only statistics of trials; the report tells them too
    "backend": 7,
    "__init__": 8,
    "cli": 9,
    "__main__": 9.5,
}

# Who may name a library. One that is not here may be named by nobody.
MAY_NAME: dict[str, set[str]] = {
    "optuna": {"space", "history", "storage", "sampler", "pruner", "ray_tune", "report", "backend", "cli"},
    "ray": {"ray_tune"},
    "gymnasium": {"env", "vec_env", "stop_env", "policy", "agent"},
    "stable_baselines3": {"policy.sb3", "vec_env", "agent", "stop_training", "choice_training"},
    "transformers": {"backend", "cli.demo", "__init__", "metrics.text", "cli.inspect"},
    "accelerate": {"backend"},
    "datasets": {"embedded", "metrics", "backend", "cli.demo"},
    "evaluate": {"metrics"},
    "safetensors": {"weights", "policy", "agent", "predictor_training", "stop_training", "choice_training", "backend"},
    "pandas": {"backend"},
    "psutil": {"backend"},
    "altair": {"report"},
    "vl_convert": {"report"},
    "sklearn": {"metrics", "backend.prices"},
    "scipy": {"metrics"},
    "sacrebleu": {"metrics"},
    "rouge_score": {"metrics"},
    "typer": {"cli"},
    "rich": {"report", "backend", "cli"},
    "peft": {"backend"},
    "packaging": {"backend", "cli"},
    "tqdm": {"backend"},
    "wandb": {"backend"},
    "optuna_dashboard": {"backend"},
}
ANYWHERE = {"numpy"}
TORCH_FROM_LAYER = 4
TORCH_AS_WELL = {"metrics.text"}  # perplexity runs a language model, and loads torch when it does


def module_name(path: Path) -> str:
    """``hf_rlsearch/policy/sb3.py`` -> ``policy.sb3``; the package's own ``__init__`` keeps its name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def lookup(name: str, names: Collection[str]) -> str | None:
    """The longest entry that is `name` or a package above it."""
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in names), None)


def imports(source: str, package: str) -> Iterator[str]:
    """Absolute dotted names of everything that `source`, a module inside `package`, imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, package) if node.level else relative
            # `from hf_rlsearch import env` names the module env, `from hf_rlsearch.env import X` names env as well.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def problems(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """What `source`, as the module `name`, imports although it may not."""
    own = lookup(name, LAYERS)
    if own is None:
        return [f"{name} is in no layer: add it to LAYERS"]
    package = "hf_rlsearch" if name == "__init__" else f"hf_rlsearch.{name}"
    package = package if is_package else package.rpartition(".")[0]
    found = []
    for target in imports(source, package):
        top, _, rest = target.partition(".")
        if top == "hf_rlsearch":
            found += own_package_problem(name, own, rest)
        elif top not in sys.stdlib_module_names:
            found += library_problem(name, LAYERS[own], top)
    return found


def own_package_problem(name: str, own: str, rest: str) -> list[str]:
    target = lookup(rest, LAYERS) or "__init__"
    if target == own or LAYERS[target] < LAYERS[own]:
        return []
    return [f"{name} (layer {LAYERS[own]}) imports {rest or 'hf_rlsearch'} ({target}, layer {LAYERS[target]})"]


def library_problem(name: str, layer: float, library: str) -> list[str]:
    if library in ANYWHERE:
        return []
    if library == "torch":
        return [] if layer >= TORCH_FROM_LAYER or name in TORCH_AS_WELL else [f"{name} (layer {layer}) imports torch"]
    if library not in MAY_NAME:
        return [f"{name} imports {library}, which nobody may name: see MAY_NAME"]
    return (
        [] if lookup(name, MAY_NAME[library]) else [f"{name} imports {library}: only {sorted(MAY_NAME[library])} may"]
    )


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    assert problems(module_name(path), path.read_text(), is_package=path.name == "__init__.py") == []


def test_every_entry_of_the_table_exists() -> None:
    gone = [name for name in LAYERS if not list(PACKAGE.glob(f"{name.replace('.', '/')}*"))]
    assert gone == []


def test_every_library_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {re.match(r"[\w-]+", line).group().replace("-", "_") for line in project["dependencies"] + extras}  # type: ignore[union-attr]
    come_along = {"tqdm"}  # with optuna and transformers
    projects = {"sklearn": "scikit_learn", "vl_convert": "vl_convert_python"}
    named = {projects.get(name, name) for name in MAY_NAME} - come_along
    assert named | ANYWHERE | {"torch"} <= declared


@pytest.mark.parametrize(
    ("name", "source", "text"),
    [
        ("space", "from hf_rlsearch.sampler import RLSampler", "imports sampler"),
        ("space", "import torch", "imports torch"),
        ("env", "def f():\n    from hf_rlsearch import agent", "imports agent"),
        ("sampler", "import transformers", "imports transformers"),
        ("policy.network", "import stable_baselines3.ppo", "imports stable_baselines3"),
        ("brand_new", "import json", "is in no layer"),
        ("errors", "import hf_rlsearch", "layer 8"),
        ("metrics.text", "import requests", "nobody may name"),
        ("sampler.rl_sampler", "from ..backend import run", "imports backend"),
    ],
)
def test_the_check_can_fail(name: str, source: str, text: str) -> None:
    assert any(text in line for line in problems(name, source))


def test_equal_layers_do_not_import_each_other() -> None:
    assert problems("presets", "from hf_rlsearch.space import SearchSpace") != []
    assert problems("policy.sb3", "from hf_rlsearch.policy.network import Network") == []
