"""What a person sees while a search runs: one line for each trial and one bar for all of them."""

import logging
import math
import sys
from dataclasses import dataclass
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.arguments import as_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """What the line of a trial tells.

    Attributes:
        number: The trial's.
        role: "baseline", "search" or "confirm".
        params: Its hyperparameters.
        result: Its objective, or why it ended.
        best: The best objective so far, as text.
        fidelity: Share of a full training, in [0, 1].
        seconds: Duration.
        most_left: Seconds that budget and time leave to the search.
    """

    number: int
    role: str
    params: Params
    result: str
    best: str
    fidelity: float
    seconds: float
    most_left: float = math.inf


class Progress:
    """One bar for the whole search on rank 0; silent on other ranks and with ``disable_tqdm``.

    Args:
        n_trials: Total number of trials.
        n_done: Finished before this run.
        own: The user's own hyperparameters: of a trial only what differs from them is shown.
        quiet: Nothing is printed; lines go to the log at level INFO.
    """

    def __init__(self, *, n_trials: int, n_done: int, own: Params, quiet: bool) -> None:
        self._quiet, self._n_trials, self._n_done, self._own = quiet, n_trials, n_done, own
        self._seconds: list[float] = []
        self._bar: Any = None
        if not quiet:
            from tqdm.auto import tqdm  # the bar of notebooks where there is one

            self._bar = tqdm(total=n_trials, initial=n_done, desc="search", unit="trial", file=sys.stderr, leave=True)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if not line:
            return
        if self._bar is None:
            logger.info(line)
        else:
            self._bar.write(line, file=sys.stderr)

    def begun(self, number: int, role: str, params: Params) -> None:
        """Shows what is being trained in the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"trial {number}: {self._difference(role, params)}")

    def ended(self, trial: Ended) -> None:
        """Prints the line of a finished trial and moves the bar."""
        self._seconds.append(trial.seconds)
        self._n_done += trial.role != "confirm"
        width = len(str(max(self._n_trials - 1, 0)))
        columns = (
            f"Trial {trial.number:>{width}}  {trial.result}",
            f"best {trial.best}",
            f"{trial.fidelity:.0%} trained in {as_time(trial.seconds)}",
            self._left(trial.most_left),
            self._difference(trial.role, trial.params),
        )
        self.say(" | ".join(column for column in columns if column))
        if self._bar is not None and self._bar.n < self._bar.total:
            self._bar.update(1)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str("")
            self._bar.close()

    def _difference(self, role: str, params: Params) -> str:
        """What a trial has that the user's own arguments have not."""
        if role == "baseline":
            return "your own arguments"
        differs = {name: value for name, value in params.items() if name not in self._own or self._own[name] != value}
        text = as_text(differs) or "the same as your own arguments"
        return f"{text} (under a new seed)" if role == "confirm" else text

    def _left(self, most: float) -> str:
        """The time that the remaining trials take if they are like those of this run; empty at the end."""
        remaining = self._n_trials - self._n_done
        if remaining <= 0 or most <= 0:
            return ""
        return f"about {as_time(min(most, remaining * sum(self._seconds) / len(self._seconds)))} left"


def as_time(seconds: float) -> str:
    """Seconds as 8 s, 3 min, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
