"""Gives any Trainer the arguments of a finished trial."""

from typing import Any

from optuna.trial import FrozenTrial

from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.compat import TrainerSeat, check_trainer
from hf_rlsearch.backend.sources import bound_model_init


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
    values = {name: v for name, v in trial.user_attrs.get("values", {}).items() if name in frozen.names}
    params = {} if trial.user_attrs.get("role") == "baseline" else dict(trial.params)
    with TrainerSeat(trainer) as seat:
        seat.finish(frozen.with_values(values), model_init=bound_model_init(trainer.model_init, params), load=None)
    return trainer
