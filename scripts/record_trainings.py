"""Records tables of real trainings with the product itself: the yardstick that the agent is measured with.

    python scripts/record_trainings.py --out records --data DATA     # start it again after a kill: it continues
    python scripts/record_trainings.py --list                        # what it records, and what is missing here

Each table is a search of the product (`hf_rlsearch.search`, no pruner, no baseline) whose configurations were drawn at
random from a grid beforehand. Tables of the part `validation` are for choosing between agents, and so by now
are those of `test`; those of `second_test` are looked at once, at the end. So nothing that is printed here tells how
good a training was.

The folder holds one folder for each part, with a `tasks.json` and a `<table>.csv.gz` per finished table, to be read by
`benchmarks/recorded_tasks.py`, and `work` with the searches, which can be deleted when all tables are finished. A CSV
has a line per training:

- `hp:<name>`: the value of each hyperparameter;
- `status`: "complete" or "diverged"; `objective`: at the end, for a diverged training the worst one of the table;
- `curve`, `curve_steps`: the objective and the optimizer step of each evaluation, separated by spaces;
- `metrics`: all metrics of each evaluation, a JSON object of lists;
- `steps`, `planned_steps`: optimizer steps that were trained and that were planned;
- `seconds`, `wall_seconds`: of the processor, and by the clock, from the first step to the end, evaluations included.

An entry of `tasks.json` has what `recorded_tasks.py` asks for, and the facts of the Trainer.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fcntl
import gzip
import io
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import optuna
import torch
import transformers
from optuna.trial import FrozenTrial, TrialState

import hf_rlsearch
from _recording_tables import PARTS, TABLES, Table, check_tables
from _recording_trainers import FROM_SCRATCH, N_CLASSES, make_trainer, missing
from hf_rlsearch.observation.trial_attributes import FAILURE, FOLDER

_SAY_EVERY = 20


class Recorder(transformers.TrainerCallback):
    """Appends what each training does to a file, a line an event.

    Args:
        path: A file of JSON lines.
        ended: Called at the end of each training.
    """

    def __init__(self, path: Path, ended: Callable[[], None]) -> None:
        self._path, self._ended = path, ended
        if path.is_file() and not path.read_bytes().endswith(b"\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")  # the last line was cut short
        self._began = (0.0, 0.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        """The product gives each trial copies of the callbacks; the file is one for all of them."""
        return self

    def _write(self, event: str, args: Any, state: Any, **facts: Any) -> None:
        line = {"event": event, "run": Path(args.output_dir).name, "step": state.global_step, **facts}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _elapsed(self) -> dict[str, float]:
        processor, wall = self._began
        return {"seconds": time.process_time() - processor, "wall_seconds": time.perf_counter() - wall}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begins a run; one of the same name before it was killed."""
        self._began = (time.process_time(), time.perf_counter())
        self._write("begin", args, state, planned_steps=state.max_steps)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **_: Any) -> None:
        """Adds the metrics; durations are left out, which are noise of the machine."""
        kept = {n.removeprefix("eval_"): v for n, v in metrics.items() if n.startswith("eval_") and not _is_speed(n)}
        self._write("evaluation", args, state, metrics=kept, **self._elapsed())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends the run; an evaluation of the final model may follow."""
        self._write("end", args, state, **self._elapsed())
        self._ended()


def _is_speed(name: str) -> bool:
    return name.endswith(("_runtime", "_per_second", "_preparation_time"))


def read_runs(path: Path) -> dict[str, dict[str, Any]]:
    """The last training of each run: its evaluations, steps and seconds."""
    runs: dict[str, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # a kill cut it short; its run is trained again
        if line["event"] == "begin":
            runs[line["run"]] = {"planned_steps": line["planned_steps"], "evaluations": {}}
        run = runs[line["run"]]
        run["steps"] = line["step"]
        if line["event"] == "evaluation":
            run["evaluations"][line["step"]] = line["metrics"]
        if "seconds" in line:
            run |= {name: line[name] for name in ("seconds", "wall_seconds")}
    return runs


def record(table: Table, out: Path, data: Path | None) -> None:
    """Trains what is missing of a table, and writes it.

    Args:
        table: To be recorded.
        out: The folder of all tables.
        data: Holds the data sets.

    Raises:
        RuntimeError: Some trainings ended with an error.
    """
    work = out / "work" / table.name
    work.mkdir(parents=True, exist_ok=True)
    events = work / "events.jsonl"
    study = open_study(table, work)
    n_ended = 0

    def ended() -> None:
        nonlocal n_ended
        n_ended += 1
        if n_ended % _SAY_EVERY == 0:
            say(f"{table.name}: {n_ended} trainings, {time.process_time() - began:.0f} processor seconds")

    began = time.process_time()
    with silence():
        facts = facts_of(table, work, data)
        trainer = make_trainer(table, work / "trials", data, [Recorder(events, ended)])
        hf_rlsearch.search(
            trainer,
            lambda trial: {h.name: trial.suggest_categorical(h.name, h.levels) for h in table.space},
            metric=table.metric,
            direction=table.direction,
            n_trials=len(study.get_trials(deepcopy=False)),
            sampler=optuna.samplers.RandomSampler(seed=table.seed),
            pruner=None,
            storage=storage_of(work),
            study_name=table.name,
            load_if_exists=True,
            baseline=False,
            keep_best_models=0,
            max_paused_trials=0,
        )
    runs = read_runs(events)
    rows = make_rows(table, study.get_trials(deepcopy=False), runs)
    if len(rows) < table.configurations:
        raise RuntimeError(f"{table.configurations - len(rows)} trainings failed; the next start repeats them.")
    write(table, out, rows, facts)


def storage_of(work: Path) -> str:
    """The URL of a table's storage."""
    return f"sqlite:///{work.resolve() / 'study.db'}"


def open_study(table: Table, work: Path) -> optuna.Study:
    """The study of a table with all configurations that have no result yet in its queue."""
    study = optuna.create_study(
        study_name=table.name, storage=storage_of(work), direction=table.direction, load_if_exists=True
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # its process was killed: the folder is held by this one
    known = [_configuration(t, table) for t in study.get_trials(deepcopy=False) if not _is_lost(t)]
    for params in table.draw():
        if params not in known:
            study.enqueue_trial(params)
    return study


def _configuration(trial: FrozenTrial, table: Table) -> dict[str, Any]:
    """The configuration of a trial, or the one that it waits with."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    return {h.name: params.get(h.name) for h in table.space}


def _is_diverged(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and (trial.user_attrs.get(FAILURE) or {}).get("kind") == "nan"


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended with an error, or was killed: its configuration has to be trained again."""
    return trial.state == TrialState.FAIL and not _is_diverged(trial)


def make_rows(
    table: Table, trials: Sequence[FrozenTrial], runs: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The lines of the CSV, in the order in which the configurations were drawn."""
    done = {t.number: t for t in trials if t.state == TrialState.COMPLETE or _is_diverged(t)}
    values = [t.value for t in done.values() if t.value is not None]
    worst = (max if table.direction == "minimize" else min)(values) if values else math.nan
    by_configuration = {tuple(_configuration(t, table).values()): t for t in done.values()}
    rows = []
    for params in table.draw():
        trial = by_configuration.get(tuple(params.values()))
        if trial is not None:
            rows.append(_row(table, params, trial, runs[Path(trial.user_attrs[FOLDER]).name], worst))
    return rows


def _row(
    table: Table, params: Mapping[str, Any], trial: FrozenTrial, run: Mapping[str, Any], worst: float
) -> dict[str, Any]:
    evaluations = [(step, m) for step, m in sorted(run["evaluations"].items()) if _is_finite(m)]
    points = [(step, m[table.metric]) for step, m in evaluations]
    if trial.value is None:
        points.append((run["steps"], worst))
    names = sorted({name for _, m in evaluations for name in m if name != "epoch"})
    return {
        **{f"hp:{name}": value for name, value in params.items()},
        "status": "diverged" if trial.value is None else "complete",
        "objective": _text(worst if trial.value is None else trial.value),
        "curve": " ".join(_text(value) for _, value in points),
        "curve_steps": " ".join(str(step) for step, _ in points),
        "metrics": json.dumps({name: [float(_text(m[name])) for _, m in evaluations] for name in names}),
        "steps": run["steps"],
        "planned_steps": run["planned_steps"],
        "seconds": round(run["seconds"], 3),
        "wall_seconds": round(run["wall_seconds"], 3),
    }


def _is_finite(metrics: Mapping[str, Any]) -> bool:
    return all(math.isfinite(value) for value in metrics.values() if isinstance(value, int | float))


def _text(value: float) -> str:
    """Six significant digits: more than a training repeats on another machine."""
    return f"{value:.6g}"


def facts_of(table: Table, work: Path, data: Path | None) -> dict[str, Any]:
    """What a Trainer has before the first trial; the untrained model is evaluated once."""
    path = work / "facts.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    trainer = make_trainer(table, work / "trials", data)
    metrics = trainer.evaluate()
    counts = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    n_parameters = sum(n for n, _ in counts)
    args = trainer.args
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    planned = args.max_steps if args.max_steps > 0 else math.ceil(table.n_train / batch) * args.num_train_epochs
    facts = {
        "n_parameters": n_parameters,
        "trainable_share": sum(n for n, trained in counts if trained) / n_parameters,
        "n_train": table.n_train,
        "n_eval": table.n_eval,
        "n_classes": N_CLASSES.get(table.data),
        "planned_steps": int(planned),
        "untrained": {
            n.removeprefix("eval_"): v for n, v in metrics.items() if n.startswith("eval_") and not _is_speed(n)
        },
    }
    replace_text(path, json.dumps(facts))
    return facts


def write(table: Table, out: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Writes the CSV and the table's entry; the same rows give the same bytes."""
    folder = out / table.part
    folder.mkdir(exist_ok=True)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = folder / f"{table.name}.csv.gz"
    _replace(path, gzip.compress(buffer.getvalue().encode(), mtime=0))
    index = folder / "tasks.json"
    entries = json.loads(index.read_text()) if index.is_file() else {}
    entries[table.name] = entry_of(table, rows, facts)
    replace_text(index, json.dumps(dict(sorted(entries.items())), indent=1))


def entry_of(table: Table, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a table in `tasks.json`."""
    per_step = [row["seconds"] / row["steps"] for row in rows if row["steps"]]
    hyperparameters = [
        {"name": h.name, "levels": list(h.levels), "ordered": h.ordered, "log": h.log, "role": h.role}
        for h in table.space
    ]
    return {
        "path": f"{table.name}.csv.gz",
        "family": table.family,
        "part": table.part,
        "direction": table.direction,
        "metric": table.metric,
        "model": table.model,
        "data": table.data,
        "lora": None if table.lora is None else dict(table.lora),
        "model_config": dict(table.model_config),
        "max_length": table.max_length,
        "evaluations": table.evaluations,
        "seed": table.seed,
        "arguments": dict(table.args),
        "hyperparameters": hyperparameters,
        "facts": {
            **facts,
            "from_scratch": table.model in FROM_SCRATCH,
            "seconds_per_step": round(float(np.median(per_step)), 5),
        },
        "versions": {
            "hf_rlsearch": hf_rlsearch.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "optuna": optuna.__version__,
        },
    }


def replace_text(path: Path, text: str) -> None:
    """Writes a file in one step: after a kill it is the old one or the new one."""
    _replace(path, text.encode())


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    temporary.replace(path)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Lets nothing of a search reach the screen or a log: it would tell how good the trainings are."""
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Holds the folder for this process.

    Raises:
        SystemExit: Another process records into it.
    """
    with (out / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"another process records into {out}: wait for its end, or give another --out.") from None
        yield


def is_finished(table: Table, out: Path) -> bool:
    """Whether a table was written with all its configurations."""
    path = out / table.part / f"{table.name}.csv.gz"
    if not path.is_file():
        return False
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return sum(1 for _ in file) > table.configurations


def say(line: str) -> None:
    """Prints a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.__stdout__, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [table.name for table in TABLES]
    parser.add_argument("--out", type=Path, help="folder of the tables")
    parser.add_argument(
        "--data", type=Path, help="folder with sst2, cola, mrpc and multi30k_en_de; without it they are skipped"
    )
    parser.add_argument("--tables", nargs="+", choices=names, metavar="TABLE", help="only these; --list names them")
    parser.add_argument("--part", choices=PARTS, help="only this part")
    parser.add_argument("--configurations", type=int, help="another number of configurations of each table")
    parser.add_argument("--list", action="store_true", help="print what would be recorded")
    args = parser.parse_args(argv)
    if args.out is None and not args.list:
        parser.error("--out is missing: the folder of the tables.")
    return args


def chosen(args: argparse.Namespace) -> list[Table]:
    """The tables that the command line asks for."""
    tables = [t for t in TABLES if args.tables is None or t.name in args.tables]
    tables = [t for t in tables if args.part in (None, t.part)]
    n = args.configurations
    return tables if n is None else [replace(t, configurations=n) for t in tables]


def be_quiet() -> None:
    """One thread, so that reruns agree to the last bit, and no bars or log lines of the libraries."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def main(argv: Sequence[str] | None = None) -> int:
    """Records every table; returns the number of those that could not be finished."""
    args = parse(argv)
    check_tables()
    tables = chosen(args)
    if args.list:
        for table in tables:
            print(f"{table.part:<13}{table.family:<11}{table.name:<30}{missing(table, args.data) or ''}")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    be_quiet()
    n_failed = 0
    with alone(args.out):
        for number, table in enumerate(tables, 1):
            name = f"{number}/{len(tables)} {table.name} ({table.part})"
            if reason := missing(table, args.data):
                say(f"{name}: skipped, it {reason}")
            elif is_finished(table, args.out):
                say(f"{name}: finished before")
            else:
                n_failed += not _recorded(table, args, name)
    return n_failed


def _recorded(table: Table, args: argparse.Namespace, name: str) -> bool:
    """Records a table; an error is printed, and leaves the others to be recorded."""
    began = time.process_time(), time.perf_counter()
    try:
        record(table, args.out, args.data)
    except Exception as error:
        say(f"{name}: failed with {type(error).__name__}: {error}")
        if not isinstance(error, hf_rlsearch.errors.HfRlSearchError):
            traceback.print_exc()
        return False
    processor, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    say(f"{name}: recorded, {processor:.0f} processor seconds, {wall:.0f} by the clock")
    return True


if __name__ == "__main__":
    sys.exit(main())
