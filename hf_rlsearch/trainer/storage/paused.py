"""Trainings that were stopped and can go on: which they are, what they need on disk, and which ones have to go.

A trial that the pruner stops is recorded as pruned. If it could leave a whole checkpoint behind (model, optimizer,
scheduler, random state of every rank), that one is kept, and a later trial of the same configuration goes on from it:
it takes the earlier trial's folder over, repeats its reports, and names it in the user attribute "rl:continues".
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch.observation.trial_attributes import (
    ARGUMENTS,
    CONTINUES,
    FULL_TRAINING,
    PAUSED,
    ROLE,
    VALUES,
    WORLD_SIZE,
)
from hf_rlsearch.trainer.session.arguments import plain
from hf_rlsearch.trainer.setup.config import SearchConfig

# What must be equal besides the params for two trials to be the same training.
_SAME = (ROLE, VALUES, ARGUMENTS, WORLD_SIZE)
_GB = 10**9

# A checkpoint needs a little more than the tensors in it.
_MARGIN = 1.1


def curve_step(checkpoint: str) -> int:
    """Where on the axis of learning curves a checkpoint was written, 1 to FULL_TRAINING; 0 if it cannot be read."""
    try:
        state = json.loads(Path(checkpoint, "trainer_state.json").read_text())
        return max(1, round(FULL_TRAINING * int(state["global_step"]) / max(1, int(state["max_steps"]))))
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def resume_folders(checkpoint: str) -> list[str]:
    """What must stay on disk for a training to go on from a checkpoint: itself, and the best one that it may load.

    Args:
        checkpoint: Of a training.
    """
    try:
        best = json.loads(Path(checkpoint, "trainer_state.json").read_text()).get("best_model_checkpoint")
    except (OSError, ValueError):
        best = None
    return [checkpoint] if best is None or not Path(best).is_dir() else sorted({checkpoint, str(best)})


def waiting(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The paused trials that nobody has gone on with and whose checkpoint is still there, earlier ones first."""
    taken = {trial.user_attrs.get(CONTINUES) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state == TrialState.PRUNED
        and trial.number not in taken
        and trial.user_attrs.get(PAUSED) is not None
        and Path(trial.user_attrs[PAUSED], "trainer_state.json").is_file()
    ]


class PausedTrials:
    """Which trainings wait on disk.

    Args:
        study: Of the search.
        settings: Of the search.
        minimize: Smaller objectives are better; of several the first counts.
    """

    def __init__(self, study: optuna.Study, settings: SearchConfig, *, minimize: bool) -> None:
        self._study, self._minimize = study, minimize
        self._most = settings.max_paused
        self._disk_budget = None if settings.disk_budget_gb is None else settings.disk_budget_gb * _GB

    def should_pause(self, trial: FrozenTrial, trainer: Any) -> bool:
        """Whether a trial that the pruner stops now is to leave a checkpoint behind.

        It is not if there will be no place for it: others wait that were better, or the disk is full.

        Args:
            trial: With the reports so far.
            trainer: That trains it.
        """
        args = trainer.args
        strategy = str(plain(getattr(args, "save_strategy", "no")))
        if strategy in ("no", "best") or getattr(args, "save_only_model", False):
            return False
        better = [t for t in waiting(self._trials()) if self._rank(t) < self._rank(trial)]
        return len(better) < self._most and _fits(trainer, self._disk_budget)

    def claim(self, trial: optuna.Trial, facts: Mapping[str, Any]) -> FrozenTrial | None:
        """The paused trial that a new one would only repeat, the latest of several; the new one goes on with it.

        Args:
            trial: The new one, with its params.
            facts: Its user attributes to be; values, arguments and number of processes must be the same.

        Returns:
            None if there is none, or another process was quicker.
        """
        wanted = {name: facts[name] for name in _SAME}
        same = [
            each
            for each in (waiting(self._trials()) if self._most else ())
            if each.params == trial.params and {name: each.user_attrs.get(name) for name in _SAME} == wanted
        ]
        if not same:
            return None
        trial.set_user_attr(CONTINUES, same[-1].number)
        rivals = [t for t in self._trials() if t.user_attrs.get(CONTINUES) == same[-1].number]
        if len(rivals) == 1:
            return same[-1]
        trial.set_user_attr(CONTINUES, None)
        return None

    def retained(self, others: float) -> list[FrozenTrial]:
        """The paused trials that may stay on disk: those with the better value so far.

        Better values have mostly taken more training, too, which would have to be repeated.

        Args:
            others: Bytes that finished trials keep besides.
        """
        ranked = sorted(waiting(self._trials()), key=self._rank)[: self._most]
        sizes = {
            trial.user_attrs[PAUSED]: sum(folder_size(path) for path in resume_folders(trial.user_attrs[PAUSED]))
            for trial in ranked
        }
        if self._disk_budget is not None:
            left = self._disk_budget - others
        else:  # half of what is free and of what is held already
            left = (_free(next(iter(sizes))) + sum(sizes.values())) / 2 if sizes else 0.0
        chosen = []
        for trial, n_bytes in zip(ranked, sizes.values(), strict=True):
            if n_bytes <= left:
                chosen.append(trial)
                left -= n_bytes
        return chosen

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _rank(self, trial: FrozenTrial) -> tuple[float, int]:
        """Better trials come first, later ones first among equals."""
        sign = 1.0 if self._minimize else -1.0
        values = [sign * value for value in trial.intermediate_values.values() if math.isfinite(value)]
        return min(values, default=math.inf), -trial.number


def _fits(trainer: Any, disk_budget: float | None) -> bool:
    """Whether a checkpoint of the running training has a place: on the disk, and in the budget of bytes."""
    n_bytes = _MARGIN * _bytes_in_memory(trainer)
    return n_bytes <= _free(trainer.args.output_dir) and (disk_budget is None or n_bytes <= disk_budget)


def folder_size(folder: str) -> int:
    """Bytes of all files in a folder; 0 where there is none."""
    total = 0
    for path in Path(folder).rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # deleted meanwhile
    return total


def _free(folder: str) -> float:
    """Free bytes of the disk that a folder is, or will be, on."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return float(shutil.disk_usage(path).free)


def _bytes_in_memory(trainer: Any) -> float:
    """Bytes of model and optimizer, those of all ranks where each holds a part."""
    import torch

    held = [*trainer.model.parameters(), *trainer.model.buffers()]
    for state in getattr(trainer.optimizer, "state", {}).values():
        if isinstance(state, Mapping):
            held += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return float(sum(tensor.numel() * tensor.element_size() for tensor in held))


logger = logging.getLogger(__name__)

# What the Trainer writes of a checkpoint; between these steps ranks wait for each other.
_SAVING = ("save_model", "_save_optimizer_and_scheduler", "_save_scaler", "_save_rng_state", "_save_checkpoint")


def make_saving_optional(trainer: Any) -> None:
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
