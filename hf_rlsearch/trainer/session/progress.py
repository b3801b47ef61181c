"""Prints one line per trial and one bar for the whole search, and silences the libraries meanwhile."""

import gc
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna

from hf_rlsearch._typing import Params

logger = logging.getLogger(__name__)

# tqdm's formats: in a terminal, in a notebook, and where the number of trials is not known. tqdm cuts a line to the
# width of the terminal only if it has a bar, be it of no width. Its estimate of the time left knows no stopped trials.
_TERMINAL = "{desc}: {n_fmt}/{total_fmt} |{bar:8}| {elapsed}{postfix}"
_NOTEBOOK = "{desc}: {n_fmt}/{total_fmt} {bar} {elapsed}{postfix}"
_ENDLESS = "{desc}: {n_fmt} trials{bar:0} [{elapsed}{postfix}]"
# Seconds between the lines of one training, where there is no bar to show it.
_BETWEEN_LINES = 60.0
# Modules that log which weights a checkpoint lacks: twenty lines, the same for every trial.
_REPORT_LOADING = ("modeling_utils", "utils.loading_report")


@dataclass(frozen=True)
class TrialSummary:
    """The columns of a trial's line.

    Attributes:
        role: "baseline", "search" or "confirm".
        result: The objective, or why the trial ended.
        best: The best objective so far, as text; empty with several objectives.
        fidelity: Share of a full training, in [0, 1].
        seconds: Duration of the trial.
        n_done: What the whole search has used up of ``n_trials`` with this trial, those of other processes included and
            confirmations left out.
        n_workers: Processes that work on the search now.
        seconds_left: Time that budget and timeout leave to the search; infinity without a limit.
        outlook: What more trials are expected to bring, as text; empty where it is unknown.
        choice: How time or budget limited the choice of the configuration, as text; empty where they did not.
    """

    number: int
    role: str
    params: Params
    result: str
    best: str
    fidelity: float
    seconds: float
    n_done: float
    n_workers: int = 1
    seconds_left: float = math.inf
    outlook: str = ""
    choice: str = ""


class Progress:
    """The bar and the lines of one search; created on rank 0 only.

    A terminal and a notebook get a bar, which shows the running trial with its latest evaluation. Elsewhere, as in the
    log file of a job, there are plain lines alone, and of a long training one line a minute.

    Args:
        n_trials: Total number of trials; None where only timeout or budget ends the search.
        n_done: What earlier runs used up of ``n_trials``.
        baseline: Hyperparameters of the baseline: a trial's line shows only the values that differ from them.
        quiet: Nothing is printed; lines go to the log at level INFO.
    """

    def __init__(self, *, n_trials: int | None, n_done: float, baseline: Params, quiet: bool) -> None:
        self._n_trials, self._baseline, self._quiet = n_trials, baseline, quiet
        self._seconds: list[float] = []
        self._started = self._shown = time.monotonic()
        self._share_before, self._best = 0.0, ""
        self._bar: Any = None
        self._lines: Any = sys.stderr
        if quiet:
            return
        from tqdm.auto import tqdm  # draws a widget in notebooks

        is_widget = any(base.__name__ == "tqdm_notebook" for base in tqdm.__mro__)
        if is_widget or sys.stderr.isatty():
            bar_format = _ENDLESS if n_trials is None else _NOTEBOOK if is_widget else _TERMINAL
            options = {"total": n_trials, "initial": int(n_done), "desc": "search", "unit": "trial"}
            self._bar = tqdm(**options, file=sys.stderr, bar_format=bar_format, dynamic_ncols=not is_widget)
        if is_widget:
            # A notebook shows standard error on red, as if something had failed.
            self._lines = sys.stdout

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        if not line:
            return
        if self._quiet:
            logger.info(line)
        elif self._bar is not None:
            self._bar.write(line, file=self._lines)
        else:
            print(line, file=self._lines, flush=True)

    def trial_started(self, number: int, role: str, params: Params, *, best: str = "", share: float = 0.0) -> None:
        """Shows the running trial in the bar.

        Args:
            number: Of the trial.
            role: Of the trial.
            params: Of the trial.
            best: The best objective so far, as text; empty with several objectives.
            share: Of the training that is done already, in [0, 1).
        """
        self._started = self._shown = time.monotonic()
        self._share_before, self._best = share, best
        if self._bar is not None:
            self._bar.set_postfix_str(f"trial {number}: {self._difference(role, params)}")

    def trial_evaluated(self, number: int, share: float, objective: str) -> None:
        """Shows an evaluation of the running trial: in the bar, else as a line if the last one is a minute old.

        Args:
            number: Of the trial.
            share: Of the training that is done, in (0, 1].
            objective: Name and value.
        """
        now = time.monotonic()
        left = as_time((now - self._started) * (1 - share) / max(share - self._share_before, 1e-3))
        best = f"best {self._best}" if self._best else ""
        if self._bar is not None:
            # A narrow terminal cuts off what stands last.
            columns = [objective, f"{left} left" if share < 1 else "", best]
            self._bar.set_postfix_str(f"trial {number} at {share:.0%}: {', '.join(filter(None, columns))}")
        elif share < 1 and now - self._shown >= _BETWEEN_LINES:
            self._shown = now
            columns = [f"{share:.0%} trained", objective, best, f"about {left} left of the trial"]
            self.say(f"Trial {number}  {' | '.join(filter(None, columns))}")

    def trial_finished(self, trial: TrialSummary) -> None:
        """Prints the line of a trial and advances the bar to what the whole search has finished."""
        self._seconds.append(trial.seconds)
        if self._bar is not None:
            self._bar.set_postfix_str("", refresh=False)
        width = len(str(max((self._n_trials or 1) - 1, 0)))
        columns = (
            f"Trial {trial.number:>{width}}  {trial.result}",
            f"best {trial.best}" if trial.best else "",
            f"{trial.fidelity:.0%} trained in {as_time(trial.seconds)}",
            self._time_left(trial),
            trial.outlook,
            trial.choice,
            self._difference(trial.role, trial.params),
        )
        self.say(" | ".join(column for column in columns if column))
        if self._bar is not None:
            self._bar.update(min(int(trial.n_done + 1e-6), self._bar.total or math.inf) - self._bar.n)

    def close(self, *, finished: bool = False) -> None:
        """Ends the bar, full if the search has finished by itself, perhaps with fewer trials than ``n_trials``."""
        if self._bar is None:
            return
        if finished and self._bar.total is not None:
            self._bar.total = self._bar.n
            for part in getattr(getattr(self._bar, "container", None), "children", ()):
                if hasattr(part, "max"):
                    part.max = max(self._bar.n, 1)
        self._bar.set_postfix_str("")
        self._bar.close()

    def _difference(self, role: str, params: Params) -> str:
        """The hyperparameters of a trial that differ from the baseline's, as one line."""
        if role == "baseline":
            return "baseline"
        differing = {
            name: f"{value:.3g}" if isinstance(value, float) else value
            for name, value in params.items()
            if name not in self._baseline or self._baseline[name] != value
        }
        text = " ".join(f"{name}={value}" for name, value in differing.items()) or "the same as the baseline"
        return f"{text} (under a new seed)" if role == "confirm" else text

    def _time_left(self, trial: TrialSummary) -> str:
        """The time that the remaining trials take if they are like those of this process; empty at the end."""
        seconds_left = trial.seconds_left
        if self._n_trials is not None:
            rounds = max(int(self._n_trials - trial.n_done + 1e-6), 0) / trial.n_workers
            seconds_left = min(seconds_left, rounds * sum(self._seconds) / len(self._seconds))
        return f"about {as_time(seconds_left)} left" if 0 < seconds_left < math.inf else ""


def as_time(seconds: float) -> str:
    """Seconds as 8 s, 3 min, 2 h 05 min."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppresses Optuna's line for each trial, transformers' progress bars and its repeated reports of a checkpoint.

    The objects that exist on entry are also frozen in the garbage collector: scanning thousands of modules and classes
    after each trial would take longer than small trials do.
    """
    from transformers.utils import logging as hf_logging

    verbosity, had_bars, once = optuna.logging.get_verbosity(), hf_logging.is_progress_bar_enabled(), _OncePerText()
    optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
    loggers = [hf_logging.get_logger(f"transformers.{name}") for name in _REPORT_LOADING]
    for each in loggers:
        each.addFilter(once)
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        for each in loggers:
            each.removeFilter(once)
        if had_bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        optuna.logging.set_verbosity(verbosity)


class _OncePerText(logging.Filter):
    """Suppresses a report of a loaded checkpoint that was logged before."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_repeated = "LOAD REPORT" in text and text in self._seen
        self._seen.add(text)
        return not is_repeated
