"""Reads recorded tasks: tables of real trainings, in which each configuration of a grid was trained once.

A folder of recorded tasks holds a `tasks.json` and a CSV per task, gzipped where its name ends in `.gz`:

- `tasks.json`: by task name `path` (of the CSV, from the folder or from the one above), `family`, `direction`
  ("maximize" or "minimize") and `hyperparameters`, each with `name`, `levels`, `ordered` (numbers) and `log`.
  It may also have what `scripts/record_trainings.py` writes: the `facts` of the task, `metric`, `model`, `lora` and the
  Trainer's own `arguments`;
- the CSV: a line per training with `hp:<name>` for every hyperparameter, `objective`, and, where it was recorded,
  `curve`: the objective at every checkpoint, separated by spaces, and `seconds` of the processor.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray, Params
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.observation.observation import FACTS, has_learnt

_COUNTS = {
    "n_parameters": "n_parameters",
    "trainable": "trainable_share",
    "n_examples": "n_train",
    "n_steps": "planned_steps",
    "n_evaluated": "n_eval",
    "n_classes": "n_classes",
}
"""Facts that are counts or shares: by the name that `RLSampler` knows, the name in `tasks.json`."""


@dataclass(frozen=True)
class RecordedHyperparameter:
    """A hyperparameter of a table.

    Attributes:
        name: As in the table.
        levels: Its values, ascending where they are ordered.
        ordered: The levels are numbers.
        log: Their distances are best seen on a logarithmic axis.
    """

    name: str
    levels: tuple[Any, ...]
    ordered: bool
    log: bool

    def index(self, text: str) -> int:
        """The level that a cell of the CSV names.

        Raises:
            ValueError: There is no such level.
        """
        if self.ordered:
            return self.levels.index(float(text))
        return [str(level) for level in self.levels].index(text)


@dataclass(frozen=True)
class _Table:
    """R trainings: levels R x H, objective R, and curves as written and seconds, empty and 1 where not recorded."""

    rows: IntArray
    values: FloatArray
    curves: tuple[str, ...]
    seconds: FloatArray


class RecordedTask:
    """A table of trainings as a thing to be tuned; the CSV is read when a value is first asked for.

    Args:
        name: Of the task.
        path: The CSV.
        meta: Its entry in `tasks.json`.

    Attributes:
        name: Of the task.
        path: The CSV.
        meta: Its entry in `tasks.json`.
        family: Of similar tasks.
        direction: "maximize" or "minimize".
        hyperparameters: Of every configuration, in this order.

    Raises:
        ArgumentsError: The entry lacks a key, or has a direction that is none.
    """

    def __init__(self, name: str, path: Path, meta: Mapping[str, Any]) -> None:
        try:
            self.family: str = meta["family"]
            self.direction: str = meta["direction"]
            self.hyperparameters = tuple(
                RecordedHyperparameter(h["name"], tuple(h["levels"]), bool(h["ordered"]), bool(h["log"]))
                for h in meta["hyperparameters"]
            )
        except KeyError as error:
            raise ArgumentsError(f"task {name!r} of {path.parent} has no {error} in its tasks.json.") from error
        if self.direction not in ("maximize", "minimize"):
            raise ArgumentsError(f"task {name!r} has direction {self.direction!r}: expected 'maximize' or 'minimize'.")
        self.name = name
        self.path = path
        self.meta = meta
        self._nearest: dict[tuple[int, ...], int] = {}

    def __repr__(self) -> str:
        return f"RecordedTask({self.name!r})"

    @property
    def maximize(self) -> bool:
        """Larger objectives are better."""
        return self.direction == "maximize"

    @cached_property
    def facts(self) -> dict[str, float]:
        """What is known before the first trial, by the names of `RLSampler`; empty for a table without facts."""
        stored: Mapping[str, Any] = self.meta.get("facts", {})
        known = {name: math.log10(stored[own]) for name, own in _COUNTS.items() if stored.get(own)}
        if stored:
            known["lora"] = float(self.meta.get("lora") is not None)
        if "from_scratch" in stored:
            known["from_scratch"] = float(stored["from_scratch"])
        if self.meta.get("metric") in stored.get("untrained", {}):
            known["untrained"] = float(stored["untrained"][self.meta["metric"]])
        return known

    @cached_property
    def above_chance(self) -> BoolArray:
        """(R,) trainings that are above the untrained model by more than noise; none where that model is unknown."""
        known = {**self.facts, "maximize": float(self.maximize)}
        sign = 1.0 if self.maximize else -1.0
        if "untrained" not in known:
            return np.zeros(len(self.values), bool)
        known["untrained"] *= sign
        facts = np.array([[known.get(name, np.nan) for name in FACTS]]).repeat(len(self.values), 0)
        best = np.full(len(self.values), sign * self.best)
        return np.asarray(has_learnt(facts, sign * self.values, best) > 0)

    @cached_property
    def n_levels(self) -> IntArray:
        """(H,) number of levels of each hyperparameter."""
        return np.array([len(h.levels) for h in self.hyperparameters])

    @cached_property
    def _table(self) -> _Table:
        return _read(self.path, self.hyperparameters)

    @property
    def rows(self) -> IntArray:
        """R x H levels of its trainings."""
        return self._table.rows

    @property
    def values(self) -> FloatArray:
        """(R,) objective of every recorded training, in the units of the table."""
        return self._table.values

    @cached_property
    def best(self) -> float:
        """The best objective of the table."""
        return float(self.values.max() if self.maximize else self.values.min())

    @cached_property
    def median(self) -> float:
        """The median objective of the table."""
        return float(np.median(self.values))

    @cached_property
    def has_curves(self) -> bool:
        """Every training has its learning curve."""
        return all(self._table.curves)

    @cached_property
    def full_training(self) -> float:
        """Checkpoints of an average training; 1 without curves."""
        return float(np.mean([len(c.split()) for c in self._table.curves])) if self.has_curves else 1.0

    @cached_property
    def max_resource(self) -> int:
        """Checkpoints that nine in ten trainings do not exceed; 1 without curves."""
        return int(np.quantile([len(c.split()) for c in self._table.curves], 0.9)) if self.has_curves else 1

    def row(self, levels: IntArray | Collection[int]) -> int:
        """The training that serves a configuration: its own, or the nearest one where it was never trained.

        Args:
            levels: (H,) level of each hyperparameter.

        Raises:
            ArgumentsError: Not one level per hyperparameter, or out of range.
        """
        key = tuple(int(i) for i in levels)
        if len(key) != len(self.n_levels) or any(not 0 <= i < n for i, n in zip(key, self.n_levels, strict=True)):
            raise ArgumentsError(
                f"levels {key} of {self.name!r}: expected one each of {self.n_levels.tolist()} levels."
            )
        if key not in self._nearest:
            self._nearest[key] = self._search(np.array(key))
        return self._nearest[key]

    def _search(self, levels: IntArray) -> int:
        """Squared distance, each hyperparameter from 0 to 1: by place where ordered, else same or not. Ties: first."""
        ordered = np.array([h.ordered for h in self.hyperparameters])
        difference = np.abs(self._table.rows - levels)
        place = difference / np.maximum(self.n_levels - 1, 1)
        return int((np.where(ordered, place, difference > 0) ** 2).sum(1).argmin())

    def value(self, levels: IntArray | Collection[int]) -> float:
        """The objective of a configuration, in the units of the table."""
        return float(self.values[self.row(levels)])

    def seconds(self, levels: IntArray | Collection[int]) -> float:
        """What a configuration takes, in seconds of the processor; 1 where it was not recorded."""
        return float(self._table.seconds[self.row(levels)])

    def price(self, levels: IntArray | Collection[int], *, in_seconds: bool) -> float:
        """What a checkpoint of a configuration costs, in average trainings of the table.

        All checkpoints cost the same, or what they take: the seconds of the training, shared equally among its own.
        """
        if not in_seconds:
            return 1 / self.full_training
        return self.seconds(levels) / self.mean_seconds / len(self.curve(levels))

    @property
    def mean_seconds(self) -> float:
        """What a training of the table takes on average."""
        return float(self._table.seconds.mean())

    def curve(self, levels: IntArray | Collection[int]) -> FloatArray:
        """(S,) objective of a configuration at every checkpoint, in the units of the table.

        Raises:
            ArgumentsError: No curve was recorded.
        """
        text = self._table.curves[self.row(levels)]
        if not text:
            raise ArgumentsError(f"task {self.name!r} has no learning curves: only `value` can be asked for.")
        return np.array(text.split(), float)

    def regret(self, values: FloatArray | float) -> FloatArray:
        """Objectives -> 0 for the best of the table, 1 for its median; same shape.

        A table whose best is its median has no scale: 0 for the best, infinity for anything else.
        """
        distance = np.abs(np.asarray(values, float) - self.best)
        better = (np.asarray(values, float) - self.best) * (1 if self.maximize else -1) > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = distance / abs(self.median - self.best)
        return np.where(distance == 0, 0.0, np.where(better, -scaled, scaled))

    def params(self, levels: IntArray | Collection[int]) -> Params:
        """The configuration of some levels by name."""
        return {h.name: h.levels[int(i)] for h, i in zip(self.hyperparameters, levels, strict=True)}


def load_tasks(
    folder: str | Path, *, families: Collection[str] | None = None, names: Collection[str] | None = None
) -> list[RecordedTask]:
    """The recorded tasks of a folder, and of the folders in it; no table is read yet.

    A folder `second_test` is read only where it is named itself, so that nobody looks at its tables by accident.

    Args:
        folder: Holds a `tasks.json`, or folders that hold one.
        families: Only tasks of these families.
        names: Only these tasks.

    Raises:
        ArgumentsError: There is no `tasks.json`, it cannot be read, or a family or name is unknown.
    """
    below = [index for index in Path(folder).glob("*/tasks.json") if index.parent.name != "second_test"]
    indices = sorted([*Path(folder).glob("tasks.json"), *below])
    if not indices:
        raise ArgumentsError(
            f"{str(folder)!r} holds no recorded tasks: neither it nor a folder in it has a tasks.json."
        )
    tasks = [task for index in indices for task in _read_index(index)]
    for wanted, known, kind in (
        (families, {t.family for t in tasks}, "families"),
        (names, {t.name for t in tasks}, "tasks"),
    ):
        if unknown := sorted(set(wanted or ()) - known):
            raise ArgumentsError(f"{str(folder)!r} has no {kind} {unknown}; it has {sorted(known)}.")
    return [t for t in tasks if (not families or t.family in families) and (not names or t.name in names)]


def _read_index(index: Path) -> list[RecordedTask]:
    try:
        entries = json.loads(index.read_text())
        paths = {
            name: [f / meta["path"] for f in (index.parent, index.parent.parent)] for name, meta in entries.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgumentsError(f"{str(index)!r} is not a list of recorded tasks: {error!r}.") from error
    found = {name: next((p for p in options if p.is_file()), None) for name, options in paths.items()}
    if missing := sorted(name for name, path in found.items() if path is None):
        raise ArgumentsError(f"{str(index)!r} names tables that are not there: those of {missing}.")
    return [RecordedTask(name, path, entries[name]) for name, path in found.items() if path is not None]


@lru_cache(maxsize=64)
def _read(path: Path, hyperparameters: tuple[RecordedHyperparameter, ...]) -> _Table:
    """Reads a CSV once per process."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    rows, values, curves, seconds = [], [], [], []
    for number, line in enumerate(csv.DictReader(io.StringIO(text)), 2):
        try:
            rows.append([h.index(line[f"hp:{h.name}"]) for h in hyperparameters])
            values.append(float(line["objective"]))
            curves.append(line.get("curve") or "")
            seconds.append(float(line.get("seconds") or 1))
        except (KeyError, ValueError) as error:
            raise ArgumentsError(f"line {number} of {path.name!r} does not fit its tasks.json: {error!r}.") from error
    if not rows or not np.isfinite(values).all():
        raise ArgumentsError(f"{path.name!r} holds no trainings, or one whose objective is not finite.")
    return _Table(np.array(rows), np.array(values), tuple(curves), np.array(seconds))
