"""What a search is: the facts that must be equal for a search to be continued."""

import functools
import hashlib
import random
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.plain_data import dumps, plain
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
    *,
    space: SearchSpace,
    objective: Objective,
    frozen: FrozenArguments,
    searched: frozenset[str],
    trainer: Any,
    computed: Params | None = None,
) -> Params:
    """The identity of a search as plain data, comparable key by key.

    Args:
        space: All hyperparameters.
        objective: What is optimised.
        frozen: The user's arguments.
        searched: Argument names that ``hp_space`` sets.
        trainer: For its data and model.
        computed: What ``hp_space`` returns besides the values that it suggests, by name; plain data.
    """
    function = objective.function
    return {
        "space": {name: optuna.distributions.distribution_to_json(d) for name, d in space.distributions.items()},
        "objective": list(objective.names),
        "follows": None if objective.follows is None else list(objective.follows),
        "compute_objective": None if function is None else function_fingerprint(function),
        "hp_space": computed or {},
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


def function_fingerprint(function: Any) -> str:
    """A hash of what a function does, as far as its code and the plain values that it refers to tell."""
    return hash_of(_function_facts(function, depth=3))


def _function_facts(function: Any, depth: int) -> Any:
    if isinstance(function, functools.partial):
        inner = [function.func, *function.args, *function.keywords.values()]
        return [_value_facts(value, depth) for value in inner]
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        own = {name: _value_facts(value, 0) for name, value in sorted(getattr(function, "__dict__", {}).items())}
        call = vars(type(function)).get("__call__")
        called = _function_facts(call, depth - 1) if isinstance(call, types.FunctionType) else ""
        return [type(function).__qualname__, own, called]
    cells = [_contents(cell) for cell in function.__closure__ or ()]
    named = [function.__globals__.get(name) for name in code.co_names]
    referred = [*cells, *(function.__defaults__ or ()), *named]
    return [_code_facts(code), [_value_facts(value, depth - 1) for value in referred]]


def _code_facts(code: Any) -> Any:
    constants = [_constant_facts(constant) for constant in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _constant_facts(constant: Any) -> Any:
    if isinstance(constant, types.CodeType):
        return _code_facts(constant)
    # The order of a set differs from process to process.
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)


def _value_facts(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_value_facts(item, depth) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _value_facts(item, depth) for key, item in value.items()}
    if depth > 0 and isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return _function_facts(value, depth)
    return type(value).__name__


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # a variable that is assigned later


def model_fingerprint(model: Any) -> str:
    """A short text for a model: class and a hash of configuration and parameter shapes. Weights are not read."""
    if model is None:
        return "none"
    config = getattr(model, "config", None)
    facts = {
        "config": plain(config),
        "shapes": {name: list(value.shape) for name, value in model.named_parameters()},
    }
    return f"{type(model).__name__} {hash_of(facts)}"


def _hash_rows(data: Any, n: int) -> str:
    rows = sorted({round(i * (n - 1) / max(1, _N_ROWS - 1)) for i in range(_N_ROWS)}) if n else []
    try:
        return hash_of([_row(data[i]) for i in rows])
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


def hash_of(value: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()[:16]
