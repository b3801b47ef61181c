"""Runs the command ``hf-rlsearch``: shows searches, spaces, weights and the installation, and runs a demo.

Exit codes: 0 success; 1 failure, with the reason in one line on standard error; 2 wrong usage; 130 stopped by Ctrl-C.
Each command imports what it needs when it runs, so ``--help`` is quick.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hf_rlsearch._version import __version__
from hf_rlsearch.cli.demo import run_demo
from hf_rlsearch.cli.inspect import check_installation, show_space, show_weights
from hf_rlsearch.cli.studies import clean_searches, explain_trials, learn_agent, replay_trial, write_report
from hf_rlsearch.cli.workers import start_workers
from hf_rlsearch.errors import HfRlSearchError

FAILED, INTERRUPTED = 1, 130


class _Commands(TyperGroup):
    """Turns an exception of a command into one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # `hf-rlsearch explain ... | head`: the reader needs no more lines
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (HfRlSearchError, ImportError, OSError) as error:
            print(f"hf-rlsearch: {error}", file=sys.stderr)
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as interrupt:
            print("hf-rlsearch: interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from interrupt


# Plain text instead of rich's panels: an error is one line, and any terminal can show the help.
app = typer.Typer(
    cls=_Commands,
    help="Hyperparameter search for the transformers Trainer.",
    epilog="Every command has its own help: hf-rlsearch report --help.",
    rich_markup_mode=None,
)
app.command("demo")(run_demo)
app.command("workers")(start_workers)
app.command("report")(write_report)
app.command("explain")(explain_trials)
app.command("replay")(replay_trial)
app.command("learn")(learn_agent)
app.command("clean")(clean_searches)
app.command("space")(show_space)
app.command("weights")(show_weights)
app.command("doctor")(check_installation)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hf_rlsearch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


def main(argv: Sequence[str] | None = None) -> Any:
    """Runs one command, with the words of the process if none are given, and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the sign ± is no reason to fail
    try:
        typer.main.get_command(app)(sys.argv[1:] if argv is None else list(argv), prog_name="hf-rlsearch")
    except SystemExit as end:
        return end.code
