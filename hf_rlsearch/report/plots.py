"""All plots of a search, and writing them to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna

from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.report import chart_pairs, chart_progress, chart_space, chart_trials
from hf_rlsearch.report.analysis import importances
from hf_rlsearch.report.drawing import Drawing
from hf_rlsearch.report.raster import to_png
from hf_rlsearch.report.records import SearchRecord
from hf_rlsearch.report.svg import to_svg
from hf_rlsearch.storage import open_study

_DRAW: tuple[Callable[..., Drawing | None], ...] = (
    chart_progress.best_so_far,
    chart_pairs.trade_off,
    chart_trials.confirmations,
    chart_progress.allocation,
    chart_progress.gantt,
    chart_trials.learning_curves,
    chart_space.parallel_coordinates,
    chart_trials.time_per_trial,
    chart_trials.memory_per_trial,
)
_MAX_SLICES = 12  # the most important ones; more would bury the rest of the page
PLOTS: tuple[str, ...] = (
    "best-so-far",
    "trade-off",
    "confirmations",
    "allocation",
    "gantt",
    "learning-curves",
    "parallel",
    "importance",
    "heat-map",
    "slice-<hyperparameter>",
    "time",
    "memory",
)


def draw_all(search: SearchRecord, shares: dict[str, dict[str, float]], *, narrow: bool = False) -> dict[str, Drawing]:
    """Every plot that this search has the data for.

    Args:
        search: The search.
        shares: Evaluator -> hyperparameter -> importance, see `analysis.importances`.
        narrow: Whether to draw for a phone.

    Returns:
        Name -> drawing.
    """
    drawings = [draw(search, narrow=narrow) for draw in _DRAW]
    drawings.append(chart_pairs.importance_bars(shares, narrow=narrow))
    ranked = list(dict.fromkeys([*chart_pairs.by_importance(shares), *search.distributions]))
    if len(ranked) > 1:
        drawings.append(chart_pairs.heat_map(search, (ranked[0], ranked[1]), narrow=narrow))
    drawings += chart_space.slices(search, ranked[:_MAX_SLICES], narrow=narrow)
    return {d.name: d for d in drawings if d is not None}


def write_plots(
    source: optuna.Study | str | Path, folder: str | Path, *, study_name: str | None = None, format: str = "svg"
) -> list[Path]:
    """Writes every plot of a search as a file of its own.

    Args:
        source: A study, a storage URL or the file of a storage.
        folder: Where to write; made if it is not there.
        study_name: Which study of the storage; may be left out when there is one.
        format: "svg", or "png", which needs matplotlib (``pip install 'hf-rlsearch[report]'``).

    Returns:
        The files, named after the plots in PLOTS.

    Raises:
        ArgumentsError: `format` is neither.
        StorageError: There is no such storage or study.
    """
    if format not in {"svg", "png"}:
        raise ArgumentsError(f"format is {format!r}; plots can be written as 'svg' or 'png'.")
    study = open_study(source, study_name=study_name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    search = SearchRecord.from_study(study)
    drawings = draw_all(search, importances(study, search))
    return [_write(drawing, folder / f"{_file_name(name)}.{format}") for name, drawing in drawings.items()]


def _write(drawing: Drawing, path: Path) -> Path:
    if path.suffix == ".png":
        return to_png(drawing, path)
    path.write_text(to_svg(drawing, standalone=True), encoding="utf-8")
    return path


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
