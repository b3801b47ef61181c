"""Scores classifications and numbers by functions of scikit-learn and scipy, and combines them to GLUE.

Arguments and values equal those of the Hub's modules of the same names.
"""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from hf_rlsearch.metrics.base import Definition

SCIKIT_LEARN = "Pedregosa et al. 2011, Scikit-learn: Machine Learning in Python"
SCIPY = "Virtanen et al. 2020, SciPy 1.0: fundamental algorithms for scientific computing in Python"


def accuracy(predictions: list[Any], references: list[Any], **options: Any) -> dict[str, float]:
    """The share of predictions that equal their reference, in [0, 1], larger is better."""
    return {"accuracy": float(accuracy_score(references, predictions, **options))}


def f1(predictions: list[Any], references: list[Any], **options: Any) -> dict[str, Any]:
    """The harmonic mean of precision and recall, in [0, 1], larger is better; 0 where a class is never predicted."""
    # zero_division=0 gives scikit-learn's default value without its warning about classes that are never predicted.
    score = f1_score(references, predictions, **{"zero_division": 0, **options})
    return {"f1": score if np.ndim(score) else float(score)}


def matthews_correlation(predictions: list[Any], references: list[Any], **options: Any) -> dict[str, Any]:
    """The correlation of two classifications, in [-1, 1], larger is better; 0 for a constant guess (GLUE's CoLA)."""
    return {"matthews_correlation": float(matthews_corrcoef(references, predictions, **options))}


def matthews_per_label(
    predictions: list[Any], references: list[Any], average: str | None = None, **options: Any
) -> dict[str, Any]:
    """The correlation of two classifications for each label, or their mean, in [-1, 1], larger is better."""
    if average not in (None, "macro"):
        raise ValueError(f"average={average!r}: expected 'macro', or None for one value per label.")
    columns = zip(np.array(references).T, np.array(predictions).T, strict=True)
    scores = [float(matthews_corrcoef(true, guess, **options)) for true, guess in columns]
    return {"matthews_correlation": float(np.mean(scores)) if average == "macro" else scores}


def pearson(predictions: list[float], references: list[float], return_pvalue: bool = False) -> dict[str, float]:
    """The linear correlation of two lists of numbers, in [-1, 1], larger is better; NaN for a constant guess."""
    score, p_value = pearsonr(references, predictions)
    return {"pearsonr": float(score), **({"p-value": float(p_value)} if return_pvalue else {})}


def spearman(predictions: list[float], references: list[float], return_pvalue: bool = False) -> dict[str, float]:
    """The correlation of the ranks of two lists of numbers, in [-1, 1], larger is better; NaN for a constant guess."""
    score, p_value = spearmanr(references, predictions)
    return {"spearmanr": float(score), **({"spearmanr_pvalue": float(p_value)} if return_pvalue else {})}


# metric -> function, function for several labels per row (None without), description of the arguments, source
_TABLE: dict[str, tuple[Callable[..., dict[str, Any]], Callable[..., dict[str, Any]] | None, str, str]] = {
    "accuracy": (accuracy, accuracy, "class numbers; normalize=False counts; sample_weight.", SCIKIT_LEARN),
    "f1": (f1, f1, "class numbers; labels, pos_label, average, sample_weight.", SCIKIT_LEARN),
    "matthews_correlation": (
        matthews_correlation,
        matthews_per_label,
        "class numbers; sample_weight; average (multilabel): macro.",
        SCIKIT_LEARN,
    ),
    "pearsonr": (pearson, None, "numbers; return_pvalue: whether to return the p-value too.", SCIPY),
    "spearmanr": (spearman, None, "numbers; return_pvalue: whether to return the p-value too.", SCIPY),
}

ACCURACY_TASKS = ("sst2", "mnli", "mnli_mismatched", "mnli_matched", "qnli", "rte", "wnli", "hans")
GLUE: dict[str, tuple[Callable[..., dict[str, Any]], ...]] = {
    **dict.fromkeys(ACCURACY_TASKS, (accuracy,)),
    "cola": (matthews_correlation,),
    "stsb": (pearson, spearman),
    "mrpc": (accuracy, f1),
    "qqp": (accuracy, f1),
}


def define(name: str, config: str | None) -> Definition:
    """Returns the definition of a metric of this file; ``config`` is a task of GLUE, or ``"multilabel"``.

    Raises:
        KeyError: GLUE has no task of that name.
    """
    if name == "glue":
        return _glue(config)
    score, multilabel_score, inputs, citation = _TABLE[name]
    value: Any = datasets.Value("int32" if multilabel_score else "float")
    if multilabel_score and config == "multilabel":
        score, value = multilabel_score, datasets.Sequence(value)
    features = datasets.Features({"predictions": value, "references": value})
    return Definition(score=score, features=features, inputs=f"predictions and references: {inputs}", citation=citation)


def _glue(task: str | None) -> Definition:
    if task not in GLUE:
        raise KeyError(f"config_name={task or 'default'!r} is no task of GLUE: expected one of {sorted(GLUE)}.")
    label = datasets.Value("float32" if task == "stsb" else "int64")

    def glue(predictions: list[Any], references: list[Any]) -> dict[str, float]:
        """GLUE: accuracy; F1 as well for MRPC and QQP; Matthews correlation for CoLA; both correlations for STS-B."""
        scores: dict[str, float] = {}
        for score in GLUE[task]:
            scores |= score(predictions=predictions, references=references)
        # The Hub's modules name Pearson's correlation "pearsonr" alone and "pearson" in GLUE.
        return {"pearson" if key == "pearsonr" else key: value for key, value in scores.items()}

    return Definition(
        score=glue,
        features=datasets.Features({"predictions": label, "references": label}),
        inputs="predictions and references: class numbers, or scores for stsb.",
        citation="Wang et al. 2019, GLUE: a multi-task benchmark and analysis platform (arXiv:1804.07461)",
    )
