"""Makes one table: a search space, and what every configuration of it gave in a miniature training.

The table of a seed is the same whenever and wherever it is made by the same versions of numpy and torch on the same
kind of processor with the same number of threads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt
import torch

from hf_rlsearch._typing import IntArray
from hf_rlsearch.tasks.miniature import Table
from hf_rlsearch.tasks.miniature.network import NetworkShape, parameters_of
from hf_rlsearch.tasks.miniature.problem import KINDS, Problem, draw_problem
from hf_rlsearch.tasks.miniature.scores import NEXT_TOKEN, SCORES
from hf_rlsearch.tasks.miniature.space import SCRATCH, SMALLEST_BATCH, MiniatureSpace, draw_space, fit_batches
from hf_rlsearch.tasks.miniature.training import Results, Rows, Settings, Start, pretrain, steps_of, train

_ONE_SEED = 0.65  # share of the tasks whose trainings share a seed
_MOST_SEQUENCES = 256  # to evaluate attention on: a token costs as much as a row of an MLP
_NARROW = 0.65  # share of the new heads on a body whose rows look alike, and of those that read it attenuated
_N_REPEATED = 8  # configurations that are trained once more, for the noise of a training


@dataclass(frozen=True)
class MiniatureSize:
    """How large the tasks of a bank are.

    Attributes:
        n_configurations: Fewest and most configurations of a task.
        n_rows: Fewest and most rows to train on.
        n_validation: Rows to evaluate on, one of these.
        n_evaluations: Fewest and most evaluations of a training.
        pretraining_steps: Fewest and most steps of the pretraining.
        max_steps: Of the longest training, for an MLP and for attention.
        max_work: Floating-point operations of a task; where there would be more, it gets fewer configurations, then
            fewer rows.
    """

    n_configurations: tuple[int, int] = (96, 256)
    n_rows: tuple[int, int] = (64, 2048)
    n_validation: tuple[int, ...] = (64, 100, 200, 400, 800)
    n_evaluations: tuple[int, int] = (8, 12)
    pretraining_steps: tuple[int, int] = (150, 500)
    max_steps: tuple[int, int] = (500, 250)
    max_work: float = 2.5e10


def make_table(seed: int, size: MiniatureSize | None = None, device: str = "cpu") -> Table:
    """Draws a task, trains all its configurations, and returns what there is to know of it.

    Args:
        seed: Of everything.
        size: How large the task is.
        device: Where it is trained; another device gives other numbers.

    Returns:
        Arrays by name, for M configurations, H hyperparameters, E evaluations and S scores:

        - ``names``, ``settings``: H names as people write them, and what each one sets (`training.DEFAULTS`);
          ``levels_0`` to ``levels_{H-1}``: ascending numbers, or texts; ``cells``: M x H level indices.
        - ``score_names``: S; ``scores``: M x (E + 1) x S, the first evaluation before the first step, nan where a
          training has diverged; ``train_loss``: M x E.
        - ``steps``, ``trainable``, ``seconds``: M planned steps, trained shares of the weights, and seconds on an
          imagined machine; ``network``: M indices into ``n_parameters``, the sizes of the networks.
        - ``repeated``, ``repeated_scores``: some configurations that were trained once more with another seed.
        - single values: ``seed``, ``body``, ``kind``, ``method``, ``n_rows``, ``n_validation``, ``n_classes``,
          ``one_seed``, ``gain``, ``common`` (see `NetworkShape`), ``reference_rate``, ``defaults`` (a JSON text).
    """
    size = size or MiniatureSize()
    rng = np.random.default_rng(seed)
    body, kind, _ = KINDS[int(rng.choice(len(KINDS), p=[share for _, _, share in KINDS]))]
    n_rows = round(float(np.exp(rng.uniform(*np.log(size.n_rows)))))
    max_steps = size.max_steps[body == "attention"]
    space = draw_space(rng, body, size.n_configurations, max_steps)
    n_evaluations = int(rng.integers(*size.n_evaluations, endpoint=True))
    most = _MOST_SEQUENCES if body == "attention" else max(size.n_validation)
    n_validation = min(int(rng.choice(size.n_validation)), most)
    problem = draw_problem(rng, body, kind, n_rows, n_validation, device)
    shapes, network = _shapes(rng, problem, space)
    space, network, n_rows = _within(size, space, shapes, network, problem, n_evaluations)
    space = fit_batches(space, n_rows, max_steps)
    problem = replace(problem, data=Rows(problem.data.inputs[:n_rows], problem.data.targets[:n_rows]))
    starts = _starts(rng, problem, shapes, space.method, size.pretraining_steps)
    one_seed = bool(rng.random() < _ONE_SEED)

    def run(settings: Settings) -> Results:
        return train(
            kind, starts, problem.data, problem.validation, settings, int(rng.integers(2**31)), n_evaluations,
            one_seed=one_seed,
        )  # fmt: skip

    settings = space.training_settings(network)
    results = run(settings)
    repeated = np.sort(rng.permutation(len(space.cells))[:_N_REPEATED])
    again = run({name: values[repeated] for name, values in settings.items()})
    return {
        "names": np.array(space.names),
        "settings": np.array(space.settings),
        **{f"levels_{h}": levels for h, levels in enumerate(space.levels)},
        "cells": space.cells.astype(np.int16),
        "score_names": np.array(SCORES[kind]),
        "scores": results.scores.astype(np.float32),
        "train_loss": results.train_loss.astype(np.float32),
        "steps": results.steps.astype(np.int32),
        "trainable": results.trainable.astype(np.float32),
        "seconds": results.seconds.astype(np.float32),
        "network": network.astype(np.int16),
        "n_parameters": np.array([_size(shape) for shape in shapes]),
        "repeated": repeated.astype(np.int16),
        "repeated_scores": again.scores.astype(np.float32),
        "seed": np.array(seed),
        "body": np.array(body),
        "kind": np.array(kind),
        "method": np.array(space.method),
        "n_rows": np.array(n_rows),
        "n_validation": np.array(n_validation),
        "n_classes": np.array(problem.n_classes),
        "one_seed": np.array(one_seed),
        "gain": np.array(shapes[0].gain),
        "common": np.array(shapes[0].common),
        "reference_rate": np.array(space.reference_rate),
        "defaults": np.array(json.dumps(dict(space.defaults), sort_keys=True)),
    }


def _shapes(rng: np.random.Generator, problem: Problem, space: MiniatureSpace) -> tuple[list[NetworkShape], IntArray]:
    """The architectures of a space, and M indices: which one each configuration has."""
    gain = common = 0.0
    if space.method != SCRATCH and problem.kind != NEXT_TOKEN:
        gain, common = (rng.random(2) < _NARROW) * rng.uniform((-1.3, 0), (0, 4))
    base = NetworkShape(
        problem.body, problem.n_inputs, problem.vocabulary, problem.length, 0, 0, problem.n_outputs,
        per_token=problem.body == "attention" and problem.kind == NEXT_TOKEN, residual=bool(rng.random() < 0.5),
        gain=float(10**gain), common=float(common),
    )  # fmt: skip
    # Backbones of other sizes, the first one that of the defaults; a space without backbones never sees the others.
    deepest = 2 if problem.body == "attention" else 4
    others = [(int(rng.choice([8, 12, 16, 24, 32, 48, 64])), int(rng.integers(1, deepest + 1))) for _ in range(3)]
    widths, depths = space.values("width"), space.values("depth")
    rows = []
    # A token costs an MLP's row several times over: attention gets half of the width.
    divisor = 2 if problem.body == "attention" else 1
    for *size, activation, model in zip(widths, depths, space.values("activation"), space.values("model"), strict=True):
        width, depth = size if model == "a" else others["bcd".index(model)]
        shape = replace(base, width=int(width) // divisor, depth=int(depth), activation=str(activation))
        rows.append((str(model), shape))
    found = sorted(set(rows), key=str)
    return [shape for _, shape in found], np.array([found.index(row) for row in rows])


def _within(
    size: MiniatureSize,
    space: MiniatureSpace,
    shapes: list[NetworkShape],
    network: IntArray,
    problem: Problem,
    n_evaluations: int,
) -> tuple[MiniatureSpace, IntArray, int]:
    """Fewer configurations, then fewer rows or smaller batches, where a task would be too much work."""
    tokens, n_rows = max(problem.length, 1), len(problem.data)
    a_row = 2.0 * tokens * np.array([_size(shape) for shape in shapes])[network]

    def work() -> npt.NDArray[np.float64]:
        settings = space.training_settings(network)
        trained = steps_of(settings, n_rows) * settings["batch_size"] * settings["accumulation"]
        return np.asarray(a_row * (3 * trained + n_evaluations * len(problem.validation)))

    n = max(int(np.searchsorted(np.cumsum(work()), size.max_work)), size.n_configurations[0])
    while n_rows > size.n_rows[0] and work()[:n].sum() > size.max_work:
        n_rows = max(n_rows * 2 // 3, size.n_rows[0])
    while (
        "max_steps" in space.settings
        and space.smallest_batch >= 2 * SMALLEST_BATCH
        and work()[:n].sum() > size.max_work
    ):
        space = space.with_batches(0.5)
    return replace(space, cells=space.cells[:n]), network[:n], n_rows


def _starts(
    rng: np.random.Generator, problem: Problem, shapes: list[NetworkShape], method: str, steps: tuple[int, int]
) -> list[Start]:
    """Pretrains each network, unless trainings begin with random weights."""
    if method == SCRATCH:
        return [Start(shape) for shape in shapes]
    starts = []
    for shape in shapes:
        source = replace(
            shape,
            n_outputs=problem.n_source_outputs,
            common=0.0,
            gain=1.0,
            per_token=problem.body == "attention" and problem.source_kind == NEXT_TOKEN,
        )
        generator = torch.Generator(problem.source.inputs.device).manual_seed(int(rng.integers(2**31)))
        weights = pretrain(
            problem.source_kind, source, problem.source, generator, steps=int(rng.integers(*steps, endpoint=True)),
            rate=float(10 ** rng.uniform(-2.6, -2.0)),
        )  # fmt: skip
        starts.append(Start(shape, weights, new_head=problem.kind != NEXT_TOKEN))
    return starts


def _size(shape: NetworkShape) -> int:
    return sum(prod(parameter.shape) for parameter in parameters_of(shape).values())
