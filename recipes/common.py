"""Helps all recipes: reads their arguments and data, explains why a download failed, prints the result."""

import argparse
import difflib
import functools
import os
import sys
import time
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import datasets
import huggingface_hub
import transformers
import yaml
from datasets import Dataset, DatasetDict, load_dataset
from datasets.arrow_writer import SchemaInferenceError
from datasets.exceptions import DatasetsError
from huggingface_hub import constants

from hf_rlsearch.space.presets import preset

T = TypeVar("T")

SPLITS = ("train", "validation")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the docstring of a recipe as written, and the default of each argument."""


def parse_args(cls: type[T], argv: Sequence[str] | None = None) -> T:
    """Fills a dataclass from the command line, or from one YAML or JSON file with the same names.

    With ``--offline``, which ``--smoke`` implies, nothing in this process uses the network from here on.

    Args:
        cls: The dataclass; the metadata of a field have ``help``, and ``choices`` if there are some.
        argv: The command line without the program; that of this process if left out.

    Raises:
        SystemExit: For ``--help``, an unknown name, a value that does not fit, a count below 1, a seed below 0.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = transformers.HfArgumentParser(
        cls,
        description=sys.modules[cls.__module__].__doc__,
        epilog="All of these may come from one file instead, with the same names: arguments.yaml, or .json.",
        formatter_class=_Help,
    )
    if len(words) == 1 and words[0].endswith((".yaml", ".yml", ".json")):
        args = _parse_file(parser, words[0])
    else:
        args, *_, rest = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
        if rest:
            unknown = next((word for word in rest if word.startswith("-")), rest[0]).partition("=")[0]
            near = difflib.get_close_matches(unknown, parser._option_string_actions, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SystemExit(f"{unknown!r} is no argument of this recipe.{hint} --help lists them.")
    _check_values(args)
    if getattr(args, "smoke", False) and hasattr(args, "offline"):
        args.offline = True
    if getattr(args, "offline", False):
        _use_only_the_cache()
    return args


def _parse_file(parser: transformers.HfArgumentParser, name: str) -> Any:
    parse = parser.parse_json_file if name.endswith(".json") else parser.parse_yaml_file
    try:
        (args,) = parse(name)
    except AttributeError as error:  # the file holds no names
        raise SystemExit(f"{name!r} could not be read: expected names with values, such as 'n_trials: 8'.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SystemExit(f"{name!r} could not be read: {error}\n--help lists all names.") from error
    return args


def _check_values(args: Any) -> None:
    """Checks types, choices and ranges; of a value from a file the parser checks nothing."""
    for name, expected in typing.get_type_hints(type(args)).items():
        value = getattr(args, name)
        choices = type(args).__dataclass_fields__[name].metadata.get("choices")
        is_int = isinstance(value, int) and not isinstance(value, bool)
        is_of_type = isinstance(value, expected) and not (isinstance(value, bool) and expected is not bool)
        if not is_of_type and not (is_int and isinstance(0.0, expected)):
            raise SystemExit(f"{name}={value!r} given, expected {getattr(expected, '__name__', expected)}.")
        if choices and value not in choices:
            raise SystemExit(f"{name}={value!r} given, expected one of {', '.join(choices)}.")
        least = 0 if name == "seed" else 1
        if is_int and value < least:
            raise SystemExit(f"{name}={value} given, expected a whole number of at least {least}.")


def silence_libraries() -> None:
    """Leaves the console to the search: no progress bars and warnings of the libraries for each trial."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers.*")


@contextmanager
def friendly_hub_errors(name: str, *, offline: bool = False) -> Iterator[None]:
    """Ends the program with two clear lines if a checkpoint or data set cannot be loaded inside.

    Args:
        name: The checkpoint or data set; for a folder the Hub is not asked.
        offline: Whether the user gave ``--offline``.

    Raises:
        SystemExit: Loading failed; the text has the reason and what works without a network.
    """
    is_here = Path(name).exists()
    if not constants.HF_HUB_OFFLINE and not is_here and not _hub_answers():
        _use_only_the_cache()
    try:
        yield
    except (OSError, ValueError, RuntimeError, StopIteration, DatasetsError) as error:
        if is_here:
            advice = "It is on this machine: check what is in it."
        elif offline:
            advice = "--offline loads only what is on this machine: give a folder, or leave the argument out."
        else:
            advice = (
                "Without a network: --offline uses the checkpoint and the data that ship with hf_rlsearch; a folder on "
                "this machine may be given instead of a name."
            )
        raise SystemExit(f"{name!r} could not be loaded: {_reason(error)}\n{advice}") from error


def _reason(error: BaseException) -> str:
    """The reason of an error in one line."""
    if isinstance(error, DatasetsError) and error.__cause__ is not None:
        return _reason(error.__cause__)
    if isinstance(error, (StopIteration, SchemaInferenceError)):  # how the reader of JSON ends without rows
        return "no row was found in it"
    return next(iter(str(error).splitlines()), type(error).__name__)


@functools.cache
def _hub_answers() -> bool:
    """Asks the Hub once; the libraries would try five times for each file, with pauses of seconds."""
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # the kinds of errors differ between versions
        return False
    return True


def _use_only_the_cache() -> None:
    """Does what HF_HUB_OFFLINE=1 does, for libraries that are imported already: what is cached still loads."""
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def load_splits(data: str, files: str | None = None, configuration: str | None = None) -> DatasetDict:
    """Loads all splits of a data set.

    Args:
        data: A folder, or a name on the Hub.
        files: Names of the files in a folder, ``"{split}.jsonl.gz"`` or ``"{split}*.txt"``; ``datasets`` finds them if
            left out.
        configuration: Of the data set on the Hub.

    Raises:
        SystemExit: The data set does not exist or has no rows.
    """
    names = " and ".join(files.format(split=split) for split in SPLITS) if files else None
    wanted = f"a folder with {names}" if names else "a folder of data files"
    if Path(data).is_file():
        raise SystemExit(f"{data!r} is a file, expected {wanted}, or the name of a data set on the Hub.")
    found = _find_files(Path(data), files, wanted) if files and Path(data).is_dir() else None
    with friendly_hub_errors(data):
        if found is None:
            return load_dataset(data, configuration)
        return load_dataset("text" if str(files).endswith(".txt") else "json", data_files=found)


def load_parts(data: str, seed: int, n_train: int, n_validation: int) -> tuple[Dataset, Dataset]:
    """Draws rows to train and to validate on from the first split of a data set, none of them twice.

    Raises:
        SystemExit: The data set does not exist, or has fewer rows.
    """
    rows = load_splits(data)["train"].shuffle(seed=seed)
    if n_train + n_validation > len(rows):
        raise SystemExit(
            f"n_train={n_train} and n_validation={n_validation} are more than the {len(rows)} rows of {data!r}. Ask "
            "for fewer."
        )
    return rows.select(range(n_train)), rows.select(range(n_train, n_train + n_validation))


def _find_files(folder: Path, files: str, wanted: str) -> dict[str, list[str]]:
    """The files of each split that are not empty."""
    found = {
        split: sorted(str(path) for path in folder.glob(files.format(split=split)) if path.stat().st_size)
        for split in SPLITS
    }
    if not all(found.values()):
        inside = sorted(f"{path.name} ({path.stat().st_size} bytes)" for path in folder.iterdir())
        held = f"it holds {', '.join(inside[:5])}{', ...' if inside[5:] else ''}" if inside else "it is empty"
        raise SystemExit(f"{str(folder)!r} was given, expected {wanted}, but {held}.")
    return found


def take(rows: Mapping[str, Any], n_train: int | None, n_validation: int | None, *, seed: int | None) -> DatasetDict:
    """Takes the rows to train and to validate on.

    Args:
        rows: By split.
        n_train: Rows of the split ``train``; all if None or more than there are.
        n_validation: As ``n_train``, of the split ``validation``.
        seed: Of their order; unchanged if None.

    Raises:
        SystemExit: A split is missing or has no rows.
    """
    missing = [split for split in SPLITS if split not in rows]
    if missing:
        raise SystemExit(f"The data have no split {missing[0]!r}, only {', '.join(map(repr, rows))}.")
    taken = {}
    for split, n_rows in zip(SPLITS, (n_train, n_validation), strict=True):
        part = rows[split] if seed is None else rows[split].shuffle(seed=seed)
        taken[split] = part.select(range(min(n_rows or len(part), len(part))))
    check_rows(taken)
    return DatasetDict(taken)


def check_rows(rows: Mapping[str, Any], advice: str = "Give other data.") -> None:
    """Ends the program with `advice` if a split has no rows."""
    for split, part in rows.items():
        if not len(part):
            raise SystemExit(f"No rows for {split!r}, expected at least one. {advice}")


def objective(backend: str, metric: str) -> dict[str, Any]:
    """The argument of ``hyperparameter_search`` that names the objective: "rl" takes a metric, others a function."""
    if backend == "rl":
        return {"metric": metric}
    return {"compute_objective": lambda metrics: metrics[f"eval_{metric}"]}


def published_space(backend: str, model_type: str, task: str | None = None) -> dict[str, Any]:
    """The arguments of ``hyperparameter_search`` for the published space of a kind of model.

    Args:
        backend: ``"rl"``, whose default space it is, or another one, which gets the fields of ``TrainingArguments``.
        model_type: ``config.model_type`` of the model.
        task: Of GLUE, whose settings come first.
    """
    known = preset(model_type, task)
    if backend == "rl":
        return {"published": known.published}
    return {"hp_space": known.hp_space.without([name for name in known.hp_space.others if "." in name])}


def is_first_process() -> bool:
    """Whether this process is alone, or rank 0 of those that ``accelerate launch`` or ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def print_result(best: Any, metric: str, started: float, **more: float) -> None:
    """Prints the best trial of a search, on rank 0 only.

    Args:
        best: The ``BestRun``.
        metric: Name of the objective.
        started: ``time.monotonic()`` when the recipe began.
        **more: Further numbers by name.
    """
    if not is_first_process():
        return
    gain = getattr(best.run_summary, "gain", None)  # other backends have no summary
    against = "" if gain is None else f", gain over the baseline (trial 0): {gain + 0.0:.4f}"
    print(f"best {metric}: {best.objective:.4f} in run {best.run_id}, {time.monotonic() - started:.0f} s{against}")
    print(f"hyperparameters: {best.hyperparameters}")
    for name, value in more.items():
        print(f"{name}: {value:.4f}")
