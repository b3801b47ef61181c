"""Lines that a search prints about its trials."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from transformers import Trainer

from hf_rlsearch.errors import SearchFailed
from hf_rlsearch.observation.trial_attributes import OWNER
from hf_rlsearch.trainer.search.loop import Search
from hf_rlsearch.trainer.search.result import SearchResult
from tests.trainer.conftest import run
from tests.trainer.storage.test_paused import search

MakeTrainer = Callable[..., Trainer]


def test_enqueued_trials_take_the_place_of_the_baseline_and_it_is_said(
    make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    storage = f"sqlite:///{tmp_path / 'mine.db'}"
    optuna.create_study(study_name="mine", storage=storage).enqueue_trial({"learning_rate": 1e-3})
    options = {"storage": storage, "study_name": "mine", "load_if_exists": True, "metric": "loss"}
    result = run(make_trainer(), "rl", baseline=True, n_trials=1, **options).run_summary
    assert result.baseline is None
    assert result.trials[0].params == {"learning_rate": 1e-3}
    assert "Study 'mine' has trials already, such as enqueued ones, and the baseline is not among them" in caplog.text


@pytest.mark.parametrize(
    ("metric", "is_said"),
    [
        ({"metric": "loss"}, True),
        ({"compute_objective": lambda metrics: metrics["eval_loss"]}, True),
        ({"metric": "accuracy"}, False),
    ],
)
def test_losses_with_different_smoothing_are_not_compared_without_a_word(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, metric: dict[str, Any], is_said: bool
) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"label_smoothing_factor": trial.suggest_categorical("label_smoothing_factor", [0.0, 0.1])}

    caplog.set_level(logging.INFO)
    run(make_trainer(score=lambda args, state: 0.5), "rl", space, n_trials=1, **metric)
    assert caplog.text.count("with different smoothing they cannot be compared") == is_said


def test_a_trial_that_resumes_another_one_names_it(
    make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    search(make_trainer, tmp_path / "search")
    assert "Trial 3 resumes trial 1 at 33 %." in caplog.text


def test_a_model_in_parts_that_only_some_ranks_see_is_an_error_on_all() -> None:
    """Each rank loads its own part, so that none can send the model to another."""
    group = SimpleNamespace(gather=lambda message: [{"has": True}, {"has": False}])
    runner: Any = SimpleNamespace(
        group=group, provider=SimpleNamespace(reference=SimpleNamespace(is_fsdp_enabled=True))
    )
    for load in (None, lambda trainer: None):
        with pytest.raises(SearchFailed, match=r"not on the disk of the ranks \[1\], .* disk that all machines share"):
            Search(runner)._agree_on_weights(load, 3)


@pytest.mark.parametrize("n_complete", [5, 0])
def test_the_end_says_which_trial_still_runs_and_where(n_complete: int) -> None:
    study = optuna.create_study()
    for _ in range(n_complete):
        study.tell(study.ask(), 1.0)
    study.ask().set_user_attr(OWNER, {"host": "node-b", "pid": 12, "begun": 1.0})
    summary = SearchResult(study, "eval_loss", "out", "n_trials", 6).summary()
    line = f"{n_complete} of 6 trials are finished, still running: trial {n_complete} (process 12 on node-b)"
    assert line in summary.splitlines()
