"""Runs ``workers``: starts a training script several times, here or through Slurm, and shows what all of them do.

The workers share their search through its storage and need nothing from this command but their part of the machine: it
schedules no trial. Each writes to a log of its own; the view of all of them reads these logs.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from hf_rlsearch.errors import ArgumentsError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Seconds between two looks at the workers, and that a worker has to end after SIGINT and then after SIGTERM.
_LOOK, _PATIENCE = 0.5, 20.0
# What ends all workers, unless it was ignored before, as by nohup.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How often Slurm may queue a worker again whose time was over: the search has limits of its own.
_MOST_TIMEOUTS = 1000
# What a bar or a terminal's colours put between the characters of a line.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

# Starts the workers of these numbers, one after the other.
Start = Callable[[Sequence[int]], "Iterable[Worker]"]


class Worker(Protocol):
    """A copy of the script that runs somewhere.

    Attributes:
        number: From 0.
        place: Its part of the machine, or its job, for people.
        log: The file with its output, which may not exist yet.
        begins: Where in that file its output begins, in bytes.
    """

    number: int
    place: str
    log: Path
    begins: int

    def poll(self) -> int | None:
        """Its exit code; None while it runs or waits to be started."""

    def send(self, number: signal.Signals) -> None:
        """A signal to all its processes."""


def start_workers(
    n_workers: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of workers.", show_default=False)],
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND", help="What each of them runs, such as python train.py.")
    ],
    gpus_per_worker: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="GPUs that each of them sees; 0 for CPUs alone. All GPUs are shared out if left out.",
            show_default=False,
        ),
    ] = None,
    slurm: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,...", help="Options of sbatch: each worker is a job of Slurm.", show_default=False
        ),
    ] = None,
    logs: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of a log for each worker.")] = Path(
        "runs/workers"
    ),
) -> None:
    """Run a script in several processes that share one search."""
    if slurm is None:
        start: Start = partial(launch, command, shared_out(n_workers, gpus_per_worker), logs)
    else:
        start = partial(submit, command, slurm_executor(slurm, gpus_per_worker, logs))
    logs.mkdir(parents=True, exist_ok=True)
    if not run_workers(start, n_workers):
        raise typer.Exit(1)


def run_workers(start: Start, n_workers: int) -> bool:
    """Starts workers, shows what they print until all have ended, and ends them at Ctrl-C or when it is terminated.

    A worker that failed beside others that ended well is started once more when these have ended: it finishes what was
    left, and ends well at once if the search is complete.

    Returns:
        Whether all workers ended well, or else the one that was started once more.
    """
    from rich.console import Console

    workers: list[Worker] = []
    # Noted, and looked at where no file is half read and no worker half started.
    received: list[int] = []
    signals = [each for each in _ENDING if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, lambda number, frame: received.append(number)) for each in signals}
    try:
        workers.extend(start(range(n_workers)))
        codes = _follow(workers, received, Console())
        failed = [number for number, code in enumerate(codes) if code]
        if 0 < len(failed) < n_workers:
            print(f"worker {failed[0]} is started once more, to finish what was left", flush=True)
            workers.extend(start(failed[:1]))
            codes = _follow(workers[n_workers:], received, Console())
    except BaseException:
        _end(workers, received)
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return not any(codes)


def shared_out(n_workers: int, gpus_per_worker: int | None) -> list[dict[str, str]]:
    """The variables that give each worker its part of this machine: GPUs, and CPU threads.

    Raises:
        ArgumentsError: There are not enough GPUs.
    """
    gpus = _visible_gpus() if gpus_per_worker != 0 else []
    each = len(gpus) // n_workers if gpus_per_worker is None else gpus_per_worker
    if len(gpus) < n_workers * each or (gpus and not each):
        raise ArgumentsError(
            f"{n_workers} workers with {each or 1} GPU each need {n_workers * (each or 1)} GPUs, this machine shows "
            f"{len(gpus)}. Start fewer workers, or train on CPUs with --gpus-per-worker 0."
        )
    threads = max(1, len(os.sched_getaffinity(0)) // n_workers)
    return [
        {
            "CUDA_VISIBLE_DEVICES": ",".join(gpus[number * each : (number + 1) * each]),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            "PYTHONUNBUFFERED": "1",  # or the log would lag behind
        }
        for number in range(n_workers)
    ]


def _visible_gpus() -> list[str]:
    """The GPUs that this process may use, by number or as the scheduler names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:  # CUDA, too, reads as far as the first name that is none
        return [*itertools.takewhile(lambda name: name and not name.startswith("-"), named.split(","))]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def launch(
    command: Sequence[str], environments: Sequence[Mapping[str, str]], logs: Path, numbers: Sequence[int]
) -> Iterator[Worker]:
    """Starts a process of this machine for each worker, with the variables of its number."""
    return (LocalWorker(number, command, environments[number], logs) for number in numbers)


class LocalWorker:
    """A worker that is a process of this machine, in a session of its own."""

    def __init__(self, number: int, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.number, self.log = number, logs / f"worker-{number}.log"
        self.begins = self.log.stat().st_size if self.log.exists() else 0
        gpus = environment["CUDA_VISIBLE_DEVICES"]
        self.place = f"GPU {gpus}" if gpus else f"{environment['OMP_NUM_THREADS']} threads"
        # Not in this session: Ctrl-C reaches the workers through this process alone.
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """As in ``Worker``."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """As in ``Worker``."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class SlurmWorker:
    """A worker that is a job of submitit."""

    def __init__(self, number: int, job: Any) -> None:
        self.number, self.place, self.log, self.begins = number, f"job {job.job_id}", job.paths.stdout, 0
        self._job, self._is_cancelled = job, False

    def poll(self) -> int | None:
        """As in ``Worker``; the end of a cancelled job is not waited for."""
        if self._is_cancelled:
            return 1
        return None if not self._job.done() else int(self._job.exception() is not None)

    def send(self, number: signal.Signals) -> None:
        """Cancels the job, whatever the signal."""
        self._job.cancel(check=False)
        self._is_cancelled = True


class SlurmCommand:
    """What a job runs; Slurm queues it again when its time is over or another job takes its place.

    The worker then continues the search as after a kill, so there is nothing to save.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

    def __call__(self) -> None:
        """Runs the command.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        # The signal before the end of the time is for submitit, which queues the job again; it would kill the command.
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        process = subprocess.Popen(self._command, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        signal.signal(signal.SIGUSR2, before)
        try:
            if process.wait():
                raise subprocess.CalledProcessError(process.returncode, self._command)
        finally:
            process.kill()

    def checkpoint(self) -> Any:
        """What submitit queues again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def slurm_executor(options: str, gpus_per_worker: int | None, logs: Path) -> Any:
    """An executor of submitit for these options of sbatch.

    Args:
        options: Such as ``partition=gpu,time=8:00:00``: names that submitit knows, or any other of sbatch.
            A value may have commas: a part without ``=`` belongs to the value before.
        gpus_per_worker: As a further option; left to ``options`` where None.
        logs: Folder of logs and submissions, on a disk that all nodes share.

    Raises:
        MissingExtraError: submitit is not installed.
        ArgumentsError: An option has no value, or this machine belongs to no cluster.
    """
    try:
        import submitit
    except ImportError as error:
        raise MissingExtraError(
            "--slurm needs submitit, which is not installed: pip install 'hf-rlsearch[workers]'."
        ) from error
    pairs: list[tuple[str, str]] = []
    for part in map(str.strip, options.split(",")):
        name, _, value = part.partition("=")
        if pairs and part and "=" not in part:  # the value before has a comma, as in nodelist=a1,a2
            name, value = pairs[-1][0], f"{pairs.pop()[1]},{part}"
        if not name or not value:
            raise ArgumentsError(f"--slurm is {options!r}, expected KEY=VALUE,... such as partition=gpu,time=8:00:00.")
        pairs.append((name, value))
    given = {name.replace("-", "_"): int(value) if value.isdecimal() else value for name, value in pairs}
    if "time" not in given:
        raise ArgumentsError(f"--slurm is {options!r}, which has no time limit of a worker: add time=8:00:00.")
    given["time"] = _minutes(str(given["time"]))
    if gpus_per_worker is not None:
        given["gpus_per_node"] = gpus_per_worker
    try:
        executor = submitit.SlurmExecutor(logs, max_num_timeout=_MOST_TIMEOUTS)
    except RuntimeError as error:
        raise ArgumentsError(
            "--slurm was given, but there is no srun here. Start the command on a machine of the cluster, or leave out "
            "--slurm to start the workers on this machine."
        ) from error
    known = executor._valid_parameters()
    others = {name.replace("_", "-"): value for name, value in given.items() if name not in known}
    chosen = {name: value for name, value in given.items() if name in known}
    executor.update_parameters(job_name="hf-rlsearch", stderr_to_stdout=True, additional_parameters=others, **chosen)
    return executor


def _minutes(time_limit: str) -> int:
    """A time limit of Slurm (minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]).

    Raises:
        ArgumentsError: It has another form.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time_limit)
    if found is None:
        raise ArgumentsError(f"--slurm has time={time_limit!r}, expected minutes, 8:00:00 or 1-12:00:00.")
    days, *parts = (int(part or 0) for part in found.groups())
    if found[1] is None and found[4] is None:  # without days and hours the first number is minutes
        parts = [0, *parts[:2]]
    hours, minutes, seconds = parts
    return (24 * days + hours) * 60 + minutes + (seconds > 0)


def submit(command: Sequence[str], executor: Any, numbers: Sequence[int]) -> list[Worker]:
    """Submits a job for each worker, all of them together.

    Raises:
        ArgumentsError: The cluster refuses them.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with executor.batch():
            jobs = [executor.submit(SlurmCommand(command)) for _ in numbers]
    except (FailedJobError, FailedSubmissionError) as error:
        raise ArgumentsError(f"Slurm refuses the workers: {' '.join(str(error).split())}") from error
    return [SlurmWorker(number, job) for number, job in zip(numbers, jobs, strict=True)]


def _follow(workers: Sequence[Worker], received: Sequence[int], console: Console) -> list[int]:
    """Shows what workers print until all have ended, and returns their exit codes.

    On a terminal as one table with the last line of each, elsewhere line by line.

    Raises:
        KeyboardInterrupt: A signal was received.
    """
    from rich.live import Live

    outputs = [_Output(worker) for worker in workers]
    codes: list[int | None] = [None] * len(workers)
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or nullcontext():
        while None in codes:
            time.sleep(_LOOK)
            if received:
                raise KeyboardInterrupt
            for i, worker in enumerate(workers):
                code = worker.poll() if codes[i] is None else None  # before the last look at what was printed
                lines = outputs[i].new_lines()
                if live is None:
                    print("".join(f"worker {worker.number} | {line}\n" for line in lines), end="", flush=True)
                if code:
                    said = f": {outputs[i].last}" if outputs[i].last else ""
                    print(f"worker {worker.number} ended with code {code}{said} ({worker.log})", flush=True)
                codes[i] = code if codes[i] is None else codes[i]
            if live is not None:
                live.update(_table(workers, codes, outputs), refresh=True)
    return [code for code in codes if code is not None]


def _table(workers: Sequence[Worker], codes: Sequence[int | None], outputs: Sequence[_Output]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("worker", "on", "state", "last line", box=None, pad_edge=False)
    for worker, code, output in zip(workers, codes, outputs, strict=True):
        state = "runs" if code is None else "done" if code == 0 else f"code {code}"
        last = Text(output.last, no_wrap=True, overflow="ellipsis")
        table.add_row(str(worker.number), worker.place, state, last)
    return table


class _Output:
    """Reads what a worker appends to its log.

    Attributes:
        last: Its last line, which may be a bar that is still drawn.
    """

    def __init__(self, worker: Worker) -> None:
        self.last = ""
        self._log, self._position, self._unfinished = worker.log, worker.begins, b""

    def new_lines(self) -> list[str]:
        """The lines that were finished since the last call, as a terminal would show them."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._position)
                new = file.read()
        except FileNotFoundError:  # the job has not started
            return []
        self._position += len(new)
        *finished, self._unfinished = (self._unfinished + new).split(b"\n")
        lines = [line for line in map(_shown, finished) if line]
        self.last = _shown(self._unfinished) or (lines[-1] if lines else self.last)
        return lines


def _shown(line: bytes) -> str:
    """What a terminal shows of a line in which a bar was drawn again and again."""
    parts = (part.strip() for part in _CONTROL.sub("", line.decode(errors="replace")).split("\r"))
    return next((part for part in reversed([*parts]) if part), "")


def _end(workers: Sequence[Worker], received: list[int]) -> None:
    """Ends workers as Ctrl-C does, which leaves their trials to be continued; those that stay are terminated, killed.

    A second Ctrl-C goes on to the next signal at once.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        left = [worker for worker in workers if worker.poll() is None]
        for worker in left:
            worker.send(number)
        received.clear()
        until = time.monotonic() + _PATIENCE
        while any(worker.poll() is None for worker in left) and not received and time.monotonic() < until:
            time.sleep(_LOOK / 5)
