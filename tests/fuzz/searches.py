"""Searches of a tiny Trainer: space, arguments and options are drawn from a seed."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from transformers import Trainer

from tests.trainer.conftest import Rows, tiny_arguments, tiny_model

# Name -> ways to suggest it.
SUGGEST: dict[str, list[Callable[[Any, str], Any]]] = {
    "learning_rate": [
        lambda trial, name: trial.suggest_float(name, 1e-6, 1e-2, log=True),
        lambda trial, name: trial.suggest_categorical(name, [1e-4, 1e-3, "3e-3"]),
    ],
    "weight_decay": [lambda trial, name: trial.suggest_float(name, 0.0, 0.3, step=0.05)],
    "per_device_train_batch_size": [
        lambda trial, name: trial.suggest_categorical(name, [8, 16, 32]),
        lambda trial, name: trial.suggest_int(name, 8, 32, log=True),
    ],
    "gradient_accumulation_steps": [lambda trial, name: trial.suggest_int(name, 1, 3)],
    "num_train_epochs": [
        lambda trial, name: trial.suggest_int(name, 1, 3),
        lambda trial, name: trial.suggest_float(name, 0.5, 2.0),
    ],
    "warmup_steps": [lambda trial, name: trial.suggest_categorical(name, [0, 0.1, 5])],
    "lr_scheduler_type": [
        lambda trial, name: trial.suggest_categorical(name, ["linear", "cosine", "constant", "inverse_sqrt"])
    ],
    "optim": [lambda trial, name: trial.suggest_categorical(name, ["adamw_torch", "adafactor", "sgd"])],
    "adam_beta2": [lambda trial, name: trial.suggest_float(name, 0.9, 0.9999)],
    "max_grad_norm": [lambda trial, name: trial.suggest_float(name, 0.1, 10.0, log=True)],
    "label_smoothing_factor": [lambda trial, name: trial.suggest_float(name, 0.0, 0.2)],
    "seed": [lambda trial, name: trial.suggest_int(name, 1, 1000)],
    "model.hidden_dropout_prob": [lambda trial, name: trial.suggest_float(name, 0.0, 0.5)],
    "train.layer_decay": [lambda trial, name: trial.suggest_float(name, 0.5, 1.0)],
    "train.frozen_layers": [lambda trial, name: trial.suggest_int(name, 0, 1)],
    "train.lr_schedule": [lambda trial, name: trial.suggest_categorical(name, ["exponential", "step", "linear"])],
    "train.gradient_scale": [lambda trial, name: trial.suggest_float(name, 0.5, 2.0)],
}
# Pairs of which the second has no meaning beside the first.
_EXCLUDES = {("lr_scheduler_type", "train.lr_schedule"), ("optim", "train.gradient_scale")}


@dataclass
class Script:
    """What a user's script holds; running it twice is starting the same command again."""

    seed: int
    folder: Path

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        names = rng.sample(sorted(SUGGEST), rng.choice([1, 2, 3, 5]))
        self.names = [name for name in names if not any(b == name and a in names for a, b in _EXCLUDES)]
        self._ways = {name: rng.choice(SUGGEST[name]) for name in self.names}
        self._switch = rng.random() < 0.3  # whether the last name is searched in a part of the trials only
        self._model_searched = rng.random() < 0.3 and "model.hidden_dropout_prob" not in names
        self._accuracy = rng.random() < 0.5
        saves = rng.choice(["no", "no", "epoch"])
        self._arguments = {
            "eval_strategy": "epoch" if saves == "epoch" else rng.choice(["epoch", "epoch", "steps", "no"]),
            "eval_steps": 0.3,
            "save_strategy": saves,
            "load_best_model_at_end": saves == "epoch" and rng.random() < 0.5,
            "num_train_epochs": rng.choice([1, 2]),
            "per_device_train_batch_size": rng.choice([8, 16]),
        }
        self.n_trials = rng.choice([1, 2, 3, 4])
        stops_late = optuna.pruners.MedianPruner(n_startup_trials=1)
        self.options = {
            "n_trials": self.n_trials,
            "seed": rng.choice([None, self.seed]),
            "baseline": rng.random() < 0.8,
            "confirm": rng.choice([0, 0, 0, 1]),
            "pruner": rng.choice(["rl", "rl", None, stops_late]),
            "keep_best_models": rng.choice([0, 1, 2]),
            "n_points": rng.choice([None, None, 3]),
            "metric": "accuracy" if self._accuracy else "eval_loss",
        } | rng.choice([{}, {}, {"max_paused_trials": 0}, {"hp_name": lambda trial: "name"}, {"budget": 2.0}])

    def hp_space(self, trial: Any) -> dict[str, Any]:
        last = self.names[-1]
        used = self.names
        if self._switch and trial.suggest_categorical("switch", [False, True]):
            used = [name for name in self.names if name != last]
        return {name: self._ways[name](trial, name) for name in used}

    def _model_init(self, trial: Any = None) -> Any:
        if not self._model_searched:
            return tiny_model()
        return tiny_model(0.1 if trial is None else trial.suggest_float("dropout", 0.0, 0.5))

    def trainer(self) -> Trainer:
        return Trainer(
            args=tiny_arguments(self.folder / "out", **self._arguments),
            model_init=self._model_init,
            train_dataset=Rows(64, 0),
            eval_dataset=Rows(32, 1),
            compute_metrics=_accuracy if self._accuracy else None,
        )

    def run(self) -> tuple[Trainer, Any]:
        """The Trainer after its search, and what the search returned."""
        trainer = self.trainer()
        return trainer, trainer.hyperparameter_search(self.hp_space, backend="rl", **self.options)


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def failures(result: Any) -> list[Any]:
    """Reasons of failed trials, but for diverged ones."""
    failed = [trial.user_attrs["rl:failure"] for trial in result.trials if trial.state == TrialState.FAIL]
    return [failure["reason"] for failure in failed if failure["kind"] != "nan"]
