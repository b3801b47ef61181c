"""Sampler and pruner plan with what budget and time leave, and the first limit that is reached ends the search."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_rlsearch import RLPruner, RLSampler
from hf_rlsearch.observation.curve_features import HOPELESS
from hf_rlsearch.report import explain
from hf_rlsearch.report.html import to_html
from hf_rlsearch.trainer.search.budget import CostModel, RemainingBudget
from hf_rlsearch.trainer.session.arguments import FrozenArguments
from hf_rlsearch.trainer.setup.config import RL_PRUNER, SearchConfig
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler, build_configuration_sampler
from tests.trainer.conftest import rates, run
from tests.trainer.storage.test_paused import Doubts, Stops

MakeTrainer = Callable[..., Trainer]


def study_of(*trials: tuple[float, TrialState, str], seconds: float = 10.0) -> optuna.Study:
    """A study of trials given as (spent, state, role), in which a full training took ``seconds``."""
    study = optuna.create_study(sampler=RLSampler(seed=0, n_trials=50), pruner=RLPruner(max_resource=10_000))
    for spent, state, role in trials:
        value = 1.0 if state == TrialState.COMPLETE else None
        attributes = {"rl:spent": spent, "rl:seconds": seconds * spent, "rl:role": role}
        study.add_trial(create_trial(state=state, value=value, user_attrs=attributes))
    return study


def configurations_of(space: Any, **args: Any) -> ConfigurationSampler:
    frozen = FrozenArguments(TrainingArguments(output_dir="unused", use_cpu=True, num_train_epochs=2, **args))
    return build_configuration_sampler(space, None, frozen, roles=None, n_points=None)


def budget_of(study: optuna.Study, **options: Any) -> RemainingBudget:
    settings = SearchConfig(hp_space=rates, **options)
    return RemainingBudget(study, settings, CostModel(configurations_of(rates), 100, 1), time.monotonic())


DONE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
SEEN = [(1.0, DONE, "baseline"), (0.5, PRUNED, "search"), (0.25, FAIL, "search"), (1.0, DONE, "confirm")]


def plans_after_update(budget: RemainingBudget, study: optuna.Study) -> tuple[Any, Any]:
    """Trials left for the sampler, trainings in all for the pruner."""
    budget.update_sampler_and_pruner(resumable=[])
    sampler, pruner = study.sampler, study.pruner
    assert isinstance(sampler, RLSampler)
    assert isinstance(pruner, RLPruner)
    return sampler._n_left, pruner._planned_budget


def test_sampler_gets_trials_left_and_pruner_gets_trainings() -> None:
    study = study_of(*SEEN)
    budget = budget_of(study, budget=4.0)
    assert budget.seconds_left() == pytest.approx(22.5)
    # Searched trials took 0.375 each; the pruner has seen 1.5 itself, the failed one not.
    assert plans_after_update(budget, study) == (6, pytest.approx(3.75))


def test_of_budget_and_timeout_the_smaller_counts() -> None:
    study = study_of(*SEEN)
    assert budget_of(study, budget=4.0, timeout=5.0).seconds_left() == pytest.approx(5.0, abs=0.5)
    assert budget_of(study, budget=4.0, timeout=500.0).seconds_left() == pytest.approx(22.5)


def test_without_budget_and_timeout_the_number_of_trials_is_planned_with() -> None:
    study = study_of(*SEEN)
    # Six more trials that cost as much as the one that has not failed.
    assert plans_after_update(budget_of(study, n_trials=9), study) == (6, pytest.approx(1.5 + 3.0))


def test_a_first_trial_that_fails_at_once_leaves_the_plan_as_it_is() -> None:
    study = study_of((1.0, DONE, "baseline"), (0.0, FAIL, "search"))
    assert plans_after_update(budget_of(study, n_trials=20), study)[1] == pytest.approx(1.0 + 18.0)
    cooling = budget_of(study, budget=10.0).cost_cooling()
    assert (cooling.left, cooling.total) == (9.0, 10.0)  # type: ignore[union-attr]


def test_a_number_of_trials_that_ends_first_bounds_what_the_pruner_plans_with() -> None:
    study = study_of(*SEEN)
    assert plans_after_update(budget_of(study, n_trials=9, budget=40.0), study)[1] == pytest.approx(1.5 + 3.0)


def test_a_trial_that_violates_a_constraint_is_none_that_the_pruner_has_seen() -> None:
    study = study_of(*SEEN)
    attributes = {"rl:spent": 1.0, "rl:seconds": 10.0, "rl:role": "search"}
    system = {"constraints": [1.0]}
    study.add_trial(create_trial(state=DONE, value=1.0, user_attrs=attributes, system_attrs=system))
    assert plans_after_update(budget_of(study, budget=4.0), study)[1] == pytest.approx(1.5 + 1.25)


def test_a_budget_counts_what_runs_elsewhere() -> None:
    study = study_of(*SEEN)
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"rl:cost": 2.0, "rl:started_at": 2500}))
    assert budget_of(study, budget=4.0).cost_cooling().left == pytest.approx(4.0 - 1.75 - 1.5)  # type: ignore[union-attr]
    without_the_failed_one = 4.0 - 0.25
    assert plans_after_update(budget_of(study, budget=4.0), study)[1] == pytest.approx(without_the_failed_one)
    assert budget_of(study, budget=3.25).reached() == "budget"
    assert budget_of(study, budget=3.5).reached() is None


def test_a_timeout_is_unknown_before_a_training_was_timed() -> None:
    study = study_of()
    budget = budget_of(study, timeout=9.0)
    assert budget.seconds_left() == math.inf
    assert plans_after_update(budget, study) == (20, 20)


def test_a_spent_budget_leaves_one_trial_and_no_training() -> None:
    study = study_of((3.0, DONE, "search"))
    assert plans_after_update(budget_of(study, budget=2.0), study) == (1, pytest.approx(3.0))


def test_user_supplied_sampler_and_pruner_are_left_alone() -> None:
    study = study_of(*SEEN)
    budget = budget_of(study, budget=4.0, sampler=study.sampler, pruner=study.pruner)
    assert plans_after_update(budget, study) == (None, None)


@pytest.mark.parametrize(
    ("limits", "reason", "n_trials"),
    [
        ({"n_trials": 2, "budget": 9, "timeout": 1000}, "n_trials", 2),
        ({"n_trials": 9, "budget": 2.5, "timeout": 1000}, "budget", 2),
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
    """The baseline trains for two epochs: trials of one epoch cost 0.5, trials of three epochs 1.5."""

    def space(trial: Any) -> dict[str, Any]:
        return {**rates(trial), "num_train_epochs": 1 if trial.number % 2 == 0 else 3}

    sampler = optuna.samplers.RandomSampler(seed=0)
    trainer = make_trainer(num_train_epochs=2, save_strategy="no", eval_strategy="no")
    result = run(trainer, "rl", space, budget=2.2, sampler=sampler).run_summary
    assert [t.user_attrs["rl:cost"] for t in result.trials] == [0.5, 1.5]
    assert [t.user_attrs["rl:spent"] for t in result.trials] == [0.5, 1.5]
    assert result.stopped_by == "budget"
    assert result.n_trials is None  # nobody asked for a number


def test_a_budget_that_pays_for_no_training_any_more_ends_the_search(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        result = run(make_trainer(eval_strategy="no"), "rl", budget=2.6).run_summary
    assert (result.stopped_by, len(result.trials)) == ("budget", 2)
    assert "The search ends: 0.6 of the budget is left, and the shortest training costs 1." in caplog.text
    assert result.summary().endswith("ended by budget: 0.6 of the budget is left, and the shortest training costs 1")
    assert "0.6 of the budget is left" in to_html(result.study)


@pytest.mark.parametrize(("budget", "n_trials", "epochs"), [(2.2, None, 2), (2.2, 3, 2), (2, None, 1)])
def test_a_rest_that_pays_for_no_whole_training_pays_for_the_end_of_a_stopped_one(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, budget: float, n_trials: int | None, epochs: int
) -> None:
    """The baseline takes 1; what the stopped trial leaves of the budget pays for its rest, and not for a whole one."""
    trainer = make_trainer(num_train_epochs=3, save_strategy="epoch")
    with caplog.at_level("INFO"):
        result = run(trainer, "rl", budget=budget, n_trials=n_trials, pruner=Stops(trial_1=epochs)).run_summary
    _, stopped, resumed = result.trials
    assert [trial.state for trial in result.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    assert resumed.user_attrs["rl:continues"] == 1
    assert resumed.params == stopped.params
    assert sum(trial.user_attrs["rl:spent"] for trial in result.trials) == pytest.approx(2.0, abs=1e-3)
    assert f"Trial 2 resumes trial 1 at {100 * epochs / 3:.0f} %." in caplog.text
    assert result.stopped_by == ("budget" if n_trials is None else "n_trials")


def test_a_search_ends_rather_than_resume_what_is_hopeless_and_says_so(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the budget would pay for the end of trial 1, and for no whole training."""
    trainer = make_trainer(num_train_epochs=3, save_strategy="epoch")
    with caplog.at_level("INFO"):
        result = run(trainer, "rl", budget=2.2, pruner=Doubts(0.04, trial_1=2)).run_summary
    assert [trial.state for trial in result.trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert ", with a chance of 4% to become the best | " in caplog.text
    rest = (
        "0.53 of the budget is left, and the shortest training costs 1; trial 1 is not resumed, with a chance below "
        "5% to become the best"
    )
    assert f"The search ends: {rest}." in caplog.text
    assert result.summary().endswith(f"ended by budget: {rest}")


class Slow(Trainer):
    """Takes at least 30 ms for a step, 120 ms from evaluation to evaluation, 480 ms for a training."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        time.sleep(0.03)
        return super().training_step(*args, **kwargs)


class Clock(TrainerCallback):
    """Notes when evaluations end."""

    ends: list[float] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        Clock.ends.append(time.monotonic())


@pytest.mark.parametrize("timeout", [0.2, 1.1, 2.3])
def test_a_timed_search_ends_within_an_evaluation(make_trainer: MakeTrainer, timeout: float) -> None:
    trainer = make_trainer(cls=Slow, num_train_epochs=4, per_device_train_batch_size=16)
    Clock.ends = []
    trainer.add_callback(Clock)
    started = time.monotonic()
    result = run(trainer, "rl", n_trials=None, timeout=timeout, baseline=True).run_summary
    late = [end for end in Clock.ends if end > started + timeout]
    assert len(late) <= 1  # nothing is trained after the first evaluation that finds the time over
    assert result.stopped_by == "timeout"
    stopped = [trial for trial in result.trials if trial.state == PRUNED]
    assert all(trial.system_attrs["rl:stop"]["reason"] == "timeout" for trial in stopped[-1:] if late)
    assert all(
        "time of the search was over" in explain(result.study, trial.number).to_text() for trial in stopped[-1:] if late
    )


class Timed(Trainer):
    """Takes a second for a step by a clock of its own, so that other work on the machine takes none."""

    seconds = 0.0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        Timed.seconds += 1.0
        return super().training_step(*args, **kwargs)


def improves_until_its_end(args: TrainingArguments, state: Any) -> float:
    """An accuracy that is best at a rate of 1e-3, and at a fourth of the training half of what it is at the end."""
    return (
        max(0.0, 1 - abs(math.log10(args.learning_rate) + 3) / 2) * (state.global_step / max(state.max_steps, 1)) ** 0.5
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", [0, 10, 20])
def test_thirty_timed_searches_end_in_time_and_continue_nothing_hopeless(
    make_trainer: MakeTrainer, tmp_path: Path, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, clock, lambda: Timed.seconds)
    n_stopped = 0
    for seed in range(first, first + 10):
        timeout = float(np.random.default_rng(seed).uniform(5.0, 200.0))
        trainer = make_trainer(
            cls=Timed,
            score=improves_until_its_end,
            num_train_epochs=4,
            save_strategy="epoch",
            seed=seed,
            output_dir=str(tmp_path / str(seed)),
        )
        Clock.ends, started = [], time.monotonic()
        trainer.add_callback(Clock)
        options = {"metric": "accuracy", "n_trials": None, "baseline": True, "pruner": RL_PRUNER}
        result = run(trainer, "rl", timeout=timeout, **options).run_summary
        assert sum(end > started + timeout for end in Clock.ends) <= 1
        assert result.stopped_by == "timeout"
        stops = {trial.number: trial.system_attrs.get("rl:stop") or {} for trial in result.trials}
        continued = {t.user_attrs["rl:continues"] for t in result.trials if "rl:continues" in t.user_attrs}
        kept = {trial.number for trial in result.trials if trial.state != PRUNED}
        assert all(stops[number].get("chance", 1.0) >= HOPELESS for number in continued | kept)
        n_stopped += sum(stops[t.number].get("reason") != "timeout" for t in result.trials if t.state == PRUNED)
    assert n_stopped


def batches(trial: Any) -> dict[str, Any]:
    """Three configurations."""
    return {"per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32])}


@pytest.mark.parametrize("sampler", [None, optuna.samplers.RandomSampler(seed=0)])
def test_a_search_ends_when_it_has_tried_its_space(
    make_trainer: MakeTrainer, sampler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    result = run(make_trainer(), "rl", batches, n_trials=10, sampler=sampler).run_summary
    tried = [t.params["per_device_train_batch_size"] for t in result.trials]
    assert result.stopped_by == "space"
    assert set(tried) == {8, 16, 32}
    assert len(tried) == 3 or sampler is not None  # a random one repeats itself on the way
    assert "all configurations of the space have been tried" in result.summary()
    again = run(make_trainer(), "rl", batches, n_trials=10, sampler=sampler).run_summary
    assert (again.stopped_by, len(again.trials)) == ("space", len(tried))


def test_what_was_tried_is_confirmed_when_asked(make_trainer: MakeTrainer) -> None:
    result = run(make_trainer(), "rl", batches, n_trials=10, confirm=1, baseline=True).run_summary
    roles = [t.user_attrs["rl:role"] for t in result.trials]
    assert result.stopped_by == "space"
    assert roles[:3] == ["baseline", "search", "search"]
    assert set(roles[3:]) == {"confirm"}
    assert len({t.user_attrs["rl:seed"] for t in result.trials}) == 4  # three new ones


def test_trials_that_wait_are_trained_though_all_was_tried(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="mine")
    study.enqueue_trial({"per_device_train_batch_size": 8})
    study.enqueue_trial({"per_device_train_batch_size": 8})
    options = {"n_trials": 10, "storage": storage, "study_name": "mine", "load_if_exists": True}
    result = run(make_trainer(), "rl", batches, **options).run_summary
    assert [t.params["per_device_train_batch_size"] for t in result.trials[:2]] == [8, 8]
    assert (result.stopped_by, len(result.trials)) == ("space", 4)


def test_a_range_between_whose_levels_other_samplers_choose_is_not_exhausted(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1)}

    options = {"n_points": 2, "n_trials": 4}
    sampler = optuna.samplers.RandomSampler(seed=0)
    assert run(make_trainer(), "rl", space, sampler=sampler, **options).run_summary.stopped_by == "n_trials"
    ours = run(make_trainer(), "rl", space, resume=False, **options).run_summary
    assert (ours.stopped_by, len(ours.trials)) == ("space", 2)


@pytest.mark.parametrize(("shares", "n_more"), [([], 3), ([0.5], 2), ([0.5, 0.4], 2), ([0.2, 0.2], 2), ([0.1] * 5, 2)])
def test_a_stopped_trial_uses_up_what_it_cost(shares: list[float], n_more: int) -> None:
    """Of four trials one is complete."""
    study = study_of((1.0, DONE, "baseline"))
    for share in shares:
        stopped = optuna.trial.create_trial(
            state=PRUNED,
            intermediate_values={round(10_000 * share): 0.5},
            system_attrs={"rl:stop": {"fidelity": share, "probability": 0.9}},
        )
        study.add_trial(stopped)
    budget, n_begun = budget_of(study, n_trials=4), 0
    while budget.reached() is None:
        study.add_trial(create_trial(state=DONE, value=1.0))
        n_begun += 1
    assert n_begun == n_more
    assert sum(shares) + 1 + n_begun <= 4 + 1e-6  # never more training than that of four trials


def test_trials_that_another_pruner_stops_count_as_in_optuna() -> None:
    study = study_of((1.0, DONE, "baseline"))
    study.add_trial(create_trial(state=PRUNED, intermediate_values={1000: 0.5}))
    assert budget_of(study, n_trials=2).reached() == "n_trials"
