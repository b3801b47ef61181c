"""Whether the process that owns a search is still alive: on this machine by its id, elsewhere by its signs of life."""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from transformers import Trainer

from hf_rlsearch import StorageError
from hf_rlsearch.observation.trial_attributes import OWNER
from hf_rlsearch.optuna.storage import open_sqlite
from hf_rlsearch.trainer.storage import resume
from hf_rlsearch.trainer.storage.resume import Lease, _Owned, process_start_time, this_process
from tests.trainer.conftest import Scripted, run, states, stored

MakeTrainer = Callable[..., Trainer]


def is_gone(owner: dict[str, Any], where: Any = "here") -> bool:
    return _Owned(owner, where).is_gone()


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A living process, and what it would have written as owner."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process, {**this_process(), "pid": process.pid, "begun": process_start_time(process.pid)}
        process.kill()


def test_a_living_process_is_not_gone(other: Any) -> None:
    assert not is_gone(other[1])


def test_a_process_whose_id_was_given_to_another_is_gone(other: Any) -> None:
    assert is_gone({**other[1], "begun": other[1]["begun"] - 60})


def test_a_killed_process_that_nobody_has_waited_for_is_gone(other: Any) -> None:
    process, who = other
    process.kill()
    deadline = time.monotonic() + 20
    while not is_gone(who) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(who)
    assert process.returncode is None


def test_this_process_is_the_same_each_time() -> None:
    first = this_process()
    assert first["pid"] == os.getpid()
    assert first == this_process()
    assert is_gone(first)  # it has no other search running


def test_the_name_of_the_host_does_not_matter(other: Any) -> None:
    """One machine may have several names, and several containers may have one."""
    assert not is_gone({**other[1], "host": "elsewhere"})
    other[0].kill()
    other[0].wait()
    assert is_gone({**other[1], "host": "elsewhere"})
    assert not is_gone({**other[1], "table": "elsewhere"})


def test_a_process_elsewhere_is_gone_without_a_new_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its clock says: only that a sign is new counts."""
    clock = 0.0
    monkeypatch.setattr(resume.time, "monotonic", lambda: clock)
    owner = {**this_process(), "table": "elsewhere", "alive": "1970-01-01"}
    assert not is_gone(owner)
    clock = 59.0
    assert not is_gone(owner)
    assert not is_gone({**owner, "alive": "1969-01-01"})
    clock = 118.0
    assert not is_gone({**owner, "alive": "1969-01-01"})
    assert not is_gone({**owner, "alive": "1969-01-01"}, "another trial")
    clock = 120.0
    assert is_gone({**owner, "alive": "1969-01-01"})


@pytest.mark.parametrize("owner", [None, "me", {}, {"pid": "7"}, {"pid": -1}, {"pid": 10**30}, {"pid": 7, "table": []}])
def test_an_owner_that_no_search_has_written_ends_no_search(owner: Any) -> None:
    study = optuna.create_study()
    study.set_user_attr(OWNER, owner)
    trial = study.ask()
    trial.set_user_attr(OWNER, owner)
    lease = Lease.take(study, alone=False)
    assert lease.requeue() == []
    lease.release()


def test_a_process_gives_signs_of_life_and_says_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_INTERVAL", 0.05)
    study = optuna.create_study()
    lease = Lease.take(study, alone=True)
    trial = study.ask()
    lease.hold(trial)

    def signs() -> tuple[str, str]:
        return study.user_attrs[OWNER]["alive"], study.trials[0].user_attrs[OWNER]["alive"]

    first, deadline = signs(), time.monotonic() + 20
    while any(a == b for a, b in zip(first, signs(), strict=True)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(a < b for a, b in zip(first, signs(), strict=True))
    assert study.user_attrs[OWNER]["since"] <= first[0]
    lease.release()
    assert study.user_attrs[OWNER] is None
    assert not lease._thread.is_alive()


def test_a_process_that_was_taken_for_dead_leaves_the_search_to_the_other() -> None:
    study = optuna.create_study()
    lease = Lease.take(study, alone=True)
    lease.hold(study.ask())
    lease.check()
    study.set_user_attr(OWNER, {**this_process(), "pid": 1, "since": "9 o'clock"})
    with pytest.raises(StorageError, match=r"has taken over this search.*Process 1 on .* since 9 o'clock\."):
        lease.check()
    lease.release()
    assert study.user_attrs[OWNER]["pid"] == 1


def test_a_search_that_was_taken_over_between_two_trials_begins_no_other(make_trainer: MakeTrainer) -> None:
    seen: list[optuna.Study] = []

    class TakesOver(Scripted):
        def after_trial(self, study: optuna.Study, *args: Any) -> None:
            seen.append(study)
            study.set_user_attr(OWNER, {**this_process(), "pid": 1})

    with pytest.raises(StorageError, match="has taken over this search"):
        run(make_trainer(), "rl", n_trials=2, sampler=TakesOver(learning_rate=[1e-3, 1e-2]))
    assert states(seen[0]) == [TrialState.COMPLETE]
    assert seen[0].user_attrs[OWNER]["pid"] == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that this process counts."""
    seconds = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(resume, "_MOMENT", 0.0)
    return seconds


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """In a file: a storage in memory is no one's but this process's, and does not look for requeued trials."""
    return optuna.create_study(storage=open_sqlite(tmp_path / "s.db"))


def test_a_trial_that_was_begun_and_never_owned_is_queued_again_after_a_minute(
    clock: list[float], study: optuna.Study
) -> None:
    """Its process died first, or the database server did while it answered."""
    lease = Lease.take(study, alone=False)
    lost = study.ask()
    study.ask().suggest_float("x", 0, 1)  # another program's
    assert lease.requeue() == []
    assert len(resume.trials_of_other_processes(study)) == 2
    clock[0] = 61.0
    assert [trial.number for trial in lease.requeue()] == [lost.number]
    assert states(study) == [TrialState.WAITING, TrialState.RUNNING]
    assert not study.trials[0].user_attrs[OWNER]  # it counts as a new one
    again = study.ask()
    assert again.number == lost.number
    assert lease.requeue() == []  # it has just begun anew
    lease.hold(again)
    clock[0] = 200.0
    assert [trial.number for trial in lease.requeue()] == [lost.number]  # this process trains none
    lease.release()


def test_a_requeued_trial_that_another_worker_is_starting_is_not_requeued_again(
    clock: list[float], study: optuna.Study, other: Any
) -> None:
    """Until the other one has put its name to it, the name of the one that queued it stands there."""
    lease = Lease.take(study, alone=False)
    trial = study.ask()
    trial.set_user_attr(OWNER, other[1])
    other[0].kill()
    other[0].wait()
    assert [each.number for each in lease.requeue()] == [0]
    assert study.trials[0].user_attrs[OWNER]["queued"]
    study.ask()  # of another worker, which dies before it holds the trial
    assert lease.requeue() == []
    assert len(resume.trials_of_other_processes(study)) == 1
    clock[0] = 61.0
    assert [each.number for each in lease.requeue()] == [0]
    lease.release()


def test_the_minute_begins_anew_when_the_server_answers_again(clock: list[float], study: optuna.Study) -> None:
    """While it did not, nobody could give a sign of life."""
    trial = study.ask()
    trial.set_user_attr(OWNER, {**this_process(), "table": "elsewhere", "alive": "1970-01-01"})
    lease = Lease.take(study, alone=False)
    assert lease.requeue() == []
    study._storage.back_since = 50.0  # type: ignore[attr-defined]
    clock[0] = 100.0
    assert lease.requeue() == []
    clock[0] = 111.0
    assert [each.number for each in lease.requeue()] == [0]
    lease.release()


def test_the_running_trials_are_read_once(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database may be far away."""
    lease = Lease.take(study, alone=False)
    study.ask()
    reads, read = [], study._storage.get_all_trials
    monkeypatch.setattr(study._storage, "get_all_trials", lambda *a, **k: reads.append(k["states"]) or read(*a, **k))
    for look in (lease.requeue, lease.wait_for_signs_of_others, lambda: resume.trials_of_other_processes(study)):
        reads.clear()
        monkeypatch.setattr(resume._Watch, "unknown", lambda self, others: [])
        look()
        assert reads == [(TrialState.RUNNING,)]
    lease.release()


SCRIPT = """
import os, sys, time
from transformers import Trainer
from hf_rlsearch.trainer.storage import resume
from tests.trainer.conftest import Rows, rates, run, tiny_arguments, tiny_model

resume._process_table, resume._INTERVAL, resume._GRACE = lambda: "elsewhere", float(sys.argv[2]), 5.0

class Slow(Trainer):
    def training_step(self, *args, **kwargs):
        if self.state.global_step == 1 and self.args.output_dir.endswith("run-1"):
            print("trains", flush=True)
            while not os.path.exists(sys.argv[1] + "/go"):
                time.sleep(0.1)
        return super().training_step(*args, **kwargs)

trainer = Slow(
    args=tiny_arguments(sys.argv[1], per_device_train_batch_size=16, num_train_epochs=1),
    model_init=lambda: tiny_model(),
    train_dataset=Rows(64, 0),
    eval_dataset=Rows(32, 1),
)
run(trainer, "rl", n_trials=3, **eval(sys.argv[3]))
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a search in a process of another machine, as far as anybody can tell.

    It stays in trial 1 until ``out/go`` exists.
    """
    monkeypatch.setattr(resume, "_INTERVAL", 0.2)
    monkeypatch.setattr(resume, "_GRACE", 5.0)
    monkeypatch.setattr(resume, "_PATIENCE", 1.0)
    started: list[subprocess.Popen[str]] = []

    def start(interval: float, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "out"), str(interval), repr(options)]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "trains\n"
        return process

    yield start
    for each in started:
        each.kill()
        each.communicate()


@pytest.mark.timeout(300)
def test_the_same_command_on_another_machine_is_refused_until_the_first_is_dead(
    make_trainer: MakeTrainer, elsewhere: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = elsewhere(0.2)
    message = f"Process {first.pid} on .* has been running this search since 20.*: it trains trial 1\\. Its last sign"
    with pytest.raises(StorageError, match=message):
        run(make_trainer(), "rl", n_trials=3)
    assert first.poll() is None
    first.kill()
    first.wait()
    with caplog.at_level(logging.WARNING, logger="hf_rlsearch"):
        result = run(make_trainer(), "rl", n_trials=3).run_summary
    assert "Waiting up to 5 s for a new one" in caplog.text
    assert states(result.study) == [TrialState.COMPLETE] * 3


@pytest.mark.timeout(300)
def test_a_worker_elsewhere_without_signs_of_life_ends_with_an_error(
    make_trainer: MakeTrainer, tmp_path: Path, elsewhere: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As a suspended machine: its trial is taken over, which is said, and it disturbs the search no more afterwards."""
    options = {"storage": f"sqlite:///{tmp_path / 's.db'}", "study_name": "s", "load_if_exists": True}
    first = elsewhere(1000.0, **options)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        run(make_trainer(), "rl", n_trials=3, **options)
    assert f"Trial 1 is taken over: process {first.pid} on" in caplog.text
    study = stored(options["storage"])
    assert states(study) == [TrialState.COMPLETE] * 3
    before = [(trial.value, trial.intermediate_values, trial.user_attrs) for trial in study.trials]
    (tmp_path / "out" / "go").touch()
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "StorageError: Another process has taken over this search" in errors.splitlines()[-1]
    assert [(trial.value, trial.intermediate_values, trial.user_attrs) for trial in study.trials] == before


HOST = """
import os, socket, sys, time
socket.sethostname(sys.argv[1])
from transformers import Trainer
from hf_rlsearch.trainer.storage import resume
from tests.trainer.conftest import Rows, rates, run, tiny_arguments, tiny_model

resume._INTERVAL, resume._GRACE = 0.2, 5.0
host, folder, url = sys.argv[1:]
waited = False

class Waits(Trainer):
    def training_step(self, *args, **kwargs):
        global waited
        if self.state.global_step == 5 and not waited:
            waited = True
            print(f"{host} trains {os.path.basename(self.args.output_dir)}", flush=True)
            sys.stdin.readline()
        print(f"step {os.path.basename(self.args.output_dir)} {self.state.global_step}", flush=True)
        return super().training_step(*args, **kwargs)

trainer = Waits(
    args=tiny_arguments(folder, save_strategy="epoch", per_device_train_batch_size=16, disable_tqdm=False),
    model_init=lambda: tiny_model(),
    train_dataset=Rows(64, 0),
    eval_dataset=Rows(32, 1),
)
run(trainer, "rl", n_trials=5, storage=url, study_name="s", load_if_exists=True)
"""


@pytest.fixture
def start_host() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a worker on a host with its own name and its own table of processes, and waits until it trains."""
    unshare = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
    try:
        can = subprocess.run([*unshare, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        can = False
    if not can:
        pytest.skip("a host of its own needs Linux's unshare, and root")
    started: list[subprocess.Popen[str]] = []

    def start(name: str, folder: Path, url: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(
            subprocess.Popen([*unshare, sys.executable, "-c", HOST, name, str(folder), url], text=True, **pipes)
        )
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """What a process prints up to a line with this text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("is_shared", [True, False])
def test_the_trial_of_a_dead_host_goes_to_one_of_two_live_ones(
    start_host: Any, tmp_path: Path, is_shared: bool
) -> None:
    """It continues from its checkpoint where the folder is shared, and is trained anew where it is not."""
    url = f"sqlite:///{tmp_path / 's.db'}"
    hosts = {}
    for name in ("alpha", "beta", "gamma"):
        hosts[name] = start_host(name, tmp_path / ("out" if is_shared else name), url)
        lines_until(hosts[name], f"{name} trains run-{len(hosts) - 1}")
    assert {trial.user_attrs[OWNER]["host"] for trial in stored(url).trials} == {*hosts}
    hosts.pop("alpha").kill()
    printed = [host.communicate("go on\n", timeout=300)[0] for host in hosts.values()]
    assert [host.returncode for host in hosts.values()] == [0, 0], printed
    taken_over = [lines for lines in printed if "Trial 0 is taken over: process 1 on alpha, which trained" in lines]
    assert len(taken_over) == 1
    steps = [[int(step) for step in re.findall(r"^step run-0 (\d)", lines, re.MULTILINE)] for lines in printed]
    assert sorted(steps) == [[], [*range(4 if is_shared else 0, 8)]]
    trials = [trial for trial in stored(url).trials if trial.state != TrialState.WAITING]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5
    assert {len(trial.intermediate_values) for trial in trials} == {2}
