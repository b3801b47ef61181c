"""Constraints of a plain Optuna study: infeasible trials are not the best, and configurations like them are avoided."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hf_rlsearch import RLPruner, RLSampler
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.observation.history import History
from hf_rlsearch.observation.trial_attributes import constraints_of, is_feasible, store_constraints

HAS_SET_CONSTRAINT = hasattr(optuna.trial.Trial, "set_constraint")  # since Optuna 5


def trial_of(*values: float, excess: Any = None, state: TrialState = TrialState.COMPLETE, **more: Any) -> Any:
    """A trial with this list of constraint values."""
    attributes = {} if excess is None else {"constraints": excess}
    return create_trial(state=state, values=values or None, system_attrs=attributes, **more)


def values_of(*trials: Any, directions: Sequence[str] = ("maximize",)) -> list[float]:
    study = optuna.create_study(directions=directions)
    study.add_trials(trials)
    return History.from_trials(study.get_trials(), study.directions).values.tolist()


def test_constraints_are_read_as_optuna_4_and_5_store_them() -> None:
    assert constraints_of(trial_of(1.0, excess=[0.5, -1.0])) == {"0": 0.5, "1": -1.0}
    named = create_trial(value=1.0, system_attrs={"constraints:memory": -0.5, "constraints:time": 0.0, "other": 3})
    assert constraints_of(named) == {"memory": -0.5, "time": 0.0}
    assert is_feasible(named)
    assert not is_feasible(trial_of(1.0, excess=[-1.0, 1e-9]))
    assert is_feasible(trial_of(1.0))


def test_what_is_stored_is_read_by_optuna_itself() -> None:
    study = optuna.create_study(direction="maximize")
    for value, excess in [(0.5, -0.1), (0.9, 0.2), (0.6, 0.0)]:
        trial = study.ask()
        store_constraints(trial, {"memory": excess})
        store_constraints(trial, {"memory": excess})  # a trial that was interrupted is recorded again
        study.tell(trial, value)
    assert study.best_trial.number == 2
    assert [is_feasible(trial) for trial in study.trials] == [True, False, True]


def test_infeasible_trials_are_just_below_the_best_feasible_one() -> None:
    low, best, high, bad = values_of(
        trial_of(0.2, excess=[-1.0]),
        trial_of(0.6, excess=[0.0]),
        trial_of(0.9, excess=[1.0]),
        trial_of(0.1, excess=[1.0]),
    )
    assert (low, best, bad) == (0.2, 0.6, 0.1)
    assert high == np.nextafter(0.6, 0)
    stopped = trial_of(excess=[1.0], state=TrialState.PRUNED, intermediate_values={1: 0.3, 2: 0.95})
    assert values_of(trial_of(0.6, excess=[0.0]), stopped)[1] < 0.6


def test_without_a_feasible_trial_or_without_constraints_values_stay() -> None:
    assert values_of(trial_of(0.2, excess=[1.0]), trial_of(0.9, excess=[2.0])) == [0.2, 0.9]
    assert values_of(trial_of(0.2), trial_of(0.9)) == [0.2, 0.9]


def test_only_feasible_trials_are_on_the_first_front() -> None:
    trials = [trial_of(0.5, 0.5, excess=[0.0]), trial_of(0.9, 0.9, excess=[1.0]), trial_of(0.6, 0.1, excess=[0.0])]
    feasible, infeasible, other = values_of(*trials, directions=("maximize", "maximize"))
    assert feasible == other == 0
    assert infeasible < 0


def limited(sampler: Any, n_trials: int, *, by_function: bool, n_objectives: int = 1) -> optuna.Study:
    """A bowl with its lowest point at a rate of 0.01, of which at most 0.001 is allowed."""

    def objective(trial: Any) -> Any:
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        trial.suggest_categorical("weight_decay", [0.0, 0.1])
        trial.set_user_attr("excess", math.log10(rate) + 3)
        if not by_function:
            trial.set_constraint("rate", math.log10(rate) + 3)
        value = (math.log10(rate) + 2) ** 2
        return value if n_objectives == 1 else (value, rate)

    study = optuna.create_study(directions=["minimize"] * n_objectives, sampler=sampler)
    study.optimize(objective, n_trials=n_trials)
    return study


def excess_of(trial: optuna.trial.FrozenTrial) -> list[float]:
    return [trial.user_attrs["excess"]]


WAYS = [True, pytest.param(False, marks=pytest.mark.skipif(not HAS_SET_CONSTRAINT, reason="needs Optuna 5"))]


@pytest.mark.parametrize("by_function", WAYS)
def test_configurations_that_violate_a_constraint_are_avoided(by_function: bool) -> None:
    sampler = RLSampler(seed=0, constraints_func=excess_of if by_function else None)
    study = limited(sampler, 20, by_function=by_function)
    late = study.trials[3:]
    assert sum(not is_feasible(trial) for trial in late) <= 2
    assert study.best_trial.values[0] < 1.1  # 1 is the lowest that is allowed
    assert study.best_params["learning_rate"] <= 1e-3
    assert any("feasibility" in trial.system_attrs.get("rl:decision", {}) for trial in late)


def test_without_constraints_no_chance_is_predicted() -> None:
    study = limited(RLSampler(seed=0), 4, by_function=True)
    assert all("feasibility" not in trial.system_attrs.get("rl:decision", {}) for trial in study.trials)


def test_several_objectives_avoid_them_too() -> None:
    study = limited(RLSampler(seed=1, constraints_func=excess_of), 12, by_function=True, n_objectives=2)
    assert sum(not is_feasible(trial) for trial in study.trials[3:]) <= 2
    assert all(is_feasible(trial) for trial in study.best_trials)


@pytest.mark.parametrize(("excess", "stops"), [(-1.0, True), (1.0, False)])
def test_no_trial_is_stopped_for_an_infeasible_rival(excess: float, stops: bool) -> None:
    """One that is far behind complete trials is stopped, unless these violate a constraint."""
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=10, budget=6))
    for value in (0.9, 0.91, 0.92, 0.93):
        curve = {step: value - 0.02 / step for step in range(1, 11)}
        study.add_trial(trial_of(value, excess=[excess], intermediate_values=curve))
    trial = study.ask()
    stopped = []
    for step in range(1, 10):
        trial.report(0.1 + 0.001 * step, step)
        stopped.append(trial.should_prune())
    assert any(stopped) == stops


def test_a_constraints_func_that_is_none_is_refused() -> None:
    wrong: Callable[[Any], Any] = [0.5]  # type: ignore[assignment]
    with pytest.raises(ArgumentsError, match=r"constraints_func is \[0.5\], expected a function"):
        RLSampler(constraints_func=wrong)
