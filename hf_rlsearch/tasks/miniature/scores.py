"""Losses and scores of many copies of a network on the same rows.

Letters: N copies of a network, R rows, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_rlsearch._typing import FloatArray

CLASSIFICATION, REGRESSION, NEXT_TOKEN = "classification", "regression", "next_token"
SCORES: dict[str, tuple[str, ...]] = {
    CLASSIFICATION: ("loss", "accuracy", "f1", "mcc"),
    REGRESSION: ("loss", "pearson"),
    NEXT_TOKEN: ("loss", "accuracy"),
}
"""What each kind of training is evaluated by; the loss is better when it is smaller, the others when larger."""


def mean_loss(kind: str, outputs: Tensor, targets: Tensor, smoothing: Tensor | None = None) -> Tensor:
    """N mean losses.

    Args:
        kind: A key of `SCORES`.
        outputs: N x R x K, with tokens N x R x T x K; of a regression N x R x 1.
        targets: N x R classes or numbers, with tokens N x R x T.
        smoothing: N rates of label smoothing, None for none.
    """
    if kind == REGRESSION:
        return (outputs[..., 0] - targets).square().mean(1)
    if smoothing is None:
        each = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
        return each.view(len(outputs), -1).mean(1)
    log_chance = torch.log_softmax(outputs.flatten(1, -2), -1)
    right = log_chance.gather(-1, targets.flatten(1)[..., None])[..., 0].mean(1)
    return -(1 - smoothing) * right - smoothing * log_chance.mean((1, 2))


def scores(kind: str, outputs: Tensor, targets: Tensor, smoothing: Tensor | None = None) -> FloatArray:
    """Scores of N copies, in the order of `SCORES`; a training that has diverged has the loss nan, and guesses class 0.

    Args:
        kind: A key of `SCORES`.
        outputs: As in `mean_loss`.
        targets: R classes or numbers, with tokens R x T.
        smoothing: As in `mean_loss`: the Trainer evaluates with the loss that it trains with.
    """
    N = len(outputs)
    loss = mean_loss(kind, outputs, targets.expand(N, *targets.shape), smoothing).double().cpu().numpy()
    if kind == REGRESSION:
        return np.stack([loss, _pearson(outputs[..., 0].double().cpu().numpy(), targets.double().cpu().numpy())], 1)
    # Argmax takes nan for the largest: outputs that are all nan give class 0, in torch as in the numpy of most metrics.
    guesses, n_classes = outputs.flatten(1, -2).argmax(-1).cpu().numpy(), outputs.shape[-1]
    truth = targets.flatten().cpu().numpy()
    if kind == NEXT_TOKEN:
        return np.stack([loss, (guesses == truth).mean(1)], 1)
    cells = (np.arange(N)[:, None] * n_classes + truth) * n_classes + guesses
    counts = np.bincount(cells.ravel(), minlength=N * n_classes**2).reshape(N, n_classes, n_classes).astype(float)
    return np.stack([loss, *_classification(counts)], 1)


def _classification(counts: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Accuracy, F1 (of class 1 where there are two, else the mean over classes) and Matthews' correlation.

    Args:
        counts: N x K x K rows by true class and guess.

    Source:
        Gorodkin 2004 for the correlation of more than two classes.
    """
    n, right = counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2)
    hits, true, guessed = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)
    f1 = 2 * hits / np.maximum(true + guessed, 1)
    f1 = f1[:, 1] if f1.shape[1] == 2 else f1.mean(1)
    spread = (n**2 - (guessed**2).sum(1)) * (n**2 - (true**2).sum(1))
    mcc = (right * n - (true * guessed).sum(1)) / np.sqrt(np.maximum(spread, 1))
    return right / n, f1, np.where(spread > 0, mcc, 0.0)


def _pearson(guesses: FloatArray, truth: FloatArray) -> FloatArray:
    """N correlations of N x R guesses; nan where all guesses are equal or nan."""
    with np.errstate(all="ignore"):
        guesses, truth = guesses - guesses.mean(1, keepdims=True), truth - truth.mean()
        return np.asarray((guesses @ truth) / np.sqrt((guesses**2).sum(1) * (truth**2).sum()))
