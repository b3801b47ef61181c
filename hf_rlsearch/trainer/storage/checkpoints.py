"""Checkpoints on disk: which one a trial continues from, which ones are kept, and the best model at the end."""

import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from hf_rlsearch.trainer.session.compat import is_sharded, load_checkpoint
from hf_rlsearch.trainer.session.failures import is_disk_error

# The folder for a model that no checkpoint of the training holds.
MODEL_FOLDER = "model"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model_fsdp*", "global_step*")

logger = logging.getLogger(__name__)


def last_complete_checkpoint(folder: str, *, world_size: int, evaluates_epochs: bool = False) -> str | None:
    """The newest checkpoint of a trial that was written to its end.

    Args:
        folder: The trial's.
        world_size: Number of processes; each has written its random state.
        evaluates_epochs: Training evaluates at the end of each epoch. A checkpoint of the last step of an epoch can
        have
            been written just before that evaluation, which a training continued from it would leave out.

    Returns:
        Its path; None where there is none that a training can be continued from exactly.
    """
    found = sorted(_checkpoints(folder), key=_step_of, reverse=True)
    return next((str(path) for path in found if _is_complete(path, world_size, evaluates_epochs)), None)


def scored_checkpoint(trainer: Any, folder: str) -> str | None:
    """The checkpoint that holds exactly the model which the trial was scored with, if training wrote one."""
    best = trainer.state.best_model_checkpoint
    if trainer.args.load_best_model_at_end and best is not None:
        return str(best) if _has_weights(Path(best)) else None
    path = Path(folder, f"checkpoint-{trainer.state.global_step}")
    return str(path) if _has_weights(path) else None


def save_scored(trainer: Any, folder: str) -> str | None:
    """Makes sure that the trained model is on disk; called on every rank.

    Returns:
        Its folder, None if it could not be written (a warning says why).
    """
    there = scored_checkpoint(trainer, folder)
    if there is not None:
        return there
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
    """Deletes a trial's checkpoints but some, and its folder if nothing else is left in it; logs stay.

    Args:
        folder: The trial's.
        keep: The checkpoints to keep.
    """
    kept = {Path(path).resolve() for path in keep}
    for path in [*_checkpoints(folder), Path(folder, MODEL_FOLDER)]:
        if path.resolve() not in kept:
            shutil.rmtree(path, ignore_errors=True)
    try:
        Path(folder).rmdir()
    except OSError:
        return


def holds_any(folder: str) -> bool:
    """Whether a folder has checkpoints or a model in it already, of whatever training."""
    return any(True for _ in _checkpoints(folder)) or Path(folder, MODEL_FOLDER).is_dir()


def discard_incomplete(folder: str, *, keep: str | None) -> None:
    """Deletes what an interrupted trial left behind its last complete checkpoint."""
    for path in _checkpoints(folder):
        if keep is None or _step_of(path) > _step_of(Path(keep)):
            shutil.rmtree(path, ignore_errors=True)


def copy_weights(trainer: Any) -> dict[str, Any] | None:
    """The model's weights in main memory; None for a model that no rank holds whole."""
    if is_sharded(trainer):
        return None
    return {name: value.detach().to("cpu", copy=True) for name, value in trainer.model.state_dict().items()}


def weights_loader(folder: str | None, weights: dict[str, Any] | None) -> Callable[[Any], None] | None:
    """How the best weights get into a fresh model: from memory, else from disk, else not at all."""
    if weights is not None:
        return lambda trainer: trainer.model.load_state_dict(weights)
    if folder is not None and _has_weights(Path(folder)):
        return lambda trainer: load_checkpoint(trainer, folder)
    return None


def _checkpoints(folder: str) -> Iterable[Path]:
    path = Path(folder)
    return (
        [p for p in path.glob("checkpoint-*") if p.is_dir() and p.name.split("-")[-1].isdigit()]
        if path.is_dir()
        else []
    )


def _step_of(path: Path) -> int:
    return int(path.name.split("-")[-1])


def _has_weights(path: Path) -> bool:
    return path.is_dir() and any(any(path.glob(pattern)) for pattern in _WEIGHTS)


def _is_complete(path: Path, world_size: int, evaluates_epochs: bool) -> bool:
    """The Trainer writes trainer_state.json last on rank 0; other ranks write only their random state."""
    try:
        state = json.loads((path / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    if evaluates_epochs and _lacks_evaluation(state):
        return False
    names = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    optimizer = any((path / name).exists() for name in ("optimizer.pt", "optimizer.bin")) or any(
        path.glob("global_step*")
    )
    return _has_weights(path) and optimizer and all((path / name).exists() for name in names) and _readable(path)


def _lacks_evaluation(state: dict[str, Any]) -> bool:
    step = state["global_step"]
    evaluated = {entry.get("step") for entry in state["log_history"] if any(key.startswith("eval_") for key in entry)}
    return float(state["epoch"] or 0).is_integer() and step not in evaluated


def _readable(path: Path) -> bool:
    """Half a weights file is found by its header, which states the length, half a pickle by its missing directory."""
    from safetensors import SafetensorError, safe_open

    for file in path.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError):
            return False
    return all(zipfile.is_zipfile(file) for pattern in ("*.pt", "*.pth", "*.bin") for file in path.glob(pattern))
