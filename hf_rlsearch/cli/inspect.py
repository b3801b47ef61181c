"""Runs ``space``, ``weights`` and ``doctor``, which show search spaces, the agent and the installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement

from hf_rlsearch.cli.load import load_function
from hf_rlsearch.errors import ArgumentsError, HfRlSearchError

_DISTRIBUTION = "hf-rlsearch"
# The modules of transformers that the backend extends.
_EXTENDED = ("trainer_utils", "hyperparameter_search", "trainer")


def show_space(
    target: Annotated[
        str, typer.Argument(help="A model family such as bert, or your function: file.py:hp_space or module:hp_space.")
    ],
    model_init: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:NAME", help="Your model_init(trial), if it suggests hyperparameters too."),
    ] = None,
    n_points: Annotated[int | None, typer.Option(help="Levels of every numeric hyperparameter.")] = None,
) -> None:
    """Show the discretized space of a model family or of your hp_space."""
    from rich.console import Console
    from rich.table import Table

    from hf_rlsearch.report.format import show
    from hf_rlsearch.space import SearchSpace
    from hf_rlsearch.space.presets import MODEL_TYPES, preset

    is_function = ":" in target
    if not is_function and target not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ArgumentsError(f"{target!r} is no model family ({known}). Name a function as file.py:hp_space.")
    hp_space = load_function(target) if is_function else preset(target).hp_space
    space = SearchSpace.from_functions(hp_space, load_function(model_init) if model_init else None, n_points=n_points)
    if not is_function and not n_points:
        space = space.with_levels(preset(target).published)
    table = Table(title=f"{len(space.hyperparameters)} hyperparameters, {space.n_candidates:,} candidates")
    for column in ("hyperparameter", "role", "levels", "values"):
        table.add_column(column, justify="right" if column == "levels" else "left", overflow="fold")
    for h in space.hyperparameters:
        role = h.role + (" (conditional)" if h.conditional else "")
        table.add_row(h.name, role, str(len(h.levels)), ", ".join(map(show, h.levels)))
    Console().print(table)


def show_weights(
    weights: Annotated[str | None, typer.Argument(help="A bundled name or a .safetensors file.")] = None,
) -> None:
    """List the bundled weights of the agent, or show their card."""
    from hf_rlsearch.agent.checkpoint import BUNDLED, load_weights, resolve

    if weights is not None:
        print(load_weights(weights)[1].to_json())
        return
    for i, name in enumerate(BUNDLED):
        card = load_weights(name)[1]
        size = resolve(name).stat().st_size
        default = ", default" if i == 0 else ""
        print(f"{name}  {size / 1e6:.1f} MB, observation format {card.observation_format}, prior {card.prior}{default}")


def check_installation() -> None:
    """Show versions, what is installed, and what works offline."""
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    failures = 0
    for line, good in [*_libraries(), *_checks()]:
        print(f"{'ok  ' if good else 'FAIL'} {line}")
        failures += not good
    for extra in importlib.metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []:
        missing = [r.name for r in _requirements(extra) if _installed(r.name) is None]
        print(f"     extra [{extra}]: " + (f"without {', '.join(missing)}" if missing else "complete"))
    print("All is well." if not failures else f"{failures} problem{'s' if failures > 1 else ''}.")
    if failures:
        raise typer.Exit(1)


def _libraries() -> Iterator[tuple[str, bool]]:
    """Yields a line for each required library, and whether a version that fits is installed."""
    for wanted in _requirements():
        version = _installed(wanted.name)
        good = version is not None and wanted.specifier.contains(version, prereleases=True)
        yield f"{wanted.name} {version or 'is missing'} (needs {wanted.specifier or 'any'})", good


def _requirements(extra: str = "") -> list[Requirement]:
    """Returns the requirements of every installation, or those that an extra adds."""

    def applies(wanted: Requirement, extra: str) -> bool:
        return wanted.marker is None or wanted.marker.evaluate({"extra": extra})

    found = map(Requirement, importlib.metadata.requires(_DISTRIBUTION) or [])
    return [wanted for wanted in found if applies(wanted, extra) and not (extra and applies(wanted, ""))]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _checks() -> Iterator[tuple[str, bool]]:
    """Yields a line for each part that is tried, and whether the part works; no check needs a network."""
    for name, check in _CHECKS.items():
        try:
            yield f"{name}: {check()}", True
        except (HfRlSearchError, ImportError, OSError, RuntimeError, ValueError) as error:
            yield f"{name}: {' '.join(str(error).split())[:200]}", False


def _check_backend() -> str:
    """Looks at what the backend needs without importing transformers' Trainer, which takes many seconds."""
    from hf_rlsearch._version import __version__
    from hf_rlsearch.trainer.register import register

    register()  # also where something has removed the import hook
    found = importlib.util.find_spec("transformers")
    folders = list(found.submodule_search_locations or ()) if found else []
    missing = [
        f"{name}.py" for name in _EXTENDED if not any(Path(folder, f"{name}.py").is_file() for folder in folders)
    ]
    if missing:
        raise ImportError(f"transformers has no {', '.join(missing)}; install transformers again")
    return f"'rl' is added to transformers by hf_rlsearch {__version__}"


def _check_agent() -> str:
    from hf_rlsearch.agent.agent import load_agent

    return f"{load_agent().card.name} loads"


def _check_checkpoints() -> str:
    from hf_rlsearch import embedded

    missing = [name for name in embedded.CHECKPOINTS if not Path(embedded.path(name), "model.safetensors").is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} did not come with this installation")
    return f"{' and '.join(embedded.CHECKPOINTS)} are here, so the demo runs offline"


def _check_storage() -> str:
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(Path(folder, "search.db"))) as database:
        database.execute("CREATE TABLE trials (number INTEGER)")
        database.commit()
    return "SQLite can be written"


def _show_devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


_CHECKS: dict[str, Callable[[], str]] = {
    "backend": _check_backend,
    "agent": _check_agent,
    "embedded checkpoints": _check_checkpoints,
    "storage": _check_storage,
    "device": _show_devices,
}
