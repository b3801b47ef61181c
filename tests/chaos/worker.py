"""The script that is killed again and again: one search, in one process or under torchrun.

Touches ``<folder>/started`` before the search and ``<folder>/begun`` when it begins to train; writes
``<folder>/done.json``
when it reaches its end.
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainingArguments

import hf_rlsearch  # noqa: F401
from tests.backend.conftest import Rows, tiny_model

N_TRIALS = 6


def model_init(trial: Any = None) -> Any:
    return tiny_model(0.1 if trial is None else trial.suggest_float("dropout", 0.0, 0.5))


def space(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


class Tells(TrainerCallback):
    """Says that training has begun."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._path.touch()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    args = TrainingArguments(
        output_dir=str(folder / "out"),
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=4,
        num_train_epochs=4,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        args=args,
        model_init=model_init,
        train_dataset=Rows(64, 0),
        eval_dataset=Rows(32, 1),
        callbacks=[Tells(folder / "begun")],
    )
    (folder / "started").touch()
    best = trainer.hyperparameter_search(hp_space=space, backend="rl", n_trials=N_TRIALS)
    if args.process_index == 0:
        trials = best.run_summary.trials
        seen = {
            "best": [best.run_id, best.objective],
            "evaluated": trainer.evaluate()["eval_loss"] if ranks == 1 else None,
            "numbers": [trial.number for trial in trials],
            "states": [trial.state.name for trial in trials],
            "values": [trial.value for trial in trials],
            "params": [trial.params for trial in trials],
            "curves": [trial.intermediate_values for trial in trials],
            "studies": best.run_summary.study.study_name,
        }
        (folder / "done.json").write_text(json.dumps(seen))
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
