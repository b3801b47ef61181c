"""Notes that a search leaves for optuna-dashboard."""

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from transformers import Trainer

from hf_rlsearch.report import explain
from tests.trainer.conftest import rates, run

dashboard = pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard")
MakeTrainer = Callable[..., Trainer]


def note_of(study: optuna.Study, number: int) -> str:
    return str(dashboard.get_note(optuna.Trial(study, study.trials[number]._trial_id)))


def test_trials_and_study_have_notes(make_trainer: MakeTrainer) -> None:
    result = run(make_trainer(), "rl", n_trials=2).run_summary
    for number in range(2):
        assert note_of(result.study, number) == explain(result.study, number).to_text().replace("\n", "\n\n")
    assert dashboard.get_note(result.study) == result.summary().replace("\n", "\n\n")


def test_the_note_of_a_continued_search_is_its_new_result(make_trainer: MakeTrainer) -> None:
    first = run(make_trainer(), "rl", n_trials=1).run_summary
    before = dashboard.get_note(first.study)
    second = run(make_trainer(), "rl", n_trials=2).run_summary
    assert dashboard.get_note(second.study) == second.summary().replace("\n", "\n\n") != before


def test_a_note_of_somebody_else_stays(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        if isinstance(trial, optuna.Trial):
            dashboard.save_note(trial, "mine")
        return rates(trial)

    result = run(make_trainer(), "rl", space, n_trials=1).run_summary
    assert note_of(result.study, 0) == "mine"
    dashboard.save_note(result.study, "ours")
    assert dashboard.get_note(run(make_trainer(), "rl", space, n_trials=2).run_summary.study) == "ours"
