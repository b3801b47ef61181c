"""Which way a metric is better, from its name, checked against what the user's arguments say."""

import re
from typing import Any

from hf_rlsearch.backend.plain_data import words
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


def direction_of(name: str) -> str | None:
    """The direction that a metric's name implies, None for an unknown name.

    Where it has words of both kinds the last one counts: "error_detection_f1" is an F1, "hamming_loss" a loss.
    """
    known = _known_words(name)
    return known[-1] if known else None


def is_certain(name: str) -> bool:
    """Whether all words of a metric's name that have a direction agree on it."""
    return len(set(_known_words(name))) == 1


def implied(name: str, args: Any, given: str | None) -> str | None:
    """The direction from the name, checked against ``greater_is_better`` where that speaks of the same metric.

    Args:
        name: Of the metric.
        args: The Trainer's arguments.
        given: The direction that the user wrote.

    Raises:
        ObjectiveError: They contradict each other.
    """
    by_name, by_args = direction_of(name), stated(name, args)
    if by_args is None:
        return by_name
    best, greater = args.metric_for_best_model, args.greater_is_better
    if given is not None and given != by_args:
        raise ObjectiveError(
            f"direction={given!r} contradicts greater_is_better={greater} of metric_for_best_model={best!r}. Set "
            f"greater_is_better={given == MAXIMIZE}: the best checkpoint of each trial is chosen by it."
        )
    if given is None and by_name is not None and by_args != by_name:
        raise ObjectiveError(
            f"greater_is_better={greater} contradicts metric_for_best_model={best!r}, which is better when "
            f"{when(by_name)}. Set greater_is_better={by_name == MAXIMIZE}: the best checkpoint of each trial is "
            f"chosen by it. If {when(by_args)} really is better, pass direction={by_args!r} too."
        )
    return by_args


def stated(name: str, args: Any) -> str | None:
    """The direction that ``greater_is_better`` gives to a metric, None where it speaks of another one."""
    best, greater = getattr(args, "metric_for_best_model", None), getattr(args, "greater_is_better", None)
    if best is None or greater is None or name not in (best, f"eval_{best}"):
        return None
    return MAXIMIZE if greater else MINIMIZE


def settle(name: str, given: str | None, known: str | None) -> str:
    """The direction of a metric, from what the user wrote and what is known of it.

    Raises:
        ObjectiveError: The metric's name leaves no doubt that the user's direction is the wrong one.
    """
    if given is None:
        # As the Trainer does for metric_for_best_model: a name it does not know is better when larger.
        return known or MAXIMIZE
    if known is not None and given != known and is_certain(name):
        raise ObjectiveError(
            f"direction={given!r} contradicts {name!r}, which is better when {when(known)}. Pass "
            f"direction={known!r} or leave direction out. If {when(given)} really is better, "
            f"{off_switch(name, given)}"
        )
    return given


def off_switch(name: str, direction: str) -> str:
    """How a user insists on a direction that the metric's name denies."""
    return f"say so in the arguments too: metric_for_best_model={name!r}, greater_is_better={direction == MAXIMIZE}."


def when(direction: str) -> str:
    """A direction in words."""
    return "larger" if direction == MAXIMIZE else "smaller"


def opposite(direction: str) -> str:
    """The other direction."""
    return MINIMIZE if direction == MAXIMIZE else MAXIMIZE


def towards(name: str, slope: int) -> str | None:
    """The direction of a function that follows a metric with this slope, None where it is not known.

    Args:
        name: Of the metric.
        slope: 1 or -1; anything else is a function without one direction.
    """
    by_name = direction_of(name)
    if by_name is None or slope not in (-1, 1):
        return None
    return by_name if slope > 0 else opposite(by_name)


def _known_words(name: str) -> list[str]:
    """The directions of the words of a name that have one, in order."""
    parts = re.split(r"[^a-z0-9]+", name.lower())
    return [MINIMIZE if part in _LOWER else MAXIMIZE for part in parts if part in _LOWER or part in _HIGHER]
