"""What a search is: the facts that must be equal for a search to be continued."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.arguments import FrozenArguments, dumps, plain
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.space import SearchSpace

# Rows of a data set that are looked at; spread over it, so that a changed or reordered set is noticed.
_N_ROWS = 16


@contextmanager
def keep_randomness() -> Iterator[None]:
    """Leaves the global random generators as they were."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def identity(
    *, space: SearchSpace, objective: Objective, frozen: FrozenArguments, searched: frozenset[str], trainer: Any
) -> Params:
    """The identity of a search as plain data, comparable key by key.

    Args:
        space: All hyperparameters.
        objective: What is optimised.
        frozen: The user's arguments.
        searched: Argument names that ``hp_space`` sets.
        trainer: For its data and model.
    """
    return {
        "space": {name: optuna.distributions.distribution_to_json(d) for name, d in space.distributions.items()},
        "objective": list(objective.names),
        "directions": list(objective.directions),
        "arguments": frozen.identity(searched),
        "train_data": data_fingerprint(getattr(trainer, "train_dataset", None)),
        "eval_data": data_fingerprint(getattr(trainer, "eval_dataset", None)),
        "model": model_fingerprint(getattr(trainer, "model", None)),
    }


def data_fingerprint(data: Any) -> str:
    """A short text for a data set: kind, length, and a hash of some rows if reading them twice gives the same."""
    if data is None:
        return "none"
    if isinstance(data, Mapping) and not hasattr(data, "num_rows"):
        return " ".join(f"{name}=({data_fingerprint(part)})" for name, part in sorted(data.items()))
    kind = type(data).__name__
    try:
        n = len(data)
    except TypeError:
        return kind
    with keep_randomness():
        first, second = _hash_rows(data, n), _hash_rows(data, n)
    return f"{kind} {n} {first}" if first == second else f"{kind} {n}"


def model_fingerprint(model: Any) -> str:
    """A short text for a model: class and a hash of configuration and parameter shapes. Weights are not read."""
    if model is None:
        return "none"
    config = getattr(model, "config", None)
    facts = {
        "config": plain(config),
        "shapes": {name: list(value.shape) for name, value in model.named_parameters()},
    }
    return f"{type(model).__name__} {_hash(dumps(facts))}"


def _hash_rows(data: Any, n: int) -> str:
    rows = sorted({round(i * (n - 1) / max(1, _N_ROWS - 1)) for i in range(_N_ROWS)}) if n else []
    try:
        return _hash(dumps([_row(data[i]) for i in rows]))
    except Exception:
        # A data set that cannot be read by index is known by its kind and length alone.
        return ""


def _row(row: Any) -> Any:
    if hasattr(row, "tolist"):
        return row.tolist()
    if isinstance(row, Mapping):
        return {str(key): _row(value) for key, value in row.items()}
    if isinstance(row, (list, tuple)):
        return [_row(value) for value in row]
    if isinstance(row, (str, int, float, bool)) or row is None:
        return row
    return f"{type(row).__name__}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
