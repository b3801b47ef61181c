"""Costs of candidates: planned by their arguments, and corrected by the seconds of finished trials."""

import math
import time
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hf_rlsearch import RLSampler
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.trainer.search.budget import CostModel, RemainingBudget
from hf_rlsearch.trainer.setup.config import SearchConfig
from tests.trainer.search.test_budget import configurations_of


def space_of_all(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 4),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 32]),
    }


def cost_model_of(hp_space: Any, **args: Any) -> tuple[CostModel, SearchSpace, np.ndarray]:
    configurations = configurations_of(hp_space, **args)
    return CostModel(configurations, 64, 1), configurations.space, configurations.space.grid(1000)


def test_twice_the_epochs_is_twice_the_price() -> None:
    """The arguments of the user train for two epochs."""
    model, space, rows = cost_model_of(space_of_all)
    epochs = np.array([space.decode(row)["num_train_epochs"] for row in rows])
    np.testing.assert_allclose(model.planned_costs(space, rows), epochs / 2)


def test_with_a_number_of_steps_larger_batches_cost_more() -> None:
    model, space, rows = cost_model_of(space_of_all, max_steps=10, per_device_train_batch_size=8)
    batch = np.array([space.decode(row)["per_device_train_batch_size"] for row in rows])
    np.testing.assert_allclose(model.planned_costs(space, rows), batch / 8)


def test_what_hp_space_computes_counts() -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"num_train_epochs": 2 ** trial.suggest_int("doublings", 0, 3)}

    model, found, rows = cost_model_of(space)
    np.testing.assert_allclose(model.planned_costs(found, rows), [0.5, 1.0, 2.0, 4.0])


class Asked:
    """How often a space was asked; a dry run undoes what a space changes, but not the slots of an object."""

    __slots__ = ("times",)


def test_hp_space_is_asked_once_for_each_amount() -> None:
    asked = Asked()

    def space(trial: Any) -> dict[str, Any]:
        asked.times += 1
        return space_of_all(trial)

    asked.times = 0
    model, found, rows = cost_model_of(space)
    asked.times = 0
    model.planned_costs(found, rows)
    assert 0 < asked.times < len(rows)
    asked.times = 0
    model.planned_costs(found, rows)
    assert not asked.times


def test_combinations_that_are_refused_have_the_usual_price() -> None:
    def space(trial: Any) -> dict[str, Any]:
        values = space_of_all(trial)
        if values["num_train_epochs"] == 4:
            raise optuna.TrialPruned
        return values

    model, found, rows = cost_model_of(space)
    epochs = np.array([found.decode(row)["num_train_epochs"] for row in rows])
    np.testing.assert_allclose(model.planned_costs(found, rows), np.where(epochs == 4, 1.0, epochs / 2))


def timed(model: CostModel, space: SearchSpace, params: dict[str, Any], slow: float) -> Any:
    """A finished trial that took ten seconds for a training, times ``slow``."""
    amount = float(model.planned_costs(space, space.nearest_levels(params)[None])[0])
    attributes = {"rl:spent": amount, "rl:seconds": 10.0 * amount * slow, "rl:role": "search"}
    return create_trial(
        state=TrialState.COMPLETE, value=0.0, params=params, distributions=space.distributions, user_attrs=attributes
    )


def test_the_clock_learns_that_small_batches_are_slow() -> None:
    model, space, rows = cost_model_of(space_of_all)
    study = optuna.create_study()
    params = [space.decode(row) for row in rows[::7]]
    for each in params:
        slow = 2.0 if each["per_device_train_batch_size"] == 8 else 1.0
        study.add_trial(timed(model, space, each, slow))
    found = model.timed_costs(space, rows, study) / model.planned_costs(space, rows)
    small = np.array([space.decode(row)["per_device_train_batch_size"] == 8 for row in rows])
    assert found[small].mean() / found[~small].mean() == pytest.approx(2.0, rel=0.25)


def test_one_trial_says_nothing_about_the_others() -> None:
    model, space, rows = cost_model_of(space_of_all)
    study = optuna.create_study()
    study.add_trial(timed(model, space, space.decode(rows[0]), 3.0))
    np.testing.assert_allclose(model.timed_costs(space, rows, study), model.planned_costs(space, rows))


@pytest.mark.parametrize(
    ("limits", "costs_count"),
    [
        ({"n_trials": 3}, False),
        ({"n_trials": 3, "budget": 90.0}, False),
        ({"n_trials": 30, "budget": 6.0}, True),
        ({"n_trials": 30, "timeout": 60.0}, True),
        ({"timeout": 60.0}, True),
    ],
)
def test_costs_count_where_they_and_not_the_trials_end_the_search(limits: dict[str, Any], costs_count: bool) -> None:
    configurations = configurations_of(space_of_all)
    model = CostModel(configurations, 64, 1)
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=configurations.space))
    study.add_trial(timed(model, configurations.space, configurations.space.decode([0, 1, 0]), 1.0))
    budget = RemainingBudget(study, SearchConfig(hp_space=space_of_all, **limits), model, time.monotonic())
    budget.deadline -= 10.0  # ten seconds have passed
    limit = budget.cost_cooling()
    assert (limit is not None) == ("budget" in limits or "timeout" in limits)
    if limit is not None:
        assert limit.left == pytest.approx(limits.get("budget", 6.0) - 1.0, abs=0.1)
        assert limit.total == (pytest.approx(6.0) if costs_count else math.inf)
