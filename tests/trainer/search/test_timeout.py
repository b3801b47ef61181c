"""A search that ``timeout=`` has ended keeps what it was training, and the same command goes on from there."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from transformers import Trainer, TrainerCallback

from hf_rlsearch.cli import main
from hf_rlsearch.report import explain
from hf_rlsearch.trainer.search.budget import RemainingBudget
from tests.trainer.conftest import Scripted, run, states, tiny_model

MakeTrainer = Callable[..., Trainer]
COMPLETE, PRUNED = TrialState.COMPLETE, TrialState.PRUNED
RATES = [1e-2, 1e-3]


class Steps(TrainerCallback):
    """Counts the training steps of a search; the Trainer of each trial has a copy of the callback."""

    n = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Steps.n += 1


@pytest.fixture
def search(make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A search whose time is over after so many steps, 12 a trial; returns its result and the number of its steps."""

    def start(steps: float = math.inf, rates: list[float] = RATES, **given: Any) -> tuple[Any, int]:
        args = {n: given.pop(n) for n in ("output_dir", "save_strategy", "weight_decay", "cls") if n in given}
        options = {"n_trials": 3, "timeout": 1e6, "max_paused_trials": 2, "baseline": True, **given}
        Steps.n = 0
        with monkeypatch.context() as patch:
            patch.setattr(RemainingBudget, "is_out_of_time", lambda self: Steps.n >= steps)
            trainer = make_trainer(
                **{"num_train_epochs": 3, "save_strategy": "epoch", "model_init": lambda: tiny_model(0.3), **args},
                callbacks=[Steps()],
            )
            result = run(trainer, "rl", sampler=Scripted(learning_rate=rates), **options).run_summary
        return result, Steps.n

    return start


def on_disk(result: Any) -> dict[str, int]:
    """The folders of trials with checkpoints or a model, and how many are in each."""
    found = [p.parent.name for p in Path(result.output_dir).glob("run-*/*") if p.name.startswith(("check", "model"))]
    return {name: found.count(name) for name in sorted(found)}


def values(result: Any) -> list[float]:
    return [trial.value for trial in result.trials if trial.state == COMPLETE]


def test_a_stopped_baseline_goes_on_from_its_checkpoint(search: Any, tmp_path: Path) -> None:
    whole, n_whole = search(output_dir=str(tmp_path / "whole"))
    first, n_first = search(4)
    assert (n_whole, n_first) == (36, 4)
    assert (first.stopped_by, states(first.study)) == ("timeout", [PRUNED])
    assert on_disk(first) == {"run-0": 1}
    *_, line, end = first.summary().splitlines()
    assert line.startswith("1 stopped trial waits on disk (0.")
    out = tmp_path / "out"
    assert line.endswith(
        f"the same command continues, `hf-rlsearch clean {out} --study search-1` deletes the checkpoints"
    )
    assert end.startswith("ended by timeout")
    second, n_second = search()
    assert n_first + n_second == n_whole
    assert second.stopped_by == "n_trials"
    assert states(second.study) == [PRUNED, COMPLETE, COMPLETE, COMPLETE]
    assert second.trials[1].user_attrs["rl:continues"] == 0
    assert second.trials[1].intermediate_values == whole.trials[0].intermediate_values
    assert values(second) == values(whole)
    assert second.baseline.number == 1
    assert second.gain == whole.gain
    assert list(on_disk(second)) == [Path(second.best_checkpoint).parent.name]
    assert "on disk" not in second.summary()


def test_a_stopped_trial_goes_on_first(search: Any, tmp_path: Path) -> None:
    """The second of three trials is stopped after two of its three epochs, then the time is over before its end."""
    whole, n_whole = search(output_dir=str(tmp_path / "whole"))
    first, n_first = search(20)
    assert (first.stopped_by, states(first.study)) == ("timeout", [COMPLETE, PRUNED])
    assert on_disk(first) == {"run-0": 1, "run-1": 1}
    none, n_none = search(0)
    assert (n_none, none.stopped_by, on_disk(none)) == (0, "timeout", on_disk(first))
    assert "1 stopped trial waits on disk" in none.summary()
    assert states(none.study) == [COMPLETE, PRUNED, TrialState.WAITING]
    second, n_second = search(rates=RATES[1:])
    assert n_first + n_second == n_whole
    assert states(second.study) == [COMPLETE, PRUNED, COMPLETE, COMPLETE]
    assert second.trials[2].user_attrs["rl:continues"] == 1
    assert values(second) == values(whole)
    assert list(on_disk(second)) == [Path(second.best_checkpoint).parent.name]
    told = explain(second.study, 2).to_text()
    assert "trial 1, which was stopped because the time was over" in told
    assert "resumed trial 1 at 67%" in told


def test_the_last_of_n_trials_goes_on(search: Any, tmp_path: Path) -> None:
    """It uses up only a part of the last trial, in which no whole one fits: trials that wait for more stay waiting."""
    initial = {"initial_trials": [{"learning_rate": rate} for rate in (1e-2, 1e-3, 1e-4)]}
    whole, n_whole = search(output_dir=str(tmp_path / "whole"), **initial)
    first, n_first = search(28, **initial)
    assert (first.stopped_by, states(first.study)[:3]) == ("timeout", [COMPLETE, COMPLETE, PRUNED])
    second, n_second = search(**initial)
    assert second.stopped_by == "n_trials"
    assert n_first + n_second == n_whole == 36
    assert values(second) == values(whole)
    assert list(on_disk(second)) == [Path(second.best_checkpoint).parent.name]


def test_trainings_that_take_several_nights(search: Any) -> None:
    """No training fits into the time of a night, which pays for one evaluation: the search gets on all the same."""
    options = {"timeout": 0.01, "n_trials": 2, "max_paused_trials": 1}
    nights = [search(4, **options) for _ in range(6)]
    assert [n_steps for _, n_steps in nights] == [4] * 6
    result = nights[-1][0]
    assert states(result.study) == [PRUNED, PRUNED, COMPLETE, PRUNED, PRUNED, COMPLETE]
    assert result.stopped_by == "n_trials"
    assert list(on_disk(result)) == [Path(result.best_checkpoint).parent.name]


@pytest.mark.parametrize(
    "given", [{"max_paused_trials": 0}, {"save_strategy": "no"}, {"resume": False}, {"disk_budget_gb": 0}]
)
def test_without_checkpoints_a_stopped_trial_is_lost(search: Any, given: dict[str, Any]) -> None:
    first, _ = search(20, **given)
    assert (first.stopped_by, states(first.study)) == ("timeout", [COMPLETE, PRUNED])
    assert "run-1" not in on_disk(first)
    assert "on disk" not in first.summary()
    if given.get("resume", True):
        second, n_second = search(**given)
        assert n_second == 12
        assert states(second.study) == [COMPLETE, PRUNED, COMPLETE]


def test_other_ends_leave_no_stopped_trial(search: Any) -> None:
    first, _ = search(20)
    assert on_disk(first) == {"run-0": 1, "run-1": 1}
    second, n_second = search(target=1e3)
    assert (second.stopped_by, n_second) == ("target", 0)
    assert list(on_disk(second)) == ["run-0"]


def test_confirmations_that_the_time_stops_go_on(search: Any, tmp_path: Path) -> None:
    whole, n_whole = search(output_dir=str(tmp_path / "whole"), n_trials=2, confirm=1)
    first, n_first = search(28, n_trials=2, confirm=1)
    assert first.stopped_by == "timeout"
    assert states(first.study) == [COMPLETE, COMPLETE, PRUNED]
    second, n_second = search(n_trials=2, confirm=1)
    assert n_first + n_second == n_whole
    assert second.confirmations == whole.confirmations
    assert second.best_value == whole.best_value
    assert Path(second.best_checkpoint).is_dir()
    assert len(on_disk(second)) == 1


def test_what_the_time_left_is_said_and_cleaned(
    search: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another search says what the first left; cleaning deletes stopped trials alone, and the first can still go on."""
    out = str(tmp_path / "out")
    first, _ = search(20)
    assert main(["clean", out, "--yes"]) == 0
    assert "Nothing to clean" in capsys.readouterr().out
    with caplog.at_level("INFO"):
        search(weight_decay=0.1, n_trials=1)
    assert "Interrupted or ended by timeout, and left as it is: search-1 (0." in caplog.text
    assert main(["clean", out, "--yes"]) == 0
    told = capsys.readouterr().out
    assert f"MB of checkpoints): these folders lose checkpoints and models:\n  {tmp_path / 'out' / 'run-1'}\n" in told
    assert on_disk(first) == {"run-0": 1}
    assert "on disk" not in first.summary()
    again, n_steps = search()
    assert (again.study.study_name, again.stopped_by, n_steps) == ("search-1", "n_trials", 12)


def test_a_shared_search_says_where_its_stopped_trials_are(search: Any, tmp_path: Path) -> None:
    storage = {"storage": f"sqlite:///{tmp_path / 's.db'}", "study_name": "s", "load_if_exists": True}
    first, n_first = search(20, **storage)
    assert f"the same command continues, the checkpoints are in {tmp_path / 'out'}" in first.summary()
    second, n_second = search(rates=RATES[1:], **storage)
    assert n_first + n_second == 36
    assert states(second.study) == [COMPLETE, PRUNED, COMPLETE, COMPLETE]
    assert optuna.load_study(study_name="s", storage=storage["storage"]).user_attrs["rl:stopped_by"] == "n_trials"
