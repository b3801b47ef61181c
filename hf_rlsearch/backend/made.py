"""Says what a search calls on a Trainer, and checks that a trainer made by the user's function has it."""

from collections.abc import Mapping
from typing import Any, Protocol, get_type_hints

from hf_rlsearch.errors import ArgumentsError


class TrainerProtocol(Protocol):
    """Everything that a search uses of a trainer that it did not make itself; every ``transformers.Trainer`` has it.

    Attributes:
        args: A dataclass with a ``seed``. The search sets ``output_dir`` and ``run_name`` before the training. It reads
            the length of a training from ``max_steps``, ``num_train_epochs``, ``train_batch_size`` and
            ``gradient_accumulation_steps``, and the kept model from ``load_best_model_at_end`` and
            ``metric_for_best_model``.
        model: A torch module.
        state: ``global_step`` and ``max_steps`` of the training, its evaluations in ``log_history`` and its
            ``best_model_checkpoint``.
        train_dataset: Needs a length where the cost of a trial matters (``budget=``, ``timeout=``).
        eval_dataset: The search evaluates a few of its rows before the first trial.
        callback_handler: The search removes progress bars from its ``callbacks``.
        accelerator: The search frees its memory after each trial.
    """

    args: Any
    model: Any
    state: Any
    train_dataset: Any
    eval_dataset: Any
    callback_handler: Any
    accelerator: Any

    def train(self, *, resume_from_checkpoint: str) -> Any:
        """Trains to the end, from the checkpoint of an interrupted training if one is given.

        A trainer that evaluates during the training calls ``self._report_to_hp_search(trial, step, metrics)`` after
        each evaluation, as transformers does. The search sets that method; trials may then be stopped early.
        """

    def evaluate(self, rows: Any) -> Mapping[str, Any]:
        """Returns metrics by name, on ``eval_dataset`` or on the given rows; also of the untrained model."""

    def save_model(self, folder: str) -> Any:
        """Writes the model that ``evaluate`` scores, with its weights as safetensors."""

    def is_world_process_zero(self) -> bool:
        """Returns whether this process is the one that writes."""


_METHODS = tuple(name for name, value in vars(TrainerProtocol).items() if callable(value) and not name.startswith("_"))
_REQUIRED = (*get_type_hints(TrainerProtocol), *_METHODS)


def check_trainer_protocol(made: Any) -> None:
    """Refuses what ``make_trainer`` returned if it is no ``TrainerProtocol``.

    Raises:
        ArgumentsError: With the names that are missing.
    """
    missing = [name for name in _REQUIRED if not hasattr(made, name)]
    if not missing:
        return
    hint = ""
    if type(made).__module__.partition(".")[0] == "setfit":
        hint = (
            " SetFit has a search of its own, which takes our sampler: trainer.hyperparameter_search(..., "
            "backend='optuna', sampler=hf_rlsearch.RLSampler(n_trials=...))."
        )
    raise ArgumentsError(
        f"make_trainer returned {'None' if made is None else f'a {type(made).__name__}'}, expected a "
        f"transformers.Trainer. It has no {', '.join(missing)}.{hint}"
    )
