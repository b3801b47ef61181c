"""The agent is told the same facts in every trial of a search, those of the untrained model included."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from transformers import Trainer

from hf_rlsearch.agent.agent import Agent
from hf_rlsearch.observation.trial_attributes import TASK_FACTS
from hf_rlsearch.optuna import RLSampler
from tests.trainer.conftest import Rows, finished, run, stored, tiny_model

MakeTrainer = Callable[..., Trainer]
N_ROWS = 100
"""More than the few rows that a search evaluates to find the metrics."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The facts of each decision."""
    decide, facts = Agent.decide, []

    def watched(self: Agent, *args: Any, **options: Any) -> Any:
        facts.append(dict(options["facts"]))
        return decide(self, *args, **options)

    monkeypatch.setattr(Agent, "decide", watched)
    return facts


def on_many_rows(trainer: Trainer) -> Trainer:
    trainer.eval_dataset = Rows(N_ROWS, 1)
    return trainer


class Watched(Trainer):
    """Counts its evaluations of all rows outside of a training."""

    n_evaluations = 0

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not self.is_in_train and len(self.eval_dataset if eval_dataset is None else eval_dataset) == N_ROWS:
            type(self).n_evaluations += 1
        return super().evaluate(eval_dataset, *args, **kwargs)


def watched() -> type[Watched]:
    class New(Watched):
        pass

    return New


def test_one_model_is_made_before_the_first_trial(make_trainer: MakeTrainer) -> None:
    """It tells which search this is, and is then evaluated."""
    made: list[int] = []
    n_made: list[int] = []

    def model_init() -> Any:
        made.append(1)
        return tiny_model()

    class Noted(Trainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            n_made.append(len(made))
            return super().train(*args, **kwargs)

    trainer = make_trainer(cls=Noted, model_init=model_init)
    n_before = len(made)
    result = run(trainer, "rl", n_trials=1).run_summary
    assert n_made == [n_before + 1]
    assert "untrained" in result.study.user_attrs[TASK_FACTS]


def test_the_untrained_model_is_measured_once_and_told_in_each_trial(
    make_trainer: MakeTrainer, told: list[dict[str, float]]
) -> None:
    loss = on_many_rows(make_trainer()).evaluate()["eval_loss"]
    cls = watched()
    for n_trials in (1, 3):
        study = run(on_many_rows(make_trainer(cls=cls)), "rl", n_trials=n_trials).run_summary.study
    assert len(told) == 3
    assert told[0]["untrained"] == -loss
    assert told[0]["n_steps"] == pytest.approx(math.log10(4))
    assert told[0] == told[1] == told[2]
    assert study.user_attrs[TASK_FACTS]["untrained"] == loss
    assert cls.n_evaluations == 1


def test_a_second_search_of_a_trainer_measures_a_fresh_model(
    make_trainer: MakeTrainer, told: list[dict[str, float]]
) -> None:
    trainer = on_many_rows(make_trainer(learning_rate=1e-3))
    for _ in range(2):
        run(trainer, "rl", n_trials=1, resume=False)
    assert told[0] == told[1]


def test_a_search_killed_during_the_measurement_measures_again(
    make_trainer: MakeTrainer, told: list[dict[str, float]]
) -> None:
    class Killed(Trainer):
        def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> Any:
            if eval_dataset is None:
                raise SystemExit
            return super().evaluate(eval_dataset, *args, **kwargs)

    with pytest.raises(SystemExit):
        run(on_many_rows(make_trainer(cls=Killed)), "rl", n_trials=1)
    run(on_many_rows(make_trainer()), "rl", n_trials=1)
    assert "untrained" in told[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, ValueError("needs two classes")])
def test_without_a_number_nothing_is_told(
    make_trainer: MakeTrainer,
    told: list[dict[str, float]],
    value: float | Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def metrics(prediction: Any) -> dict[str, float]:
        if trainer.is_in_train or len(prediction.label_ids) < N_ROWS:
            return {"accuracy": 0.5}
        if isinstance(value, Exception):
            raise value
        return {"accuracy": value}

    trainer = on_many_rows(make_trainer(metrics=metrics))
    run(trainer, "rl", n_trials=1)
    assert "untrained" not in told[0]
    assert ("untrained model cannot be evaluated" in caplog.text) == isinstance(value, Exception)
    assert told[0]["n_evaluated"] == pytest.approx(2.0)


def test_nothing_is_measured_for_others(make_trainer: MakeTrainer) -> None:
    cls = watched()
    study = run(
        on_many_rows(make_trainer(cls=cls)), "rl", n_trials=1, sampler=optuna.samplers.RandomSampler()
    ).run_summary.study
    assert TASK_FACTS not in study.user_attrs
    assert cls.n_evaluations == 0


def test_several_objectives_have_no_untrained_value(make_trainer: MakeTrainer, told: list[dict[str, float]]) -> None:
    cls = watched()
    trainer = on_many_rows(make_trainer(cls=cls, score=lambda args, state: 0.5))
    run(trainer, "rl", n_trials=1, metric=["loss", "accuracy"], direction=["minimize", "maximize"])
    assert "untrained" not in told[0]
    assert "n_steps" in told[0]
    assert cls.n_evaluations == 0


def test_a_study_that_others_began_is_continued_without_a_delay(
    make_trainer: MakeTrainer, told: list[dict[str, float]], tmp_path: Path
) -> None:
    cls = watched()
    shared = {"storage": f"sqlite:///{tmp_path}/shared.db", "study_name": "shared", "load_if_exists": True}
    for n_trials, sampler in ((1, optuna.samplers.RandomSampler()), (2, RLSampler(seed=0))):
        run(on_many_rows(make_trainer(cls=cls)), "rl", n_trials=n_trials, sampler=sampler, **shared)
    assert len(finished(stored(shared["storage"]))) == 2
    assert cls.n_evaluations == 0
    assert "n_steps" in told[-1]
