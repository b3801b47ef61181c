"""Finds the direction of a metric from its name, and checks it against the user's direction and arguments."""

import re
from typing import TYPE_CHECKING

from hf_rlsearch.errors import ObjectiveError
from hf_rlsearch.trainer.session.arguments import words

if TYPE_CHECKING:
    from transformers import TrainingArguments

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
            f"greater_is_better={given == MAXIMIZE}: the best checkpoint of each trial is chosen by it."
        )
    elif given is None and by_name is not None and by_name != by_args:
        raise ObjectiveError(
            f"greater_is_better={greater} contradicts metric_for_best_model={best!r}, which is better when "
            f"{_ADJECTIVES[by_name]}. Set greater_is_better={by_name == MAXIMIZE}: the best checkpoint of each trial "
            f"is chosen by it. If {_ADJECTIVES[by_args]} really is better, pass direction={by_args!r} too."
        )
    # As the Trainer does for metric_for_best_model: larger values of an unknown metric are better.
    return given or by_args or by_name or MAXIMIZE


def _directions_of_words(name: str) -> list[str]:
    """The directions of those words of a name that have one, in order; the last one counts.

    "error_detection_f1" is an F1, "hamming_loss" a loss.
    """
    parts = re.split(r"[^a-z0-9]+", name.lower())
    return [MINIMIZE if part in _LOWER else MAXIMIZE for part in parts if part in _LOWER or part in _HIGHER]
