"""``doctor``: what is installed, in which version, and what of it works without a network."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from hf_rlsearch.errors import HfRlSearchError

_DISTRIBUTION = "hf-rlsearch"


def add_commands(commands: Any) -> None:
    """Adds the command of this module."""
    doctor = commands.add_parser("doctor", help="versions, what is installed, what works offline")
    doctor.set_defaults(run=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """Prints versions and checks; 1 if something needed is missing or broken."""
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    failures = 0
    for line, good in [*_libraries(), *_checks()]:
        print(f"{'ok  ' if good else 'FAIL'} {line}")
        failures += not good
    for line in _extras():
        print(f"     {line}")
    print("All is well." if not failures else f"{failures} problem{'s' if failures > 1 else ''}.")
    return 1 if failures else 0


def requirements(extra: str | None = None) -> list[Requirement]:
    """What this package says that it needs, always (None) or for one extra."""
    found = []
    for wanted in map(Requirement, importlib.metadata.requires(_DISTRIBUTION) or []):
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        with_extra = wanted.marker is None or wanted.marker.evaluate({"extra": extra or ""})
        if always if extra is None else with_extra and not always:
            found.append(wanted)
    return found


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _libraries() -> Iterator[tuple[str, bool]]:
    """A line for each library that is needed, and whether it is there in a version that fits."""
    for wanted in requirements():
        version = _installed(wanted.name)
        good = version is not None and wanted.specifier.contains(version, prereleases=True)
        yield f"{wanted.name} {version or 'is missing'} (needs {wanted.specifier or 'any'})", good


def _extras() -> Iterator[str]:
    """A line for each extra: what of it is missing."""
    lines = importlib.metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []
    for extra in lines:
        missing = [r.name for r in requirements(extra) if _installed(r.name) is None]
        yield f"extra [{extra}]: " + (f"without {', '.join(missing)}" if missing else "complete")


def _checks() -> Iterator[tuple[str, bool]]:
    """Things that are tried out; none of them needs a network."""
    for name, check in _TRIALS.items():
        try:
            yield f"{name}: {check()}", True
        except (HfRlSearchError, ImportError, OSError, RuntimeError, ValueError) as error:
            yield f"{name}: {' '.join(str(error).split())[:200]}", False


def _backend() -> str:
    from transformers.trainer_utils import HPSearchBackend

    import hf_rlsearch

    return f"{HPSearchBackend('rl').value!r} is registered by hf_rlsearch {hf_rlsearch.__version__}"


def _weights() -> str:
    from hf_rlsearch.agent import load_agent

    return f"{load_agent().card.name} loads"


def _checkpoints() -> str:
    from hf_rlsearch import embedded

    missing = [name for name in embedded.CHECKPOINTS if not Path(embedded.path(name), "model.safetensors").is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} did not come with this installation")
    return f"{' and '.join(embedded.CHECKPOINTS)} are here, so the demo runs offline"


def _storage() -> str:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/search.db")
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "doctor")
        storage.remove_session()
        storage.engine.dispose()
    return "SQLite can be written"


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


_TRIALS: dict[str, Callable[[], str]] = {
    "backend": _backend,
    "agent": _weights,
    "embedded checkpoints": _checkpoints,
    "storage": _storage,
    "device": _devices,
}
