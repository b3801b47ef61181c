"""What every recipe needs and none is about: reading its arguments, saying what is missing, printing the result.

The recipes are files to copy and to change; these helpers are here so that a copy runs anywhere.
"""

import argparse
import difflib
import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import datasets
import huggingface_hub
import transformers
import yaml
from datasets.arrow_writer import SchemaInferenceError
from datasets.exceptions import DatasetsError
from huggingface_hub import constants

from hf_rlsearch.presets import preset

T = TypeVar("T")

_NAMES = "names with values, such as 'n_trials: 8'"
_ADVICE = (
    "Without a network: --offline uses the checkpoint and the data that ship with hf_rlsearch; a folder on this "
    "machine may be given instead of a name."
)
_HERE_ADVICE = "It is on this machine: look at what is in it."
_OFFLINE_ADVICE = (
    "--offline loads only what is on this machine: give a folder instead of a name, or leave the argument out for what "
    "the recipe has itself."
)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the commands of a recipe as they stand in its first lines, and the default of each argument."""


def read_args(cls: type[T], argv: Sequence[str] | None = None) -> T:
    """Reads a dataclass from the command line, or from one YAML or JSON file with the same names.

    If it has a field ``offline`` that is true, nothing in this process talks to the Hub from here on.

    Args:
        cls: the dataclass; the help of a field is its metadata ``help``, that of the program the text of its module.
        argv: the words of the command line without the program; those of this process if left out.

    Returns:
        The filled dataclass.

    Raises:
        SystemExit: ``--help``, a name on the command line or in the file that no field has, a value of the wrong type,
            a whole number below 1 (below 0 for a seed), as they all count something, or no such file.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = transformers.HfArgumentParser(
        cls,  # type: ignore[arg-type]
        description=sys.modules[cls.__module__].__doc__,
        epilog="All of these may come from one file instead, with the same names: arguments.yaml, or .json.",
        formatter_class=_Help,
    )
    if len(words) == 1 and words[0].endswith((".yaml", ".yml", ".json")):
        words = _words_of_file(parser, words[0])
    args: T
    args, *_, rest = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    _refuse([word.partition("=")[0] for word in rest if word.startswith("-")] or rest, parser)
    _check_counts(args)
    if getattr(args, "offline", False):
        _use_only_the_cache()  # TRL would send telemetry
    return args


def _check_counts(args: Any) -> None:
    for name, value in vars(args).items():
        least = 0 if name == "seed" else 1
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            raise SystemExit(f"{name}={value} given, expected a whole number of at least {least}.")


def _words_of_file(parser: transformers.HfArgumentParser, name: str) -> list[str]:
    """A file's names and values as the words of a command line, where types and choices are checked."""
    try:
        text = Path(name).read_text(encoding="utf-8")
        found = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SystemExit(f"{name!r} could not be read as {_NAMES}: {error}") from error
    if not isinstance(found, dict):
        raise SystemExit(f"{name!r} could not be read as {_NAMES}: it holds {found!r}.")
    options = {option for action in parser._actions for option in action.option_strings}
    _refuse([str(key) for key in found if f"--{key}" not in options], parser)
    # None is the default wherever it is allowed
    return [f"--{key}={value}" for key, value in found.items() if value is not None]


def _refuse(unknown: Sequence[str], parser: transformers.HfArgumentParser) -> None:
    """Ends the program if there is a name that no argument has."""
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0], [*options, *(option[2:] for option in options)], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SystemExit(f"{unknown[0]!r} is no argument of this recipe.{hint} --help lists them.")


def be_quiet() -> None:
    """Leaves the output to the search: no bars for loading a checkpoint per trial, no advice for a single training."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers.*")


@contextmanager
def hub_or_advice(name: str, *, offline: bool = False) -> Iterator[None]:
    """Turns the many errors of an unreachable Hub into one that names the way out, at once instead of after retries.

    Args:
        name: the checkpoint or data set that is loaded inside; a folder is no reason to look for the Hub.
        offline: whether the user has said ``--offline``, which then is no advice; what is cached still loads.

    Raises:
        SystemExit: it could not be loaded; the text tells why, and what works without a network.
    """
    is_here = Path(name).exists()
    if not constants.HF_HUB_OFFLINE and not is_here and not _hub_answers():
        _use_only_the_cache()
    try:
        yield
    except (OSError, ValueError, RuntimeError, StopIteration, DatasetsError) as error:
        advice = _HERE_ADVICE if is_here else _OFFLINE_ADVICE if offline else _ADVICE
        raise SystemExit(f"{name!r} could not be loaded: {_reason(error)}\n{advice}") from error


def _reason(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, DatasetsError) and error.__cause__ is not None:
        return _reason(error.__cause__)  # its own text says that there was an error
    if isinstance(error, (StopIteration, SchemaInferenceError)):
        return "no row was found in it"  # by the reader of JSON, of newer and older versions
    return next(iter(str(error).splitlines()), type(error).__name__)


@functools.cache
def _hub_answers() -> bool:
    """Asks once; the libraries would ask five times for each file, with pauses of seconds in between."""
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # its client has changed, and with it the kinds of errors
        return False
    return True


def _use_only_the_cache() -> None:
    """What HF_HUB_OFFLINE=1 does, for libraries that are imported already: what is cached still loads."""
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def objective(backend: str, metric: str) -> dict[str, Any]:
    """Names the objective for ``hyperparameter_search``: ours takes a metric's name, the others want a function.

    Args:
        backend: ``"rl"`` or another backend of transformers.
        metric: as ``compute_metrics`` names it.

    Returns:
        The one keyword argument.
    """
    if backend == "rl":
        return {"metric": metric}
    return {"compute_objective": lambda metrics: metrics[f"eval_{metric}"]}


def published_space(backend: str, model_type: str, task: str | None = None) -> dict[str, Any]:
    """The published space of a kind of model, for ``hyperparameter_search``: ours has it as its default.

    Args:
        backend: ``"rl"`` or another backend of transformers.
        model_type: ``config.model_type`` of the model.
        task: of GLUE, whose settings come first.

    Returns:
        Keyword arguments. The other backends get the fields of ``TrainingArguments``, which is all that they can set.
    """
    known = preset(model_type, task)
    if backend == "rl":
        return {"published": known.published}
    return {"hp_space": known.hp_space.without([name for name in known.hp_space.others if "." in name])}


def print_result(best: Any, metric: str, started: float, **more: float) -> None:
    """Prints the best trial, on rank 0 alone; with our backend also the gain over trial 0.

    Args:
        best: the ``BestRun``.
        metric: name of the objective.
        started: ``time.monotonic()`` when the recipe began.
        **more: further numbers by name.
    """
    if not is_first_process():
        return
    gain = getattr(best.run_summary, "gain", None)
    against = "" if gain is None else f", gain over trial 0, your own arguments: {gain + 0.0:.4f}"
    print(f"best {metric}: {best.objective:.4f} in run {best.run_id}, {time.monotonic() - started:.0f} s{against}")
    print(f"hyperparameters: {best.hyperparameters}")
    for name, value in more.items():
        print(f"{name}: {value:.4f}")


def is_first_process() -> bool:
    """Whether this process is alone, or rank 0 of those that ``accelerate launch`` or ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"
