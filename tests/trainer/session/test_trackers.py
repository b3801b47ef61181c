"""TensorBoard and Weights & Biases: read back what a search wrote."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.helpers.processes import run_code
from tests.trainer.conftest import Scripted, run

MakeTrainer = Callable[..., Any]
RATES = [1e-4, 1e-2, 1e-3]


def by_rate(args: Any, state: Any) -> float:
    return float(args.learning_rate)


def events(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scalars (tag -> last value) and hyperparameters of all event files in a folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    read = accumulator.EventAccumulator(str(folder)).Reload()
    scalars = {tag: read.Scalars(tag)[-1].value for tag in read.Tags()["scalars"]}
    stored = read.summary_metadata.get("_hparams_/session_start_info")
    if stored is None:
        return scalars, {}
    start = plugin.HParamsPluginData.FromString(stored.plugin_data.content).session_start_info
    values = {name: value.number_value or value.string_value for name, value in start.hparams.items()}
    return scalars, values


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_a_run_for_each_trial_with_its_final_objective(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'hf-rlsearch[tracking]'")
    trainer = make_trainer(score=by_rate, report_to="tensorboard", logging_steps=1)
    run(trainer, "rl", n_trials=3, baseline=True, metric="accuracy", sampler=Scripted(learning_rate=RATES))
    runs = {file.parent.relative_to(tmp_path / "out").parts[0]: file.parent for file in tmp_path.rglob("*tfevents*")}
    assert sorted(runs) == ["run-0", "run-1", "run-2"]
    for name, rate in (("run-0", 5e-5), ("run-1", RATES[0]), ("run-2", RATES[1])):
        scalars, hyperparameters = events(runs[name])
        assert scalars["eval/accuracy"] == pytest.approx(rate)
        assert scalars["hparam/eval_accuracy"] == pytest.approx(rate)
        assert hyperparameters == {"learning_rate": pytest.approx(rate)}
        assert "train/loss" in scalars


def test_a_writer_of_the_users_own_is_kept(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'hf-rlsearch[tracking]'")
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    from hf_rlsearch.trainer.session.trackers import recreate

    with SummaryWriter(str(tmp_path / "mine")) as writer:
        assert recreate(TensorBoardCallback(writer)) is None
    assert isinstance(recreate(TensorBoardCallback()), TensorBoardCallback)


class Watch(TrainerCallback):
    """Notes the run of Weights & Biases that is open when a training ends."""

    seen: list[tuple[str, str, float]] = []

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import wandb

        assert wandb.run is not None
        Watch.seen.append((wandb.run.name, wandb.run.group, wandb.run.config["learning_rate"]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_has_a_run_for_each_trial_in_one_group(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs wandb: pip install 'hf-rlsearch[tracking]'")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    Watch.seen = []
    trainer = make_trainer(score=by_rate, report_to="wandb", callbacks=[Watch()])
    result = run(
        trainer, "rl", n_trials=3, baseline=True, metric="accuracy", sampler=Scripted(learning_rate=RATES)
    ).run_summary
    group = result.study.study_name
    assert Watch.seen == [("run-0", group, 5e-5), ("run-1", group, RATES[0]), ("run-2", group, RATES[1])]
    assert wandb.run is None
    assert len([path for path in tmp_path.rglob("*.wandb") if os.path.getsize(path)]) == 3


def test_a_broken_logger_loses_no_trial(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    from hf_rlsearch.trainer.session.trackers import finish_run

    class TensorBoardCallback(TrainerCallback):
        logging_dir = "somewhere"

        @staticmethod
        def _SummaryWriter(log_dir: str) -> Any:
            raise OSError("disk full")

    finish_run(make_trainer(callbacks=[TensorBoardCallback()]), hyperparameters={}, objective={"eval_loss": 1.0})
    assert "could not be logged: OSError: disk full" in caplog.text


class Tracker(TrainerCallback):
    """Logs the parameters of its first training alone, as the callbacks of transformers' integrations do."""

    logged: list[tuple[str, float]] = []

    def __init__(self, level: str = "low") -> None:
        self._level, self._module, self._is_open, self._has_logged = level, math, False, False

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_open = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self._is_open
        if not self._has_logged:
            Tracker.logged.append((self._level, args.learning_rate))
        self._has_logged = True


@pytest.mark.parametrize("module", ["transformers.integrations.integration_utils", "a_users_script"])
def test_every_tracker_logs_the_parameters_of_every_trial(
    make_trainer: MakeTrainer, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tracker, "__module__", module)
    Tracker.logged.clear()
    trainer = make_trainer(score=by_rate, callbacks=[Tracker("high")])
    run(trainer, "rl", n_trials=2, baseline=True, metric="accuracy", sampler=Scripted(learning_rate=RATES))
    assert Tracker.logged == [("high", 5e-5), ("high", RATES[0])]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_a_run_for_each_trial(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with mlflow.start_run(run_name="mine") as mine:
        trainer = make_trainer(score=by_rate, report_to="mlflow")
        run(trainer, "rl", n_trials=2, baseline=True, metric="accuracy", sampler=Scripted(learning_rate=RATES))
        assert mlflow.active_run().info.run_id == mine.info.run_id
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    trials = [each for each in runs if "learning_rate" in each.data.params]
    rates = sorted(float(each.data.params["learning_rate"]) for each in trials)
    assert rates == sorted([5e-5, RATES[0]])
    for each in trials:
        rate = float(each.data.params["learning_rate"])
        assert each.data.metrics["objective/eval_accuracy"] == pytest.approx(rate)
        assert each.data.tags["hf_rlsearch.study"] == "search-1"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trackio_has_a_run_for_each_trial_in_one_group(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="needs trackio")
    code = """
import sys

sys.path.insert(0, {root!r})
from transformers import Trainer

from tests.trainer.conftest import Rows, tiny_arguments, tiny_model

trainer = Trainer(
    args=tiny_arguments("out", report_to="trackio", project="mine", num_train_epochs=1, trackio_static_space_id=False),
    model_init=lambda: tiny_model(),
    train_dataset=Rows(64, 0),
    eval_dataset=Rows(32, 1),
)


def hp_space(trial):
    return {{"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)}}


best = trainer.hyperparameter_search(hp_space, backend="rl", n_trials=2)

import trackio

api = trackio.Api()
for run in sorted(api.runs("mine"), key=lambda run: run.name):
    logged = [row for row in trackio.SQLiteStorage.get_logs("mine", run.name) if "objective/eval_loss" in row]
    trial = best.run_summary.trials[int(run.name[-1])]
    rate = run.config["hyperparameters"]["learning_rate"]
    print(run.name, run.config["_Group"], rate == trial.params["learning_rate"])
    print(len(logged), logged[0]["objective/eval_loss"] == trial.value)
"""
    printed = run_code(
        code.format(root=str(Path(__file__).parents[3])), tmp_path, TRACKIO_DIR=str(tmp_path / "trackio")
    )
    lines = [line for line in printed.splitlines() if line.startswith(("run-", "1 "))]
    assert lines == ["run-0 search-1 True", "1 True", "run-1 search-1 True", "1 True"]
