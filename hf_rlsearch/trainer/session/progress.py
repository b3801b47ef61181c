"""What a person sees while a search runs: one line for each trial and one bar for all of them."""

import gc
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna

from hf_rlsearch._typing import Params

logger = logging.getLogger(__name__)

# What tqdm shows where the number of trials is not known.
_ENDLESS = "{desc}: {n_fmt} trials [{elapsed}{postfix}]"


@dataclass(frozen=True)
class TrialSummary:
    """What the line of a trial tells.

    Attributes:
        number: The trial's.
        role: "baseline", "search" or "confirm".
        params: Its hyperparameters.
        result: Its objective, or why it ended.
        best: The best objective so far, as text; empty where there is no single best one.
        fidelity: Share of a full training, in [0, 1].
        seconds: Duration.
        seconds_left: Seconds that budget and time leave to the search.
    """

    number: int
    role: str
    params: Params
    result: str
    best: str
    fidelity: float
    seconds: float
    seconds_left: float = math.inf


class Progress:
    """One bar for the whole search on rank 0; silent on other ranks and with ``disable_tqdm``.

    Args:
        n_trials: Total number of trials; None where only time or a budget ends the search.
        n_done: Finished before this run.
        own: The user's own hyperparameters: of a trial only what differs from them is shown.
        quiet: Nothing is printed; lines go to the log at level INFO.
    """

    def __init__(self, *, n_trials: int | None, n_done: int, own: Params, quiet: bool) -> None:
        self._quiet, self._n_trials, self._n_done, self._own = quiet, n_trials, n_done, own
        self._seconds: list[float] = []
        self._bar: Any = None
        if not quiet:
            from tqdm.auto import tqdm  # the bar of notebooks where there is one

            self._bar = tqdm(
                total=n_trials,
                initial=n_done,
                desc="search",
                unit="trial",
                file=sys.stderr,
                leave=True,
                bar_format=None if n_trials is not None else _ENDLESS,
            )
            # Standard error of a notebook's cell is shown as if something had gone wrong.
            self._lines = sys.stdout if _is_widget(tqdm) else sys.stderr

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if not line:
            return
        if self._bar is None:
            logger.info(line)
        else:
            self._bar.write(line, file=self._lines)

    def trial_started(self, number: int, role: str, params: Params) -> None:
        """Shows what is being trained in the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"trial {number}: {self._difference(role, params)}")

    def trial_finished(self, trial: TrialSummary) -> None:
        """Prints the line of a finished trial and moves the bar."""
        self._seconds.append(trial.seconds)
        self._n_done += trial.role != "confirm"
        width = len(str(max((self._n_trials or 1) - 1, 0)))
        columns = (
            f"Trial {trial.number:>{width}}  {trial.result}",
            f"best {trial.best}" if trial.best else "",
            f"{trial.fidelity:.0%} trained in {as_time(trial.seconds)}",
            self._left(trial.seconds_left),
            self._difference(trial.role, trial.params),
        )
        self.say(" | ".join(column for column in columns if column))
        if self._bar is not None and (self._bar.total is None or self._bar.n < self._bar.total):
            self._bar.update(1)

    def close(self, *, finished: bool = False) -> None:
        """Ends the bar.

        Args:
            finished: The search went to its end, if with fewer trials than it might have had: the bar is full then.
        """
        if self._bar is not None:
            if finished and self._bar.total is not None:
                self._fill()
            self._bar.set_postfix_str("")
            self._bar.close()

    def _fill(self) -> None:
        """Makes the trials so far the whole of the bar, and of its widget in a notebook."""
        self._bar.total = self._bar.n
        for part in getattr(getattr(self._bar, "container", None), "children", ()):
            if hasattr(part, "max"):
                part.max = max(self._bar.n, 1)

    def _difference(self, role: str, params: Params) -> str:
        """What a trial has that the user's own arguments have not."""
        if role == "baseline":
            return "your own arguments"
        differs = {name: value for name, value in params.items() if name not in self._own or self._own[name] != value}
        text = _as_text(differs) or "the same as your own arguments"
        return f"{text} (under a new seed)" if role == "confirm" else text

    def _left(self, most: float) -> str:
        """The time that the remaining trials take if they are like those of this run; empty at the end."""
        left = most
        if self._n_trials is not None:
            remaining = max(self._n_trials - self._n_done, 0)
            left = min(left, remaining * sum(self._seconds) / len(self._seconds))
        return f"about {as_time(left)} left" if 0 < left < math.inf else ""


def _is_widget(bar: type) -> bool:
    """Whether a class of tqdm draws in a notebook."""
    return any(base.__name__ == "tqdm_notebook" for base in bar.__mro__)


def as_time(seconds: float) -> str:
    """Seconds as 8 s, 3 min, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _as_text(params: Mapping[str, Any]) -> str:
    """Params as one short line, floats with three digits."""
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keeps Optuna's own progress lines out: the search prints its own."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


# Modules that tell which weights a checkpoint lacks: twenty lines, the same for every trial.
_REPORT_LOADING = ("modeling_utils", "utils.loading_report")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """The time of a search: no progress bars for files written, what loading a checkpoint reports is said once, and
    garbage collection looks at new objects only."""
    from transformers.utils import logging as hf_logging

    bars, once = hf_logging.is_progress_bar_enabled(), _Once()
    loggers = [hf_logging.get_logger(f"transformers.{name}") for name in _REPORT_LOADING]
    for each in loggers:
        each.addFilter(once)
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Thousands of modules and classes live for ever; scanning them after each trial takes longer than small trials do.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        for each in loggers:
            each.removeFilter(once)
        if bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class _Once(logging.Filter):
    """Lets each report of a loaded checkpoint pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = "LOAD REPORT" in text and text in self._seen
        self._seen.add(text)
        return not known
