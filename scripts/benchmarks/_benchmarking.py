"""Stores results of benchmarks as they finish, and makes statistics with intervals, tables and a figure of them.

A cell is one search: a method on a task with a seed. Its result is the normalised regret of the best so far after each
unit of budget (a trial, or the compute of a full training), 0 = best of the table, 1 = its median.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from hf_rlsearch._typing import FloatArray
from recorded_tasks import RecordedTask

N_BOOTSTRAP = 2000
Cell = tuple[str, str, int]
"""Method, task, seed."""


def seed_of(task: str, seed: int) -> int:
    """The seed of a search: the same for every method, another one for every task."""
    return int.from_bytes(hashlib.sha256(f"{task}/{seed}".encode()).digest()[:4], "big") // 2


@dataclass
class Results:
    """All finished cells, and a file that they are written to.

    Attributes:
        path: JSON file; read if it exists, so that an interrupted benchmark continues.
        settings: What every cell depends on; a file with other settings is refused.
        cells: Results by "method|task|seed".
        extra: Other measurements by name, such as times.
    """

    path: Path
    settings: dict[str, Any]
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._written = time.monotonic()
        if not self.path.exists():
            return
        stored = json.loads(self.path.read_text())
        if stored["settings"] != self.settings:
            raise SystemExit(
                f"{self.path} has searches with {stored['settings']}, not {self.settings}: give another --out."
            )
        self.cells, self.extra = stored["cells"], stored["extra"]

    @staticmethod
    def key(cell: Cell) -> str:
        """Name of a cell in the file."""
        return "|".join(map(str, cell))

    def drop_stale(self, made_by: Mapping[str, str]) -> None:
        """Forgets cells that something else has made: by method, what its cells say in "made_by"."""
        stale = [k for k, c in self.cells.items() if c["made_by"] != made_by.get(k.split("|")[0], c["made_by"])]
        for key in stale:
            del self.cells[key]
        if stale:
            print(f"{len(stale)} searches of other weights are forgotten")

    def add(self, cell: Cell, result: dict[str, Any]) -> None:
        """Takes a finished cell; the file is written every few seconds."""
        self.cells[self.key(cell)] = result
        if time.monotonic() - self._written > 5:
            self.write()

    def write(self) -> None:
        """Writes the file, in one piece or not at all."""
        draft = self.path.with_name(self.path.name + ".part")
        draft.write_text(json.dumps({"settings": self.settings, "cells": self.cells, "extra": self.extra}))
        draft.replace(self.path)
        self._written = time.monotonic()


def run_cells(
    results: Results,
    cells: Sequence[Cell],
    run: Callable[[Cell], dict[str, Any]],
    made_by: Mapping[str, str],
    jobs: int,
) -> None:
    """Runs the cells that are not finished, in this process or in `jobs` of them; `run` must be picklable then."""
    todo = [cell for cell in cells if results.key(cell) not in results.cells]
    print(f"{len(cells)} searches, {len(cells) - len(todo)} of them finished before", flush=True)
    began = time.monotonic()
    try:
        for done, (cell, result) in enumerate(_outcomes(todo, run, jobs), 1):
            results.add(cell, {**result, "made_by": made_by[cell[0]]})
            left = (time.monotonic() - began) / done * (len(todo) - done)
            print(f"\r{done}/{len(todo)}, {left:.0f} s left, last {' '.join(map(str, cell))}\033[K", end="", flush=True)
    finally:
        results.write()
    print()


def _outcomes(
    cells: Sequence[Cell], run: Callable[[Cell], dict[str, Any]], jobs: int
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    if jobs == 1:
        yield from ((cell, run(cell)) for cell in cells)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run, cell): cell for cell in cells}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Curves:
    """Clipped regret of one method on the tasks and seeds that it has finished.

    Attributes:
        regret: By family, (tasks, seeds, budget) in [0, 1].
    """

    regret: dict[str, FloatArray]

    @property
    def n_seeds(self) -> int:
        """Seeds of every task."""
        return int(next(iter(self.regret.values())).shape[1])

    @property
    def budget(self) -> int:
        """Trials, or full trainings, of each search."""
        return int(next(iter(self.regret.values())).shape[2])

    def only(self, family: str) -> Curves:
        """The same of one family."""
        return Curves({family: self.regret[family]})

    def mean(self) -> FloatArray:
        """(budget,) mean over seeds, tasks, then families, each family with equal weight."""
        return np.asarray(np.mean([r.mean((0, 1)) for r in self.regret.values()], axis=0))

    def resampled(self, n: int = N_BOOTSTRAP) -> FloatArray:
        """(n, budget) such means of tasks drawn again within each family, and seeds within each task.

        The draw depends on the shapes alone: methods with the same tasks and seeds are resampled alike, so differences
        of two of them are paired.
        """
        total = np.zeros((n, self.budget))
        for i, regret in enumerate(self.regret.values()):
            n_tasks, n_seeds, _ = regret.shape
            total += _weights(n_tasks, n_seeds, n, i) @ regret.reshape(n_tasks * n_seeds, -1)
        return total / len(self.regret)


@lru_cache(maxsize=32)
def _weights(n_tasks: int, n_seeds: int, n: int, stream: int) -> FloatArray:
    """(n, tasks * seeds) share of each search in each bootstrap sample."""
    rng = np.random.default_rng(stream)
    tasks = rng.integers(n_tasks, size=(n, n_tasks, 1))
    drawn = tasks * n_seeds + rng.integers(n_seeds, size=(n, n_tasks, n_seeds))
    size = n_tasks * n_seeds
    counts = np.bincount((drawn.reshape(n, size) + size * np.arange(n)[:, None]).ravel(), minlength=n * size)
    return counts.reshape(n, size) / size


def collect(results: Results, methods: Iterable[str], tasks: Sequence[RecordedTask]) -> dict[str, Curves]:
    """Curves of every method that has finished at least one seed on all tasks; of it, the seeds it has on all."""
    found: dict[str, Curves] = {}
    for method in methods:
        have = [{int(k.split("|")[2]) for k in results.cells if k.startswith(f"{method}|{t.name}|")} for t in tasks]
        seeds = sorted(set.intersection(*have))
        if not seeds:
            continue
        by_family: dict[str, list[list[list[float]]]] = {}
        for task in tasks:
            cells = [results.cells[Results.key((method, task.name, s))]["regret"] for s in seeds]
            by_family.setdefault(task.family, []).append(cells)
        found[method] = Curves({family: np.clip(np.array(r), 0, 1) for family, r in by_family.items()})
    return found


def interval(samples: FloatArray) -> tuple[float, float]:
    """The middle 95% of bootstrap samples."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def regret_table(curves: dict[str, Curves], points: Sequence[int]) -> str:
    """Mean and interval by method (rows) and budget (columns)."""
    rows = []
    for method, own in curves.items():
        mean, samples = own.mean(), own.resampled()
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(mean[p - 1], *interval(samples[:, p - 1])) for p in points]
        rows.append([method, *cells, str(own.n_seeds)])
    return table(["", *(f"@{p}" for p in points), "seeds"], rows)


def difference_table(curves: dict[str, Curves], ours: str, points: Sequence[int]) -> str:
    """Regret of every other method minus ours, paired, over all and by family: above 0 where ours is better."""
    rows = []
    for method in (m for m in curves if m != ours):
        parts = [("all", curves[method], curves[ours])]
        parts += [(f, curves[method].only(f), curves[ours].only(f)) for f in curves[ours].regret]
        for name, *pair in parts:
            other, own = common(*pair)
            mean, samples = other.mean() - own.mean(), other.resampled() - own.resampled()
            cells = ["{:+.3f} [{:+.3f}, {:+.3f}]".format(mean[p - 1], *interval(samples[:, p - 1])) for p in points]
            rows.append([method, name, *cells])
    return table([f"minus {ours}", "family", *(f"@{p}" for p in points)], rows)


def common(first: Curves, second: Curves) -> tuple[Curves, Curves]:
    """Both with as many seeds as the one with fewer; seeds are run in order, so these are the same ones."""
    n = min(first.n_seeds, second.n_seeds)
    a, b = (Curves({f: r[:, :n] for f, r in c.regret.items()}) for c in (first, second))
    return a, b


def win_table(curves: dict[str, Curves], point: int) -> str:
    """Share of (task, seed) pairs where the row has less regret than the column, ties half; families weigh the same."""

    def share(row: str, column: str) -> str:
        if row == column:
            return ""
        a, b = common(curves[row], curves[column])
        difference = {f: a.regret[f][..., point - 1] - b.regret[f][..., point - 1] for f in a.regret}
        return f"{100 * np.mean([np.mean((d < 0) + 0.5 * (d == 0)) for d in difference.values()]):.0f}%"

    return table([f"wins @{point}", *curves], [[row, *(share(row, column) for column in curves)] for row in curves])


def reached_table(curves: dict[str, Curves], reference: str, point: int) -> str:
    """How much budget each method needs for the regret of `reference` at `point`: on the mean, and by task."""
    goal, rows = curves[reference], []
    for method, own in curves.items():
        over_all = first_below(own.mean(), float(goal.mean()[point - 1]))
        means = [
            np.mean([first_below(o, g[point - 1]) for o, g in zip(r.mean(1), goal.regret[f].mean(1), strict=True)])
            for f, r in own.regret.items()
        ]
        rows.append([method, str(over_all) if over_all <= own.budget else "not reached", f"{np.mean(means):.1f}"])
    return table([f"budget for {reference} @{point}", "of the mean", "mean over tasks"], rows)


def first_below(regret: FloatArray, goal: float) -> int:
    """Budget after which a curve is first at `goal` or below; one more than its length where it never is."""
    below = np.nonzero(regret <= goal + 1e-12)[0]
    return int(below[0]) + 1 if len(below) else len(regret) + 1


def report(curves: dict[str, Curves], points: Sequence[int], *, ours: str, reference: str, point: int) -> str:
    """All tables as Markdown; those that need a method that has not finished are left out."""
    if not curves:
        return "No method has finished a seed on all tasks.\n"
    budget = min(c.budget for c in curves.values())
    points, point = [p for p in points if p <= budget], min(point, budget)
    families = next(iter(curves.values())).regret
    parts = [("Regret, families with equal weight", regret_table(curves, points))]
    parts += [
        (f"Regret, {f} ({len(r)} tasks)", regret_table({m: c.only(f) for m, c in curves.items()}, points))
        for f, r in families.items()
    ]
    if ours in curves:
        parts.append(("Difference, paired", difference_table(curves, ours, points)))
    parts.append(("Wins of the row over the column", win_table(curves, point)))
    if reference in curves:
        parts.append(("Speed", reached_table(curves, reference, point)))
    note = "Means with 95% bootstrap intervals over tasks and seeds; each search clipped to [0, 1].\n"
    return note + "".join(f"\n### {title}\n\n{text}" for title, text in parts)


def draw(curves: dict[str, Curves], path: Path, label: str) -> None:
    """The mean regret against the budget, with bands, as a figure in the format of the path's ending."""
    import altair as alt

    rows = []
    for method, own in curves.items():
        band = np.quantile(own.resampled(), [0.025, 0.975], axis=0).tolist()
        for x, (mean, low, high) in enumerate(zip(own.mean().tolist(), *band, strict=True), 1):
            rows.append({"method": method, "x": x, "mean": mean, "low": low, "high": high})
    ticks = [p for p in (1, 2, 3, 5, 10, 20, 50) if p <= max(row["x"] for row in rows)]
    axis = alt.X("x:Q", title=label, scale=alt.Scale(type="log", nice=False), axis=alt.Axis(values=ticks, grid=False))
    color = alt.Color("method:N", sort=list(curves), title=None)
    width = alt.condition("datum.method == 'ours'", alt.value(2.6), alt.value(1.4))
    base = alt.Chart(alt.InlineData(rows)).properties(width=480, height=300)
    lines = base.mark_line().encode(
        axis, alt.Y("mean:Q", title="normalised regret of the best so far"), color=color, strokeWidth=width
    )
    (lines + base.mark_area(opacity=0.12).encode(axis, alt.Y("low:Q"), y2="high", color=color)).save(path)


def parser(description: str | None, methods: str) -> argparse.ArgumentParser:
    """The options of both benchmarks; the names of methods are an option named `methods`."""
    own = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument("--tables", type=Path, required=True, help="folder of recorded tables")
    own.add_argument("--out", type=Path, required=True, help="JSON of all searches; kept between runs")
    own.add_argument(f"--{methods}", nargs="+", help="only these")
    own.add_argument("--families", nargs="+", help="only tasks of these families")
    own.add_argument("--tasks", nargs="+", help="only these tasks")
    own.add_argument("--seeds", type=int, default=10, help="searches of each method on each task")
    own.add_argument("--jobs", type=int, default=1, help="processes")
    own.add_argument("--weights", help="name or path of our weights; the bundled ones where not given")
    own.add_argument("--report", type=Path, help="also write the tables as Markdown")
    own.add_argument("--figure", type=Path, help="also draw the mean regret, needs the extra report")
    return own


def finish(text: str, curves: dict[str, Curves], *, report: Path | None, figure: Path | None, label: str) -> None:
    """Prints the tables, and writes what was asked for."""
    print(text)
    if report is not None:
        report.write_text(text)
    if figure is not None and curves:
        draw(curves, figure, label)
