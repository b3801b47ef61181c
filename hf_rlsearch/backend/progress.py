"""What a person sees while a search runs: one line for each trial and one bar for all of them."""

import logging
import sys
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.arguments import as_text

logger = logging.getLogger(__name__)


class Progress:
    """One bar for the whole search on rank 0; silent on other ranks and with ``disable_tqdm``.

    Args:
        n_trials: Total number of trials.
        n_done: Finished before this run.
        quiet: Nothing is printed; lines go to the log at level INFO.
    """

    def __init__(self, *, n_trials: int, n_done: int, quiet: bool) -> None:
        self._quiet, self._n_trials = quiet, n_trials
        self._bar: Any = None
        if not quiet:
            from tqdm.auto import tqdm

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
            self._bar.set_postfix_str(f"trial {number}: {'your arguments' if role == 'baseline' else as_text(params)}")

    def ended(self, number: int, role: str, params: Params, result: str, best: str, seconds: float) -> None:
        """Prints the line of a finished trial and moves the bar.

        Args:
            number: The trial's.
            role: "baseline", "search" or "confirm".
            params: Its hyperparameters.
            result: Its objective, or why it ended.
            best: The best objective so far, as text.
            seconds: Duration.
        """
        what = "your own arguments" if role == "baseline" else as_text(params)
        self.say(f"Trial {number} {result}  best {best}  {seconds:.0f} s  {what}")
        if self._bar is not None:
            self._bar.update(1)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str("")
            self._bar.close()
