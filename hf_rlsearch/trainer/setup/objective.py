"""Defines the objective of a search: a named metric with a direction, or the result of ``compute_objective``.

The Trainer's default objective is the sum of all metrics with direction "minimize". That sum keeps the worst trial of
an accuracy search and adds accuracy to F1. Here the objective is one metric by name, its direction follows from the
name, and an ambiguous choice is an error before the first training.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from hf_rlsearch._validation import did_you_mean, is_number
from hf_rlsearch.errors import ObjectiveError
from hf_rlsearch.trainer.session.arguments import words
from hf_rlsearch.trainer.setup.hp_space import AccessRecorder

if TYPE_CHECKING:
    from transformers import TrainingArguments

Metrics = Mapping[str, Any]
ComputeObjective = Callable[[dict[str, Any]], Any]

MINIMIZE, MAXIMIZE = "minimize", "maximize"
_ADJECTIVES = {MINIMIZE: "smaller", MAXIMIZE: "larger"}

_LOWER = words(
    """
    loss losses perplexity ppl wer cer ter mer wil hter mse rmse mae mape error errors err nll brier ece
    crossentropy entropy bpb bpc latency distance fid hamming
    """
)
_HIGHER = words(
    """
    accuracy acc f1 precision recall matthews mcc correlation pearson pearsonr spearman spearmanr bleu sacrebleu
    chrf rouge rouge1 rouge2 rougel rougelsum meteor comet bertscore auc auroc auprc map ndcg mrr em exact
    exactmatch r2 kappa iou dice specificity sensitivity gleu
    """
)

# Keys that the Trainer adds to every evaluation and that say nothing about the model.
_BOOKKEEPING = re.compile(
    r"(_runtime|_per_second|_preparation_time|_compilation_time|_num_input_tokens_seen|_mem_\w+|_flos|_samples|_steps)$|^epoch$|^step$"
)


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
    """

    names: tuple[str, ...]
    directions: tuple[str, ...]
    multi: bool
    function: ComputeObjective | None
    why: str
    follows: tuple[str, bool] | None = None

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

    def better(self, value: float, other: float) -> bool:
        """Returns whether the first of two values of a single objective is better."""
        return value > other if self.directions[0] == MAXIMIZE else value < other

    def to_json(self) -> dict[str, Any]:
        """Returns the objective as plain data, without ``compute_objective``."""
        return {
            "names": list(self.names),
            "directions": list(self.directions),
            "multi": self.multi,
            "computed": self.function is not None,
            "follows": self.follows and list(self.follows),
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
        )


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
        names, why = _default_metric(probe, args, n_wanted)
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


def _default_metric(probe: Metrics, args: "TrainingArguments", n_wanted: int) -> tuple[tuple[str, ...], str]:
    """The full key of the metric to optimize where the user names none, and where the choice comes from."""
    found = _numeric_names(probe)
    if n_wanted > 1:
        raise ObjectiveError(
            f"{n_wanted} directions are given but neither compute_objective nor metric. Pass metric=[...] with "
            f"{n_wanted} of {found}, or a compute_objective that returns {n_wanted} values."
        )
    best = getattr(args, "metric_for_best_model", None)
    others = [name for name in found if not name.endswith("loss")]
    # TrainingArguments fills in "loss" by itself with load_best_model_at_end, so that word alone is no choice.
    if best is not None and (best not in ("loss", "eval_loss") or not others):
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
    if not given:
        raise ObjectiveError(
            "compute_objective is given without direction. Pass direction='maximize' if larger values of it are "
            "better, or direction='minimize', the default of other backends."
        )
    read: set[str] = set()
    try:
        result = function(AccessRecorder(probe, read))
    except Exception as error:
        raise ObjectiveError(
            f"compute_objective raised {type(error).__name__}: {error} on the metrics {sorted(probe)} of the "
            "untrained model. Change it to use these names."
        ) from error
    name = getattr(function, "__name__", type(function).__name__)
    names = tuple(f"{name}[{i}]" for i in range(len(given))) if len(given) > 1 else (name,)
    objective = Objective(names=names, directions=given, multi=multi, function=function, why="compute_objective")
    objective.check(result)
    code = getattr(function, "__code__", None)
    # A function that uses global names, attributes or variables of an enclosing function may measure anything.
    if not read and (code is None or code.co_names or code.co_freevars):
        return replace(objective, why="compute_objective, which reads no metric of the evaluation")
    if _is_constant(objective, probe):
        raise ObjectiveError(
            f"compute_objective is constant: it does not change with any of {sorted(_numeric_names(probe))}. Let it "
            "return one of them, or pass metric= instead."
        )
    followed = _followed_metric(objective, probe, read)
    if followed is None:
        return objective
    metric_direction(followed, args, given[0])  # refuses a direction that contradicts the metric
    return replace(objective, follows=(followed, given[0] == MAXIMIZE))


def _is_constant(objective: Objective, probe: Metrics) -> bool:
    """Returns whether a value of an objective stays the same while all metrics change."""
    names = _numeric_names(probe)
    made_up = ({name: scale / (i + 1) for i, name in enumerate(names)} for scale in (0.1, 1.0, 10.0, 1000.0))
    try:
        values = [objective({**probe, **changed}) for changed in made_up]
    except Exception:
        return False  # made-up metrics that the function refuses are no reason to refuse the function
    return any(len(set(column)) == 1 for column in zip(*values, strict=True))


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
        ObjectiveError: Two of the three contradict each other without doubt.
    """
    directions = _directions_of_words(name)
    by_name = directions[-1] if directions else None
    by_args: str | None = None
    best, greater = getattr(args, "metric_for_best_model", None), getattr(args, "greater_is_better", None)
    if best is not None and greater is not None and name in (best, f"eval_{best}"):
        by_args = MAXIMIZE if greater else MINIMIZE
    if by_args is None:
        is_clear = len(set(directions)) == 1
        if is_clear and given is not None and by_name is not None and given != by_name:
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
    # As the Trainer does for metric_for_best_model: larger values of an unknown metric are better.
    return given or by_args or by_name or MAXIMIZE


def _directions_of_words(name: str) -> list[str]:
    """The directions of those words of a name that have one, in order; the last one counts.

    "error_detection_f1" is an F1, "hamming_loss" a loss.
    """
    parts = re.split(r"[^a-z0-9]+", name.lower())
    return [MINIMIZE if part in _LOWER else MAXIMIZE for part in parts if part in _LOWER or part in _HIGHER]
