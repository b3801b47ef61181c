"""The lines that a person reads while a search runs."""

import re
import sys
import time
from typing import Any

import pytest

from hf_rlsearch.trainer.session.progress import Progress, TrialSummary, as_time

BASELINE = {"learning_rate": 5e-5, "num_train_epochs": 3}


def summary(number: int, role: str = "search", **changes: Any) -> TrialSummary:
    given: dict[str, Any] = {
        "params": BASELINE,
        "result": "0.8123",
        "best": "0.8123 (trial 1)",
        "fidelity": 1.0,
        "seconds": 30.0,
        "n_done": number + (role != "confirm"),
        **changes,
    }
    return TrialSummary(number=number, role=role, **given)


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is a terminal."""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stream: True, raising=False)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    def show(*trials: TrialSummary, n_trials: int | None = 12, n_done: int = 0) -> list[str]:
        progress = Progress(n_trials=n_trials, n_done=n_done, baseline=BASELINE, quiet=False)
        for trial in trials:
            progress.trial_started(trial.number, trial.role, trial.params)
            progress.trial_finished(trial)
        progress.close()
        shown = capsys.readouterr().err.replace("\r", "\n").splitlines()
        return [line for line in shown if line.startswith("Trial ")]

    return show


def test_every_column_is_there(lines: Any) -> None:
    found = lines(summary(3, params={"learning_rate": 3e-4, "num_train_epochs": 3}, fidelity=0.25, n_done=1))
    assert found == [
        "Trial  3  0.8123 | best 0.8123 (trial 1) | 25% trained in 30 s | about 6 min left | learning_rate=0.0003"
    ]


def test_the_trials_and_the_speed_of_other_processes_count(
    terminal: None, lines: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = lines(summary(3, n_done=8, n_workers=2), n_done=2)
    assert "about 1 min left" in line
    progress = Progress(n_trials=12, n_done=2, baseline=BASELINE, quiet=False)
    progress.trial_finished(summary(3, n_done=8))
    progress.close()
    assert "8/12" in capsys.readouterr().err


def test_only_values_that_differ_from_the_baseline_are_shown(lines: Any) -> None:
    found = lines(summary(0, "baseline"), summary(1), summary(2, "confirm", params={"learning_rate": 1.0, "new": "x"}))
    assert [line.split(" | ")[-1] for line in found] == [
        "baseline",
        "the same as the baseline",
        "learning_rate=1 new=x (under a new seed)",
    ]


def test_time_left_counts_confirmations_as_time_and_not_as_trials(lines: Any) -> None:
    found = lines(summary(9, seconds=10), summary(10, "confirm", seconds=20), summary(10), n_done=9)
    assert [("left" in line, line.split(" | ")[3]) for line in found] == [
        (True, "about 20 s left"),
        (True, "about 30 s left"),
        (True, "about 20 s left"),
    ]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(n_trials=2, n_done=0, baseline=BASELINE, quiet=True)
    progress.trial_started(0, "baseline", BASELINE)
    progress.trial_finished(summary(0, "baseline"))
    progress.say("a note")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_the_bar_of_a_resumed_search_starts_at_the_finished_trials(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(n_trials=4, n_done=3, baseline=BASELINE, quiet=False)
    progress.trial_finished(summary(3))
    progress.close()
    assert "4/4" in capsys.readouterr().err
    assert "tqdm" in sys.modules


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (150, "2 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert as_time(seconds) == text


def test_budget_and_time_bound_the_time_left(lines: Any) -> None:
    found = lines(summary(1, seconds_left=45.0), summary(2, seconds_left=0.0), summary(3, seconds_left=5000.0))
    assert [[c for c in line.split(" | ") if c.endswith("left")] for line in found] == [
        ["about 45 s left"],
        [],
        ["about 4 min left"],
    ]


def test_without_n_trials_only_timeout_and_budget_bound_the_time_left(lines: Any) -> None:
    def left(**limits: Any) -> bool:
        return "about 1 min left" in lines(summary(2, **limits), n_trials=None)[0]

    assert left(seconds_left=60.0)
    assert not left(seconds_left=0.0)
    assert not left()


def test_a_bar_without_n_trials_counts_trials(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(n_trials=None, n_done=3, baseline=BASELINE, quiet=False)
    progress.trial_finished(summary(3))
    progress.close(finished=True)
    shown = capsys.readouterr().err
    assert "search: 4 trials [" in shown
    assert "%|" not in shown


@pytest.mark.parametrize(("finished", "last"), [(True, "1/1 |████████|"), (False, "1/4 |██      |")])
def test_a_search_that_ends_early_ends_with_a_full_bar(
    terminal: None, finished: bool, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bar that stops short is red in a notebook: right after Ctrl-C, wrong where the target was reached."""
    progress = Progress(n_trials=4, n_done=0, baseline=BASELINE, quiet=False)
    progress.trial_finished(summary(0, "baseline"))
    progress.close(finished=finished)
    assert last in capsys.readouterr().err.replace("\r", "\n").rstrip().splitlines()[-1]


def test_several_objectives_have_no_best_trial(lines: Any) -> None:
    assert "best" not in lines(summary(2, best=""))[0]


def test_lines_of_a_notebook_go_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There standard error is drawn on red; the bar is a widget of its own."""
    import tqdm.auto

    class tqdm_notebook(tqdm.auto.tqdm):
        pass

    monkeypatch.setattr(tqdm.auto, "tqdm", tqdm_notebook)
    progress = Progress(n_trials=2, n_done=0, baseline=BASELINE, quiet=False)
    progress.trial_finished(summary(0, "baseline"))
    progress.close()
    shown = capsys.readouterr()
    assert shown.out.startswith("Trial 0 ")
    assert "Trial 0 " not in shown.err


def test_without_a_terminal_there_are_plain_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(n_trials=2, n_done=0, baseline=BASELINE, quiet=False)
    for number in range(2):
        progress.trial_started(number, "search", BASELINE, best="-")
        progress.trial_evaluated(number, 0.5, "accuracy 0.8")
        progress.trial_finished(summary(number))
    progress.close(finished=True)
    shown = capsys.readouterr().err
    assert "\r" not in shown
    assert [line[:7] for line in shown.splitlines()] == ["Trial 0", "Trial 1"]


def test_a_long_training_has_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress(n_trials=2, n_done=0, baseline=BASELINE, quiet=False)
    progress.trial_started(1, "search", BASELINE, best="0.7 (trial 0)", share=0.2)
    for share in (0.3, 0.4, 0.5, 0.6, 1.0):
        now += 50
        progress.trial_evaluated(1, share, f"accuracy {share}")
    assert capsys.readouterr().err.splitlines() == [
        "Trial 1  40% trained | accuracy 0.4 | best 0.7 (trial 0) | about 5 min left of the trial",
        "Trial 1  60% trained | accuracy 0.6 | best 0.7 (trial 0) | about 3 min left of the trial",
    ]


def test_the_bar_shows_the_latest_evaluation(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(n_trials=2, n_done=0, baseline=BASELINE, quiet=False)
    progress.trial_started(1, "search", BASELINE, best="0.7 (trial 0)")
    progress.trial_evaluated(1, 0.5, "accuracy 0.8")
    progress.close()
    assert "trial 1 at 50%: accuracy 0.8, 0 s left, best 0.7 (trial 0)" in capsys.readouterr().err


@pytest.mark.parametrize("n_trials", [20, None])
def test_a_narrow_terminal_cuts_the_bar_and_shows_the_evaluation(
    terminal: None, n_trials: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer line would wrap, and each update of the bar would leave a line behind."""
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda stream: (80, 40))
    progress = Progress(n_trials=n_trials, n_done=2, baseline=BASELINE, quiet=False)
    progress.trial_started(2, "search", {f"hyperparameter_{i}": i for i in range(9)}, best="0.6133 (trial 0)")
    progress.trial_evaluated(2, 0.5, "eval_accuracy 0.4067")
    progress.trial_finished(summary(2))
    progress.close()
    bars = [part for part in re.split(r"[\r\n]", capsys.readouterr().err) if part.startswith("search: ")]
    assert max(map(len, bars)) <= 80
    assert any("trial 2 at 50%: eval_accuracy 0.4067, 0 s left" in bar for bar in bars)
