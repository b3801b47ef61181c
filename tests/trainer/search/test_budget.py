"""What is left of budget and time reaches the sampler and the pruner, and the first limit ends the search."""

import math
import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from transformers import Trainer, TrainingArguments

from hf_rlsearch import RLPruner, RLSampler
from hf_rlsearch.trainer.search.budget import CostModel, RemainingBudget
from hf_rlsearch.trainer.session.arguments import FrozenArguments
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler, build_configuration_sampler
from tests.trainer.conftest import rates, run

MakeTrainer = Callable[..., Trainer]


def study_of(*trials: tuple[float, TrialState, str], seconds: float = 10.0) -> optuna.Study:
    """Trials by what they spent, state and role; each full training took as many seconds."""
    study = optuna.create_study(sampler=RLSampler(seed=0, n_trials=50), pruner=RLPruner(max_resource=10_000))
    for spent, state, role in trials:
        value = 1.0 if state == TrialState.COMPLETE else None
        attributes = {"rl:spent": spent, "rl:seconds": seconds * spent, "rl:role": role}
        study.add_trial(optuna.trial.create_trial(state=state, value=value, user_attrs=attributes))
    return study


def configurations_of(space: Any, **args: Any) -> ConfigurationSampler:
    frozen = FrozenArguments(TrainingArguments(output_dir="unused", use_cpu=True, num_train_epochs=2, **args))
    return build_configuration_sampler(space, None, frozen, roles=None, n_points=None)


def allowance_of(study: optuna.Study, settings: SearchConfig, deadline: float) -> RemainingBudget:
    return RemainingBudget(study, settings, deadline, CostModel(configurations_of(settings.hp_space), 100, 1))


DONE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
SEEN = [(1.0, DONE, "baseline"), (0.5, PRUNED, "search"), (0.25, FAIL, "search"), (1.0, DONE, "confirm")]


def told(allowance: RemainingBudget, study: optuna.Study) -> tuple[Any, Any]:
    allowance.tell()
    sampler, pruner = study.sampler, study.pruner
    assert isinstance(sampler, RLSampler)
    assert isinstance(pruner, RLPruner)
    return sampler._n_left, pruner._plan_for


def test_a_budget_is_told_in_trials_and_in_trainings() -> None:
    study = study_of(*SEEN)
    allowance = allowance_of(study, SearchConfig(hp_space=rates, budget=4.0), math.inf)
    assert allowance.trainings_left() == pytest.approx(2.25)
    # Searched trials took 0.375 each; the pruner has seen 1.5 itself, the failed one not.
    assert told(allowance, study) == (6, pytest.approx(3.75))


def test_time_is_told_like_a_budget_and_the_smaller_counts() -> None:
    study = study_of(*SEEN)
    soon = allowance_of(study, SearchConfig(hp_space=rates, budget=4.0, timeout=5.0), time.monotonic() + 5.0)
    assert soon.trainings_left() == pytest.approx(0.5, abs=0.05)
    late = allowance_of(study, SearchConfig(hp_space=rates, budget=4.0, timeout=500.0), time.monotonic() + 500.0)
    assert late.trainings_left() == pytest.approx(2.25)


def test_without_either_nothing_is_told() -> None:
    study = study_of(*SEEN)
    assert told(allowance_of(study, SearchConfig(hp_space=rates, n_trials=9), math.inf), study) == (None, None)


def test_time_says_nothing_before_a_training_was_timed() -> None:
    study = study_of()
    assert (
        allowance_of(study, SearchConfig(hp_space=rates, timeout=9.0), time.monotonic() + 9.0).trainings_left() is None
    )


def test_nothing_left_is_one_trial_and_no_training() -> None:
    study = study_of((3.0, DONE, "search"))
    allowance = allowance_of(study, SearchConfig(hp_space=rates, budget=2.0), math.inf)
    assert told(allowance, study) == (1, pytest.approx(3.0))


def test_those_of_the_user_are_left_alone() -> None:
    study = study_of(*SEEN)
    own = {"sampler": study.sampler, "pruner": study.pruner}
    assert told(allowance_of(study, SearchConfig(hp_space=rates, budget=4.0, **own), math.inf), study) == (None, None)


@pytest.mark.parametrize(
    ("limits", "reason", "n_trials"),
    [
        ({"n_trials": 2, "budget": 9, "timeout": 1000}, "n_trials", 2),
        ({"n_trials": 9, "budget": 1.5, "timeout": 1000}, "budget", 2),
        ({"n_trials": 9, "budget": 9, "timeout": 0.01}, "timeout", None),
        ({"n_trials": None, "timeout": 0.01}, "timeout", None),
    ],
)
def test_the_first_limit_ends_the_search(
    make_trainer: MakeTrainer, limits: dict[str, Any], reason: str, n_trials: int | None
) -> None:
    result = run(make_trainer(), "rl", sampler=optuna.samplers.RandomSampler(seed=0), **limits).run_summary
    assert result.stopped_by == reason
    assert result.n_trials == limits["n_trials"]
    assert n_trials is None or len(result.trials) == n_trials


def test_a_budget_counts_the_length_of_trials(make_trainer: MakeTrainer) -> None:
    """Your own arguments train for two epochs: trials of one epoch cost a half, those of three one and a half."""

    def space(trial: Any) -> dict[str, Any]:
        return {**rates(trial), "num_train_epochs": 1 if trial.number % 2 == 0 else 3}

    sampler = optuna.samplers.RandomSampler(seed=0)
    trainer = make_trainer(num_train_epochs=2, save_strategy="no", eval_strategy="no")
    result = run(trainer, "rl", space, budget=2.2, sampler=sampler).run_summary
    assert [t.user_attrs["rl:cost"] for t in result.trials] == [0.5, 1.5, 0.5]
    assert [t.user_attrs["rl:spent"] for t in result.trials] == [0.5, 1.5, 0.5]
    assert result.stopped_by == "budget"
    assert result.n_trials is None  # nobody asked for a number
