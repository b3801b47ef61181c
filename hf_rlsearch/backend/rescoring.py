"""Trials that differ from an earlier one only in how text is generated are scored on that one's model.

Generation settings (``gen.*``) change no weight, so training again would only make the same model a second time. While
such settings are searched, the models of the better trials stay on disk, as many as the disk budget holds; where a
model is gone, its configuration is trained again. At the end only the best stay.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.identity import hash_of
from hf_rlsearch.backend.result import CONFIRM, RESCORED, role
from hf_rlsearch.backend.scopes import GEN, prefix_of

TRAINING = "training_part"


def training_part(params: Params, values: Params, arguments: Params, read_by_model: frozenset[str]) -> str:
    """A hash of everything of a configuration that changes the trained model.

    Args:
        params: Every hyperparameter by name.
        values: What ``hp_space`` returned.
        arguments: The resolved training arguments; those of generation are left out.
        read_by_model: Names that ``model_init`` reads.
    """
    return hash_of(
        {
            "arguments": {name: value for name, value in arguments.items() if not name.startswith("generation_")},
            "scoped": {name: value for name, value in values.items() if prefix_of(name) not in (None, GEN)},
            "model": {name: value for name, value in params.items() if name in read_by_model},
        }
    )


def source_of(part: str, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial whose training was the same and whose model is on disk, None if there is none."""
    return next((trial for trial in trials if trial.user_attrs.get(TRAINING) == part and _has_model(trial)), None)


def without_generation(params: Params) -> Params | None:
    """The params of a trial but for its generation settings, None if it has none under their own names."""
    rest = {name: value for name, value in params.items() if prefix_of(name) != GEN}
    return rest if len(rest) < len(params) else None


def _has_model(trial: FrozenTrial) -> bool:
    checkpoint: Any = trial.user_attrs.get("checkpoint")
    trained = trial.state == TrialState.COMPLETE and role(trial) != CONFIRM and trial.user_attrs.get(RESCORED) is None
    return trained and checkpoint is not None and Path(checkpoint).is_dir()
