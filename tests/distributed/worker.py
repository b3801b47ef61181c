"""What each rank of the two-process tests runs: the scenarios named on the command line, one search each.

Started by torchrun. Writes what it saw to ``<folder>/<scenario>-<rank>.json``.
"""

import gc
import hashlib
import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import optuna
import torch
import torch.distributed as dist
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from hf_rlsearch import RLSampler
from hf_rlsearch.trainer.search import budget, distributed
from tests.helpers import seq2seq
from tests.trainer.conftest import Rows, Scripted, rates, tiny_model

RANK = int(os.environ["RANK"])
RESTARTS = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
TRIAL_1 = "run-1"


def in_trial_1(trainer: Trainer) -> bool:
    return Path(trainer.args.output_dir).name == TRIAL_1 and trainer.state.global_step == 1


class Breaks(Trainer):
    """Raises, hangs or dies in the second step of trial 1, on the ranks that the scenario says."""

    scenario = ""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if in_trial_1(self):
            what, _, where = self.scenario.partition("_on_")
            if where in ("all", f"rank_{RANK}"):
                self.act(what)
        return super().training_step(*args, **kwargs)

    def act(self, what: str) -> None:
        if what == "raise":
            raise ValueError("boom")
        if what == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        if what == "hang" and not (Path(self.args.output_dir).parent / "hung").exists():
            (Path(self.args.output_dir).parent / "hung").touch()
            time.sleep(600)
        if what == "kill" and RESTARTS == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class BreaksAtTheEnd(Trainer):
    """Raises after the last collective of trial 1, on rank 1 only."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        if RANK == 1 and Path(self.args.output_dir).name == TRIAL_1:
            raise ValueError("boom")
        return output


class Diverges(Trainer):
    """The loss of trial 1 is not a number."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        if Path(self.args.output_dir).name != TRIAL_1:
            return loss
        return (loss[0] * float("nan"), loss[1]) if isinstance(loss, tuple) else loss * float("nan")


class StopsTrial1(optuna.pruners.BasePruner):
    """Stops trial 1 at its first report."""

    def prune(self, study: Any, trial: Any) -> bool:
        return trial.number == 1


class Digests(Trainer):
    """Notes the step that each training begins at, and a digest of the weights that it ends with."""

    began: ClassVar[list[int]] = []
    weights: ClassVar[dict[str, str]] = {}

    def train(self, *args: Any, **kwargs: Any) -> Any:
        checkpoint = kwargs.get("resume_from_checkpoint")
        Digests.began.append(0 if checkpoint is None else int(checkpoint.split("-")[-1]))
        output = super().train(*args, **kwargs)
        whole = b"".join(tensor.detach().numpy().tobytes() for tensor in self.model.state_dict().values())
        Digests.weights[Path(self.args.output_dir).name] = hashlib.sha256(whole).hexdigest()
        return output


def raising_space(trial: Any) -> dict[str, Any]:
    if isinstance(trial, optuna.Trial) and trial.number == 1:
        raise LookupError("boom")
    return rates(trial)


class RaisingObjective:
    """Raises in trial 1."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __call__(self, metrics: dict[str, float]) -> float:
        if Path(self._trainer.args.output_dir).name == TRIAL_1:
            raise LookupError("boom")
        return metrics["eval_loss"]


def wrong_space(trial: Any) -> dict[str, Any]:
    return {"learnig_rate": trial.suggest_float("learnig_rate", 1e-5, 1e-1)}


def model_init(trial: Any = None) -> Any:
    return tiny_model(0.1 if trial is None else trial.suggest_float("dropout", 0.0, 0.5))


class Same(Scripted):
    """The second trial again and again, after another one."""

    def __init__(self) -> None:
        super().__init__(learning_rate=[1e-2, 1e-3, 1e-3], dropout=[0.1, 0.3, 0.3])


def scoped_space(trial: Any) -> dict[str, Any]:
    dropout = trial.suggest_float("model.hidden_dropout_prob", 0.0, 0.5)
    return {**rates(trial), "model.hidden_dropout_prob": dropout, "train.layer_decay": 0.5, "train.lr_schedule": "step"}


def generation_space(trial: Any) -> dict[str, Any]:
    beams = trial.suggest_categorical("gen.num_beams", [1, 2, 4])
    return {**rates(trial), "gen.num_beams": beams, "gen.length_penalty": 0.5}


budget.LEAST_SHARE = 1e9  # "auto" ends its search as soon as there is an estimate
SCOPED = {"learning_rate": [1e-3, 1e-4], "model.hidden_dropout_prob": [0.2, 0.4]}
GENERATED = {"learning_rate": [1e-2, 1e-2, 1e-3], "gen.num_beams": [1, 4, 2]}
WIDTH = "model.intermediate_size"
OPTIONS: dict[str, dict[str, Any]] = {
    "scoped": {"hp_space": scoped_space, "sampler": Scripted(**SCOPED, dropout=[0.2, 0.4])},
    "generated": {
        "hp_space": generation_space,
        "sampler": Scripted(**GENERATED),
        "metric": "beams",
        "direction": "maximize",
        "baseline": False,
    },
    "prune": {"pruner": optuna.pruners.ThresholdPruner(upper=0.0)},
    "timeout": {"timeout": 0.01, "n_trials": 200},
    "stop": {"sampler": optuna.samplers.GridSampler({"learning_rate": [1e-3, 1e-2], "dropout": [0.1]}), "n_trials": 9},
    "target": {"target": 100.0},
    "patience": {
        "patience": 1,
        "n_trials": 9,
        "baseline": False,
        "sampler": Scripted(learning_rate=[1e-3] * 9, dropout=[0.1] * 9),
    },
    "auto": {"patience": "auto", "n_trials": 9, "sampler": RLSampler(seed=0)},
    "utility": {"min_gain_per_hour": 1e9, "n_trials": 9, "sampler": RLSampler(seed=0)},
    "constraints": {
        "hp_space": lambda trial: {WIDTH: trial.suggest_categorical(WIDTH, [16, 32, 64])},
        "sampler": Scripted(**{WIDTH: [64, 32, 16]}, dropout=[0.1] * 3),
        "baseline": False,
        "constraints": {"trainable_params": sum(p.numel() for p in tiny_model().parameters()), "seconds": 1e4},
    },
    "space_raises": {"hp_space": raising_space},
    "wrong_space": {"hp_space": wrong_space},
    "too_many_failures": {"max_failed_trials": 1},
    "catch_nothing": {"catch": ()},
    "pause": {"pruner": StopsTrial1(), "max_paused_trials": 1, "baseline": False, "sampler": Same()},
    "no_pause": {"n_trials": 2, "baseline": False, "sampler": Same()},
    "confirm": {"confirm": 1, "n_trials": 2},
    "initial": {"initial_trials": [{"learning_rate": 3.3e-4, "dropout": 0.25}, {"learning_rate": 7.7e-5}]},
}
TRAINERS: dict[str, type[Trainer]] = {
    "nan": Diverges,
    "end_raises": BreaksAtTheEnd,
    "pause": Digests,
    "no_pause": Digests,
}
SCENARIO_OF = {"too_many_failures": "raise_on_all", "catch_nothing": "raise_on_all"}


def make_trainer(scenario: str, folder: Path) -> Trainer:
    if scenario == "generated":
        return seq2seq.make_trainer(folder / scenario)
    cls = TRAINERS.get(scenario) or type("Here", (Breaks,), {"scenario": SCENARIO_OF.get(scenario, scenario)})
    args = TrainingArguments(
        output_dir=str(folder / scenario),
        eval_strategy="epoch",
        save_strategy="epoch" if scenario.startswith(("kill", "pause")) else "no",
        num_train_epochs=2,
        per_device_train_batch_size=8,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        average_tokens_across_devices=scenario != "target",
    )
    return cls(args=args, model_init=model_init, train_dataset=Rows(64, 0), eval_dataset=Rows(32, 1))


def loss_by_hand(trainer: Trainer) -> float:
    """The mean loss over the evaluation set, without the Trainer."""
    rows = [trainer.eval_dataset[i] for i in range(len(trainer.eval_dataset))]  # type: ignore[arg-type]
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    with torch.no_grad():
        return float(trainer.model.eval()(**batch).loss)


def n_models() -> int:
    """Models that are alive in this process."""
    gc.collect()
    return sum(type(thing) is BertForSequenceClassification for thing in gc.get_objects())


def search(scenario: str, folder: Path) -> dict[str, Any]:
    Digests.began, Digests.weights = [], {}
    trainer = make_trainer(scenario, folder)
    options: dict[str, Any] = {"hp_space": rates, "n_trials": 3, **OPTIONS.get(scenario, {})}
    if scenario == "objective_raises":
        options |= {"compute_objective": RaisingObjective(trainer), "direction": "minimize"}
    options.setdefault("pruner", optuna.pruners.NopPruner())
    options.setdefault("sampler", Scripted(learning_rate=[1e-3, 1e-4, 1e-2, 1e-3], dropout=[0.2, 0.3, 0.4, 0.0]))
    before = dict(vars(trainer))
    try:
        best = trainer.hyperparameter_search(backend="rl", **options)
    except Exception as error:
        if "_on_rank_" in scenario:  # the launcher sees it
            raise
        changed = sorted(name for name, value in before.items() if vars(trainer).get(name) is not value)
        return {"error": type(error).__name__, "text": str(error), "changed": changed}
    result = best.run_summary
    replayed = result.replay(make_trainer(scenario, folder), 1) if scenario == "plain" else None
    return {
        "best": [best.run_id, best.objective, best.hyperparameters],
        "states": [trial.state.name for trial in result.trials],
        "failures": [(trial.user_attrs.get("rl:failure") or {}).get("reason") for trial in result.trials],
        "kinds": [(trial.user_attrs.get("rl:failure") or {}).get("kind") for trial in result.trials],
        "steps": [trial.user_attrs.get("rl:steps") for trial in result.trials],
        "stopped_by": result.stopped_by,
        "values": [trial.value for trial in result.trials],
        "params": [trial.params for trial in result.trials],
        "measured": [trial.user_attrs.get("rl:measured") for trial in result.trials],
        "continues": [trial.user_attrs.get("rl:continues") for trial in result.trials],
        "began": Digests.began,
        "weights": dict(Digests.weights),
        "evaluated": trainer.evaluate()["eval_loss"],
        "replayed": replayed,
        "by_hand": None if scenario == "generated" else loss_by_hand(trainer),
        "models": n_models(),
        "confirmed": [len(confirmation.values) for confirmation in result.confirmations],
        "dropout": getattr(trainer.model.config, "hidden_dropout_prob", None),
        "beams": trainer.model.generation_config.num_beams if scenario == "generated" else None,
    }


def main(folder: Path, seconds: float, scenarios: list[str]) -> None:
    torch.set_num_threads(1)
    distributed.PATIENCE_AFTER_FAILURE = 5
    # Before TrainingArguments, which would begin a process group with a limit of half an hour.
    dist.init_process_group("gloo", timeout=timedelta(seconds=seconds))
    for scenario in scenarios:
        seen = search(scenario, folder)
        (folder / f"{scenario}-{RANK}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
