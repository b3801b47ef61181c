"""Whether two searches are the same one, and what differs if they are not."""

import json
from collections.abc import Mapping
from typing import Any

import optuna

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import StorageError

IDENTITY = "identity"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two identities, one short line each."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {_short(before)} -> {_short(after)}")
    return lines


def check_same_search(study: optuna.Study, identity: Params, directions: list[str]) -> None:
    """A study with trials of another space or objective would mix what cannot be compared.

    Raises:
        StorageError: It says what differs.
    """
    have = [direction.name.lower() for direction in study.directions]
    if have != directions:
        raise StorageError(
            f"Study {study.study_name!r} has directions {have}, this search has {directions}. Use another study_name."
        )
    old = study.user_attrs.get(IDENTITY)
    if old is None:
        known: dict[str, Any] = {}
        for trial in study.get_trials(deepcopy=False):
            known.update(trial.distributions)
        changed = differences(
            {
                name: optuna.distributions.distribution_to_json(d)
                for name, d in known.items()
                if name in identity["space"]
            },
            {name: text for name, text in identity["space"].items() if name in known},
        )
    else:
        changed = differences({"space": old["space"]}, {"space": identity["space"]})
        keys = old.keys() & {"objective", "follows"}
        before, now = ({key: each[key] for key in keys} for each in (old, identity))
        optimised = differences(before, now)
        if optimised:
            raise StorageError(
                f"Study {study.study_name!r} has another objective: {'; '.join(optimised)}. Its values cannot be "
                "compared with this search's. Use another study_name or storage, or optimise what it optimises."
            )
    if changed:
        raise StorageError(
            f"Study {study.study_name!r} is of another search space: {'; '.join(changed[:3])}. Use another "
            f"study_name or storage."
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
