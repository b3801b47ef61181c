"""Fingerprints a search, so that a script that runs again finds its own study and no other.

A fingerprint holds the space, the objective, the arguments that are not searched, the data and the model.
"""

import functools
import json
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import distribution_to_json

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import StorageError
from hf_rlsearch.observation.trial_attributes import IDENTITY
from hf_rlsearch.trainer.session.arguments import hash_of, plain
from hf_rlsearch.trainer.session.seeds_and_memory import preserve_random_state
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler
from hf_rlsearch.trainer.setup.objective import Objective

if TYPE_CHECKING:
    from transformers import Trainer

# Rows of a data set that are hashed; spread over the set, so that a changed or reordered set is noticed.
_N_ROWS = 16


def search_fingerprint(configurations: ConfigurationSampler, objective: Objective, trainer: "Trainer") -> Params:
    """Returns the facts of a search as plain data; a script that runs again with equal facts continues the search."""
    distributions, stored, function = configurations.space.distributions, objective.to_json(), objective.function
    return {
        "space": {name: distribution_to_json(distribution) for name, distribution in distributions.items()},
        "objective": stored["names"],
        "follows": stored["follows"],
        "compute_objective": None if function is None else function_fingerprint(function),
        "hp_space": configurations.computed,
        "directions": stored["directions"],
        # Only arguments that are not searched and change what is trained.
        "arguments": configurations.frozen.identity(configurations.searched),
        "train_data": data_fingerprint(getattr(trainer, "train_dataset", None)),
        "eval_data": data_fingerprint(getattr(trainer, "eval_dataset", None)),
        "model": model_fingerprint(getattr(trainer, "model", None)),
    }


def diff(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the differences between two fingerprints, one short line each."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += diff(before, after, f"{prefix}{key}.")
        else:
            shown = (text if len(text) <= 60 else f"{text[:57]}..." for text in map(json.dumps, (before, after)))
            lines.append(f"{prefix}{key}: {' -> '.join(shown)}")
    return lines


def check_same_search(study: optuna.Study, fingerprint: Params, directions: list[str]) -> None:
    """Refuses a study whose trials have another space or objective, because their values cannot be compared.

    Raises:
        StorageError: Directions, objective or space differ, with the differences.
    """
    name, space = f"Study {study.study_name!r}", fingerprint["space"]
    found = [direction.name.lower() for direction in study.directions]
    if found != directions:
        raise StorageError(f"{name} has directions {found}, this search has {directions}. Use another study_name.")
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        # Another program made the study: only distributions can be compared, as far as both have them.
        old = [trial.distributions for trial in study.get_trials(deepcopy=False)]
        old_space = {key: distribution_to_json(each[key]) for each in old for key in each.keys() & space.keys()}
        stored, space = {"space": old_space}, {key: space[key] for key in old_space}
    keys = stored.keys() & {"objective", "follows"}
    if changed := diff({key: stored[key] for key in keys}, {key: fingerprint[key] for key in keys}):
        raise StorageError(
            f"{name} has another objective: {'; '.join(changed)}. Its values cannot be compared with those of this "
            "search. Use another study_name or storage, or optimize the objective of the study."
        )
    if changed := diff(stored["space"], space):
        raise StorageError(
            f"{name} has another search space: {'; '.join(changed[:3])}. Use another study_name or storage."
        )


def model_fingerprint(model: Any) -> str:
    """Returns the class of a model and a hash of its configuration and its shapes; weights are not read."""
    if model is None:
        return "none"
    facts = {
        "config": plain(getattr(model, "config", None)),
        "shapes": {name: list(value.shape) for name, value in model.named_parameters()},
    }
    return f"{type(model).__name__} {hash_of(facts)}"


def data_fingerprint(data: Any) -> str:
    """Returns class and length of a data set, and a hash of some rows if reading them twice gives the same rows."""
    if data is None:
        return "none"
    if isinstance(data, Mapping) and not hasattr(data, "num_rows"):
        return " ".join(f"{name}=({data_fingerprint(part)})" for name, part in sorted(data.items()))
    kind = type(data).__name__
    try:
        n = len(data)
    except TypeError:
        return kind
    with preserve_random_state():
        first, second = _hash_rows(data, n), _hash_rows(data, n)
    return f"{kind} {n} {first}" if first == second else f"{kind} {n}"


def _hash_rows(data: Any, n: int) -> str:
    rows = sorted({round(i * (n - 1) / max(1, _N_ROWS - 1)) for i in range(_N_ROWS)}) if n else []
    try:
        return hash_of([_value_facts(data[i]) for i in rows])
    except Exception:
        return ""  # rows that cannot be read by index are left out of the fingerprint


def function_fingerprint(function: Any) -> str:
    """Returns a hash of a function's code and of the plain values and functions that the code refers to."""
    return hash_of(_function_facts(function, depth=3))


def _function_facts(function: Any, depth: int) -> Any:
    if isinstance(function, functools.partial):
        inner = [function.func, *function.args, *function.keywords.values()]
        return [_value_facts(value, depth) for value in inner]
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:  # an object with __call__
        attributes = {name: _value_facts(value) for name, value in sorted(getattr(function, "__dict__", {}).items())}
        call = vars(type(function)).get("__call__")
        called = _function_facts(call, depth - 1) if isinstance(call, types.FunctionType) else ""
        return [type(function).__qualname__, attributes, called]
    cells = [_contents(cell) for cell in function.__closure__ or ()]
    named = [function.__globals__.get(name) for name in code.co_names]
    referred = [*cells, *(function.__defaults__ or ()), *named]
    return [_code_facts(code), [_value_facts(value, depth - 1) for value in referred]]


def _code_facts(code: types.CodeType) -> Any:
    return [code.co_code.hex(), [_constant_facts(constant) for constant in code.co_consts], list(code.co_names)]


def _constant_facts(constant: Any) -> Any:
    if isinstance(constant, types.CodeType):
        return _code_facts(constant)
    # The order of a set differs from process to process.
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)


def _value_facts(value: Any, depth: int = 0) -> Any:
    """Returns a value as plain data: arrays in full, functions up to a depth of calls, other objects by type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "tolist") and not isinstance(value, type):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_value_facts(item, depth) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _value_facts(item, depth) for key, item in value.items()}
    if depth > 0 and isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return _function_facts(value, depth)
    return type(value).__name__


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # a variable that is assigned later
