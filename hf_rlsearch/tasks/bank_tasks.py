"""Turns tables of miniature trainings into tasks to search on: each use sees another part of a table.

What differs between uses: the objective, whether the last or the best evaluation counts, how many evaluations there
are, which hyperparameters are searched and which of their levels, which names are known, the imagined size of the
model, and the unit of the rates. All rates of a task are moved by one factor, so that what they owe to the number of
steps, the batch size and the optimizer stays.

Letters: B tasks, C candidates, H hyperparameters, L levels, S evaluations, M configurations of a table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.errors import StorageError
from hf_rlsearch.observation.curve_features import rank_correlation
from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.observation.value_features import KINDS, kind
from hf_rlsearch.space import ROLES, infer_role
from hf_rlsearch.tasks.miniature import Table
from hf_rlsearch.tasks.prior import TaskBatch
from hf_rlsearch.tasks.prior_space import MAX_HYPERPARAMETERS, MAX_LEVELS

MAX_EVALUATIONS = 12
_FEWEST = 30  # candidates that a part of a table must have
_TRIES = 1000

# Chances of a use of a table: all of its space; else, of each hyperparameter, that it is fixed at one level, and that
# only some of its levels are searched, of rates and of others.
_WHOLE = 0.15
_FIXED, _FIXED_RATE = 0.25, 0.04
_SOME_LEVELS, _SOME_RATES = 0.4, 0.7
# Share of the ranges whose middle lies near the best place: people search where they expect it. Share of the ranges of
# rates that end there: published rates are of longer trainings, and below the best place there may be chance only.
_INFORMED, _TOO_LOW = 0.85, 0.1
BEST_COUNTS = 0.5  # share of the uses in which the best evaluation counts, not the last
# Share of the uses with curves that are chosen for their early values: after a quarter of the trainings these order
# them much as the ends do, by a rank correlation of at least 0.85. It is that high in 8 of 11 families of recorded
# trainings, but in a third of the uses as they come: docs/background/log/2026-12-01-early-values.md.
TELLING, TELLS, _EARLY = 0.7, 0.85, 1 / 4
_MOST_LOOKS = 40  # at uses of tables, for one whose early values tell
_HIDE_ALL, _HIDE_ONE = 0.15, 0.05
_INERT = 0.15  # a hyperparameter without any effect, of which nothing is known
_UNKNOWN, _UNKNOWN_DIRECTION, _NOTHING_KNOWN = 0.35, 0.05, 0.4  # shares of facts, and of tasks without any
_NOISE = 1e-3  # the values are single trainings: their noise is in them already

# log10 of published rates at 1e8 parameters, and their change per decade of parameters: BERT (Devlin et al. 2019, A.3)
# and its successors; LoRA (Hu et al. 2021, appendix D), whose rates hardly depend on size; GPT-3 (Brown et al. 2020,
# table 2.1) and Vaswani et al. 2017 from scratch. Spread of a task around them, in decades.
_PUBLISHED = {"full": (-4.4, -0.25), "adapters": (-3.5, 0.0), "scratch": (-3.3, -0.2)}
_SPREAD = 0.45
# Decades between the published rates of an optimizer and AdamW's: SGD 1e-2 to 1e-3 (Howard and Ruder 2018), Lion three
# to ten times smaller (Chen et al. 2023), Adafactor 1e-3 (Raffel et al. 2020).
_PUBLISHED_OPTIMIZERS = {"adamw_torch": 0.0, "sgd": 2.3, "lion_32bit": -0.7, "adafactor": 0.5}
# Steps of the trainings that published rates are of, of the miniatures that the reference rates are of, and how much
# higher rates are where trainings are shorter.
_PUBLISHED_STEPS, _REFERENCE_STEPS, _PER_DECADE_SHORTER = 2000, 100, 0.5
# A step of a miniature stands for one to ten steps, a row for as many rows, a hidden unit for 16.
_MOST_TIMES, _UNITS = 10.0, 16
_FAMILIES = ("encoder", "decoder", "encoder_decoder")
_FARTHEST = -1e5  # utilities below it are no worse


def draw_from_bank(
    rng: np.random.Generator,
    tables: Sequence[Table],
    n_tasks: int,
    n_candidates: int = 256,
    *,
    curves: bool = False,
    best_counts: float = BEST_COUNTS,
    telling: float = TELLING,
) -> TaskBatch:
    """Draws parts of tables as tasks.

    Args:
        rng: Source of all randomness; same state and tables, same tasks.
        tables: From `bank.read_tables`.
        n_tasks: B.
        n_candidates: C; of a part with more configurations some are drawn, one with fewer is padded.
        curves: Give the tasks the learning curves of their trainings, and prices by the seconds of each. Else curves
            are simulated and prices are alike.
        best_counts: Share of the tasks in which the best evaluation of a training counts, not the last.
        telling: Share of the tasks with curves that are chosen by `early_values_tell`.

    Raises:
        StorageError: There are no tables, or none whose values differ.
    """
    must_tell = rng.random(n_tasks) < telling if curves else np.zeros(n_tasks, bool)
    drawn = [_draw_use(rng, tables, n_candidates, best_counts, curves=curves, must_tell=bool(t)) for t in must_tell]
    return TaskBatch(**{field.name: np.stack([use[field.name] for use in drawn]) for field in fields(TaskBatch)})


@dataclass
class _Part:
    """What one use sees of a table.

    Attributes:
        rows: The configurations, as indices of the table.
        levels: Per hyperparameter of the table the indices of its levels that are searched; one is a fixed value.
        values: A value per configuration of the table, larger is better, finite.
        curves: What a search reads, per configuration and evaluation: the best value so far where the best counts, else
            the newest. No evaluations where curves are to be simulated.
        untrained: The value before the first step.
        maximize: True for a score, False for a loss.
    """

    rows: IntArray
    levels: list[IntArray]
    values: FloatArray
    curves: FloatArray
    untrained: float
    maximize: bool


def _draw_use(
    rng: np.random.Generator,
    tables: Sequence[Table],
    n_candidates: int,
    best_counts: float,
    *,
    curves: bool,
    must_tell: bool,
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one task, padded, by the names of `TaskBatch`."""
    for look in range(_TRIES if len(tables) else 0):
        table = tables[int(rng.integers(len(tables)))]
        part = _draw_part(rng, table, n_candidates, best_counts, curves=curves)
        values = part.values[part.rows]
        spread = values.max() - np.median(values)
        differ = spread > 1e-3 * max(abs(values.max()), 1e-3) and any(len(levels) > 1 for levels in part.levels)
        if differ and (not must_tell or look >= _MOST_LOOKS or early_values_tell(part.curves[part.rows])):
            return _space_arrays(rng, table, part, n_candidates) | _value_arrays(table, part, n_candidates)
    raise StorageError(
        f"None of {len(tables)} tables has values that differ, so there is nothing to search: read more tables."
    )


def early_values_tell(curves: FloatArray) -> bool:
    """Whether values after a quarter of M x S learning curves order the trainings much as their ends do."""
    early, late = curves[None, :, round(_EARLY * curves.shape[1]) - 1], curves[None, :, -1]
    return bool(rank_correlation(early, late, np.ones_like(early, dtype=bool))[0] >= TELLS)


def _draw_part(rng: np.random.Generator, table: Table, n_candidates: int, best_counts: float, *, curves: bool) -> _Part:
    """Draws an objective, an aggregation, evaluations, and a part of the space with enough configurations."""
    score = int(rng.integers(len(table["score_names"])))
    maximize, use_best = str(table["score_names"][score]) != "loss", rng.random() < best_counts
    n_evaluations = table["scores"].shape[1] - 1
    count = int(rng.integers(1, n_evaluations + 1))
    shown = np.concatenate([[0], -(-np.arange(1, count + 1) * n_evaluations // count)])
    if curves:  # as many for every task; a fraction between two evaluations has the value of the next one
        shown = -(-np.arange(MAX_EVALUATIONS + 1) * n_evaluations // MAX_EVALUATIONS)
    found = _finite((1 if maximize else -1) * table["scores"][:, shown, score].astype(float))
    trained = np.maximum.accumulate(found[:, 1:], axis=1) if use_best else found[:, 1:]
    values = trained[:, -1]
    rows, levels = np.arange(len(values)), _all_levels(table)
    if rng.random() >= _WHOLE:
        for h in rng.permutation(len(levels)):
            kept = _draw_levels(rng, table, int(h), values[rows], rows)
            left = rows[np.isin(table["cells"][rows, h], kept)]
            if len(left) >= _FEWEST:
                rows, levels[h] = left, kept
    rows = np.sort(rng.permutation(rows)[:n_candidates])
    untrained = float(np.median(found[:, 0]))
    return _Part(rows, levels, values, trained if curves else trained[:, :0], untrained, maximize)


def _all_levels(table: Table) -> list[IntArray]:
    return [np.arange(len(_levels(table, h))) for h in range(len(table["names"]))]


def _finite(values: FloatArray) -> FloatArray:
    """Puts what a diverged training gave, nan or an infinite loss, below everything that is finite."""
    finite = np.isfinite(values)
    if finite.all():
        return values
    low, high = values[finite].min(), values[finite].max()
    return np.where(finite, values, low - 0.1 * max(high - low, 1e-6))


def _draw_levels(rng: np.random.Generator, table: Table, h: int, values: FloatArray, rows: IntArray) -> IntArray:
    """Levels of one hyperparameter that a use searches: all, one, or some."""
    n, is_rate = len(_levels(table, h)), table["settings"][h] == "learning_rate"
    fixed, some = (_FIXED_RATE, _SOME_RATES) if is_rate else (_FIXED, _SOME_LEVELS)
    draw = rng.random()
    if draw < fixed:
        return rng.integers(n, size=1)
    if draw > fixed + some:
        return np.arange(n)
    count = int(rng.integers(min(3 if is_rate else 2, n), n + 1))
    if _levels(table, h).dtype.kind == "U":
        return np.sort(rng.permutation(n)[:count])
    first = np.arange(n - count + 1)
    best = table["cells"][rows[np.argsort(-values)[: max(len(values) // 10, 1)]], h].mean()
    middle = best - count / 2 if is_rate and rng.random() < _TOO_LOW else best
    away = (first + (count - 1) / 2 - middle) / (0.2 * count) * (rng.random() < _INFORMED)
    chance = np.exp(-(away**2) / 2) + 1e-9
    return int(rng.choice(first, p=chance / chance.sum())) + np.arange(count)


def _levels(table: Table, h: int) -> npt.NDArray[Any]:
    return table[f"levels_{h}"]


def _space_arrays(
    rng: np.random.Generator, table: Table, part: _Part, n_candidates: int
) -> dict[str, npt.NDArray[Any]]:
    """Roles, levels, candidates, steps and facts of a task about an imagined model."""
    H, L = MAX_HYPERPARAMETERS, MAX_LEVELS
    arrays: dict[str, npt.NDArray[Any]] = {
        "roles": np.full(H, -1), "ordered": np.zeros(H, bool), "log": np.zeros(H, bool),
        "levels": np.full((H, L), np.nan), "sizes": np.full((H, L), np.nan), "kinds": np.zeros((H, L), int),
        "n_levels": np.zeros(H, int), "candidates": np.zeros((n_candidates, H), int),
        "present": np.zeros((n_candidates, H), bool),
    }  # fmt: skip
    size, times = float(np.clip(rng.normal(8.0, 0.8), 5.5, 10.5)), float(_MOST_TIMES ** rng.random())
    factors = {"learning_rate": 10 ** _rate_shift(rng, table, size, times), "max_steps": times, "width": _UNITS}
    searched = [h for h, levels in enumerate(part.levels) if len(levels) > 1]
    hide_all = rng.random() < _HIDE_ALL
    for place, h in enumerate(rng.permutation(searched)):
        factor, hidden = factors.get(str(table["settings"][h]), 1), hide_all or rng.random() < _HIDE_ONE
        described = _describe(rng, table, int(h), part.levels[h], factor, size, hidden=hidden)
        for name, values in described.items():
            arrays[name][place, ...] = values
        arrays["candidates"][: len(part.rows), place] = np.searchsorted(part.levels[h], table["cells"][part.rows, h])
    if rng.random() < _INERT:
        _add_inert(rng, arrays, len(searched), len(part.rows))
    arrays["present"][: len(part.rows)] = arrays["roles"] >= 0
    arrays["facts"] = _facts(rng, table, part, np.nan if "model" in table["settings"][searched] else size, times)
    return arrays


def _describe(
    rng: np.random.Generator, table: Table, h: int, kept: IntArray, factor: float, size: float, *, hidden: bool
) -> dict[str, Any]:
    """Role, levels and kinds of one hyperparameter of a table.

    Args:
        rng: Source of randomness.
        table: The table.
        h: Which of its hyperparameters.
        kept: The levels that are searched.
        factor: Of the levels, from the miniature to the imagined model.
        size: log10 of the parameters of the imagined model.
        hidden: Nobody knows what the name means.
    """
    levels, n = _levels(table, h)[kept], len(kept)
    known_values = CategoricalDistribution(tuple(levels.tolist()))
    role = infer_role("" if hidden else str(table["names"][h]), known_values)
    row = np.full(MAX_LEVELS, np.nan)
    described: dict[str, Any] = {"roles": ROLES.index(role), "n_levels": n}
    if levels.dtype.kind != "U":
        row[:n] = levels * factor
        far = row[0] > 0 and row[n - 1] >= 8 * row[0]
        return described | {"ordered": True, "levels": row, "log": table["settings"][h] == "learning_rate" or far}
    if hidden:
        return described
    if table["settings"][h] == "model":
        row[:n] = size + np.log10(table["n_parameters"] / table["n_parameters"][0])[kept]
        return described | {"sizes": row, "kinds": KINDS.index(str(rng.choice(_FAMILIES))) * ~np.isnan(row)}
    return described | {"kinds": np.array([kind(level) for level in levels.tolist()] + [0] * (MAX_LEVELS - n))}


def _rate_shift(rng: np.random.Generator, table: Table, size: float, times: float) -> float:
    """Decades between the rates of a miniature and those of the imagined model, for all rates of a task alike."""
    optimizer = json.loads(str(table["defaults"]))["optimizer"]
    at_1e8, per_decade = _PUBLISHED[str(table["method"])]
    published = at_1e8 + per_decade * (size - 8) + _PUBLISHED_OPTIMIZERS[optimizer]
    shorter = np.log10(_PUBLISHED_STEPS / (_REFERENCE_STEPS * times))
    return float(published + _PER_DECADE_SHORTER * shorter - table["reference_rate"] + _SPREAD * rng.standard_normal())


def _add_inert(rng: np.random.Generator, arrays: dict[str, npt.NDArray[Any]], place: int, n_rows: int) -> None:
    """Adds a hyperparameter that has no effect."""
    n, is_number = int(rng.integers(2, 7)), rng.random() < 0.7
    arrays["roles"][place] = ROLES.index("generic_numeric" if is_number else "generic_categorical")
    arrays["n_levels"][place], arrays["ordered"][place] = n, is_number
    if is_number:
        arrays["levels"][place, :n] = np.arange(n) * 10 ** rng.uniform(-3, 2)
    arrays["candidates"][:n_rows, place] = rng.integers(n, size=n_rows)


def _facts(rng: np.random.Generator, table: Table, part: _Part, size: float, times: float) -> FloatArray:
    """What is known of the task, in the order of `FACTS`."""
    n_classes = int(table["n_classes"]) if part.maximize and str(table["kind"]) == "classification" else 0
    facts = {
        "n_parameters": size,
        "n_examples": np.log10(float(table["n_rows"]) * times),
        "maximize": float(part.maximize),
        "lora": float(table["method"] == "adapters"),
        "from_scratch": float(table["method"] == "scratch"),
        "n_steps": np.log10(float(np.median(table["steps"])) * times),
        "n_evaluated": np.log10(float(table["n_validation"])),
        "n_classes": np.log10(n_classes) if n_classes else np.nan,
        "trainable": np.log10(max(float(np.median(table["trainable"])), 1e-4)),
        "untrained": part.untrained,
    }
    nothing = rng.random() < _NOTHING_KNOWN
    known = [
        rng.random() > (_UNKNOWN_DIRECTION if name == "maximize" else _UNKNOWN) and (name == "maximize" or not nothing)
        for name in FACTS
    ]
    return np.where(known, [facts[name] for name in FACTS], np.nan)


def _value_arrays(table: Table, part: _Part, n_candidates: int) -> dict[str, npt.NDArray[Any]]:
    """Values, curves and prices."""
    values = part.values[part.rows]
    median = float(np.median(values))
    spread = float(values.max()) - median
    curves = np.full((n_candidates, part.curves.shape[1]), median)
    curves[: len(values)] = part.curves[part.rows]
    seconds = table["seconds"][part.rows] if part.curves.shape[1] else np.ones(len(values))
    return {
        "candidate_mask": np.arange(n_candidates) < len(values),
        "utility": np.maximum(_padded((values - median) / spread, n_candidates, -10.0), _FARTHEST),
        "values": np.maximum(_padded(values, n_candidates, median), median + _FARTHEST * spread),
        "noise": np.full(n_candidates, 0.0 if part.curves.shape[1] else _NOISE),
        "spread": np.array(spread),
        "median": np.array(median),
        "curves": np.maximum(curves, median + _FARTHEST * spread),
        "prices": _padded(seconds / seconds.mean(), n_candidates, 1.0),
    }


def _padded(values: npt.NDArray[Any], length: int, filler: float = np.nan) -> FloatArray:
    """As floats, with `filler` for the candidates that there are not."""
    return np.concatenate([np.asarray(values, float), np.full(length - len(values), filler)])
