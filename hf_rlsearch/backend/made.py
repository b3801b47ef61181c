"""What a trainer that the user's function makes must offer to be searched, and which ones are adapted to offer it."""

from collections.abc import Mapping
from typing import Any, Protocol, get_type_hints

from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.setfit_trainer import SetFitArguments, SetFitTrainer, is_setfit
from hf_rlsearch.errors import ArgumentsError


class MadeTrainer(Protocol):
    """Everything that a search uses of a trainer it was made; every ``transformers.Trainer`` has it.

    To search another kind of trainer, write a class that has this around it, and choose it in ``as_made`` below; if its
    arguments are no ``TrainingArguments``, a subclass of ``FrozenArguments`` too. ``SetFitTrainer`` is an example.

    Attributes:
        args: A dataclass with a ``seed``. ``output_dir`` and ``run_name`` are set before the training; ``max_steps``,
            ``num_train_epochs``, ``train_batch_size`` and ``gradient_accumulation_steps`` tell how long it is;
            ``load_best_model_at_end`` and ``metric_for_best_model``, which model it ends with.
        model: A torch module.
        state: ``global_step`` and ``max_steps`` of the training; its evaluations in ``log_history`` and its
            ``best_model_checkpoint``, where these are of the model that is scored.
        train_dataset: Has to have a length where a trial's amount of training is to be told.
        eval_dataset: Of which a few rows are evaluated before the first trial.
        callback_handler: Progress bars are taken out of its ``callbacks``.
        accelerator: Its memory is freed after each trial.
    """

    args: Any
    model: Any
    state: Any
    train_dataset: Any
    eval_dataset: Any
    callback_handler: Any
    accelerator: Any

    def train(self, *, resume_from_checkpoint: str) -> Any:
        """Trains to the end, from a checkpoint of an interrupted training if one is given.

        If it evaluates on its way the model that it ends with, it calls ``_report_to_hp_search(trial, step, metrics)``
        on itself, which is set from outside; then trials may be stopped early.
        """

    def evaluate(self, rows: Any) -> Mapping[str, Any]:
        """Metrics by name, on ``eval_dataset`` or on these rows of it; of the untrained model, too."""

    def save_model(self, folder: str) -> Any:
        """Writes the model that ``evaluate`` scores, with its weights as safetensors."""

    def is_world_process_zero(self) -> bool:
        """Whether this is the process that writes."""


_METHODS = tuple(name for name, value in vars(MadeTrainer).items() if callable(value) and not name.startswith("_"))
_OFFERED = (*get_type_hints(MadeTrainer), *_METHODS)


def as_made(made: Any) -> Any:
    """What ``make_trainer`` has returned, as a ``MadeTrainer``.

    Raises:
        ArgumentsError: It is none, with what is missing.
    """
    if is_setfit(made):
        return SetFitTrainer(made)
    missing = [name for name in _OFFERED if not hasattr(made, name)]
    if missing:
        raise ArgumentsError(
            f"make_trainer returned {'None' if made is None else f'a {type(made).__name__}'}, expected a "
            f"transformers.Trainer or a setfit.Trainer. It has no {', '.join(missing)}."
        )
    return made


def frozen_arguments(trainer: Any) -> FrozenArguments:
    """The user's own arguments of a ``MadeTrainer``."""
    return SetFitArguments(trainer) if isinstance(trainer, SetFitTrainer) else FrozenArguments(trainer.args)
