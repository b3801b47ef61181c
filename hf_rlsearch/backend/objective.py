"""What a search optimises: one named metric with a known direction, or what ``compute_objective`` makes of the metrics.

The Trainer's default objective is the sum of all metrics with direction "minimize"; that keeps the worst trial of an
accuracy search, adds accuracy to F1, and becomes a timing once ``evaluate()`` was called. Here the objective is one
metric by name, its direction follows from the name, and whatever is ambiguous is an error before the first training.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from hf_rlsearch.backend.arguments import words
from hf_rlsearch.backend.slopes import Metrics, Watched, is_number, may_look_elsewhere, slopes_of
from hf_rlsearch.errors import ObjectiveError

MINIMIZE, MAXIMIZE = "minimize", "maximize"

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
    exactmatch r2 kappa iou dice specificity sensitivity gleu spearmanr
    """
)
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
            return tuple(_number(name, metrics.get(name, _missing(name, metrics))) for name in self.names)
        found = self.function(dict(metrics))
        values = tuple(found) if isinstance(found, (list, tuple)) else (found,)
        if len(values) != len(self.directions):
            raise ObjectiveError(
                f"compute_objective returned {len(values)} value(s) ({found!r}), expected {len(self.directions)}, "
                f"one for "
                f"each direction {list(self.directions)}."
            )
        return tuple(_number("compute_objective", value) for value in values)

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


def direction_of(name: str) -> str | None:
    """The direction that a metric's name implies, None for an unknown name.

    Where it has words of both kinds the last one counts: "error_detection_f1" is an F1, "hamming_loss" a loss.
    """
    known = _known_words(name)
    return known[-1] if known else None


def _is_certain(name: str) -> bool:
    return len(set(_known_words(name))) == 1


def _known_words(name: str) -> list[str]:
    """The directions of the words of a name that have one, in order."""
    parts = re.split(r"[^a-z0-9]+", name.lower())
    return [MINIMIZE if part in _LOWER else MAXIMIZE for part in parts if part in _LOWER or part in _HIGHER]


def scored_names(metrics: Metrics) -> list[str]:
    """The keys that say something about the model, numbers only."""
    return [name for name, value in metrics.items() if not _BOOKKEEPING.search(name) and is_number(value)]


def resolve(
    probe: Metrics,
    *,
    args: Any,
    compute_objective: Callable[[dict[str, Any]], Any] | None = None,
    metric: str | Sequence[str] | None = None,
    direction: str | Sequence[str] = UNSET_DIRECTION,
) -> Objective:
    """Settles what is optimised, and which way, before anything is trained.

    Args:
        probe: Metrics of an evaluation of the untrained model.
        args: The Trainer's arguments; ``metric_for_best_model`` and ``greater_is_better`` count.
        compute_objective: The user's function, None for the Trainer's default one.
        metric: The user's choice, with or without the ``eval_`` in front; several for several directions.
        direction: "minimize", "maximize", a list of these, or ``UNSET_DIRECTION``.

    Raises:
        ObjectiveError: Nothing to optimise, more than one thing, a name that does not exist, an objective that no
        metric
            changes, or a direction that contradicts the metric.
    """
    given = _given_directions(direction)
    multi = not isinstance(direction, str)
    if compute_objective is not None:
        if metric is not None:
            raise ObjectiveError(
                f"metric={metric!r} and compute_objective are both given. Pass one of them: metric names what to "
                f"optimise, "
                "compute_objective computes it."
            )
        return _resolve_function(probe, compute_objective, given, multi, args)
    names, why = _resolve_names(probe, args, metric, n_wanted=len(given) if multi else 1)
    directions = tuple(
        _settle(name, given[i] if given else None, _implied(name, args, given[i] if given else None))
        for i, name in enumerate(names)
    )
    follows = (names[0], directions[0] == MAXIMIZE) if len(names) == 1 else None
    return Objective(names=names, directions=directions, multi=multi, function=None, why=why, follows=follows)


def _given_directions(direction: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(direction, UnsetDirection):
        return ()
    given = (direction,) if isinstance(direction, str) else tuple(direction)
    for one in given:
        if one not in (MINIMIZE, MAXIMIZE):
            raise ObjectiveError(f"direction={one!r} given, expected 'minimize' or 'maximize'.")
    if not given:
        raise ObjectiveError("direction=[] given, expected one direction for each value of compute_objective.")
    return given


def _resolve_names(
    probe: Metrics, args: Any, metric: str | Sequence[str] | None, n_wanted: int
) -> tuple[tuple[str, ...], str]:
    found = scored_names(probe)
    if metric is not None:
        asked = (metric,) if isinstance(metric, str) else tuple(metric)
        if len(asked) != n_wanted:
            raise ObjectiveError(
                f"metric={list(asked)} names {len(asked)} metric(s), but there are {n_wanted} direction(s)."
            )
        return tuple(_full_name(name, probe, "metric") for name in asked), "metric="
    if n_wanted > 1:
        raise ObjectiveError(
            f"{n_wanted} directions are given but neither compute_objective nor metric. Pass metric=[...] with "
            f"{n_wanted} of "
            f"{found}, or a compute_objective that returns {n_wanted} values."
        )
    best = getattr(args, "metric_for_best_model", None)
    others = [name for name in found if not name.endswith("loss")]
    # TrainingArguments fills in "loss" by itself with load_best_model_at_end, so that word alone is no choice.
    if best is not None and (best not in ("loss", "eval_loss") or not others):
        return (_full_name(best, probe, "metric_for_best_model"),), "metric_for_best_model"
    if len(others) == 1:
        return (others[0],), "the only metric of compute_metrics"
    if not others and found:
        losses = ["eval_loss"] if "eval_loss" in found else found
        if len(losses) == 1:
            return (losses[0],), "no other metric is computed"
    if not found:
        raise ObjectiveError(
            f"Evaluation gives no number to optimise, only {sorted(probe)}. Give the Trainer labels "
            f"(label_names=...) or a "
            "compute_metrics."
        )
    raise ObjectiveError(
        f"Evaluation gives several metrics: {', '.join(others or found)}. Pass metric={(others or found)[0]!r} or "
        f"another of "
        "them, set metric_for_best_model, or pass compute_objective."
    )


def _full_name(name: str, probe: Metrics, argument: str) -> str:
    for candidate in (name, f"eval_{name}"):
        if candidate in probe:
            _number(candidate, probe[candidate])
            return candidate
    raise _missing(name, probe, argument)


def _implied(name: str, args: Any, given: str | None) -> str | None:
    """The direction from the name, checked against ``greater_is_better`` where that speaks of the same metric."""
    implied, stated = direction_of(name), _stated(name, args)
    if stated is None:
        return implied
    best, greater = args.metric_for_best_model, args.greater_is_better
    if given is not None and given != stated:
        raise ObjectiveError(
            f"direction={given!r} contradicts greater_is_better={greater} of metric_for_best_model={best!r}. Set "
            f"greater_is_better={given == MAXIMIZE}: the best checkpoint of each trial is chosen by it."
        )
    if given is None and implied is not None and stated != implied:
        raise ObjectiveError(
            f"greater_is_better={greater} contradicts metric_for_best_model={best!r}, which is better when "
            f"{_when(implied)}. Set greater_is_better={implied == MAXIMIZE}: the best checkpoint of each trial is "
            f"chosen by it. If {_when(stated)} really is better, pass direction={stated!r} too."
        )
    return stated


def _stated(name: str, args: Any) -> str | None:
    """The direction that ``greater_is_better`` gives to a metric, None where it speaks of another one."""
    best, greater = getattr(args, "metric_for_best_model", None), getattr(args, "greater_is_better", None)
    if best is None or greater is None or name not in (best, f"eval_{best}"):
        return None
    return MAXIMIZE if greater else MINIMIZE


def _when(direction: str) -> str:
    return "larger" if direction == MAXIMIZE else "smaller"


def _settle(name: str, given: str | None, implied: str | None) -> str:
    if given is None:
        # As the Trainer does for metric_for_best_model: a name it does not know is better when larger.
        return implied or MAXIMIZE
    if implied is not None and given != implied and _is_certain(name):
        raise ObjectiveError(
            f"direction={given!r} contradicts {name!r}, which is better when {_when(implied)}. Pass "
            f"direction={implied!r} or leave direction out. If {_when(given)} really is better, "
            f"{_off_switch(name, given)}"
        )
    return given


def _off_switch(name: str, direction: str) -> str:
    return f"say so in the arguments too: metric_for_best_model={name!r}, greater_is_better={direction == MAXIMIZE}."


def _resolve_function(
    probe: Metrics, function: Callable[[dict[str, Any]], Any], given: tuple[str, ...], multi: bool, args: Any
) -> Objective:
    name = getattr(function, "__name__", type(function).__name__)
    metrics = Watched(probe)
    try:
        found = function(metrics)
    except Exception as error:
        raise ObjectiveError(
            f"compute_objective raised {type(error).__name__}: {error} on the metrics {sorted(probe)} of the "
            f"untrained model. "
            "Change it to use these names."
        ) from error
    n_values = len(found) if isinstance(found, (list, tuple)) else 1
    wanted = len(given) if multi else 1
    if n_values != wanted:
        raise ObjectiveError(
            f"compute_objective returned {n_values} value(s) ({found!r}), expected {wanted}: direction is "
            f"{list(given) if multi else (given[0] if given else MINIMIZE)!r}."
        )
    for value in found if isinstance(found, (list, tuple)) else (found,):
        _number("compute_objective", value)
    names = (name,) if n_values == 1 else tuple(f"{name}[{i}]" for i in range(n_values))
    names_read = [one for one in scored_names(probe) if one in metrics.read]
    elsewhere = not metrics.read and may_look_elsewhere(function)
    # A pure function that shows no reading may have copied the metrics in a way that is not seen.
    tried = names_read if metrics.read or elsewhere else scored_names(probe)
    slopes = slopes_of(probe, function, tried, n_values)
    if not elsewhere and not all(any(of_one.values()) for of_one in slopes):
        raise ObjectiveError(
            f"compute_objective is constant: it does not change with any of {sorted(scored_names(probe))}. Let it "
            f"return one of them, or pass metric= instead."
        )
    directions = tuple(
        _function_direction(of_one, given[i] if given else None, args) for i, of_one in enumerate(slopes)
    )
    follows = _followed(slopes[0], directions[0]) if n_values == 1 else None
    why = "compute_objective, which reads no metric of the evaluation" if elsewhere else "compute_objective"
    return Objective(names=names, directions=directions, multi=multi, function=function, why=why, follows=follows)


def _followed(slopes: dict[str, int], direction: str) -> tuple[str, bool] | None:
    used = {name: slope for name, slope in slopes.items() if slope}
    if len(used) != 1:
        return None
    ((name, slope),) = used.items()
    return (name, (direction == MAXIMIZE) == (slope > 0)) if slope in (-1, 1) else None


def _function_direction(slopes: dict[str, int], given: str | None, args: Any) -> str:
    used = {name: slope for name, slope in slopes.items() if slope}
    implied = {_towards(name, slope) for name, slope in used.items()} - {None}
    if len(implied) != 1:
        # Nothing to go by: the Trainer's documented default.
        return given or MINIMIZE
    (only,) = implied
    if given is None or given == only or not all(_is_certain(name) and used[name] in (-1, 1) for name in used):
        return given or str(only)
    name, slope = next((n, s) for n, s in used.items() if _towards(n, s) == only)
    wanted = given if slope > 0 else _opposite(given)
    if _stated(name, args) != wanted:
        raise ObjectiveError(
            f"direction={given!r} contradicts compute_objective, which follows {name!r} so that {only} is better. Pass "
            f"direction={only!r} or turn the sign in compute_objective. If {_when(wanted)} {name!r} really is better, "
            f"{_off_switch(name, wanted)}"
        )
    return given


def _opposite(direction: str) -> str:
    return MINIMIZE if direction == MAXIMIZE else MAXIMIZE


def _towards(name: str, slope: int) -> str | None:
    implied = direction_of(name)
    if implied is None or slope not in (-1, 1):
        return None
    return implied if slope > 0 else _opposite(implied)


class _Missing:
    """Stands for a metric that is not there, with the error to raise."""

    def __init__(self, error: ObjectiveError) -> None:
        self.error = error


def _missing(name: str, metrics: Metrics, argument: str | None = None) -> Any:
    known = scored_names(metrics)
    close = get_close_matches(name, known, n=1, cutoff=0.5) or get_close_matches(f"eval_{name}", known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    given = f"{argument}={name!r}" if argument else f"{name!r}"
    error = ObjectiveError(f"{given} is not among the metrics of evaluation: {', '.join(known) or 'none'}.{hint}")
    return error if argument else _Missing(error)


def _number(name: str, value: Any) -> float:
    if isinstance(value, _Missing):
        raise value.error
    if not is_number(value):
        raise ObjectiveError(
            f"{name} is {value!r}, a {type(value).__name__}; expected one number. Pass metric= with another name."
        )
    return float(value)
