"""Defines the objective of a search: a named metric with a direction, or the result of ``compute_objective``.

The Trainer's default objective is the sum of all metrics with direction "minimize". That sum keeps the worst trial of
an accuracy search and adds accuracy to F1. Here the objective is one metric by name, its direction follows from the
name, and an ambiguous choice is an error before the first training.
"""

import inspect
import itertools
import math
import random
import re
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from hf_rlsearch._validation import did_you_mean, is_number
from hf_rlsearch.errors import ArgumentsError, ObjectiveError, describe
from hf_rlsearch.metrics.directions import MAXIMIZE, MINIMIZE, is_ambiguous, known_direction
from hf_rlsearch.trainer.session.arguments import chosen_best_metric
from hf_rlsearch.trainer.setup.hp_space import AccessRecorder

if TYPE_CHECKING:
    from transformers import TrainingArguments

Metrics = Mapping[str, Any]
ComputeObjective = Callable[[dict[str, Any]], Any]

_ADJECTIVES = {MINIMIZE: "smaller", MAXIMIZE: "larger"}

# Keys that the Trainer adds to every evaluation and that say nothing about the model.
_BOOKKEEPING = re.compile(
    r"(_runtime|_per_second|_preparation_time|_compilation_time|_num_input_tokens_seen|_mem_\w+|_flos|_samples|_steps)$|^epoch$|^step$"
)
# Values of a number among the metrics at which a computed objective is compared, and the most numbers that are tried.
_ASCENDING, _MOST_NUMBERS = (0.05, 0.3, 0.6, 0.95, 2.0), 100


class UnsetDirection(str):
    """The Trainer's default direction, as opposed to the same word written by the user."""


UNSET_DIRECTION = UnsetDirection(MINIMIZE)


@dataclass(frozen=True)
class Objective:
    """Computes the value(s) of a trial from the metrics of an evaluation.

    Attributes:
        names: The metric(s) by their full key, or the name of ``compute_objective``.
        directions: "minimize" or "maximize" for each value.
        multi: A list of directions was given, so the result is a list of runs.
        function: ``compute_objective``, or None where metrics are taken by name.
        why: Where metric and direction come from, in one line for people.
        follows: The metric that the objective equals, and whether larger is better; None for an objective that is
            computed from metrics. With ``load_best_model_at_end`` a trial keeps its best checkpoint by this metric.
        targets: Value of each objective that ends the search, None for an objective without one; empty without a
            target.
        undefined: Metrics that are no finite numbers for the untrained model.
    """

    names: tuple[str, ...]
    directions: tuple[str, ...]
    multi: bool
    function: ComputeObjective | None
    why: str
    follows: tuple[str, bool] | None = None
    targets: tuple[float | None, ...] = ()
    undefined: tuple[str, ...] = ()

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Returns one float for each direction from the metrics of ``evaluate()``; may be nan or inf.

        Raises:
            ObjectiveError: A metric is missing or not a number, or the number of values is wrong.
        """
        if self.function is None:
            return tuple(_metric_value(name, metrics) for name in self.names)
        return self.check(self.function(dict(metrics)))

    def check(self, result: Any) -> tuple[float, ...]:
        """Returns the result of ``compute_objective`` as one float for each direction; raises as above."""
        values = tuple(result) if isinstance(result, (list, tuple)) else (result,)
        if len(values) != len(self.directions):
            directions = list(self.directions) if self.multi else self.directions[0]
            raise ObjectiveError(
                f"compute_objective returned {len(values)} value(s) ({result!r}), expected {len(self.directions)}: "
                f"direction is {directions!r}."
            )
        return tuple(_as_float("compute_objective", value) for value in values)

    def with_untrained(self, metrics: Metrics) -> Self:
        """Returns the objective with what an evaluation of the untrained model says."""
        found = [name for name, value in metrics.items() if is_number(value) and not math.isfinite(value)]
        return replace(self, undefined=tuple(sorted({*self.undefined, *found})))

    def better(self, value: float, other: float) -> bool:
        """Returns whether the first of two values of a single objective is better."""
        return value > other if self.directions[0] == MAXIMIZE else value < other

    def reaches_target(self, values: Sequence[float]) -> bool:
        """Returns whether the values of a trial are at least as good as all targets; False without a target."""
        return reaches(values, self.targets, self.directions)

    def with_target(self, target: float | Sequence[float] | Mapping[str, float] | None) -> Self:
        """Returns the objective with the option ``target`` of a search.

        Raises:
            ArgumentsError: There is not one number for each direction, or a name is not among the objectives.
        """
        if target is None:
            return self
        if isinstance(target, Mapping):
            return replace(self, targets=self._targets_by_name(target))
        targets = tuple(target) if isinstance(target, (list, tuple)) else (target,)
        if len(targets) != len(self.names) or self.multi != isinstance(target, (list, tuple)):
            several = f"a list of {len(self.names)} numbers for {', '.join(self.names)}, or a dict by their names"
            raise ArgumentsError(
                f"target={target!r} given, expected {several if self.multi else 'a number: there is one objective'}."
            )
        return replace(self, targets=targets)

    def _targets_by_name(self, target: Mapping[str, float]) -> tuple[float | None, ...]:
        by_name = {name.removeprefix("eval_"): value for name, value in target.items()}
        known = [name.removeprefix("eval_") for name in self.names]
        for name in by_name.keys() - set(known):
            raise ArgumentsError(
                f"target names {name!r}, which is not searched on; expected some of {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
        return tuple(by_name.get(name) for name in known)

    def to_json(self) -> dict[str, Any]:
        """Returns the objective as plain data, without ``compute_objective`` and targets."""
        return {
            "names": list(self.names),
            "directions": list(self.directions),
            "multi": self.multi,
            "computed": self.function is not None,
            "follows": self.follows and list(self.follows),
            "undefined": list(self.undefined),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], compute_objective: ComputeObjective | None = None) -> Self:
        """Makes an objective from the result of ``to_json``.

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
            follows=data["follows"] and tuple(data["follows"]),
            undefined=tuple(data.get("undefined", ())),
        )


def reaches(values: Sequence[float], targets: Sequence[float | None], directions: Sequence[str]) -> bool:
    """Returns whether the values of a trial are at least as good as all targets; False without a target."""
    reached = (
        target is None or (value >= target if direction == MAXIMIZE else value <= target)
        for value, target, direction in zip(values, targets, directions, strict=False)
    )
    return bool(targets) and all(reached)


def choose_objective(
    probe: Metrics,
    *,
    args: "TrainingArguments",
    compute_objective: ComputeObjective | None = None,
    metric: str | Sequence[str] | None = None,
    direction: str | Sequence[str] = UNSET_DIRECTION,
) -> Objective:
    """Chooses the objective and its direction from the options of the same names in ``SearchConfig``.

    ``probe`` has the metrics of an evaluation of the untrained model. Of the Trainer's arguments,
    ``metric_for_best_model`` and ``greater_is_better`` count.

    Raises:
        ObjectiveError: There is no metric or more than one, a name that does not exist, a constant objective, a
            ``compute_objective`` without a direction, or a direction that contradicts the metric.
    """
    given = _given_directions(direction)
    multi = not isinstance(direction, str)
    if compute_objective is not None:
        if metric is not None:
            raise ObjectiveError(
                f"metric={metric!r} and compute_objective are both given. Pass one of them: metric names what to "
                "optimize, compute_objective computes it."
            )
        return _computed_objective(probe, compute_objective, given, multi, args)
    n_wanted = len(given) if multi else 1
    if metric is None:
        names, why = _default_metric(probe, args, given, n_wanted)
    else:
        wanted = [metric] if isinstance(metric, str) else list(metric)
        if len(wanted) != n_wanted:
            raise ObjectiveError(
                f"metric={wanted} names {len(wanted)} metric(s), but there are {n_wanted} direction(s)."
            )
        names, why = tuple(_full_key(name, probe, "metric") for name in wanted), "metric="
    directions = tuple(metric_direction(name, args, given[i] if given else None) for i, name in enumerate(names))
    follows = (names[0], directions[0] == MAXIMIZE) if len(names) == 1 else None
    return Objective(names=names, directions=directions, multi=multi, function=None, why=why, follows=follows)


def _given_directions(direction: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(direction, UnsetDirection):
        return ()
    given = (direction,) if isinstance(direction, str) else tuple(direction)
    for word in given:
        if word not in (MINIMIZE, MAXIMIZE):
            raise ObjectiveError(f"direction={word!r} given, expected 'minimize' or 'maximize'.")
    if not given:
        raise ObjectiveError("direction=[] given, expected one direction for each value of compute_objective.")
    return given


def _default_metric(
    probe: Metrics, args: "TrainingArguments", given: tuple[str, ...], n_wanted: int
) -> tuple[tuple[str, ...], str]:
    """The full key of the metric to optimize where the user names none, and where the choice comes from."""
    found = _numeric_names(probe)
    if n_wanted > 1:
        raise ObjectiveError(
            f"{n_wanted} directions are given but neither compute_objective nor metric. Pass metric=[...] with "
            f"{n_wanted} of {found}, or a compute_objective that returns {n_wanted} values."
        )
    best = chosen_best_metric(args)
    others = [name for name in found if not name.endswith("loss")]
    # Who maximizes does not mean the loss by which each training keeps its best checkpoint.
    is_meant = best not in ("loss", "eval_loss") or given != (MAXIMIZE,) or not others
    if best is not None and is_meant:
        return (_full_key(best, probe, "metric_for_best_model"),), "metric_for_best_model"
    candidates = others or (["eval_loss"] if "eval_loss" in found else found)
    if len(candidates) == 1:
        return (candidates[0],), "the only metric of compute_metrics" if others else "no other metric is computed"
    if not found:
        raise ObjectiveError(
            f"Evaluation gives no number to optimize, only {sorted(probe)}. Give the Trainer labels (label_names=...) "
            "or a compute_metrics."
        )
    raise ObjectiveError(
        f"Evaluation gives several metrics: {', '.join(candidates)}. Pass metric={candidates[0]!r} or another of them, "
        "set metric_for_best_model, or pass compute_objective."
    )


def _full_key(name: str, probe: Metrics, argument: str) -> str:
    key = name if name in probe or f"eval_{name}" not in probe else f"eval_{name}"
    _metric_value(key, probe, argument)
    return key


def _computed_objective(
    probe: Metrics, function: ComputeObjective, given: tuple[str, ...], multi: bool, args: "TrainingArguments"
) -> Objective:
    read: set[str] = set()
    try:
        result = function(AccessRecorder(probe, read))
    except Exception as error:
        raise ObjectiveError(
            f"compute_objective raised {describe(error)} on the metrics {sorted(probe)} of the "
            "untrained model. Change it to use these names."
        ) from error
    name = getattr(function, "__name__", type(function).__name__)
    names = tuple(f"{name}[{i}]" for i in range(len(given))) if len(given) > 1 else (name,)
    objective = Objective(
        names=names, directions=given or (MAXIMIZE,), multi=multi, function=function, why="compute_objective"
    )
    objective.check(result)
    measures_elsewhere = _may_measure_elsewhere(function, read)
    if not measures_elsewhere and _is_constant(objective, probe, read):
        raise ObjectiveError(
            f"compute_objective is constant: it does not change with any of {sorted(_with_numbers(probe))}. Let it "
            "return one of them, or pass metric= instead."
        )
    if not read and measures_elsewhere:
        objective = replace(objective, why="compute_objective, which reads no metric of the evaluation")
    followed = _followed_metric(objective, probe, read)
    if followed is not None:
        # refuses a direction that contradicts the metric
        direction = metric_direction(followed, args, given[0] if given else None)
        return replace(objective, directions=(direction,), follows=(followed, direction == MAXIMIZE))
    return objective if given else replace(objective, directions=(_implied_direction(objective, probe, read),))


def _may_measure_elsewhere(function: ComputeObjective, read: set[str]) -> bool:
    """Returns whether a function may measure something that is not among the metrics, such as a latency.

    A function that reads no metric may do so with any name that it uses; one that reads metrics only with an object.
    """
    code = getattr(function, "__code__", None)
    if code is None or not read:
        return code is None or bool(code.co_names or code.co_freevars)
    used = inspect.getclosurevars(function)
    plain = (bool, int, float, str, type(None), type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
    return not all(isinstance(value, plain) for value in (*used.nonlocals.values(), *used.globals.values()))


def _is_constant(objective: Objective, probe: Metrics, read: set[str]) -> bool:
    """Returns whether a value of an objective stays the same while every number that it may read changes."""
    if any(name in probe and not _is_only_numbers(probe[name]) for name in read):
        return False  # a text or an array stays the same here, and may change between trials
    rng, results = random.Random(0), []
    for scale in (1.0, 0.1, -1.0, 10.0, -10.0, 0.001, 1000.0):
        # Each number by itself, since a ratio of two does not change with both.
        made_up = _map_numbers(probe, partial(_random_number, rng, scale))
        with suppress(Exception):  # made-up metrics that the function refuses are no reason to refuse the function
            results.append(objective(made_up))
    return len(results) > 1 and any(len(set(column)) == 1 for column in zip(*results, strict=True))


def _random_number(rng: random.Random, scale: float, at: tuple[Any, ...]) -> float:
    return scale * rng.uniform(0.5, 1.5)


def _number_at(path: tuple[Any, ...], value: float, at: tuple[Any, ...]) -> float:
    return value if at == path else 0.5


def _implied_direction(objective: Objective, probe: Metrics, read: set[str]) -> str:
    """The direction of a computed objective that rises or falls with metrics whose directions are known.

    Raises:
        ObjectiveError: The metrics do not tell the direction.
    """
    directions: set[str | None] = set()
    paths = [path for name in sorted(read & probe.keys()) for path in _paths(probe[name], (name,))]
    for path in paths if len(paths) <= _MOST_NUMBERS else []:
        slope = _slope(objective, probe, path)
        by_name = known_direction(" ".join(map(str, path)))
        if slope is None or (slope != 0 and by_name is None):
            directions.add(None)
        elif slope != 0:
            directions.add(by_name if slope > 0 else {MAXIMIZE: MINIMIZE, MINIMIZE: MAXIMIZE}[str(by_name)])
    direction = directions.pop() if len(directions) == 1 else None
    if direction is None:
        raise ObjectiveError(
            "compute_objective is given without direction. Pass direction='maximize' if larger values of it are "
            "better, or direction='minimize', the default of other backends."
        )
    return direction


def _slope(objective: Objective, probe: Metrics, path: tuple[Any, ...]) -> int | None:
    """1 if an objective rises with one number of the metrics, -1 if it falls, 0 if neither; None if it does both."""
    others = _map_numbers(probe, lambda _: 0.5)
    try:
        values = [objective(_map_numbers(others, partial(_number_at, path, x)))[0] for x in _ASCENDING]
    except Exception:
        return None
    steps = {(b > a) - (b < a) for a, b in itertools.pairwise(values)} - {0}
    return None if len(steps) > 1 else next(iter(steps), 0)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the keys and indices that lead to each number of a metric, behind those that lead to the metric."""
    found: list[tuple[Any, ...]] = []
    _map_numbers(value, found.append, path)
    return found


def _map_numbers(value: Any, change: Callable[[tuple[Any, ...]], Any], path: tuple[Any, ...] = ()) -> Any:
    """Returns a copy of nested metrics in which ``change`` makes each number from its path of keys and indices."""
    if _is_scalar(value):
        return change(path)
    if isinstance(value, Mapping):
        return {key: _map_numbers(item, change, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_numbers(item, change, (*path, i)) for i, item in enumerate(value)]
    return value


def _is_only_numbers(value: Any) -> bool:
    if isinstance(value, (Mapping, list, tuple)):
        return all(map(_is_only_numbers, value.values() if isinstance(value, Mapping) else value))
    return _is_scalar(value)


def _with_numbers(metrics: Metrics) -> list[str]:
    """Returns the keys whose values hold a number."""
    return [name for name, value in metrics.items() if _paths(value)]


def _followed_metric(objective: Objective, probe: Metrics, read: set[str]) -> str | None:
    """Returns the metric that a computed objective equals, None for an objective that computes something."""
    names = [name for name in _numeric_names(probe) if name in read]
    try:
        return names[0] if len(names) == 1 and objective({**probe, names[0]: 0.375}) == (0.375,) else None
    except Exception:
        return None


def _numeric_names(metrics: Metrics) -> list[str]:
    """Returns the keys that say something about the model and have one number."""
    return [name for name, value in metrics.items() if not _BOOKKEEPING.search(name) and _is_scalar(value)]


def _metric_value(key: str, metrics: Metrics, argument: str | None = None) -> float:
    """Returns a metric as a float; ``argument`` is the option that names the metric, for the error."""
    if key in metrics:
        return _as_float(key, metrics[key])
    known = _numeric_names(metrics)
    hint = did_you_mean(key, known, cutoff=0.5) or did_you_mean(f"eval_{key}", known, cutoff=0.5)
    given = f"{argument}={key!r}" if argument else f"{key!r}"
    raise ObjectiveError(f"{given} is not among the metrics of evaluation: {', '.join(known) or 'none'}.{hint}")


def _as_float(name: str, value: Any) -> float:
    if not _is_scalar(value):
        raise ObjectiveError(
            f"{name} is {value!r}, a {type(value).__name__}; expected one number. Pass metric= with another name."
        )
    return float(value)


def _is_scalar(value: Any) -> bool:
    """Returns whether a value is a number, or a number in an array without dimensions."""
    return is_number(value) or (hasattr(value, "item") and getattr(value, "ndim", 0) == 0 and is_number(value.item()))


def metric_direction(name: str, args: "TrainingArguments", given: str | None) -> str:
    """Returns the direction of a metric: what the user gave, else what the arguments or the metric's name imply.

    Raises:
        ObjectiveError: Two of the three contradict each other without doubt, or none of them is known.
    """
    by_name = known_direction(name)
    by_args: str | None = None
    best, greater = getattr(args, "metric_for_best_model", None), getattr(args, "greater_is_better", None)
    if best is not None and greater is not None and name in (best, f"eval_{best}"):
        by_args = MAXIMIZE if greater else MINIMIZE
    if by_args is None:
        if given is not None and by_name is not None and given != by_name and not is_ambiguous(name):
            raise ObjectiveError(
                f"direction={given!r} contradicts {name!r}, which is better when {_ADJECTIVES[by_name]}. Pass "
                f"direction={by_name!r}. If {_ADJECTIVES[given]} really is better, say so in the arguments too: "
                f"metric_for_best_model={name!r}, greater_is_better={given == MAXIMIZE}."
            )
    elif given is not None and given != by_args:
        raise ObjectiveError(
            f"direction={given!r} contradicts greater_is_better={greater} of metric_for_best_model={best!r}. Set "
            f"greater_is_better={given == MAXIMIZE}: that argument decides the best checkpoint of each trial."
        )
    elif given is None and by_name is not None and by_name != by_args:
        raise ObjectiveError(
            f"greater_is_better={greater} contradicts metric_for_best_model={best!r}, which is better when "
            f"{_ADJECTIVES[by_name]}. Set greater_is_better={by_name == MAXIMIZE}: that argument decides the best "
            f"checkpoint of each trial. If {_ADJECTIVES[by_args]} really is better, pass direction={by_args!r} too."
        )
    direction = given or by_args or by_name
    if direction is None:
        raise ObjectiveError(
            f"The name {name!r} does not tell whether larger values are better. Pass direction='maximize' if they are, "
            "or direction='minimize'."
        )
    return direction
