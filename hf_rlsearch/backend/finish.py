"""Gives any Trainer the arguments of a finished trial."""

from typing import Any

from optuna.trial import FrozenTrial

from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.compat import TrainerSeat, check_trainer
from hf_rlsearch.backend.scopes import attach, trial_arguments
from hf_rlsearch.backend.sources import copies_of, final_model_init


def apply_trial(trainer: Any, trial: FrozenTrial) -> Any:
    """Sets arguments and ``model_init``, and refreshes what the Trainer derives from them.

    Args:
        trainer: To be trained with the trial's hyperparameters; its ``output_dir`` is kept.
        trial: Of a search with a Trainer.

    Returns:
        The same Trainer.
    """
    check_trainer(trainer)
    frozen = FrozenArguments(trainer.args)
    values = dict(trial.user_attrs.get("values", {}))
    params = {} if trial.user_attrs.get("role") == "baseline" else dict(trial.params)
    model_init = final_model_init(trainer.model_init or copies_of(trainer.model), params, values)
    with TrainerSeat(trainer) as seat:
        seat.finish(trial_arguments(frozen, values), model_init=model_init, load=None)
    attach(trainer, values)
    return trainer
