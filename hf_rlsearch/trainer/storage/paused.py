"""Keeps the checkpoints of trials that the pruner stopped, so that a later trial can resume their training.

A stopped trial is recorded as pruned. If it wrote a complete checkpoint (model, optimizer, scheduler, random state of
every rank), that checkpoint may stay, and a later trial of the same configuration resumes from it: the new trial takes
over the folder and the intermediate values of the earlier trial, and names it in the user attribute "rl:continues".
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch.observation import trial_attributes as attr
from hf_rlsearch.trainer.session.arguments import plain, same_to_the_bit
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.storage.checkpoints import best_checkpoint_beside, stored_path, training_state

if TYPE_CHECKING:
    from transformers import Trainer

    from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler

logger = logging.getLogger(__name__)

# Attributes that must be equal for two trials to be the same training, beside the arguments.
_SAME = (attr.ROLE, attr.VALUES, attr.WORLD_SIZE)
_GB = 10**9
# A checkpoint needs a little more space than the tensors in it.
_MARGIN = 1.1
# The Trainer's methods that write a checkpoint; ranks wait for each other between these methods.
_SAVING = ("save_model", "_save_optimizer_and_scheduler", "_save_scaler", "_save_rng_state", "_save_checkpoint")


class PausedTrials:
    """Decides which stopped trials stay resumable, and finds the trial that a new one can resume.

    With several objectives the first counts.

    Args:
        study: Of the search.
        settings: Of the search.
        folder: Of the search.
        configurations: Of the search.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        study: optuna.Study,
        settings: SearchConfig,
        folder: str,
        configurations: "ConfigurationSampler",
        world_size: int,
    ) -> None:
        self._study, self._folder = study, folder
        self._configurations, self._world_size = configurations, world_size
        self._limit = settings.max_paused
        self._disk_budget = None if settings.disk_budget_gb is None else settings.disk_budget_gb * _GB

    def should_pause(self, trial: FrozenTrial, trainer: "Trainer") -> bool:
        """Whether a trial that the pruner stops now should write a checkpoint.

        False if the trial cannot become the best, whatever the other trials of the search bring,
        and if the checkpoint would be deleted at once, since better trials wait already or the disk is full.
        """
        if _is_in_vain(trial):
            return False
        args = trainer.args
        if plain(getattr(args, "save_strategy", "no")) in ("no", "best") or getattr(args, "save_only_model", False):
            return False
        better = [each for each in self._resumable() if self._rank(each) < self._rank(trial)]
        n_bytes = _MARGIN * _training_size(trainer)
        fits = self._disk_budget is None or n_bytes <= self._disk_budget
        return len(better) < self._limit and fits and n_bytes <= _free_bytes(str(args.output_dir))

    def resumable(self) -> list[int]:
        """The numbers of the trials that a new trial of the same configuration would resume; none that is hopeless."""
        found = self._resumable() if self._limit else []
        return [trial.number for trial in found if not _is_in_vain(trial) and self._is_same_today(trial)]

    def claim(self, trial: optuna.Trial, attributes: Mapping[str, Any]) -> FrozenTrial | None:
        """Finds the newest paused trial of the same training, and reserves it for a new trial with these attributes.

        Returns:
            None if there is no such trial, or another process was quicker.
        """
        wanted = self._training(attributes)
        same = [
            each
            for each in (self._resumable() if self._limit else ())
            if each.params == trial.params and self._training(each.user_attrs) == wanted
        ]
        if not same:
            return None
        trial.set_user_attr(attr.CONTINUES, same[-1].number)
        rivals = [each for each in self._trials() if each.user_attrs.get(attr.CONTINUES) == same[-1].number]
        if len(rivals) == 1:
            return same[-1]
        trial.set_user_attr(attr.CONTINUES, None)
        return None

    def retained(self, other_bytes: float) -> list[FrozenTrial]:
        """The paused trials that stay on disk: as many as fit, those with the better values first.

        Better values mostly took more training, too, which would have to be repeated.

        Args:
            other_bytes: Disk space of the models of finished trials.
        """
        ranked = sorted(self._resumable(), key=self._rank)[: self._limit]
        sizes = [sum(map(folder_size, self.folders_of(trial))) for trial in ranked]
        if self._disk_budget is not None:
            left = self._disk_budget - other_bytes
        else:  # half of the bytes that are free or held by paused trials already
            left = (_free_bytes(self._folder) + sum(sizes)) / 2
        fitting = []
        for trial, n_bytes in zip(ranked, sizes, strict=True):
            if n_bytes <= left:
                fitting.append(trial)
                left -= n_bytes
        return fitting

    def folders_of(self, trial: FrozenTrial) -> list[str]:
        """The folders that a training needs to resume a paused trial."""
        checkpoint = stored_path(trial, attr.PAUSED, self._folder)
        return [] if checkpoint is None else resume_folders(checkpoint)

    def _is_same_today(self, trial: FrozenTrial) -> bool:
        """Whether a new trial of the values of an earlier one would be the same training.

        It is not where arguments or ranks have changed since. The baseline and confirmations are not repeated.
        """
        values = trial.user_attrs.get(attr.VALUES, {})
        try:
            arguments = self._configurations.frozen.to_json(self._configurations.arguments(values))
        except Exception:  # a combination that is refused
            return False
        today = {
            attr.ROLE: attr.SEARCH,
            attr.VALUES: values,
            attr.ARGUMENTS: json.loads(json.dumps(arguments)),
            attr.WORLD_SIZE: self._world_size,
        }
        return self._training(today) == self._training(trial.user_attrs)

    def _training(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """What must be equal, as the params must, for two trials to be the same training."""
        arguments = same_to_the_bit(attributes.get(attr.ARGUMENTS) or {})
        return {**{name: attributes.get(name) for name in _SAME}, attr.ARGUMENTS: arguments}

    def _resumable(self) -> list[FrozenTrial]:
        return resumable_trials(self._trials(), self._folder)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _rank(self, trial: FrozenTrial) -> tuple[float, int]:
        """Sorts better trials first, and newer ones first among equals."""
        sign = 1.0 if self._study.directions[0] == StudyDirection.MINIMIZE else -1.0
        values = [sign * value for value in trial.intermediate_values.values() if math.isfinite(value)]
        return min(values, default=math.inf), -trial.number


def _is_in_vain(trial: FrozenTrial) -> bool:
    """Whether a trial cannot become the best when it is resumed: it exceeded a limit, or is hopeless."""
    stop = trial.system_attrs.get(attr.STOP) or {}
    return stop.get("reason") == attr.LIMIT or attr.is_hopeless(trial)


def resumable_trials(trials: Sequence[FrozenTrial], folder: str) -> list[FrozenTrial]:
    """The paused trials that no trial has resumed and whose checkpoint is still on disk, in order of their numbers."""
    resumed = {trial.user_attrs.get(attr.CONTINUES) for trial in trials}

    def is_on_disk(trial: FrozenTrial) -> bool:
        checkpoint = stored_path(trial, attr.PAUSED, folder)
        return checkpoint is not None and Path(checkpoint, "trainer_state.json").is_file()

    return [t for t in trials if t.state == TrialState.PRUNED and t.number not in resumed and is_on_disk(t)]


def curve_step(step: int, max_steps: int) -> int:
    """The step on the axis of learning curves, in 1..FULL_TRAINING, of a training step."""
    return max(1, round(attr.FULL_TRAINING * step / max(1, max_steps)))


def checkpoint_curve_step(checkpoint: str) -> int:
    """The step on the axis of learning curves of a checkpoint; 0 if it cannot be read."""
    state = training_state(checkpoint)
    return curve_step(state["global_step"], state["max_steps"]) if state else 0


def resume_folders(checkpoint: str) -> list[str]:
    """The folders that a training needs to resume from a checkpoint: itself, and the best one, which it may load."""
    best = best_checkpoint_beside(checkpoint)
    return [checkpoint] if best is None or not Path(best).is_dir() else sorted({checkpoint, best})


def folder_size(folder: str) -> int:
    """Bytes of all files in a folder; 0 where there is none."""
    total = 0
    for path in Path(folder).rglob("*"):
        with suppress(OSError):  # deleted meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def make_saving_optional(trainer: "Trainer") -> None:
    """Makes saving the checkpoint of a pruned trial best-effort: a full disk must not turn it into a failed trial.

    Each step of writing is guarded on its own, so that no rank leaves a step while others wait for it there.
    """
    # At the end of a training the Trainer deletes the last checkpoint if only the best one may stay.
    trainer.args.save_total_limit = None
    errors: list[Exception] = []
    for name in _SAVING:
        if hasattr(trainer, name):
            setattr(trainer, name, _guarded(trainer, name, errors))


def _guarded(trainer: "Trainer", name: str, errors: list[Exception]) -> Callable[..., Any]:
    write = getattr(trainer, name)

    def try_to_write(*args: Any, **kwargs: Any) -> Any:
        answer = None
        try:
            answer = write(*args, **kwargs)
        except Exception as error:
            if not errors:
                logger.warning("The stopped training leaves no checkpoint to resume from: %s", error)
            errors.append(error)
        if errors and name == "_save_checkpoint":
            # Parts written after the failed part would make half a checkpoint look complete.
            shutil.rmtree(Path(str(trainer.args.output_dir), f"checkpoint-{trainer.state.global_step}"), True)
        return answer

    return try_to_write


def _free_bytes(folder: str) -> float:
    """Free bytes on the disk of a folder, which need not exist yet."""
    path = Path(folder).absolute()
    existing = next(each for each in (path, *path.parents) if each.exists())
    return float(shutil.disk_usage(existing).free)


def _training_size(trainer: Any) -> float:
    """Bytes of model and optimizer, those of all ranks where each holds a part."""
    import torch

    tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
    for state in getattr(trainer.optimizer, "state", {}).values():
        if isinstance(state, Mapping):
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
