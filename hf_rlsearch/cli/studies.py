"""``report``, ``explain`` and ``replay``: what a storage tells about a search, and training one of its trials again."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import webbrowser
from pathlib import Path
from typing import Any

from hf_rlsearch.errors import ArgumentsError

_SOURCE_HELP = "storage of the search: sqlite:///search.db, another Optuna URL, an SQLite file or an Optuna journal"


def add_commands(commands: Any) -> None:
    """Adds the commands of this module."""
    _add_report(commands)
    explain = _with_source(commands, "explain", "why trials were chosen and stopped")
    explain.add_argument("number", type=int, nargs="?", help="one trial; all trials if left out")
    explain.set_defaults(run=run_explain)
    replay = _with_source(commands, "replay", "the exact arguments of a trial; with --trainer, train it again")
    replay.add_argument("number", type=int, nargs="?", help="number of the trial; the best one if left out")
    replay.add_argument(
        "--trainer", metavar="FILE.py:FUNCTION", help="returns the Trainer that was searched, untrained"
    )
    replay.set_defaults(run=run_replay)


def _with_source(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[:1].upper() + text[1:] + "."
    )
    parser.add_argument("source", help=_SOURCE_HELP)
    parser.add_argument("--study", help="name of the study, where the storage has several")
    return parser


def _add_report(commands: Any) -> None:
    report = _with_source(commands, "report", "one HTML file with everything about a search, also while it runs")
    report.add_argument("-o", "--output", default="report.html", help="file to write (default: %(default)s)")
    report.add_argument("--plots", metavar="FOLDER", help="also write every plot as a file of its own")
    report.add_argument("--format", choices=("svg", "png"), default="svg", help="of these plots (default: %(default)s)")
    report.add_argument("--csv", metavar="FILE", help="also write the trials as CSV")
    report.add_argument("--table", action="store_true", help="also print the trials")
    report.add_argument("--open", action="store_true", help="show the report in the browser")
    report.add_argument(
        "--watch", type=_seconds, metavar="SECONDS", help="write it anew every so often until Ctrl-C; the page follows"
    )
    report.set_defaults(run=run_report)


def _seconds(text: str) -> int:
    """A whole number of seconds above 0; argparse tells what is wrong with any other."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number of seconds, at least 1")
    return int(text)


def run_report(args: argparse.Namespace) -> int:
    """Writes the report and what else was asked for."""
    from hf_rlsearch.report import open_study, to_csv, to_text, write_plots, write_report

    study = open_study(args.source, study_name=args.study)
    if args.table:
        print(to_text(study))
    path = write_report(study, args.output, refresh=args.watch)
    print(f"report: {path}")
    if args.plots:
        print(f"plots: {len(write_plots(study, args.plots, format=args.format))} files in {args.plots}")
    if args.csv:
        Path(args.csv).write_text(to_csv(study), encoding="utf-8", errors="replace")
        print(f"table: {args.csv}")
    if args.open:
        webbrowser.open(path.resolve().as_uri())
    if args.watch:
        _keep_writing(study, path, args.watch)
    return 0


def _keep_writing(study: Any, path: Path, seconds: int) -> None:
    """Writes the report every few seconds until Ctrl-C; what is left then is a page that stays as it is."""
    from hf_rlsearch.report import write_report

    print(f"written every {seconds} s; Ctrl-C ends", flush=True)
    try:
        while True:
            time.sleep(seconds)
            write_report(study, path, refresh=seconds)
    except KeyboardInterrupt:
        write_report(study, path)


def run_explain(args: argparse.Namespace) -> int:
    """Prints the explanation of one trial or of all."""
    from hf_rlsearch.report import SearchRecord, explain, open_study

    search = SearchRecord.from_study(open_study(args.source, study_name=args.study))
    numbers = [t.number for t in search.trials] if args.number is None else [args.number]
    print("\n\n".join(explain(search, number).to_text() for number in numbers) or "No trial has begun yet.")
    return 0


def run_replay(args: argparse.Namespace) -> int:
    """Prints a trial's arguments; with a Trainer, trains it again and compares the metrics."""
    from hf_rlsearch.report import SearchRecord, open_study

    study = open_study(args.source, study_name=args.study)
    search = SearchRecord.from_study(study)
    record = search.best() if args.number is None else next((t for t in search.trials if t.number == args.number), None)
    if record is None:
        wanted = "complete trial" if args.number is None else f"trial {args.number}"
        raise ArgumentsError(f"study {search.name!r} has no {wanted}; it has {len(search.trials)} trials.")
    if args.trainer is None:
        told = {"trial": record.number, "hyperparameters": record.params, "arguments": record.arguments}
        print(json.dumps(told, indent=2, default=str))
        return 0
    if record.status != "complete" or not record.metrics:
        why = f"is {record.status}" if record.status != "complete" else "has no metrics of one of our searches"
        raise ArgumentsError(f"trial {record.number} {why}: there is nothing to compare a training with.")
    return _train_again(args.trainer, study, record.number, record.metrics)


def _train_again(target: str, study: Any, number: int, before: dict[str, float]) -> int:
    """Trains a trial in a folder of its own: the user's output_dir may hold checkpoints that would be rotated away."""
    from hf_rlsearch.backend.compat import check_trainer
    from hf_rlsearch.backend.finish import apply_trial
    from hf_rlsearch.cli.load import load_function, told

    with told(target):
        trainer = load_function(target)()
    check_trainer(trainer)
    with tempfile.TemporaryDirectory() as folder:
        trainer.args.output_dir = folder
        apply_trial(trainer, study, study.trials[number]).train()
        after = trainer.evaluate()
    compared = [n for n in before if n in after and not n.endswith(("runtime", "per_second", "_time"))]
    for name in compared:
        differs = "" if after[name] == before[name] else " (differs)"
        print(f"{name}: {after[name]!r}, the search had {before[name]!r}{differs}")
    same = bool(compared) and all(after[name] == before[name] for name in compared)
    print("The replay is equal to the trial." if same else "The replay differs from the trial.")
    return 0 if same else 1
