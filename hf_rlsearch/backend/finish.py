"""Gives any Trainer the arguments of a finished trial."""

from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.compat import check_trainer
from hf_rlsearch.backend.confirm import OF
from hf_rlsearch.backend.result import BASELINE, CONFIRM, role
from hf_rlsearch.backend.scopes import attach, trial_arguments
from hf_rlsearch.backend.seat import TrainerSeat
from hf_rlsearch.backend.sources import copies_of, final_model_init, following
from hf_rlsearch.backend.storage import OBJECTIVE


def model_params(study: optuna.Study, trial: FrozenTrial) -> Params:
    """What ``model_init(trial)`` is asked with; empty for the user's own configuration, under whatever seed."""
    confirmed = trial.user_attrs[OF] if role(trial) == CONFIRM else trial.number
    return {} if role(study.get_trials(deepcopy=False)[confirmed]) == BASELINE else dict(trial.params)


def apply_trial(trainer: Any, study: optuna.Study, trial: FrozenTrial) -> Any:
    """Sets arguments and ``model_init``, and refreshes what the Trainer derives from them.

    Args:
        trainer: To be trained with the trial's hyperparameters; its ``output_dir`` is kept.
        study: Of a search with a Trainer.
        trial: Of this study.

    Returns:
        The same Trainer.
    """
    check_trainer(trainer)
    frozen = FrozenArguments(trainer.args)
    values = dict(trial.user_attrs.get("values", {}))
    model_init = final_model_init(trainer.model_init or copies_of(trainer.model), model_params(study, trial), values)
    args = following(trial_arguments(frozen, values), study.user_attrs.get(OBJECTIVE, {}).get("follows"))
    with TrainerSeat(trainer) as seat:
        seat.finish(args, model_init=model_init, load=None)
    attach(trainer, values)
    return trainer
