"""`hf-rlsearch workers`: each has its part of the machine and its log; one view, one Ctrl-C, one exit code for all."""

import os
import pty
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import optuna
import pytest

from hf_rlsearch.cli import main, workers
from hf_rlsearch.errors import ArgumentsError

SHOWS = "echo gpus $CUDA_VISIBLE_DEVICES; echo threads $OMP_NUM_THREADS"
# The first of several that run this fails.
FAILS_FIRST = 'mkdir "$0" 2>/dev/null && echo "it broke" && exit 3; echo "well"'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(workers, "_LOOK", 0.02)
    monkeypatch.chdir(tmp_path)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell ignores it in what runs in its background
    yield
    signal.signal(signal.SIGINT, before)


def log(number: int) -> list[str]:
    return Path(f"runs/workers/worker-{number}.log").read_text().splitlines()


def test_gpus_are_shared_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7,GPU-a,GPU-b,-1,9")
    assert main(["workers", "2", "--", "sh", "-c", SHOWS]) == 0
    assert [log(0)[0], log(1)[0]] == ["gpus 3,7", "gpus GPU-a,GPU-b"]
    assert main(["workers", "3", "--gpus-per-worker", "1", "--", "sh", "-c", SHOWS]) == 0
    assert [log(number)[-2] for number in range(3)] == ["gpus 3", "gpus 7", "gpus GPU-a"]


def test_threads_are_shared_out_and_a_number_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)))
    assert main(["workers", "2", "--gpus-per-worker", "0", "--", "sh", "-c", SHOWS]) == 0
    assert log(0) == log(1) == ["gpus", "threads 4"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert main(["workers", "1", "--gpus-per-worker", "0", "--", "sh", "-c", SHOWS]) == 0
    assert log(0)[-1] == "threads 3"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["3"], "3 workers with 1 GPU each need 3 GPUs, this machine shows 2. Start fewer workers, or train on CPUs"),
        (["1", "--gpus-per-worker", "3"], "1 workers with 3 GPU each need 3 GPUs, this machine shows 2"),
    ],
)
def test_too_few_gpus_end_it_before_anything_starts(
    words: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert main(["workers", *words, "--", "touch", "started"]) == 1
    assert text in capsys.readouterr().err
    assert not Path("started").exists()


def test_lines_of_all_workers_are_printed_as_a_terminal_would_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    script = r"printf '\r 10%%\r 20%%\r          \rTrial 0  0.5\n\033[1mTrial 1\033[0m  0.4\n\r 30%%'"
    assert main(["workers", "2", "--", "sh", "-c", script]) == 0
    printed = capsys.readouterr().out.splitlines()
    expected = [f"worker {number} | Trial {trial}" for number in (0, 1) for trial in ("0  0.5", "1  0.4")]
    assert sorted(printed) == expected
    assert main(["workers", "2", "--", "echo", "again"]) == 0  # logs are appended to, and not shown anew
    assert sorted(capsys.readouterr().out.splitlines()) == ["worker 0 | again", "worker 1 | again"]
    assert log(0)[-1].endswith("again")


def test_a_worker_that_failed_is_started_once_more_when_the_others_have_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["workers", "3", "--", "sh", "-c", FAILS_FIRST, "flag"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("ended with code 3: it broke (runs/workers/worker-") == 1
    assert printed.count("is started once more") == 1
    assert printed.count("| well") == 3


def test_the_exit_code_is_1_where_it_fails_again_and_where_all_fail(capsys: pytest.CaptureFixture[str]) -> None:
    again = "mkdir first 2>/dev/null && exit 3; mkdir second 2>/dev/null && exit 0; exit 4"
    assert main(["workers", "2", "--", "sh", "-c", again]) == 1
    assert "ended with code 4" in capsys.readouterr().out
    assert main(["workers", "2", "--", "sh", "-c", "exit 5"]) == 1
    assert "once more" not in capsys.readouterr().out
    assert main(["workers", "2", "--", "no-such-program"]) == 1
    assert "no-such-program" in capsys.readouterr().err


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workers", "0", "--", "true"]) == 2
    assert main(["workers", "2"]) == 2
    capsys.readouterr()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


WAITS = """
    import signal, time
    {first}
    print("ready", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def interrupt_when_ready(number: signal.Signals, n_workers: int) -> threading.Thread:
    def wait() -> None:
        logs = [Path(f"runs/workers/worker-{each}.log") for each in range(n_workers)]
        while not all(path.exists() and "ready" in path.read_text() for path in logs):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_interrupts_all_workers(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    thread = interrupt_when_ready(number, 2)
    assert main(["workers", "2", "--", *python(WAITS.format(first=""))]) == 130
    thread.join()
    assert log(0) == log(1) == ["ready", "interrupted"]
    assert "hf-rlsearch: interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_worker_that_does_not_heed_ctrl_c_is_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_PATIENCE", 0.5)
    first = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    first += "; signal.signal(signal.SIGTERM, lambda *a: (print('terminated', flush=True), exit(1)))"
    thread = interrupt_when_ready(signal.SIGINT, 1)
    assert main(["workers", "1", "--", *python(WAITS.format(first=first))]) == 130
    thread.join()
    assert log(0) == ["ready", "terminated"]


def test_a_terminal_shows_one_table() -> None:
    here, there = pty.openpty()
    command = [sys.executable, "-m", "hf_rlsearch", "workers", "2", "--gpus-per-worker", "0", "--"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    code = python("import time; print('a line [b]', flush=True); time.sleep(1); print(end='50%', flush=True)")
    with subprocess.Popen([*command, *code], stdout=there, stderr=there, env=environment) as process:
        os.close(there)
        shown = b""
        while True:
            try:
                shown += os.read(here, 4096)
            except OSError:  # the other end is closed
                break
    os.close(here)
    assert process.returncode == 0
    text = shown.decode()
    assert "last line" in text
    assert text.count("1 threads  runs   a line [b]") >= 2
    assert text.count("1 threads  done   50%") >= 2
    assert "worker 0 |" not in text


# ---------------------------------------------------------------------------------------------------------------- Slurm
SBATCH = """#!/bin/sh
# As Slurm does, in short: gives the job a number, and runs it in the background, once for each number of an array.
n=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1"); n=${n:-one}
cp "$1" {folder}/submitted.sh
grep -q partition=no-such "$1" && { echo "sbatch: error: invalid partition specified: no-such" >&2; exit 1; }
id=$(date +%s%N | tail -c 10 | sed s/^0*//)
export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
if [ $n = one ]; then setsid sh "$1" >/dev/null 2>&1 & else
    for i in $(seq 0 $n); do SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$i setsid sh "$1" >/dev/null 2>&1 & done
fi
echo "Submitted batch job $id"
"""
SRUN = """#!/bin/sh
# srun --unbuffered --output FILE COMMAND...
job=$SLURM_JOB_ID; [ -n "$SLURM_ARRAY_TASK_ID" ] && job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
out=$(echo "$3" | sed "s/%A_%a/$job/; s/%j/$job/; s/%t/0/"); shift 3
echo $$ > {folder}/pid-$job
exec "$@" >"$out" 2>&1
"""
SCANCEL = """#!/bin/bash
kill -TERM -- -$(ps -o pgid= -p $(cat {folder}/pid-$1) | tr -d ' ')  # all processes of the job
"""
SACCT = """#!/bin/sh
echo 'JobID|State'
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The four programs of Slurm that submitit calls, for one machine; the folder has the last submitted file."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scancel": SCANCEL, "sacct": SACCT}.items():
        (folder / name).write_text(text.replace("{folder}", str(folder)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.timeout(600)  # submitit asks for the states of jobs at its own pace
def test_workers_are_an_array_of_jobs(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "partition=gpu,time=1-08:00:00,cpus-per-task=4,mem=16G,reservation=mine,nodelist=a1,a2,nice=0"
    words = ["workers", "2", "--slurm", options, "--gpus-per-worker", "1", "--", "sh", "-c", "echo it runs"]
    assert main(words) == 0
    text = (cluster / "submitted.sh").read_text()
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    wanted = {
        "partition=gpu",
        "time=1920",
        "cpus-per-task=4",
        "mem=16G",
        "reservation=mine",
        "gpus-per-node=1",
        "nodelist=a1,a2",
    }
    wanted |= {"array=0-1%2", "job-name=hf-rlsearch", "nodes=1", "signal=USR2@90", "open-mode=append"}
    assert {f"#SBATCH --{each}" for each in wanted} <= set(lines)
    assert "error=" not in text
    printed = capsys.readouterr().out
    assert [f"worker {number} | it runs" in printed for number in (0, 1)] == [True, True]


@pytest.mark.timeout(600)
def test_a_failed_job_is_one_exit_code(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["workers", "2", "--slurm", "time=5", "--logs", "jobs", "--", "sh", "-c"]
    assert main([*words, FAILS_FIRST, str(cluster / "flag")]) == 0
    assert "array" not in (cluster / "submitted.sh").read_text()  # the one that is started once more
    assert "is started once more" in capsys.readouterr().out
    assert main([*words, "exit 7"]) == 1


@pytest.mark.timeout(600)
def test_ctrl_c_cancels_all_jobs(cluster: Path) -> None:
    def wait() -> None:
        while len(list(cluster.glob("started-*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    script = f"touch {cluster}/started-$SLURM_ARRAY_TASK_ID; exec sleep 60"
    assert main(["workers", "2", "--slurm", "time=5", "--", "sh", "-c", script]) == 130
    thread.join()
    deadline = time.monotonic() + 20
    pids = [int(path.read_text()) for path in cluster.glob("pid-*")]
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("partition", "expected KEY=VALUE,... such as partition=gpu,time=8:00:00"),
        ("time=5,", "expected KEY=VALUE,..."),
        ("partition=gpu", "has no time limit of a worker: add time=8:00:00"),
        ("time=eight", "has time='eight', expected minutes, 8:00:00 or 1-12:00:00"),
        ("time=5,partition=no-such", "Slurm refuses the workers: .*invalid partition specified: no-such"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_options_that_are_refused(options: str, text: str) -> None:
    with pytest.raises(ArgumentsError, match=text) as told:
        workers.submit(["true"], workers.slurm_executor(options, None, Path("jobs")), [0, 1])
    assert "\n" not in str(told.value)


def test_slurm_without_a_cluster(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["workers", "2", "--slurm", "time=5", "--", "true"]) == 1
    assert "there is no srun here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("time_limit", "minutes"),
    [("90", 90), ("90:30", 91), ("8:00:00", 480), ("0:00:01", 1), ("2-0", 2880), ("1-2:03", 1563), ("1-2:03:04", 1564)],
)
def test_time_limits_as_slurm_reads_them(time_limit: str, minutes: int) -> None:
    assert workers._minutes(time_limit) == minutes


@pytest.mark.timeout(110)
def test_a_job_whose_time_is_over_is_queued_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By submitit's executor of one machine, which sends the signal after 6 of 12 s."""
    import submitit

    executor = submitit.LocalExecutor(tmp_path / "jobs", max_num_timeout=workers._MOST_TIMEOUTS)
    executor.update_parameters(timeout_min=0.2, signal_delay_s=6, stderr_to_stdout=True)
    script = f"test -e {tmp_path}/began && echo goes on && exit 0; touch {tmp_path}/began; exec sleep 60"
    assert workers.run_workers(partial(workers.submit, ["sh", "-c", script], executor), 1)
    assert "worker 0 | goes on" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------- real searches
SCRIPT = """
from hf_rlsearch.cli.demo import hp_space, make_trainer

make_trainer(n_train=32, n_validation=16, output="out").hyperparameter_search(
    hp_space, backend="rl", n_trials=4, metric="accuracy", storage="sqlite:///s.db", study_name="s", load_if_exists=True
)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers_run_one_search(capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.py").write_text(SCRIPT)
    assert main(["workers", "2", "--", sys.executable, "train.py"]) == 0
    study = optuna.load_study(study_name="s", storage="sqlite:///s.db")
    assert len([trial for trial in study.trials if trial.state.is_finished()]) == 4
    printed = capsys.readouterr().out
    assert "worker 0 | Trial " in printed
    assert "worker 1 | Trial " in printed
