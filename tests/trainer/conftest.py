"""A Trainer that trains in a tenth of a second: a random BERT with one layer on 64 made-up rows."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import hf_rlsearch  # noqa: F401  registers the backend

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Eight token ids and the parity of their sum."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(5, 50, (n, 8), generator=generator)
        self.labels = self.ids.sum(1) % 2

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def tiny_model(dropout: float = 0.1, **sizes: int) -> BertForSequenceClassification:
    given = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, **sizes}
    config = BertConfig(vocab_size=50, max_position_embeddings=16, hidden_dropout_prob=dropout, **given)
    return BertForSequenceClassification(config)


class Scripted(optuna.samplers.BaseSampler):
    """Hands out given values in order, one list for each hyperparameter."""

    def __init__(self, **values: list[Any]) -> None:
        self._values = {name: iter(listed) for name, listed in values.items()}

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return next(self._values[param_name])


Score = Callable[[TrainingArguments, Any], float]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on a busy machine are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Makes a Trainer; ``score(args, state)`` becomes the metric "accuracy", other keywords training arguments."""

    def make(
        *,
        score: Score | None = None,
        metrics: Callable[[Any], dict[str, Any]] | None = None,
        model_init: Any = None,
        callbacks: Any = None,
        cls: type[Trainer] = Trainer,
        **args: Any,
    ) -> Trainer:
        given = {
            "output_dir": str(tmp_path / "out"),
            "eval_strategy": "epoch",
            "save_strategy": "no",
            "num_train_epochs": 1,
            "per_device_train_batch_size": 16,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **args,
        }
        trainer: Trainer | None = None

        def compute(prediction: Any) -> dict[str, Any]:
            assert trainer is not None
            assert score is not None
            return {"accuracy": score(trainer.args, trainer.state)}

        trainer = cls(
            args=TrainingArguments(**given),
            model_init=model_init or (lambda: tiny_model()),
            train_dataset=Rows(64, 0),
            eval_dataset=Rows(32, 1),
            compute_metrics=metrics or (compute if score else None),
            callbacks=callbacks,
        )
        return trainer

    return make


def rates(trial: Any) -> dict[str, Any]:
    """A space of one hyperparameter."""
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)}


class SmallOnly(Trainer):
    """Has memory for batches of less than 8."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.args.per_device_train_batch_size >= 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().training_step(*args, **kwargs)


def batches(trial: Any) -> dict[str, Any]:
    """A space of rates and batch sizes."""
    name = "per_device_train_batch_size"
    return {**rates(trial), name: trial.suggest_categorical(name, [4, 8, 16, 32])}


def tiny_arguments(folder: Any, **changes: Any) -> TrainingArguments:
    """Arguments of a training of seconds, two epochs long, for processes of their own."""
    given = {
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **changes,
    }
    return TrainingArguments(str(folder), **given)


def run(trainer: Trainer, backend: str, hp_space: Any = rates, **options: Any) -> Any:
    """The search of a test, the same for both backends: all trials are drawn, none is the user's own configuration."""
    if backend == "rl":
        options = {"baseline": False, "pruner": optuna.pruners.NopPruner(), **options}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return trainer.hyperparameter_search(hp_space=hp_space, backend=backend, **options)
    finally:
        optuna.logging.set_verbosity(before)


def stored(url: str) -> optuna.Study:
    """The only study of a storage."""
    return optuna.load_study(study_name=None, storage=url)


def finished(study: optuna.Study) -> list[Any]:
    return [trial for trial in study.trials if trial.state.is_finished()]


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.trials]
