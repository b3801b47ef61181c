"""A search on one of two ranks, in which something happens to one alone; the scenario's name says what and where.

``<what>_on_rank_<0, 1 or all>``.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from transformers import Trainer, TrainerCallback

import hf_rlsearch  # noqa: F401
from hf_rlsearch.trainer.search import distributed
from hf_rlsearch.trainer.search.trial import SharedTrial
from hf_rlsearch.trainer.session import failures
from hf_rlsearch.trainer.storage import checkpoints
from tests.trainer.conftest import Rows, Scripted, rates, tiny_arguments, tiny_model

N_TRIALS = 3


ERRORS: dict[str, Exception] = {
    "step_raises": ValueError("boom"),
    "stuck": ValueError("boom"),
    "stuck_oom": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    "oom": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    "device": RuntimeError("CUDA error: device-side assert triggered"),
    "own_disks": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
}


class Broken(Rows):
    """Rows that cannot be read."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        raise ValueError("boom")


class Fails(optuna.storages.InMemoryStorage):
    """A storage that breaks: at the end of the search, at the second trial's first report, or at its end."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self._when = when

    def _fail(self, when: str, trial_id: int | None = None) -> None:
        if self._when == when and (trial_id is None or self.get_trial(trial_id).number == 1):
            raise optuna.exceptions.StorageInternalError("no space left")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        if key.endswith("summary"):
            self._fail("result")
        super().set_study_user_attr(study_id, key, value)

    def set_trial_intermediate_value(self, trial_id: int, step: int, value: float) -> None:
        self._fail("report", trial_id)
        super().set_trial_intermediate_value(trial_id, step, value)

    def set_trial_state_values(self, trial_id: int, state: Any, values: Any = None) -> bool:
        if state.is_finished():
            self._fail("tell", trial_id)
        return super().set_trial_state_values(trial_id, state, values)


class Alone(Trainer):
    """What happens in trial 1 happens on one rank."""

    what, here, n_trained = "", False, 0

    @property
    def now(self) -> bool:
        """Whether this rank trains trial 1, and the scenario means this rank."""
        return self.here and self._in_trial_1

    @property
    def _in_trial_1(self) -> bool:
        return Path(self.args.output_dir).name == "run-1"

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        type(self).n_trained += 1
        return output

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.what in ERRORS and self.now and self.state.global_step == 1:
            raise ERRORS[self.what]
        if self.what.startswith("stuck") and not self.here and self._in_trial_1 and self.state.global_step == 1:
            time.sleep(600)  # as in a collective of NCCL, which the end of the other rank does not end
        if self.what == "dies" and self.now and self.state.global_step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        if self.what == "evaluation_raises" and self.now:
            raise ValueError("boom")
        metrics = super().evaluate(*args, **kwargs)
        return {**metrics, "eval_loss": float("nan")} if self.what == "nan" and self.now else metrics

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        if self.what == "save_raises" and self.now:
            raise ValueError("boom")
        super().save_model(*args, **kwargs)

    def call_model_init(self, trial: Any = None) -> Any:
        if self.what == "finish_raises" and self.here and self.n_trained == N_TRIALS:
            raise ValueError("boom")
        if self.what == "model_raises" and self.here and isinstance(trial, SharedTrial) and trial.number == 1:
            raise ValueError("boom")
        return super().call_model_init(trial)


class AtTheEnd(TrainerCallback):
    """Raises when training has ended."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if Path(args.output_dir).name == "run-1":
            raise ValueError("boom")


def once(metrics: dict[str, float]) -> Any:
    """A ``compute_metrics`` that raises at its first call."""
    calls: list[int] = []

    def compute(prediction: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("boom")
        return metrics

    return compute


def with_adapter(trial: Any = None) -> Any:
    """A model whose adapter's rank is searched."""
    from peft import LoraConfig, get_peft_model

    r = 2 if trial is None else trial.suggest_categorical("lora_r", [2, 4, 8])
    return get_peft_model(tiny_model(), LoraConfig(task_type="SEQ_CLS", r=r, target_modules=["query", "value"]))


def search(rank: int, scenario: str, folder: Path) -> dict[str, Any]:
    """The search; what this rank got of it, or what it raised and whether its Trainer is what it was."""
    distributed.PATIENCE_AFTER_FAILURE = 5
    what, _, where = scenario.partition("_on_rank_")
    here = where in (str(rank), "all")
    if what == "own_disks":
        _use_own_disk(folder / f"disk-{rank}")
    if what == "model_missing" and here:
        checkpoints._has_weights = lambda path: False  # the disk of the other rank
    cls = type("Here", (Alone,), {"what": what, "here": here})
    args = tiny_arguments(
        folder / scenario,
        eval_strategy="no" if what == "objective_raises" else "epoch",
        save_strategy="epoch" if what == "dies" else "no",
    )
    trainer = cls(
        args=args,
        model_init=with_adapter if what == "adapter" else (lambda: tiny_model()),
        train_dataset=Rows(64, 0),
        eval_dataset=Broken(32, 1) if what == "first_evaluation_raises" and here else Rows(32, 1),
        compute_metrics=once({"accuracy": 0.5}) if what == "first_metrics_raise" and here else None,
        callbacks=[AtTheEnd()] if what == "callback_raises" and here else None,
    )
    if what == "first_metrics_raise" and not here:
        trainer.compute_metrics = lambda prediction: {"accuracy": 0.5}

    def space(trial: Any) -> dict[str, Any]:
        if what == "first_space_raises" and here:
            raise ValueError("boom")
        return rates(trial)

    options: dict[str, Any] = {"n_trials": N_TRIALS, "keep_best_models": 3, "pruner": None, "baseline": False}
    options["sampler"] = Scripted(learning_rate=[1e-3, 1e-2, 1e-4], lora_r=[4, 8, 2])
    if what == "objective_raises":
        options["compute_objective"] = _raises_in_trial_1(trainer) if here else (lambda metrics: metrics["eval_loss"])
        options["direction"] = "minimize"
    if what.startswith("storage_"):
        options |= {"storage": Fails(what.removeprefix("storage_")), "study_name": "s"}
    before = dict(vars(trainer))
    try:
        best: Any = trainer.hyperparameter_search(hp_space=space, backend="rl", **options)
    except Exception as error:
        changed = sorted(name for name, value in before.items() if vars(trainer).get(name) is not value)
        return {"error": type(error).__name__, "text": str(error), "changed": changed}
    reasons = [trial.user_attrs.get("rl:failure") or {} for trial in best.run_summary.trials]
    adapters = getattr(trainer.model, "peft_config", {})
    return {
        "best": [best.run_id, best.objective, best.hyperparameters],
        "states": [trial.state.name for trial in best.run_summary.trials],
        "failures": [failure.get("reason") for failure in reasons],
        "kinds": [failure.get("kind") for failure in reasons],
        "ranks": [failure.get("rank") for failure in reasons],
        "world_sizes": [trial.user_attrs.get("rl:world_size") for trial in best.run_summary.trials],
        "curves": [list(trial.intermediate_values) for trial in best.run_summary.trials],
        "evaluated": trainer.evaluate()["eval_loss"],
        "adapter": adapters["default"].r if adapters else None,
    }


def _use_own_disk(disk: Path) -> None:
    """Puts what ranks report in the folder of a trial on a disk of this rank, as the disk of another machine is."""
    failures.Path = lambda folder, *rest: disk.joinpath(Path(folder).relative_to("/"), *rest)  # type: ignore


def _raises_in_trial_1(trainer: Alone) -> Any:
    def objective(metrics: dict[str, float]) -> float:
        if Path(trainer.args.output_dir).name == "run-1":
            raise ValueError("boom")
        return metrics["eval_loss"]

    return objective
