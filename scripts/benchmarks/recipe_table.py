"""Runs the commands in the table of docs/background/recipes.md again, and puts in what they print now.

    python scripts/benchmarks/recipe_table.py                  # all of them, one after the other
    python scripts/benchmarks/recipe_table.py --only glue lora

The commands are read from the table itself, so that the numbers beside them can only be theirs. Each runs with one
thread and an empty folder for its trials: an interrupted search of before would be continued.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(r"^\| `(?P<recipe>\w+)\.py` \|.*\| `(?P<command>\w+\.py[^`]*)` \|")
_RESULT = re.compile(r"^best (\w+): (\S+) in run .* gain over the baseline \(trial 0\): (\S+)$", re.MULTILINE)
_PERPLEXITY = re.compile(r"^perplexity: ", re.MULTILINE)
_ERROR = r"^test error, {}: (\S+)$"
_LIMIT = 3600


def results(printed: str) -> tuple[str, str]:
    """What a recipe printed of trial 0 and of the best one, as it stands in the table.

    Args:
        printed: Its standard output.

    Raises:
        SystemExit: The result is not in it.
    """
    errors = [re.search(_ERROR.format(name), printed, re.MULTILINE) for name in ("trial 0", "found by the search")]
    if errors[0] and errors[1]:
        return f"{float(errors[0][1]):,.2f}", f"{float(errors[1][1]):,.2f}"
    found = _RESULT.search(printed)
    if found is None:
        raise SystemExit(f"No result in the output:\n{printed[-2000:]}")
    best, gain = float(found[2]), float(found[3])
    first = best + gain if found[1] == "loss" else best - gain
    if _PERPLEXITY.search(printed):
        return f"{first:.3f} ({math.exp(first):.1f})", f"{best:.3f} ({math.exp(best):.1f})"
    return f"{first:.3f}", f"{best:.3f}"


def run(command: str) -> tuple[str, str, str, str]:
    """Runs a recipe.

    Args:
        command: Its file and arguments, as in the table.

    Returns:
        Trial 0, best, seconds of processor, seconds on the clock.

    Raises:
        SystemExit: It failed.
    """
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        recipe, *words = shlex.split(command)
        words += [] if recipe == "reparameterized_regression.py" else ["--output", folder]
        began, spent = time.monotonic(), _seconds_of_children()
        done = subprocess.run(
            [sys.executable, str(ROOT / "recipes" / recipe), *words],
            env={**os.environ, **threads, "PYTHONPATH": str(ROOT)},
            check=False,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
        )
    if done.returncode != 0:
        raise SystemExit(f"{command} failed:\n{done.stderr[-2000:]}")
    clock, processor = time.monotonic() - began, _seconds_of_children() - spent
    return (*results(done.stdout), f"{processor:.0f} s", f"{clock:.0f} s")


def renewed(line: str, cells: Sequence[str]) -> str:
    """A row of the table with other results in its last cells; other cells stay as they are."""
    kept = line.rstrip().rstrip("|").split(" | ")[: -len(cells)]
    return " | ".join([*kept, *cells]) + " |"


def main(argv: list[str] | None = None) -> None:
    """Runs the commands and rewrites the rows, each as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="recipes, without .py; all if left out")
    parser.add_argument(
        "--table", type=Path, default=ROOT / "docs" / "background" / "recipes.md", help="the file with the table"
    )
    args = parser.parse_args(argv)
    rows = [match for line in args.table.read_text().splitlines() if (match := _ROW.match(line))]
    for row in rows:
        if args.only is None or row["recipe"] in args.only:
            cells = run(row["command"])
            lines = args.table.read_text().splitlines()
            lines = [renewed(line, cells) if line.startswith(row[0]) else line for line in lines]
            args.table.write_text("\n".join(lines) + "\n")
            print(row["command"], *cells, sep="  ", flush=True)


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
