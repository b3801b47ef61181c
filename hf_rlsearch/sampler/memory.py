"""Which candidates need at least as much memory as a trial that ran out of it."""

from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import BoolArray, IntArray
from hf_rlsearch.space import SearchSpace

# More of any of these needs more memory. Gradient accumulation is not among them: it adds steps, not memory.
_SIZES = frozenset({"batch_size", "max_length", "lora_rank", "width", "depth", "heads", "vocabulary"})
# Configurations are compared only where these are equal: another model or gradient checkpointing changes everything.
_KINDS = frozenset({"model", "optimizer", "generic_categorical"})


def out_of_memory(space: SearchSpace, trials: Sequence[FrozenTrial], rows: IntArray) -> BoolArray:
    """Tells which candidates would run out of memory, going by those that did.

    A candidate is at least as large as a failed trial if each of its sizes is, and its model, optimizer and other
    switches are the same. What the failed trial does not have is not compared.

    Args:
        space: H hyperparameters.
        trials: Of the study; those whose user attribute "failure" is of kind "oom" count.
        rows: (C, H) candidates.

    Returns:
        (C,) True where training the candidate would be in vain.
    """
    roles = [hyperparameter.role for hyperparameter in space.hyperparameters]
    ordered = [hyperparameter.ordered for hyperparameter in space.hyperparameters]
    sizes = np.array([role in _SIZES and o for role, o in zip(roles, ordered, strict=True)], dtype=bool)
    kinds = np.array([role in _KINDS for role in roles], dtype=bool)
    doomed = np.zeros(len(rows), dtype=bool)
    for trial in trials:
        if not _ran_out(trial):
            continue
        levels = space.nearest_levels(trial.params)
        known = levels >= 0
        if not (sizes & known).any():
            continue
        larger = (rows[:, sizes & known] >= levels[sizes & known]).all(axis=1)
        doomed |= larger & (rows[:, kinds & known] == levels[kinds & known]).all(axis=1)
    return doomed


def _ran_out(trial: FrozenTrial) -> bool:
    failure = trial.user_attrs.get("failure")
    return trial.state == TrialState.FAIL and isinstance(failure, dict) and failure.get("kind") == "oom"
