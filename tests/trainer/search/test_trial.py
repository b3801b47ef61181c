"""The values of a trial as JSON, the trial that ``model_init`` gets, and the reports of a resumed training."""

import json
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import Trainer, TrainerCallback

from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.observation.trial_attributes import STOP
from hf_rlsearch.trainer.search.trial import (
    Evaluation,
    PruningReporter,
    RankMessage,
    SharedTrial,
    TrialOutcome,
    TrialPlan,
)
from hf_rlsearch.trainer.session.failures import Failure
from tests.trainer.conftest import run

FAILURE = Failure(kind="oom", reason="OutOfMemoryError: CUDA out of memory", rank=1, step=7)


@pytest.mark.parametrize(
    "message",
    [
        TrialPlan(3, {"learning_rate": 1e-3}, {"learning_rate": 1e-3, "train.frozen_layers": 2}, "out/run-3", "run-3"),
        Evaluation(7, {"eval_loss": 0.5}, (0.5, 0.25), TrialState.PRUNED, saves_checkpoint=True),
        TrialOutcome(TrialState.COMPLETE, (float("inf"),), {"eval_loss": 0.1 + 0.2}, checkpoint="out/run-3/model"),
        TrialOutcome(TrialState.FAIL, failure=FAILURE, trained=0.5),
    ],
)
def test_a_message_is_equal_on_the_other_rank(message: RankMessage) -> None:
    assert type(message).from_json(json.loads(json.dumps(message.to_json()))) == message


def test_model_init_cannot_suggest_what_rank_0_did_not_sample() -> None:
    trial = SharedTrial({"learning_rate": 1e-3}, 4)
    assert trial.suggest_float("learning_rate", 1e-5, 1e-1) == 1e-3
    with pytest.raises(SearchSpaceError, match=r"'dropout', which was not sampled for trial 4 .*\['learning_rate'\]"):
        trial.suggest_float("dropout", 0.0, 0.5)


class Averages(TrainerCallback):
    """Changes the weights at the end, as an average over the steps does."""

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        with torch.no_grad():
            model.classifier.bias.copy_(torch.tensor([0.0, state.global_step / 4]))


@pytest.mark.parametrize("evaluates", ["no", "epoch"])
@pytest.mark.parametrize("saves", ["no", "epoch"])
def test_what_a_callback_makes_of_the_weights_at_the_end_is_scored_and_kept(
    make_trainer: Callable[..., Trainer], evaluates: str, saves: str
) -> None:
    options = {"eval_strategy": evaluates, "save_strategy": saves, "num_train_epochs": 2}
    alone, trainer = (make_trainer(callbacks=[Averages], **options) for _ in range(2))
    best = run(trainer, "rl", n_trials=1, initial_trials=[{"learning_rate": 5e-5}])
    alone.train()
    assert best.objective == alone.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == best.objective


class Asked(optuna.pruners.BasePruner):
    """Stops a trial at a given step, and counts at which steps it was asked."""

    def __init__(self, stops_at: int) -> None:
        self.steps: list[int] = []
        self._stops_at = stops_at

    def prune(self, study: optuna.Study, trial: Any) -> bool:
        self.steps.append(trial.last_step)
        return bool(trial.last_step == self._stops_at)


def reporter_of(trial: optuna.Trial, *, may_prune: bool = True, is_over: bool = False) -> PruningReporter:
    return PruningReporter(trial, may_prune=may_prune, out_of_time=lambda: is_over)


def test_a_resumed_training_reports_each_point_once() -> None:
    pruner = Asked(stops_at=5000)
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    reporter = reporter_of(trial)
    assert not reporter.report(2500, (0.5,))
    assert reporter.report(5000, (0.4,))
    resumed = reporter_of(trial)
    assert not resumed.report(2500, (0.5,))
    assert resumed.report(5000, (0.4,))  # the stored answer: the training was killed before the trial was recorded
    assert pruner.steps == [2500, 5000]
    assert study.trials[0].intermediate_values == {2500: 0.5, 5000: 0.4}


def test_a_training_that_is_repeated_replaces_its_points() -> None:
    trial = optuna.create_study(pruner=Asked(stops_at=0)).ask()
    reporter_of(trial).report(2500, (0.5,))
    reporter_of(trial).report(2500, (0.75,))
    assert trial.study.trials[0].intermediate_values == {2500: 0.75}


def test_the_baseline_and_the_last_point_are_never_pruned() -> None:
    pruner = Asked(stops_at=5000)
    study = optuna.create_study(pruner=pruner)
    assert not reporter_of(study.ask(), may_prune=False).report(5000, (0.5,))
    assert not reporter_of(study.ask()).report(10_000, (0.5,))
    assert pruner.steps == []


def test_the_end_of_the_time_stops_every_trial_and_says_so() -> None:
    study = optuna.create_study(pruner=Asked(stops_at=0))
    for may_prune in (True, False):
        trial = study.ask()
        assert reporter_of(trial, may_prune=may_prune, is_over=True).report(2500, (0.5,))
        assert study.trials[-1].system_attrs[STOP] == {"reason": "timeout", "fidelity": 0.25}
    assert not reporter_of(study.ask(), is_over=True).report(10_000, (0.5,))  # the training has ended by itself
    several = optuna.create_study(directions=["minimize", "maximize"]).ask()
    assert reporter_of(several, may_prune=False, is_over=True).report(2500, (0.5, 0.6))


def test_the_end_of_the_time_stops_a_training_that_repeats_what_was_evaluated_before() -> None:
    pruner = Asked(stops_at=2500)
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    reporter_of(trial).report(8000, (0.5,))
    assert not reporter_of(trial).report(2500, (0.4,))  # the pruner is not asked again
    assert pruner.steps == [8000]
    assert reporter_of(trial, is_over=True).report(5000, (0.4,))
    assert study.trials[0].system_attrs[STOP] == {"reason": "timeout", "fidelity": 0.5}
