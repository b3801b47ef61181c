"""A checkpoint that a stopped training may leave, and may as well not: a full disk fails no trial that was stopped."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

# What the Trainer writes of a checkpoint; between these steps ranks wait for each other.
_SAVING = ("save_model", "_save_optimizer_and_scheduler", "_save_scaler", "_save_rng_state", "_save_checkpoint")


def save_or_leave(trainer: Any) -> None:
    """Lets the next checkpoint of this training be given up where it cannot be written, on each rank by itself.

    Called when the training is about to stop: a full disk must not make a failed trial of one that was stopped. Each
    step of writing is guarded on its own, so that no rank leaves one of them while others wait for it there.

    Args:
        trainer: Of the running trial; its arguments are the trial's own.
    """
    # At the end of a training the Trainer deletes the last checkpoint if only the best one may stay.
    trainer.args.save_total_limit = None
    failed: list[Exception] = []
    for name in _SAVING:
        if hasattr(trainer, name):
            setattr(trainer, name, _guarded(trainer, name, failed))


def _guarded(trainer: Any, name: str, failed: list[Exception]) -> Callable[..., Any]:
    write = getattr(trainer, name)

    def attempt(*args: Any, **kwargs: Any) -> Any:
        answer = None
        try:
            answer = write(*args, **kwargs)
        except Exception as error:
            if not failed:
                logger.warning("The training that was stopped leaves no checkpoint to go on from: %s", error)
            failed.append(error)
        if failed and name == "_save_checkpoint":
            # What was written after a part that failed would make half a checkpoint look whole.
            folder = Path(trainer.args.output_dir, f"checkpoint-{trainer.state.global_step}")
            shutil.rmtree(folder, ignore_errors=True)
        return answer

    return attempt
