"""The script that is killed again and again: one search, in one process or under torchrun.

``python -m tests.chaos.worker FOLDER N_TRIALS [MOMENT COUNT RANK]`` kills itself where ``MOMENT`` comes
for the ``COUNT``th time on one rank; without them it waits to be killed from outside. Writes ``<folder>/phase``, what
it is at, and ``<folder>/done.json`` when it reaches its end.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainingArguments

import hf_rlsearch  # noqa: F401
from tests.trainer.conftest import Rows, tiny_model

PREPARING, TRAINING, EVALUATION, CHECKPOINT, BETWEEN, RETURNED = MOMENTS = (
    "preparing",
    "training",
    "evaluation",
    "checkpoint",
    "between trials",
    "result returned",
)


@dataclass(slots=True)  # what hp_space writes to slots is no change of the trial
class Life:
    """One run of the script.

    Attributes:
        folder: Everything that it leaves.
        n_trials: Of the search.
        moment: At which it dies; empty for none.
        count: How often that moment comes before.
        rank: The process that dies.
        now: What it is at.
    """

    folder: Path
    n_trials: int
    moment: str = ""
    count: int = 0
    rank: int = 0
    now: str = ""

    def at(self, moment: str) -> None:
        """Says where the script is, and ends it there if this is the moment."""
        own = int(os.environ.get("RANK", "0"))
        if own == 0 and moment != self.now:
            self.now = moment
            (self.folder / "phase").write_text(moment)
        if moment == self.moment and own == self.rank:
            self.count -= 1
            if self.count <= 0:
                (self.folder / "killed").write_text(moment)
                os.kill(os.getpid(), signal.SIGKILL)


class Mortal(Trainer):
    """Can die in a training step, in an evaluation, and with a checkpoint half written."""

    life: Life

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.life.at(TRAINING)
        return super().training_step(*args, **kwargs)

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        self.life.at(EVALUATION)
        return super().prediction_step(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Weights are written first: dies before and after them."""
        self.life.at(CHECKPOINT)
        super().save_model(*args, **kwargs)
        self.life.at(CHECKPOINT)

    def _save_rng_state(self, *args: Any, **kwargs: Any) -> None:
        """The last but one to be written."""
        super()._save_rng_state(*args, **kwargs)
        self.life.at(CHECKPOINT)


class Records(TrainerCallback):
    """Records that a training continues, or is over."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._life.at(TRAINING)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._life.at(BETWEEN)


def mortal_tell(life: Life) -> Any:
    """Optuna's own ``Study.tell``, which can die before and after a trial's end is written."""
    original = optuna.Study.tell

    def tell(self: optuna.Study, *args: Any, **kwargs: Any) -> Any:
        life.at(BETWEEN)
        result = original(self, *args, **kwargs)
        life.at(BETWEEN)
        return result

    return tell


def make_trainer(life: Life) -> Trainer:
    """A tiny training of 16 steps with 2 evaluations and 8 checkpoints."""

    def model_init(trial: Any = None) -> Any:
        return tiny_model(0.1 if trial is None else trial.suggest_float("dropout", 0.0, 0.5))

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    args = TrainingArguments(
        output_dir=str(life.folder / "out"),
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=2,
        num_train_epochs=2,
        per_device_train_batch_size=8 // ranks,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    Mortal.life = life
    return Mortal(
        args=args,
        model_init=model_init,
        train_dataset=Rows(64, 0),
        eval_dataset=Rows(32, 1),
        callbacks=[Records(life)],
    )


def search(life: Life) -> None:
    """Everything, until it is done or dead."""
    life.at(PREPARING)
    optuna.Study.tell = mortal_tell(life)  # type: ignore[method-assign]
    trainer = make_trainer(life)

    def space(trial: Any) -> dict[str, Any]:
        if isinstance(trial, optuna.Trial):
            life.at(BETWEEN)
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}

    best: Any = trainer.hyperparameter_search(hp_space=space, backend="rl", n_trials=life.n_trials)
    life.at(RETURNED)
    if trainer.args.process_index == 0:
        trials = best.run_summary.trials
        seen = {
            "best": [best.run_id, best.objective],
            "evaluated": trainer.evaluate()["eval_loss"] if trainer.args.world_size == 1 else None,
            "numbers": [trial.number for trial in trials],
            "states": [trial.state.name for trial in trials],
            "values": [trial.value for trial in trials],
            "params": [trial.params for trial in trials],
            "curves": [trial.intermediate_values for trial in trials],
            "spent": [trial.user_attrs["rl:spent"] for trial in trials],
            "studies": best.run_summary.study.study_name,
        }
        (life.folder / "done.json").write_text(json.dumps(seen))


def main(folder: str, n_trials: str, moment: str = "", count: str = "0", rank: str = "0") -> None:
    """The command line."""
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    search(Life(Path(folder), int(n_trials), moment, int(count), int(rank)))
    if ranks > 1:
        dist.destroy_process_group()


def forked(rank: int, n_ranks: int, port: int, *arguments: str) -> None:
    """What a forked process runs as one of several ranks; prints to ``<folder>/log``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
    log = os.open(Path(arguments[0], "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_ranks, "LOCAL_WORLD_SIZE": n_ranks, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in ranks.items()}})
    main(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
