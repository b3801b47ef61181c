"""A search of the built-in optuna backend on one of two ranks; what happens to it is the scenario's name."""

import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from transformers import BertForSequenceClassification, Trainer

from tests.trainer.conftest import Rows, rates, tiny_arguments, tiny_model

N_TRIALS = 3


class Happens(Trainer):
    """In the second step of trial 1 something happens, on the rank that the scenario says: ``<what>_on_<where>``."""

    scenario, rank, number = "", 0, 0

    def train(self, *args: Any, trial: Any = None, **kwargs: Any) -> Any:
        self.number = getattr(trial, "number", 0)
        return super().train(*args, trial=trial, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        what, _, where = self.scenario.partition("_on_")
        if self.number == 1 and self.state.global_step == 1 and where in ("all", f"rank_{self.rank}"):
            if what.startswith("raise"):
                raise ValueError("boom")
            if what == "oom":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            if what == "hang":
                time.sleep(600)
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        if self.scenario != "nan" or self.number != 1:
            return loss
        return (loss[0] * float("nan"), loss[1]) if isinstance(loss, tuple) else loss * float("nan")


def raising_space(trial: Any) -> dict[str, Any]:
    if isinstance(trial, optuna.Trial) and trial.number == 1:
        raise LookupError("boom")
    return rates(trial)


def with_dropout(trial: Any = None) -> Any:
    return tiny_model(0.1 if trial is None else trial.suggest_float("dropout", 0.0, 0.5))


OPTIONS: dict[str, dict[str, Any]] = {
    "prune": {"pruner": optuna.pruners.ThresholdPruner(upper=0.0)},
    "raise_caught_on_rank_0": {"catch": (Exception,)},
    "raise_caught_on_all": {"catch": (Exception,)},
    "space_raises": {"hp_space": raising_space},
    "timeout": {"timeout": 0.01, "n_trials": 50},
    "stop": {"sampler": optuna.samplers.GridSampler({"learning_rate": [1e-3]}), "n_trials": 50},
    "wrong_argument": {"n_trails": 3},
}


def search(rank: int, scenario: str, folder: Path) -> dict[str, Any]:
    """The search; what this rank got, and how many models are alive in it afterwards."""
    args = tiny_arguments(folder / scenario)
    trainer = type("Here", (Happens,), {"scenario": scenario, "rank": rank})(
        args=args,
        model_init=with_dropout if scenario == "model_parameter" else (lambda: tiny_model()),
        train_dataset=Rows(64, 0),
        eval_dataset=Rows(32, 1),
    )

    def objective(metrics: dict[str, float]) -> float:
        if scenario == "objective_raises" and trainer.number == 1:
            raise LookupError("boom")
        return metrics["eval_loss"]

    options: dict[str, Any] = {"hp_space": rates, "n_trials": N_TRIALS, "pruner": optuna.pruners.NopPruner()}
    options |= {"storage": f"sqlite:///{folder / 'studies.db'}", "study_name": scenario, "load_if_exists": True}
    options |= {"sampler": optuna.samplers.RandomSampler(seed=0), **OPTIONS.get(scenario, {})}
    best: Any = trainer.hyperparameter_search(backend="optuna", compute_objective=objective, **options)
    gc.collect()
    return {
        "returned": None if best is None else best.run_id,
        "model": trainer.model is not None,
        "alive": sum(type(thing) is BertForSequenceClassification for thing in gc.get_objects()),
    }
