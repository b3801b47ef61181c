"""What a search leaves out of its output: bars for files, and reports of loading that are the same for every trial."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Modules that tell which weights a checkpoint lacks: twenty lines, the same for every trial.
_REPORT_LOADING = ("modeling_utils", "utils.loading_report")


@contextmanager
def calm() -> Iterator[None]:
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
