"""A finished trial as plain data and back: how a result travels to other ranks and into files."""

import datetime
import math

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params


def trial_to_json(trial: FrozenTrial) -> Params:
    """A trial as plain data."""
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "distributions": {name: distribution_to_json(d) for name, d in trial.distributions.items()},
        "intermediate_values": {str(step): value for step, value in trial.intermediate_values.items()},
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "start": _stamp(trial.datetime_start),
        "complete": _stamp(trial.datetime_complete),
    }


def trial_from_json(data: Params) -> FrozenTrial:
    """The inverse of ``trial_to_json``."""
    return FrozenTrial(
        number=data["number"],
        trial_id=data["number"],
        state=TrialState[data["state"]],
        value=None,
        values=data["values"],
        params=data["params"],
        distributions={name: json_to_distribution(text) for name, text in data["distributions"].items()},
        intermediate_values={int(step): value for step, value in data["intermediate_values"].items()},
        user_attrs=data["user_attrs"],
        system_attrs=data["system_attrs"],
        datetime_start=_time(data["start"]),
        datetime_complete=_time(data["complete"]),
    )


def trial_to_row(trial: FrozenTrial, role: str, hyperparameters: Params, n_objectives: int) -> Params:
    """A trial as a row of a table; values are NaN where it has none.

    Args:
        trial: Of a search.
        role: What it was for.
        hyperparameters: The exact values that it was trained with.
        n_objectives: Number of directions of the search.
    """
    values = list(trial.values or [math.nan] * n_objectives)
    return {
        "number": trial.number,
        "role": role,
        "state": trial.state.name.lower(),
        **{("value" if len(values) == 1 else f"value_{i}"): value for i, value in enumerate(values)},
        **{f"params_{name}": value for name, value in hyperparameters.items()},
        "seconds": trial.user_attrs.get("seconds"),
        "failure": (trial.user_attrs.get("failure") or {}).get("reason"),
    }


def _stamp(when: datetime.datetime | None) -> str | None:
    return None if when is None else when.isoformat()


def _time(text: str | None) -> datetime.datetime | None:
    return None if text is None else datetime.datetime.fromisoformat(text)
