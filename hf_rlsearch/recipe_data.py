"""The rows of a recipe, from files in a folder or from the Hub, and one clear line where there are none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset

from hf_rlsearch.recipe_tools import hub_or_advice

SPLITS = ("train", "validation")


def load_splits(data: str, files: str | None = None, configuration: str | None = None) -> DatasetDict:
    """Loads a data set.

    Args:
        data: a folder, or a name on the Hub.
        files: what a folder holds for each split, ``"{split}.jsonl.gz"`` or ``"{split}*.txt"``; if left out, whatever
            ``datasets`` finds in it.
        configuration: of the data set on the Hub.

    Returns:
        All its splits.

    Raises:
        SystemExit: there is no such data set, or no rows are in it; the text tells what was expected.
    """
    wanted = "a folder of data files" if files is None else f"a folder with {_names(files)}"
    if Path(data).is_file():
        raise SystemExit(f"{data!r} is a file, expected {wanted}, or the name of a data set on the Hub.")
    found = _found(Path(data), files, wanted) if files is not None and Path(data).is_dir() else None
    with hub_or_advice(data):
        if found is None:
            return load_dataset(data, configuration)
        return load_dataset("text" if str(files).endswith(".txt") else "json", data_files=found)


def take(rows: Mapping[str, Any], n_train: int | None, n_validation: int | None, *, seed: int | None) -> DatasetDict:
    """The rows to train and to validate on.

    Args:
        rows: by split.
        n_train: how many of the split ``train``, all if None or more than there are.
        n_validation: as ``n_train``, of the split ``validation``.
        seed: of their order; as they are if None.

    Raises:
        SystemExit: a split is missing or has no rows.
    """
    missing = [split for split in SPLITS if split not in rows]
    if missing:
        raise SystemExit(f"The data have no split {missing[0]!r}, only {', '.join(map(repr, rows))}. Give it to them.")
    taken = {}
    for split, n_rows in zip(SPLITS, (n_train, n_validation), strict=True):
        part = rows[split] if seed is None else rows[split].shuffle(seed=seed)
        taken[split] = part.select(range(min(n_rows or len(part), len(part))))
    check_rows(taken)
    return DatasetDict(taken)


def check_rows(rows: Mapping[str, Any], advice: str = "Give other data.") -> None:
    """Ends the program if there is nothing to train on or to validate on.

    Args:
        rows: by split.
        advice: what to do, as one sentence.

    Raises:
        SystemExit: a split has no rows.
    """
    for split, part in rows.items():
        if not len(part):
            raise SystemExit(f"No rows for {split!r}, expected at least one. {advice}")


def _names(files: str) -> str:
    return " and ".join(files.format(split=split) for split in SPLITS)


def _found(folder: Path, files: str, wanted: str) -> dict[str, list[str]]:
    """The files of each split; a file of no bytes is none."""
    found = {
        split: sorted(str(path) for path in folder.glob(files.format(split=split)) if path.stat().st_size)
        for split in SPLITS
    }
    if not all(found.values()):
        inside = sorted(f"{path.name} ({path.stat().st_size} bytes)" for path in folder.iterdir())
        held = f"it holds {', '.join(inside[:5])}{', ...' if inside[5:] else ''}" if inside else "it is empty"
        raise SystemExit(f"{str(folder)!r} was given, expected {wanted}, but {held}.")
    return found
