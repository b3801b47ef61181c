"""Finds the checkpoint that a trial resumes from, deletes checkpoints, and saves and loads the best model.

Trials store their paths relative to the folder of the search. Whoever can write to a shared storage could store any
path there, so each is checked where it is read: nothing outside of the search's own folder is loaded or deleted.
"""

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import StorageError, describe
from hf_rlsearch.observation.trial_attributes import CHECKPOINT, FOLDER, PAUSED
from hf_rlsearch.trainer.session.compat import is_sharded, load_checkpoint
from hf_rlsearch.trainer.session.failures import is_disk_error

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

# The folder for a model that no checkpoint of the training holds.
MODEL_FOLDER = "model"
# Where the Trainer looks for the weights of a model.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model_fsdp*", "global_step*")


class ModelNotLoadedError(RuntimeError):
    """The best weights do not fit into a model that ``model_init`` makes."""


def stored_path(trial: FrozenTrial | optuna.Trial, attribute: str, folder: str) -> str | None:
    """The path that a trial stores relative to the folder of its search; None if it stores none.

    Raises:
        StorageError: The path leads out of the folder.
    """
    stored = trial.user_attrs.get(attribute)
    if stored is None:
        return None
    base = Path(folder).resolve()
    try:
        path = Path(base, str(stored)).resolve()
    except (OSError, ValueError, RuntimeError):  # a loop of links, or characters that no path has
        path = base
    if base not in path.parents:
        raise StorageError(
            f"Trial {trial.number} stores {attribute}={str(stored)[:200]!r}, which is not inside of the search's "
            f"folder {folder}. Nothing there is read or deleted. No search writes such a path: start a new search with "
            "another study_name or storage."
        )
    return str(path)


def relative_path(path: str | None, folder: str) -> str | None:
    """What a trial stores of a path in the folder of its search."""
    return None if path is None else os.path.relpath(path, folder)


def check_stored_paths(trials: Sequence[FrozenTrial], folder: str) -> None:
    """Refuses a study with a path that leads out of its folder, before anything is trained.

    Raises:
        StorageError: For the first such path.
    """
    for trial in trials:
        for attribute in (FOLDER, CHECKPOINT, PAUSED):
            stored_path(trial, attribute, folder)


def last_complete_checkpoint(folder: str, *, world_size: int, evaluates_epochs: bool = False) -> str | None:
    """The newest checkpoint in a trial's folder that was written to its end, by all processes.

    If the training evaluates at the end of each epoch, a checkpoint of the last step of an epoch may have been written
    just before that evaluation, which a training resumed from it would leave out.

    Returns:
        Its path; None where a training cannot be resumed exactly from any checkpoint.
    """
    found = sorted(_checkpoints(folder), key=_step_of, reverse=True)
    return next((str(path) for path in found if _is_complete(path, world_size, evaluates_epochs)), None)


def training_state(checkpoint: str | Path) -> Params:
    """The Trainer's state in a checkpoint, empty if it cannot be read; the Trainer writes it last."""
    try:
        return dict(json.loads(Path(checkpoint, "trainer_state.json").read_text()))
    except (OSError, ValueError):
        return {}


def best_checkpoint_beside(checkpoint: str) -> str | None:
    """The best checkpoint of the training that wrote a checkpoint, which may have been copied or moved since."""
    best = training_state(checkpoint).get("best_model_checkpoint")
    return None if best is None else str(Path(checkpoint).with_name(Path(best).name))


def point_to_best_beside(checkpoint: str) -> None:
    """Makes the Trainer's state in a checkpoint name the best one beside it, not one where it was copied from."""
    state, best = training_state(checkpoint), best_checkpoint_beside(checkpoint)
    if state.get("best_model_checkpoint") == best:
        return
    file = Path(checkpoint, "trainer_state.json")
    changed = file.with_suffix(".new")
    changed.write_text(json.dumps({**state, "best_model_checkpoint": best}, indent=2, sort_keys=True) + "\n")
    changed.replace(file)


def save_scored(trainer: "Trainer", folder: str, *, in_training: bool) -> str | None:
    """Saves the model that the trial was scored with, unless a checkpoint holds it; called on every rank.

    Args:
        trainer: Has that model.
        folder: Of the trial.
        in_training: See ``TrialOutcome``.

    Returns:
        Its folder, None if it could not be written (a warning says why).
    """
    state = trainer.state
    # With load_best_model_at_end the Trainer ends with the model of its best checkpoint.
    if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None:
        written = Path(folder, Path(state.best_model_checkpoint).name)
    else:
        written = Path(folder, f"checkpoint-{state.global_step}")
    if in_training and _has_weights(written):
        return str(written)
    path = Path(folder, MODEL_FOLDER)
    try:
        trainer.save_model(str(path))
    except Exception as error:
        if not is_disk_error(error):
            raise
        shutil.rmtree(path, ignore_errors=True)
        logger.warning("The best model cannot be written to %s (%s); it is kept in memory.", path, error)
        return None
    return str(path)


def discard(folder: str, *, keep: Collection[str] = ()) -> None:
    """Deletes a trial's checkpoints and model but those to keep, and its folder if nothing else is left; logs stay."""
    kept = {Path(path).resolve() for path in keep}
    for path in [*_checkpoints(folder), Path(folder, MODEL_FOLDER)]:
        if path.resolve() not in kept:
            shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # other files are left
        Path(folder).rmdir()


def discard_incomplete(folder: str, *, keep: str | None) -> None:
    """Deletes what an interrupted trial wrote after its last complete checkpoint."""
    for path in _checkpoints(folder):
        if keep is None or _step_of(path) > _step_of(Path(keep)):
            shutil.rmtree(path, ignore_errors=True)


def holds_any(folder: str) -> bool:
    """Whether a folder holds checkpoints or a model already, of whatever training."""
    return bool(_checkpoints(folder)) or Path(folder, MODEL_FOLDER).is_dir()


def copy_weights(trainer: "Trainer") -> dict[str, Any] | None:
    """The model's weights in main memory; None if no rank holds the whole model."""
    if is_sharded(trainer):
        return None
    model: Any = trainer.model
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def weights_loader(folder: str | None, weights: dict[str, Any] | None) -> Callable[[Any], None] | None:
    """Function that loads the best weights into a fresh model: from memory, else from disk; None if both lack them.

    It raises ``ModelNotLoadedError`` where they do not fit into the model.
    """
    if weights is None and not can_load(folder):
        return None

    def load(trainer: Any) -> None:
        try:
            if weights is not None:
                trainer.model.load_state_dict(weights)
            else:
                load_checkpoint(trainer, str(folder))
        except Exception as error:
            raise ModelNotLoadedError(describe(error)) from error

    return load


def can_load(folder: str | None) -> bool:
    """Whether a folder holds weights in files that the Trainer loads; its ``save_model`` may have written others."""
    return folder is not None and _has_weights(Path(folder))


def _checkpoints(folder: str) -> list[Path]:
    return [p for p in Path(folder).glob("checkpoint-*") if p.is_dir() and p.name.split("-")[-1].isdigit()]


def _step_of(path: Path) -> int:
    return int(path.name.split("-")[-1])


def _has_weights(path: Path) -> bool:
    return any(any(path.glob(pattern)) for pattern in _WEIGHTS)


def _is_complete(path: Path, world_size: int, evaluates_epochs: bool) -> bool:
    """Whether rank 0 has written its state, which it does last, and each rank its random state."""
    state = training_state(path)
    if not state or (evaluates_epochs and _lacks_evaluation(state)):
        return False
    names = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    has_optimizer = any(any(path.glob(pattern)) for pattern in ("optimizer.pt", "optimizer.bin", "global_step*"))
    return _has_weights(path) and has_optimizer and all((path / n).exists() for n in names) and _is_readable(path)


def _lacks_evaluation(state: Params) -> bool:
    evaluated = {entry.get("step") for entry in state["log_history"] if any(key.startswith("eval_") for key in entry)}
    return float(state["epoch"] or 0).is_integer() and state["global_step"] not in evaluated


def _is_readable(path: Path) -> bool:
    """Whether no file is truncated: truncated weights contradict their header, truncated pickles lack a directory."""
    from safetensors import SafetensorError, safe_open

    for file in path.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError):
            return False
    return all(zipfile.is_zipfile(file) for pattern in ("*.pt", "*.pth", "*.bin") for file in path.glob(pattern))
