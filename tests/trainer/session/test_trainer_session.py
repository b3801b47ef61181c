"""After an error in a search, the Trainer and the process are what they were before it."""

import gc
import os
import signal
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as hf_logging

from hf_rlsearch import ObjectiveError, SearchFailed, SearchSpaceError, StorageError
from tests.trainer.conftest import rates, run, tiny_model

MakeTrainer = Callable[..., Trainer]


class Seen(TrainerCallback):
    """Keeps what a callback of the user's might keep."""

    def __init__(self) -> None:
        self.n_steps = 0

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.n_steps += 1


class Ends(Trainer):
    """Ends the search in the second step of a training, in the way that a test chooses."""

    end: Callable[[], None]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 1:
            type(self).end()
        return super().training_step(*args, **kwargs)


def throws(error: BaseException) -> Callable[..., Any]:
    def throw(*args: Any, **kwargs: Any) -> Any:
        raise error

    return throw


def bad_space(trial: Any) -> dict[str, Any]:
    return {"learnig_rate": trial.suggest_float("learnig_rate", 1e-5, 1e-1)}


def interrupted_space(trial: Any) -> dict[str, Any]:
    if isinstance(trial, optuna.Trial):
        raise KeyboardInterrupt
    return rates(trial)


class Broken(optuna.samplers.RandomSampler):
    """Fails before anything is drawn."""

    def before_trial(self, study: Any, trial: Any) -> None:
        raise LookupError("no such sampler")


class Locked(optuna.samplers.RandomSampler):
    """Stands for a storage that stops working."""

    def before_trial(self, study: Any, trial: Any) -> None:
        raise optuna.exceptions.StorageInternalError("database is locked")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# By the cause of the end: what raises in training, options of the search, and the error that is expected.
ENDS: dict[str, tuple[Callable[[], None] | None, dict[str, Any], type[BaseException]]] = {
    "an exception that is not to be caught": (throws(ValueError("boom")), {"catch": ()}, ValueError),
    "too many failures": (throws(ValueError("boom")), {"max_failed_trials": 2}, SearchFailed),
    "out of memory": (throws(torch.OutOfMemoryError("CUDA")), {"max_failed_trials": 1}, SearchFailed),
    "Ctrl-C in training": (throws(KeyboardInterrupt()), {}, KeyboardInterrupt),
    "Ctrl-C in hp_space": (None, {"hp_space": interrupted_space}, KeyboardInterrupt),
    "SIGTERM": (terminate, {}, SystemExit),
    "a broken sampler": (None, {"sampler": Broken()}, LookupError),
    "a storage that stops working": (None, {"sampler": Locked()}, StorageError),
    "a misspelt name": (None, {"hp_space": bad_space}, SearchSpaceError),
    "an unknown metric": (None, {"metric": "accuracy"}, ObjectiveError),
    "an unknown option": (None, {"n_trails": 3}, TypeError),
    "a storage of an unknown kind": (None, {"storage": "nothing://here"}, Exception),
}


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Everything that a search changes, also outside of the Trainer."""
    return {
        **{f"trainer.{name}": id(value) for name, value in vars(trainer).items()},
        "arguments": trainer.args.to_dict(),
        "callbacks": [(id(callback), dict(vars(callback))) for callback in trainer.callback_handler.callbacks],
        "handler": {name: id(value) for name, value in vars(trainer.callback_handler).items()},
        "state": {**vars(trainer.state), "stateful_callbacks": None},
        "weights": {name: value.sum().item() for name, value in trainer.model.state_dict().items()},
        "signal": signal.getsignal(signal.SIGTERM),
        "frozen": gc.get_freeze_count(),
        "bars": hf_logging.is_progress_bar_enabled(),
        "tell": trainer._report_to_hp_search,
    }


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("how", ENDS)
def test_trainer_and_process_are_restored_after_an_error(make_trainer: MakeTrainer, how: str) -> None:
    end, options, error = ENDS[how]
    cls = Trainer if end is None else type("EndsHere", (Ends,), {"end": staticmethod(end)})
    trainer = make_trainer(cls=cls, callbacks=[Seen()], label_smoothing_factor=0.1)
    before, verbosity = state_of(trainer), optuna.logging.get_verbosity()
    with pytest.raises(error):
        run(trainer, "rl", **{"n_trials": 3, "hp_space": rates, **options})
    assert state_of(trainer) == before
    assert trainer.hp_search_backend is None
    assert optuna.logging.get_verbosity() == verbosity


def test_a_best_model_that_cannot_be_built(make_trainer: MakeTrainer) -> None:
    """The last thing that can go wrong: all trials are finished, and then ``model_init`` raises."""
    n_made = 0

    def model_init() -> Any:
        nonlocal n_made
        n_made += 1
        if n_made > 3:  # of the Trainer, of identity and facts, of the trial
            raise OSError("the hub is away")
        return tiny_model()

    trainer = make_trainer(model_init=model_init, callbacks=[Seen()])
    before = state_of(trainer)
    with pytest.raises(OSError, match="the hub is away"):
        run(trainer, "rl", n_trials=1)
    assert state_of(trainer) == before
    n_made = 0
    again = run(make_trainer(model_init=model_init), "rl", n_trials=1)
    assert again.run_summary.study.study_name == "search-1"


def test_trials_use_copies_of_the_users_callbacks(make_trainer: MakeTrainer) -> None:
    seen = Seen()
    trainer = make_trainer(callbacks=[seen])
    run(trainer, "rl", n_trials=1)
    assert seen in trainer.callback_handler.callbacks
    assert seen.n_steps == 0
