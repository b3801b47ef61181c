"""Runs ``report``, ``explain`` and ``replay``, which read a search from its storage."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hf_rlsearch.cli.load import load_object, user_code_errors
from hf_rlsearch.errors import ArgumentsError

if TYPE_CHECKING:  # optuna stays unloaded until a command runs
    import optuna

FolderOrStorage = Annotated[
    str,
    typer.Argument(
        help="The output_dir of the search, or its storage: sqlite:///search.db, another Optuna URL, an SQLite file or "
        "an Optuna journal."
    ),
]
StudyName = Annotated[
    str | None, typer.Option("--study", help="Name of the study; the newest one if left out.", show_default=False)
]


def write_report(
    folder_or_storage: FolderOrStorage,
    study_name: StudyName = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")] = Path("report.html"),
    plots: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write every plot as a file of its own.")
    ] = None,
    format: Annotated[Literal["svg", "png"], typer.Option(help="Format of these plots.")] = "svg",
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the trials as CSV.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Also print the trials.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Show the report in the browser.")] = False,
    watch: Annotated[
        int | None,
        typer.Option(min=1, metavar="SECONDS", help="Rewrite the report every SECONDS until Ctrl-C; the page reloads."),
    ] = None,
) -> None:
    """Write an HTML page about a search, also while the search runs."""
    from hf_rlsearch import report
    from hf_rlsearch.optuna.storage import prepare_output

    study = _open(folder_or_storage, study_name)
    for file in filter(None, (output, csv)):  # before anything is written
        prepare_output(file)
    if table:
        print(report.to_text(study))
    path = report.write_report(study, output, refresh=watch)
    print(f"report: {path}")
    if plots:
        print(f"plots: {len(report.write_plots(study, plots, format=format))} files in {plots}")
    if csv:
        csv.write_text(report.to_csv(study), encoding="utf-8", errors="replace")
        print(f"table: {csv}")
    if show:
        webbrowser.open(path.resolve().as_uri())
    if watch:
        _keep_writing(study, path, watch)


def _keep_writing(study: optuna.Study, path: Path, seconds: int) -> None:
    """Rewrites the report until Ctrl-C, and then once more as a page that no longer reloads itself."""
    from hf_rlsearch import report

    print(f"written every {seconds} s; Ctrl-C ends", flush=True)
    try:
        while True:
            time.sleep(seconds)
            report.write_report(study, path, refresh=seconds)
    except KeyboardInterrupt:
        report.write_report(study, path)


def explain_trials(
    folder_or_storage: FolderOrStorage,
    number: Annotated[int | None, typer.Argument(help="One trial; all trials if left out.")] = None,
    study_name: StudyName = None,
) -> None:
    """Explain why trials were chosen and stopped."""
    from hf_rlsearch.report import SearchRecord, explain

    search = SearchRecord.from_study(_open(folder_or_storage, study_name))
    numbers = [t.number for t in search.trials] if number is None else [number]
    print("\n\n".join(explain(search, n).to_text() for n in numbers) or "No trial has started yet.")


def replay_trial(
    folder_or_storage: FolderOrStorage,
    number: Annotated[int | None, typer.Argument(help="Number of the trial; the best one if left out.")] = None,
    study_name: StudyName = None,
    trainer: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:NAME", help="The Trainer that was searched, or a function that returns it."),
    ] = None,
) -> None:
    """Show the objective and the exact arguments of a trial, or train the trial again."""
    from hf_rlsearch.report import SearchRecord
    from hf_rlsearch.report.analysis import front

    study = _open(folder_or_storage, study_name)
    search = SearchRecord.from_study(study)
    record = search.best() if number is None else next((t for t in search.trials if t.number == number), None)
    if record is None:
        wanted = "complete trial" if number is None else f"trial {number}"
        raise ArgumentsError(f"study {search.name!r} has no {wanted}; it has {len(search.trials)} trials.")
    if number is None and len(search.metrics) > 1:
        optimal = set(front(search))
        others = [str(t.number) for t in search.rankable() if t.values in optimal and t is not record]
        print(
            f"hf-rlsearch: trial {record.number} is the best by {search.metrics[0]!r}, the first objective; give the "
            f"number of another one on the Pareto front: {', '.join(others) or 'there is none'}",
            file=sys.stderr,
        )
    if trainer is None:
        values = record.values or (None,)
        shown = {
            "trial": record.number,
            "objective": values[0] if len(values) == 1 else values,
            "hyperparameters": record.params,
            "arguments": record.arguments,
        }
        print(json.dumps(shown, indent=2, default=str))
    elif record.status != "complete" or not record.metrics:
        is_done = record.status == "complete"
        reason = "has no metrics of an hf_rlsearch search" if is_done else f"is {record.status}"
        raise ArgumentsError(f"trial {record.number} {reason}: there is nothing to compare a replay with.")
    elif not _train_again(trainer, study, record.number, record.metrics):
        raise typer.Exit(1)


def _open(folder_or_storage: str, study_name: str | None) -> optuna.Study:
    """Opens the study that a command reads; where it is the newest of several, standard error names the others."""
    import optuna

    from hf_rlsearch.optuna.storage import open_study

    study = open_study(folder_or_storage, study_name=study_name)
    others = [name for name in optuna.get_all_study_names(study._storage) if name != study.study_name]
    if others and study_name is None:
        print(
            f"hf-rlsearch: {study.study_name!r} is the newest study; --study NAME opens another one: "
            f"{', '.join(map(repr, others))}",
            file=sys.stderr,
        )
    return study


def _train_again(target: str, study: optuna.Study, number: int, before: dict[str, float]) -> bool:
    """Trains a trial again, prints its metrics beside those of the search, and returns whether they are equal."""
    from hf_rlsearch.trainer.search.replay import apply_trial
    from hf_rlsearch.trainer.session.compat import check_trainer
    from hf_rlsearch.trainer.setup.hp_space import SideEffects

    with user_code_errors(target):
        made = load_object(target)
        trainer = made() if callable(made) else made
    check_trainer(trainer)
    # The user's own output_dir may hold checkpoints that save_total_limit would delete.
    with tempfile.TemporaryDirectory() as folder:
        trainer.args.output_dir = folder
        apply_trial(trainer, study, study.trials[number], SideEffects()).train()
        after = trainer.evaluate()
    compared = [n for n in before if n in after and not n.endswith(("runtime", "per_second", "_time"))]
    for name in compared:
        differs = "" if after[name] == before[name] else " (differs)"
        print(f"{name}: {after[name]!r}, the search had {before[name]!r}{differs}")
    same = bool(compared) and all(after[name] == before[name] for name in compared)
    print("The replay is equal to the trial." if same else "The replay differs from the trial.")
    return same


def learn_agent(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="STORAGE...", help="Folders of finished searches, or Optuna storages; all studies are read."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write, which must not exist yet.")],
    weights: Annotated[
        str | None, typer.Option(help="Agent to start from; the bundled one if left out.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the training, and of which studies are held out.")] = 0,
) -> None:
    """Train the agent further on own searches; writes it only if it does better on searches that were held out."""
    from hf_rlsearch.meta_training.learn import learn

    result = learn(sources, out, weights=weights, seed=seed, log=partial(print, flush=True))
    print(result.to_text())
    if result.path is None:
        raise typer.Exit(1)


def clean_searches(
    folder: Annotated[Path, typer.Argument(help="The output_dir of the searches.")],
    study_name: Annotated[
        str | None,
        typer.Option(
            "--study", help="Name of an interrupted search; all but the newest if left out.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before anything is deleted.")] = False,
) -> None:
    """Delete the checkpoints of interrupted searches that no process works on; their running trials become failed."""
    from hf_rlsearch.optuna.storage import FILE, open_sqlite, storage_errors
    from hf_rlsearch.trainer.storage.study import leftovers

    output_dir = folder.resolve()
    if not (output_dir / FILE).is_file():
        raise ArgumentsError(f"{folder} has no {FILE}: give the output_dir of a search.")
    with storage_errors(output_dir / FILE, opening=True):
        storage = open_sqlite(output_dir / FILE)
        newest = storage.get_all_studies()[-1].study_name if study_name is None and storage.get_all_studies() else None
        found = leftovers(storage, str(output_dir), but=newest)
        found = [each for each in found if study_name in (None, each.study.study_name)]
        if not found:
            print("Nothing to clean: no older search was interrupted, or a process works on it.")
            return
        for each in found:
            print(f"{each}: the trials will be failed, and these folders lose checkpoints and models:")
            print("".join(f"  {path}\n" for path in each.folders) or "  none\n", end="")
        if not yes and not typer.confirm("Delete?"):
            raise typer.Exit(1)
        for each in found:
            each.clean()
    print(f"Cleaned: {', '.join(each.study.study_name for each in found)}.")
