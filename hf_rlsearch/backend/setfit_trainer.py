"""SetFit's Trainer as a search uses it: two trainings in one, a sentence encoder's and then a head's.

``setfit.Trainer`` is no ``transformers.Trainer``. It has one inside, ``st_trainer``, which trains the encoder on pairs
of sentences; then a head is fitted to the embeddings, and only then can anything be scored. What is evaluated on the
way is the loss of the pairs, so trials have no learning curve and none is stopped early.

Read in setfit 1.2.0 (trainer.py, training_args.py, sampler.py), which is not imported here: whoever has such a Trainer
has loaded it.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.backend import checkpoints
from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.errors import ArgumentsError


def is_setfit(made: Any) -> bool:
    """Whether this is a ``setfit.Trainer``."""
    setfit: Any = sys.modules.get("setfit")
    return setfit is not None and isinstance(made, setfit.Trainer)


class SetFitTrainer:
    """A ``setfit.Trainer`` with what a search asks of a trainer; see ``made.MadeTrainer``.

    Args:
        made: A fresh one.

    Attributes:
        pairs: Samples of an epoch for each row, by the arguments.

    Raises:
        ArgumentsError: This is one of several ranks.
    """

    def __init__(self, made: Any) -> None:
        if (n_ranks := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
            raise ArgumentsError(
                f"SetFit is searched by one process, but {n_ranks} ranks are started: without GPUs each of them would "
                "train alone, in the same folder. Start it with python instead of a launcher; several such processes "
                "may share a storage."
            )
        self._made = made
        self._can_predict: bool = made.model.has_differentiable_head
        self.callback_handler, self.accelerator = made.st_trainer.callback_handler, made.st_trainer.accelerator
        self.train_dataset, self.eval_dataset = made.train_dataset, made.eval_dataset
        self.pairs = partial(pairs_per_row, labels=_labels(made.train_dataset))
        self.args = SetFitTerms(made.args, self.pairs)

    @property
    def model(self) -> Any:
        """The encoder: all but the last few of the parameters."""
        return self._made.model.model_body

    @property
    def state(self) -> Any:
        """Of the encoder's training, without its evaluations and checkpoints: none is of the whole model."""
        from transformers import TrainerState

        inner = self._made.st_trainer.state
        return TrainerState(global_step=inner.global_step, max_steps=inner.max_steps)

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Trains the encoder, from one of its checkpoints if there is one, and fits the head."""
        inner = self._made.st_trainer
        if resume_from_checkpoint is not None:
            inner.args.restore_callback_states_from_checkpoint = True
            inner.train = partial(inner.train, resume_from_checkpoint=resume_from_checkpoint)
        self._made.train()
        self._can_predict = True
        checkpoints.discard(self.args.output_dir)  # of the encoder alone

    def evaluate(self, rows: Any = None) -> Mapping[str, Any]:
        """Metrics of the whole model; before the training of one with a fresh head on the encoder as it is."""
        if not self._can_predict:
            self._made.train_classifier(*self._made.dataset_to_parameters(self.train_dataset))
            self._can_predict = True
        # Given to evaluate() itself, rows would have their columns renamed a second time.
        self._made.eval_dataset = self.eval_dataset if rows is None else rows
        try:
            return dict(self._made.evaluate())
        finally:
            self._made.eval_dataset = self.eval_dataset

    def save_model(self, folder: str) -> None:
        """Writes encoder and head, for ``SetFitModel.from_pretrained(folder)``."""
        self._made.model.save_pretrained(folder)

    def is_world_process_zero(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self._made.st_trainer.is_world_process_zero())


class SetFitTerms:
    """SetFit's arguments in the terms of transformers where a search asks in these; every other name is SetFit's.

    Args:
        given: The ``setfit.TrainingArguments``; what is set here is set there.
        pairs: Samples of an epoch for each row.
    """

    def __init__(self, given: Any, pairs: Callable[[Any], float]) -> None:
        vars(self).update(
            given=given,
            train_batch_size=given.embedding_batch_size,
            gradient_accumulation_steps=1,
            num_train_epochs=given.embedding_num_epochs * pairs(given),
            disable_tqdm=not given.show_progress_bar,
            # SetFit's name the loss of the pairs, and the checkpoints of the encoder that are best by it.
            load_best_model_at_end=False,
            metric_for_best_model=None,
            greater_is_better=None,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self).get("given"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["given"], name, value)


class SetFitArguments(FrozenArguments):
    """The user's own ``setfit.TrainingArguments``.

    Args:
        trainer: That has them.
    """

    scored_at_end = "SetFit scores a model when its training has ended: no trial is stopped before."
    unsupported: Mapping[str, str] = {}

    def __init__(self, trainer: SetFitTrainer) -> None:
        super().__init__(trainer.args.given)
        self._pairs = trainer.pairs

    def value(self, name: str) -> Any:
        """What the user gave for a field; of a pair, such as the batch sizes of encoder and head, the encoder's."""
        found = super().value(name)
        return found[0] if isinstance(found, tuple) else found

    def original(self) -> Any:
        """As ``FrozenArguments.original``."""
        return SetFitTerms(super().original(), self._pairs)

    def with_values(self, values: Mapping[str, Any]) -> Any:
        """As ``FrozenArguments.with_values``."""
        return SetFitTerms(super().with_values(values), self._pairs)

    def cast(self, name: str, value: Any) -> Any:
        """As ``FrozenArguments.cast``; a pair has become a list on its way to all ranks."""
        return super().cast(name, tuple(value) if isinstance(value, list) else value)

    def to_json(self, args: Any) -> Params:
        """As ``FrozenArguments.to_json``, in SetFit's own terms."""
        return super().to_json(args.given if isinstance(args, SetFitTerms) else args)


def pairs_per_row(args: Any, labels: Sequence[Any]) -> float:
    """How many pairs of sentences an epoch has for each training row, as ``setfit.sampler`` draws them.

    Args:
        args: ``setfit.TrainingArguments``.
        labels: Of the rows; a list of several labels counts as one of its own, which is an estimate only.
    """
    if args.num_iterations:
        return 2.0 * int(args.num_iterations)
    n = len(labels)
    if not n:
        return 1.0
    same = sum(k * (k + 1) / 2 for k in Counter(map(str, labels)).values())
    other = n * (n + 1) / 2 - same
    drawn = {"unique": same + other, "undersampling": 2 * min(same, other)}
    return drawn.get(args.sampling_strategy, 2 * max(same, other)) / n


def _labels(data: Any) -> list[Any]:
    return list(data["label"]) if data is not None and "label" in data.column_names else []
