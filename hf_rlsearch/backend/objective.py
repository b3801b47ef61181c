"""What a search optimises: one named metric with a known direction, or what ``compute_objective`` makes of the metrics.

The Trainer's default objective is the sum of all metrics with direction "minimize"; that keeps the worst trial of an
accuracy search, adds accuracy to F1, and becomes a timing once ``evaluate()`` was called. Here the objective is one
metric by name, its direction follows from the name, and whatever is ambiguous is an error before the first training.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from hf_rlsearch.backend.directions import MAXIMIZE, MINIMIZE
from hf_rlsearch.backend.slopes import Metrics, is_number
from hf_rlsearch.errors import ObjectiveError

# Keys that the Trainer adds to every evaluation and that say nothing about the model.
_BOOKKEEPING = re.compile(
    r"(_runtime|_per_second|_preparation_time|_compilation_time|_num_input_tokens_seen|_mem_\w+|_flos|_samples|_steps)$|^epoch$|^step$"
)


class UnsetDirection(str):
    """The Trainer's default direction, told apart from the same word written by the user."""


UNSET_DIRECTION = UnsetDirection(MINIMIZE)


@dataclass(frozen=True)
class Objective:
    """How a trial is scored.

    Attributes:
        names: The metric(s) by their full key, or the name of ``compute_objective``.
        directions: "minimize" or "maximize" for each.
        multi: A list of directions was given, so the result is a list of runs.
        function: ``compute_objective``, or None where metrics are taken by name.
        why: One line for people: where metric and direction come from.
        follows: The one metric that the objective rises or falls with, and whether larger is better; None for several.
            With ``load_best_model_at_end`` a trial keeps its best checkpoint by it.
    """

    names: tuple[str, ...]
    directions: tuple[str, ...]
    multi: bool
    function: Callable[[dict[str, Any]], Any] | None
    why: str
    follows: tuple[str, bool] | None = None

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """The objective value(s) of one evaluation.

        Args:
            metrics: As ``evaluate()`` returned them.

        Returns:
            One float for each direction; may be nan or inf.

        Raises:
            ObjectiveError: A metric is missing or not a number, or the number of values is wrong.
        """
        if self.function is None:
            return tuple(number(name, metrics.get(name, missing(name, metrics))) for name in self.names)
        found = self.function(dict(metrics))
        values = tuple(found) if isinstance(found, (list, tuple)) else (found,)
        if len(values) != len(self.directions):
            raise ObjectiveError(
                f"compute_objective returned {len(values)} value(s) ({found!r}), expected {len(self.directions)}, "
                f"one for "
                f"each direction {list(self.directions)}."
            )
        return tuple(number("compute_objective", value) for value in values)

    def to_json(self) -> dict[str, Any]:
        """As plain data, ``compute_objective`` left out."""
        return {
            "names": list(self.names),
            "directions": list(self.directions),
            "multi": self.multi,
            "computed": self.function is not None,
            "follows": None if self.follows is None else list(self.follows),
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], compute_objective: Callable[[dict[str, Any]], Any] | None = None
    ) -> "Objective":
        """The inverse of ``to_json``.

        Raises:
            ObjectiveError: The objective was computed, and ``compute_objective`` is not given.
        """
        if data["computed"] and compute_objective is None:
            raise ObjectiveError(
                f"The objective was computed by {data['names'][0]!r}: pass that function as compute_objective."
            )
        return cls(
            names=tuple(data["names"]),
            directions=tuple(data["directions"]),
            multi=data["multi"],
            function=compute_objective if data["computed"] else None,
            why="the study",
            follows=None if data["follows"] is None else (data["follows"][0], data["follows"][1]),
        )

    def better(self, value: float, other: float) -> bool:
        """Whether the first value of a single objective beats the second."""
        return value > other if self.directions[0] == MAXIMIZE else value < other


def scored_names(metrics: Metrics) -> list[str]:
    """The keys that say something about the model, numbers only."""
    return [name for name, value in metrics.items() if not _BOOKKEEPING.search(name) and is_number(value)]


class Missing:
    """Stands for a metric that is not there, with the error to raise."""

    def __init__(self, error: ObjectiveError) -> None:
        self.error = error


def missing(name: str, metrics: Metrics, argument: str | None = None) -> Any:
    """The error for a metric that is not there: as it is for an `argument`, else as a value to be refused later."""
    known = scored_names(metrics)
    close = get_close_matches(name, known, n=1, cutoff=0.5) or get_close_matches(f"eval_{name}", known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    given = f"{argument}={name!r}" if argument else f"{name!r}"
    error = ObjectiveError(f"{given} is not among the metrics of evaluation: {', '.join(known) or 'none'}.{hint}")
    return error if argument else Missing(error)


def number(name: str, value: Any) -> float:
    """A metric as a float.

    Raises:
        ObjectiveError: It is missing, or not one number.
    """
    if isinstance(value, Missing):
        raise value.error
    if not is_number(value):
        raise ObjectiveError(
            f"{name} is {value!r}, a {type(value).__name__}; expected one number. Pass metric= with another name."
        )
    return float(value)
