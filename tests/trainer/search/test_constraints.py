"""Constraints of a search: measured per trial, the best feasible trial wins, and none wins where none is feasible."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from transformers import Trainer

from hf_rlsearch.errors import SearchFailed, StorageError
from hf_rlsearch.observation.trial_attributes import constraints_of, is_feasible
from hf_rlsearch.report import SearchRecord, explain, to_text
from hf_rlsearch.report.html import to_html
from hf_rlsearch.trainer.search.leaderboard import ranking, trials_without_improvement
from hf_rlsearch.trainer.session.seeds_and_memory import resident_memory
from hf_rlsearch.trainer.setup.constraints import eval_latency_ms, excess, measured
from tests.trainer.conftest import Scripted, SmallOnly, batches, rates, run, tiny_model

MakeTrainer = Callable[..., Trainer]
WIDTH = "model.intermediate_size"
SIZES = [32, 64, 128, 48]


def n_params(width: int) -> int:
    return sum(p.numel() for p in tiny_model(intermediate_size=width).parameters())


def widths(trial: Any) -> dict[str, Any]:
    """A space of models."""
    return {WIDTH: trial.suggest_categorical(WIDTH, [32, 48, 64, 128])}


def sized(make_trainer: MakeTrainer, **args: Any) -> Trainer:
    """A Trainer whose accuracy is the width of its model, over a thousand."""
    made: list[Trainer] = []
    made.append(make_trainer(metrics=lambda _: {"accuracy": made[0].model.config.intermediate_size / 1000}, **args))
    return made[0]


def search(make_trainer: MakeTrainer, limit: float, *, n_trials: int = 4, **options: Any) -> Any:
    sampler = options.pop("sampler", None) or Scripted(**{WIDTH: SIZES})
    given = {"metric": "accuracy", "n_trials": n_trials, "sampler": sampler, "constraints": {"trainable_params": limit}}
    return run(sized(make_trainer), "rl", widths, **{**given, **options})


def test_the_best_feasible_trial_wins(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    limit = n_params(64)
    with caplog.at_level("INFO"):
        best = search(make_trainer, limit, keep_best_models=2)
    result = best.run_summary
    assert (best.run_id, best.objective) == ("1", 0.064)
    assert result.best_trial.number == result.study.best_trial.number == 1
    assert [t.user_attrs["rl:measured"]["trainable_params"] for t in result.trials] == [
        n_params(width) for width in SIZES
    ]
    excess_of_all = [next(iter(constraints_of(t).values())) for t in result.trials]  # Optuna 4 stores no names
    assert excess_of_all == pytest.approx([n_params(width) / limit - 1 for width in SIZES])
    assert [t.number for t in ranking(result.study)] == [1, 3, 0]
    kept = [t.number for t in result.trials if Path(result.output_dir, t.user_attrs.get("rl:checkpoint", "-")).is_dir()]
    assert kept == [1, 3]
    assert "Constraints: trainable_params at most" in caplog.text
    assert "0.128, exceeds trainable_params " in caplog.text
    assert "| best 0.064 (trial 1) |" in caplog.text
    assert "0.064 in trial 1 of 4" in result.summary()
    table = result.trials_dataframe()
    assert [bool(text) for text in table["exceeds"].fillna("")] == [False, False, True, False]
    assert "*1" in to_text(result.study)
    assert "trainable_params" in to_html(result.study)
    assert SearchRecord.from_study(result.study).best().number == 1  # type: ignore[union-attr]


def test_without_a_feasible_trial_there_is_no_best_one(make_trainer: MakeTrainer) -> None:
    best = search(make_trainer, 10, n_trials=2)
    result = best.run_summary
    assert (best.run_id, best.hyperparameters) == ("", {})
    assert math.isnan(best.objective)
    assert result.best_trial is None
    assert result.best_checkpoint is None
    text = "No trial of 2 kept to the constraints, so there is no best one. Trial 0 came nearest: trainable_params"
    assert text in result.summary()
    with pytest.raises(ValueError, match="feasible"):
        _ = result.study.best_trial
    with pytest.raises(SearchFailed, match="kept to the constraints"):
        result.apply(sized(make_trainer))
    assert "No complete trial keeps to the constraints" in to_html(result.study)
    assert [t for t in result.trials if "rl:checkpoint" in t.user_attrs] == []


def test_running_out_of_memory_exceeds_the_memory(make_trainer: MakeTrainer) -> None:
    drawn = Scripted(learning_rate=[1e-3] * 3, per_device_train_batch_size=[4, 8, 4])
    options = {"constraints": {"peak_memory_gb": 1000.0}, "sampler": drawn, "n_trials": 3}
    result = run(make_trainer(cls=SmallOnly), "rl", batches, **options).run_summary
    assert [t.state for t in result.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert list(constraints_of(result.trials[1]).values()) == [pytest.approx(0.1)]  # Optuna 4 stores no names
    assert [is_feasible(trial) for trial in result.trials] == [True, False, True]
    assert 0 < result.trials[0].user_attrs["rl:measured"]["peak_memory_gb"] < 100


def test_a_trial_that_has_exceeded_the_memory_is_not_trained_to_its_end(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second trial takes a gigabyte more after its first epoch, and the baseline is left alone."""
    score = {"learning_rate": [1e-3] * 2, WIDTH: [32, 64]}
    made: list[Trainer] = []
    more = [0]

    def memory() -> int:
        more[0] += 10**9 if made[0].model is not None and made[0].model.config.intermediate_size == 64 else 0
        return 10**8 + more[0]

    monkeypatch.setattr("hf_rlsearch.trainer.session.seeds_and_memory.resident_memory", memory)
    made.append(sized(make_trainer, num_train_epochs=4, save_strategy="epoch"))
    options = {"constraints": {"peak_memory_gb": 0.5}, "sampler": Scripted(**score), "baseline": True, "n_trials": 3}
    with caplog.at_level("INFO"):
        result = run(
            made[0], "rl", lambda trial: {**rates(trial), **widths(trial)}, metric="accuracy", **options
        ).run_summary
    baseline, kept, stopped, *_ = result.trials
    assert [trial.state for trial in (baseline, kept, stopped)] == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED]
    assert [is_feasible(trial) for trial in (baseline, kept, stopped)] == [True, True, False]
    assert list(stopped.intermediate_values) == [2500]
    assert stopped.system_attrs["rl:stop"] == {"reason": "limit", "fidelity": 0.25}
    assert "rl:paused" not in stopped.user_attrs
    assert "pruned at 0.064, exceeds peak_memory_gb" in caplog.text
    assert "exceeded the memory that the constraints allow" in explain(result.study, stopped.number).to_text()
    assert "exceeded the memory that the constraints allow" in to_html(result.study)


def test_a_search_in_which_nothing_fits_ends_and_says_so(make_trainer: MakeTrainer) -> None:
    options = {"constraints": {"peak_memory_gb": 1e-3}, "sampler": Scripted(learning_rate=[1e-3] * 9), "n_trials": 2}
    result = run(make_trainer(num_train_epochs=4), "rl", rates, **options).run_summary
    assert {trial.state for trial in result.trials} == {TrialState.PRUNED}
    assert len(result.trials) == 5  # a quarter of a training each, then a whole one has no room
    assert "No trial of 5 kept to the constraints, so there is no best one. Trial " in result.summary()
    assert "came nearest: peak_memory_gb " in result.summary()
    assert result.best_trial is None


def test_all_limits_are_measured(make_trainer: MakeTrainer) -> None:
    limits = {"peak_memory_gb": 1e3, "seconds": 1e3, "trainable_params": 1e9, "eval_latency_ms": 1e4}
    sampler = Scripted(learning_rate=[1e-3])
    result = run(make_trainer(), "rl", rates, n_trials=1, sampler=sampler, constraints=limits).run_summary
    trial = result.trials[0]
    assert trial.user_attrs["rl:measured"].keys() == limits.keys()
    assert trial.user_attrs["rl:measured"]["seconds"] == trial.user_attrs["rl:seconds"]
    rows_per_second = trial.user_attrs["rl:metrics"]["eval_samples_per_second"]
    assert trial.user_attrs["rl:measured"]["eval_latency_ms"] == pytest.approx(1000 / rows_per_second, rel=0.05)
    assert result.study.user_attrs["rl:constraints"] == limits


def test_other_limits_are_another_search(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    limit = n_params(64)
    assert search(make_trainer, limit, n_trials=1).run_summary.study.study_name == "search-1"
    assert search(make_trainer, limit, n_trials=1).run_summary.study.study_name == "search-1"
    assert search(make_trainer, limit + 1, n_trials=1).run_summary.study.study_name == "search-2"
    shared = {"storage": f"sqlite:///{tmp_path / 'study.db'}", "study_name": "mine", "load_if_exists": True}
    search(make_trainer, limit, n_trials=1, **shared)
    with pytest.raises(StorageError, match="other constraints: trainable_params"):
        search(make_trainer, limit + 1, n_trials=2, **shared)


def test_an_infeasible_winner_of_confirmations_is_passed_over(make_trainer: MakeTrainer) -> None:
    """The baseline, of width 32, is feasible only where the limit allows it."""
    options = {"baseline": True, "confirm": 1, "sampler": Scripted(**{WIDTH: [48]}), "n_trials": 2}
    assert search(make_trainer, n_params(48), **options).run_summary.best_trial.number == 1
    options["sampler"] = Scripted(**{WIDTH: [48]})
    assert search(make_trainer, n_params(32), **options).run_summary.best_trial.number == 0


def test_nothing_is_confirmed_where_no_trial_can_be_the_best(make_trainer: MakeTrainer) -> None:
    options = {"baseline": True, "confirm": 1, "sampler": Scripted(**{WIDTH: [48]}), "n_trials": 2}
    assert len(search(make_trainer, 10, **options).run_summary.trials) == 2


def test_infeasible_trials_do_not_restart_patience() -> None:
    study = optuna.create_study(direction="maximize")
    for value, over in [(0.5, -1.0), (0.9, 1.0), (0.4, -1.0)]:
        study.add_trial(create_trial(value=value, system_attrs={"constraints": [over]}))
    assert trials_without_improvement(study) == 2


@pytest.mark.parametrize(
    ("metrics", "milliseconds"),
    [
        ({"eval_runtime": 2.0, "eval_samples_per_second": 50.0}, 20.0),
        (
            {
                "eval_a_runtime": 1.0,
                "eval_a_samples_per_second": 30.0,
                "eval_b_runtime": 3.0,
                "eval_b_samples_per_second": 10.0,
            },
            4000 / 60,
        ),
        ({"eval_runtime": 0.0, "eval_samples_per_second": 0.0}, 0.0),
        ({"eval_loss": 0.3}, 0.0),
    ],
)
def test_latency_is_the_time_of_an_evaluated_row(metrics: dict[str, float], milliseconds: float) -> None:
    assert eval_latency_ms(metrics) == pytest.approx(milliseconds)


def test_what_was_not_measured_violates_nothing() -> None:
    limits = {"peak_memory_gb": 2.0, "seconds": 10.0}
    given = {"trainable_params": 0, "metrics": {}}
    found = measured(limits, peak_memory=3 * 10**9, seconds=0.0, out_of_memory=False, **given)
    assert found == {"peak_memory_gb": 3.0}
    assert excess(limits, found) == {"peak_memory_gb": 0.5}
    found = measured(limits, peak_memory=10**9, seconds=5.0, out_of_memory=True, **given)
    assert excess(limits, found) == {"peak_memory_gb": pytest.approx(0.1)}


def models(trial: Any) -> dict[str, Any]:
    """Models of up to a gigabyte in training, batches and rates."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32, 64]),
        WIDTH: trial.suggest_categorical(WIDTH, [64, 256, 1024, 4096, 16384, 65536]),
        "model.num_hidden_layers": trial.suggest_int("model.num_hidden_layers", 1, 3),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["peak_memory_gb", "trainable_params"])
def test_few_real_trainings_exceed_a_limit(make_trainer: MakeTrainer, name: str) -> None:
    """Wider models score better, so the limit is in the way; fewer than a tenth of the later trials exceed it.

    A model of a gigabyte is among them, whose memory the next trials must not be charged with.
    """
    made: list[Trainer] = []

    def metrics(_: Any) -> dict[str, float]:
        width, rate = made[0].model.config.intermediate_size, made[0].args.learning_rate
        return {"accuracy": 0.4 + 0.02 * math.log2(width) - 0.02 * (math.log10(rate) + 3) ** 2}

    made.append(make_trainer(metrics=metrics, model_init=lambda: tiny_model(hidden_size=64, intermediate_size=64)))
    limit = {"peak_memory_gb": resident_memory() / 1e9 + 0.3, "trainable_params": 1e6}[name]
    options = {"metric": "accuracy", "n_trials": 24, "constraints": {name: limit}, "baseline": True}
    result = run(made[0], "rl", models, keep_best_models=0, **options).run_summary
    late = [is_feasible(trial) for trial in result.trials[3:]]
    assert len(late) == 21
    assert late.count(False) <= 2
    assert result.best_trial.params[WIDTH] >= 4096
