"""Four workers share a search in PostgreSQL: one is killed, the server restarts, and every trial is trained once."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch.observation.trial_attributes import FOLDER, OWNER
from tests.helpers import postgres

N_TRIALS = 40
SCRIPT = """
import os
import sys
import time

from transformers import TrainerCallback

from hf_rlsearch.cli.demo import make_trainer


class Sleeps(TrainerCallback):
    def on_epoch_begin(self, args, state, control, **kwargs):
        time.sleep(float(sys.argv[4]))


def space(trial):
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.2),
    }


trainer = make_trainer(n_train=32, n_validation=16, output=sys.argv[2])
trainer.add_callback(Sleeps())
trainer.args.set_training(num_epochs=2, batch_size=8).set_save(strategy="epoch")
trainer.hyperparameter_search(
    space, backend="rl", n_trials=int(sys.argv[3]), metric="accuracy", pruner=None,
    storage=sys.argv[1], study_name=sys.argv[2], load_if_exists=True,
)
"""


Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch(server: postgres.Server, tmp_path: Path) -> Iterator[Launch]:
    """Starts the command that starts workers on the study of a name."""
    (tmp_path / "train.py").write_text(SCRIPT)
    started: list[subprocess.Popen[str]] = []

    def start(n_workers: int, name: str, *, n_trials: int, sleep: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hf_rlsearch", "workers", str(n_workers), "--gpus-per-worker", "0", "--"]
        command += [sys.executable, "train.py", server.url, name, str(n_trials), str(sleep)]
        started.append(
            subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
        return started[-1]

    yield start
    for each in started:
        if each.poll() is None:
            each.terminate()
        each.communicate()


def finished(trials: list[FrozenTrial]) -> int:
    return sum(trial.state.is_finished() for trial in trials)


def wait_until(study: optuna.Study, process: subprocess.Popen[str], is_met: Callable[[list[FrozenTrial]], Any]) -> Any:
    """What the condition answers as soon as it is met."""
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        if answer := is_met(study.get_trials(deepcopy=False)):
            return answer
        time.sleep(0.05)
    raise AssertionError("nothing happens")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_forty_trials_by_four_workers_of_which_one_is_killed_while_the_server_restarts(
    server: postgres.Server, server_storage: optuna.storages.BaseStorage, launch: Launch
) -> None:
    study = optuna.create_study(storage=server_storage, study_name="s", direction="maximize")
    launcher = launch(4, "s", n_trials=N_TRIALS, sleep=0.7)

    def in_training(trials: list[FrozenTrial]) -> int | None:
        """The process of a trial that has just begun its second epoch, after a fifth of the search."""
        running = [t for t in trials if t.state == TrialState.RUNNING and len(t.intermediate_values) == 1]
        return running[-1].user_attrs[OWNER]["pid"] if running and finished(trials) >= N_TRIALS // 5 else None

    os.kill(wait_until(study, launcher, in_training), signal.SIGKILL)
    wait_until(study, launcher, lambda trials: finished(trials) >= N_TRIALS // 2)
    server.stop()
    time.sleep(3)
    server.start()
    printed, _ = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, printed

    # A trial that was one too many waits, and has not been chosen.
    trials = [trial for trial in study.trials if trial.state != TrialState.WAITING]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * N_TRIALS
    assert len({tuple(trial.params.values()) for trial in trials}) == N_TRIALS
    assert len({trial.user_attrs[FOLDER] for trial in trials}) == N_TRIALS
    assert {len(trial.intermediate_values) for trial in trials} == {2}
    recorded = [int(number) for number in re.findall(r"^worker \d \| Trial +(\d+)  [\d.e-]+ \|", printed, re.MULTILINE)]
    assert sorted(recorded) == [trial.number for trial in trials]
    assert len(re.findall(r"Trial \d+ is taken over: process \d+ on", printed)) == 1
    assert len(re.findall(r"worker \d ended with code -9", printed)) == 1
    assert "is started once more" in printed
    assert "The database server answers again" in printed
    assert "secret" not in printed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_take_little_more_than_half_of_the_time_of_one(
    server_storage: optuna.storages.BaseStorage, launch: Launch
) -> None:
    """On trials that wait for something; measured from the first start of a trial to the last end."""
    seconds = []
    for n_workers in (1, 2):
        name = f"by {n_workers}"
        launcher = launch(n_workers, name, n_trials=12, sleep=3.0)
        printed, _ = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, printed
        trials = [trial for trial in optuna.load_study(study_name=name, storage=server_storage).trials if trial.values]
        assert len(trials) == 12
        ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
        starts = [trial.datetime_start for trial in trials if trial.datetime_start]
        seconds.append((max(ends) - min(starts)).total_seconds())
    print(f"one worker {seconds[0]:.1f} s, two {seconds[1]:.1f} s: {seconds[1] / seconds[0]:.2f}")
    assert seconds[1] <= 0.6 * seconds[0]
