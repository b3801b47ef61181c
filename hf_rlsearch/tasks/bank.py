"""The bank: tables of miniature trainings on disk, one file a task.

Run it as ``python -m hf_rlsearch.tasks.bank --out FOLDER --first SEED --n N``; a run that was ended, in whatever way,
continues where it stood when it is started again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_rlsearch.errors import StorageError
from hf_rlsearch.tasks.miniature import Table

if TYPE_CHECKING:
    from hf_rlsearch.tasks.miniature.table import MiniatureSize

BANK_FORMAT = 1
"""Number of the format of the tables; any change of what they hold, or of what is drawn, raises it."""

_ABOUT = "bank.json"


def make_bank(
    folder: Path,
    seeds: Sequence[int],
    size: MiniatureSize | None = None,
    *,
    device: str = "cpu",
    seconds: float | None = None,
) -> int:
    """Makes the tables of these seeds that the folder lacks, in this order.

    Each table appears whole or not at all, so the process may be killed at any time. Several processes may fill one
    folder, each with seeds of its own. What was made is written to ``log.txt``, a line per table.

    Args:
        folder: Made where there is none.
        seeds: One per table.
        size: How large the tasks are; one size for all tables of a folder.
        device: Where to train.
        seconds: No table is begun after so many; None for no limit.

    Returns:
        The number of tables of these seeds that are there now.

    Raises:
        StorageError: The folder holds tables of another format, or of tasks of another size.
    """
    import torch  # here, so that who only reads tables does not load it

    from hf_rlsearch.tasks.miniature.table import MiniatureSize, make_table

    size = size or MiniatureSize()
    _check_or_write_about(folder, size)
    begun, made = time.monotonic(), 0
    with (folder / "log.txt").open("a") as log:
        print(f"{_now()} {len(seeds)} seeds, torch {torch.__version__}, {device}", file=log, flush=True)
        for seed in seeds:
            path = table_path(folder, seed)
            if path.exists():
                continue
            if seconds is not None and time.monotonic() - begun > seconds:
                break
            started = time.process_time()
            table = make_table(seed, size, device)
            _write(path, table)
            made += 1
            line = f"{_now()} {path.stem} {_summary(table)} {time.process_time() - started:.2f} s"
            hours = (time.monotonic() - begun) / 3600
            print(f"{line}, {made / hours:.0f} an hour", file=log, flush=True)
    return sum(table_path(folder, seed).exists() for seed in seeds)


def list_tables(folder: Path) -> list[Path]:
    """The files of a bank, by ascending seed."""
    return sorted(folder.glob("*.npz"))


def read_tables(paths: Sequence[Path]) -> list[Table]:
    """Reads tables.

    Raises:
        StorageError: A file is no table of this format.
    """
    return [_read(path) for path in paths]


def _read(path: Path) -> Table:
    try:
        with np.load(path, allow_pickle=False) as file:
            table = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise StorageError(f"{path} is no table of a bank ({error}): delete it, and make it again.") from error
    found = int(table["format"]) if "format" in table else None
    if found != BANK_FORMAT:
        raise StorageError(
            f"{path} has bank format {found}, this version of hf_rlsearch reads {BANK_FORMAT}: make the bank again, "
            "in a new folder."
        )
    return table


def _write(path: Path, table: Table) -> None:
    """Writes to a neighbouring file first: under its own name a table is always whole."""
    part = path.with_suffix(".partial")
    with part.open("wb") as file:
        np.savez_compressed(file, format=np.array(BANK_FORMAT), **table)  # type: ignore[arg-type]
    os.replace(part, path)


def table_path(folder: Path, seed: int) -> Path:
    """The file of the table of one seed."""
    return folder / f"{seed:08d}.npz"


def _check_or_write_about(folder: Path, size: MiniatureSize) -> None:
    about = json.dumps({"format": BANK_FORMAT, "size": asdict(size)}, indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _ABOUT
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(about)
        os.replace(part, path)
    if path.read_text() != about:
        raise StorageError(
            f"{folder} holds a bank of {path.read_text()}, but tables of {about} are to be made: choose another folder."
        )


def _summary(table: Table) -> str:
    scores = table["scores"][:, -1, -1]
    return (
        f"{table['body']} {table['kind']} {table['method']} {len(scores)} configurations, {table['n_rows']} rows, "
        f"{table['steps'].min()} to {table['steps'].max()} steps, {table['score_names'][-1]} "
        f"{np.nanmedian(table['scores'][:, 0, -1]):.2f} untrained, {np.nanmedian(scores):.2f} median, "
        f"{np.nanmax(scores):.2f} best,"
    )


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def main(arguments: list[str] | None = None) -> None:
    """Makes a bank from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the bank")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--n", type=int, default=2000, help="number of seeds")
    parser.add_argument("--seconds", type=float, help="begin no table after so many seconds")
    parser.add_argument("--device", default="cpu", help="where to train, for example cuda")
    parser.add_argument("--threads", type=int, default=1, help="of the processor; another number gives other digits")
    args = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(args.threads)
    n = make_bank(args.out, range(args.first, args.first + args.n), device=args.device, seconds=args.seconds)
    print(f"{n} of {args.n} tables are in {args.out}")


if __name__ == "__main__":
    main()
