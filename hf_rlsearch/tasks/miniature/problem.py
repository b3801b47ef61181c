"""Draws what a miniature training is about: rows of a source task, and rows of a shifted task to fine-tune on.

Rows are numbers, labelled by a random network (the teacher), or tokens of Markov chains, of which a row follows one of
several (its topic). The source and the task share features or transitions in part: so much is there to transfer.

Letters: R rows, K classes, V tokens, Z topics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.tasks.miniature.scores import CLASSIFICATION, NEXT_TOKEN, REGRESSION
from hf_rlsearch.tasks.miniature.training import Rows

N_SOURCE = 4096
_FEATURES = 24  # of the teacher
_CONTEXT = 3  # tokens that an MLP predicts the next one from
# Body of the network, kind of the loss, share of the tasks.
KINDS: tuple[tuple[str, str, float], ...] = (
    ("mlp", CLASSIFICATION, 0.42),
    ("mlp", REGRESSION, 0.13),
    ("mlp", NEXT_TOKEN, 0.13),
    ("attention", CLASSIFICATION, 0.18),
    ("attention", NEXT_TOKEN, 0.14),
)


@dataclass(frozen=True)
class Problem:
    """What is trained on what.

    Attributes:
        body: Of the networks, see `NetworkShape`.
        kind: Of the loss of the fine-tuning.
        source_kind: Of the loss of the pretraining.
        source: Rows to pretrain on.
        data: Rows to fine-tune on.
        validation: Rows to evaluate on.
        n_inputs: Numbers of a row, 0 where a row is tokens.
        vocabulary: Tokens, 0 where a row is numbers.
        length: Tokens of a row.
        n_source_outputs: Of the head while pretraining.
        n_outputs: Of the head while fine-tuning.
    """

    body: str
    kind: str
    source_kind: str
    source: Rows
    data: Rows
    validation: Rows
    n_inputs: int
    vocabulary: int
    length: int
    n_source_outputs: int
    n_outputs: int

    @property
    def n_classes(self) -> int:
        """Classes or tokens that an output is chosen from; 0 for a regression."""
        return 0 if self.kind == REGRESSION else self.n_outputs


def draw_problem(
    rng: np.random.Generator, body: str, kind: str, n_rows: int, n_validation: int, device: str = "cpu"
) -> Problem:
    """Draws source, task and rows.

    Args:
        rng: Source of randomness.
        body: ``"mlp"`` or ``"attention"``.
        kind: Of the loss; attention does no regression.
        n_rows: Rows to fine-tune on.
        n_validation: Rows to evaluate on.
        device: Where the rows are put.
    """
    counts = (N_SOURCE, n_rows, n_validation)
    if kind == REGRESSION or (body, kind) == ("mlp", CLASSIFICATION):
        return _numbers(rng, kind, counts, device)
    return _tokens(rng, body, kind, counts, device)


def _numbers(rng: np.random.Generator, kind: str, counts: tuple[int, int, int], device: str) -> Problem:
    d, n_source = int(rng.choice([8, 16, 32])), int(rng.integers(3, 9))
    n_classes = int(rng.choice([2, 3, 4, 6, 10], p=[0.5, 0.2, 0.12, 0.1, 0.08]))
    n_outputs = 1 if kind == REGRESSION else n_classes
    features = rng.normal(size=(d, _FEATURES)) / np.sqrt(d)
    source_readout = rng.normal(size=(_FEATURES, n_source))
    related = rng.uniform(0, 0.9)
    inherited = source_readout @ rng.normal(size=(n_source, n_outputs)) / np.sqrt(n_source)
    readout = related * inherited + np.sqrt(1 - related**2) * rng.normal(size=(_FEATURES, n_outputs))
    noise, flipped = float(np.exp(rng.normal(-1.2, 0.8))), rng.choice([0.0, rng.uniform(0, 0.3)])
    uneven = rng.choice([0.0, 0.7, 1.5], p=[0.6, 0.25, 0.15]) * rng.normal(size=n_outputs)
    drift = rng.choice([0.0, 0.5]) * rng.normal(size=d)

    def outputs_of(count: int, readout: FloatArray, shift: FloatArray) -> tuple[FloatArray, FloatArray]:
        inputs = rng.normal(size=(count, d)) + shift
        return inputs, np.tanh(2 * inputs @ features) @ readout

    def rows(count: int) -> Rows:
        inputs, outputs = outputs_of(count, readout, drift)
        if kind == REGRESSION:
            unit = np.sqrt((readout**2).sum() / 3)  # about the standard deviation of the outputs
            return _rows(inputs, (outputs[:, 0] / unit + noise * rng.normal(size=count)).astype(np.float32), device)
        targets = _choose(rng, 1.5 * outputs / noise + 2 * uneven)
        targets = np.where(rng.random(count) < flipped, rng.integers(n_outputs, size=count), targets)
        return _rows(inputs, targets, device)

    inputs, outputs = outputs_of(counts[0], source_readout, np.zeros(d))
    source = _rows(inputs, _choose(rng, 5.0 * outputs), device)
    return Problem(
        "mlp", kind, CLASSIFICATION, source, rows(counts[1]), rows(counts[2]), d, 0, 0, n_source, n_outputs
    )  # fmt: skip


def _tokens(rng: np.random.Generator, body: str, kind: str, counts: tuple[int, int, int], device: str) -> Problem:
    vocabulary, n_topics = int(rng.choice([12, 16, 24, 32])), int(rng.choice([2, 3, 4, 5], p=[0.5, 0.2, 0.15, 0.15]))
    length = int(rng.integers(6, 11)) if body == "attention" else _CONTEXT
    if body == "mlp":
        n_topics = 1  # three tokens hardly tell topics apart
    sharp, related = rng.uniform(1.2, 3.5), rng.uniform(0.2, 0.97)
    source = rng.normal(size=(n_topics, vocabulary, vocabulary))
    target = related * source + np.sqrt(1 - related**2) * rng.normal(size=source.shape)
    flipped = rng.choice([0.0, rng.uniform(0, 0.3)])

    def rows(count: int, logits: FloatArray, *, by_topic: bool) -> Rows:
        topics = rng.integers(n_topics, size=count)
        tokens = _chains(rng, sharp * logits, topics, length + 1)
        targets = tokens[:, 1:] if body == "attention" else tokens[:, -1]
        if by_topic:
            targets = np.where(rng.random(count) < flipped, rng.integers(n_topics, size=count), topics)
        return _rows(tokens[:, :-1], targets, device)

    by_topic = kind == CLASSIFICATION
    data, validation = (rows(count, target, by_topic=by_topic) for count in counts[1:])
    n_outputs = n_topics if by_topic else vocabulary
    return Problem(
        body, kind, NEXT_TOKEN, rows(counts[0], source, by_topic=False), data, validation, 0, vocabulary, length,
        vocabulary, n_outputs,
    )  # fmt: skip


def _chains(rng: np.random.Generator, logits: FloatArray, topics: IntArray, length: int) -> IntArray:
    """R x length tokens; each row follows the Z x V x V transitions of its topic."""
    chance = np.exp(logits - logits.max(-1, keepdims=True))
    upto = np.cumsum(chance / chance.sum(-1, keepdims=True), -1)
    tokens = np.zeros((len(topics), length), int)
    tokens[:, 0] = rng.integers(logits.shape[1], size=len(topics))
    for t in range(1, length):
        tokens[:, t] = (upto[topics, tokens[:, t - 1], :-1] < rng.random(len(topics))[:, None]).sum(1)
    return tokens


def _choose(rng: np.random.Generator, logits: FloatArray) -> IntArray:
    """R classes, drawn by the softmax of R x K logits."""
    return np.asarray((logits + rng.gumbel(size=logits.shape)).argmax(1))


def _rows(inputs: FloatArray | IntArray, targets: FloatArray | IntArray, device: str) -> Rows:
    number = torch.float32 if inputs.dtype.kind == "f" else torch.int64
    return Rows(torch.as_tensor(inputs, dtype=number, device=device), torch.as_tensor(targets, device=device))
