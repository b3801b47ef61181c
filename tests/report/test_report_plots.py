import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.report import PLOTS, SearchRecord, write_plots
from hf_rlsearch.report.drawing import Rect
from hf_rlsearch.report.plots import draw_all
from hf_rlsearch.report.svg import to_svg

ALWAYS = {name for name in PLOTS if "<" not in name} - {"trade-off", "confirmations"}


def test_every_plot_is_drawn(study: optuna.Study) -> None:
    search = SearchRecord.from_study(study)
    names = set(draw_all(search, {"fANOVA": {"learning_rate": 0.9, "weight_decay": 0.1}}))
    assert names == ALWAYS | {f"slice-{name}" for name in search.distributions}


@pytest.mark.parametrize("narrow", [True, False])
def test_drawings_are_well_formed_and_stay_on_the_sheet(study: optuna.Study, narrow: bool) -> None:
    search = SearchRecord.from_study(study)
    for drawing in draw_all(search, {"fANOVA": {"learning_rate": 1.0}}, narrow=narrow).values():
        root = ElementTree.fromstring(to_svg(drawing))
        for mark in root.iter():
            for name, limit in (
                ("cx", drawing.width),
                ("cy", drawing.height),
                ("x", drawing.width),
                ("y", drawing.height),
            ):
                assert -1 <= float(mark.get(name, 0)) <= limit + 1, (drawing.name, mark.attrib)


def test_files_are_written(study: optuna.Study, tmp_path: Path) -> None:
    paths = write_plots(study, tmp_path / "new", format="svg")
    assert {p.stem for p in paths} >= ALWAYS
    assert all(p.read_text().startswith("<svg") and "var(" not in p.read_text() for p in paths)


def test_png_files_are_pictures(make_study: Callable[..., optuna.Study], tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    paths = write_plots(make_study(5), tmp_path, format="png")
    gantt = image.imread(next(p for p in paths if p.stem == "gantt"))
    assert gantt.shape[1] == 2 * 1160
    assert gantt.std() > 0


def test_unknown_format_is_refused(study: optuna.Study, tmp_path: Path) -> None:
    with pytest.raises(ArgumentsError, match="'bmp'; plots can be written as 'svg' or 'png'"):
        write_plots(study, tmp_path, format="bmp")
    assert list(tmp_path.iterdir()) == []


def test_several_objectives_are_traded_off() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: (t.suggest_float("x", 0, 1) ** 2, t.params["x"]), n_trials=8)
    drawings = draw_all(SearchRecord.from_study(study), {})
    assert {"trade-off", "best-so-far", "slice-x"} <= set(drawings)
    colors = [shape.color for shape in drawings["trade-off"].shapes if shape.trial is not None]
    assert colors == ["good"] * 8  # more x is worse in one and better in the other: nothing is beaten


def test_workers_get_lanes(make_study: Callable[..., optuna.Study]) -> None:
    study = make_study(6)
    search = SearchRecord.from_study(study)
    one = draw_all(search, {})["gantt"].height
    trials = study.get_trials()
    for trial in trials[1:]:
        trial.datetime_start = trials[0].datetime_start
    both = optuna.create_study()
    both.add_trials(trials)
    assert draw_all(SearchRecord.from_study(both), {})["gantt"].height > one


def test_memory_that_is_still_held_after_each_trial_is_a_line(study: optuna.Study) -> None:
    search = SearchRecord.from_study(study)
    drawing = draw_all(search, {})["memory"]
    lines = [shape for shape in drawing.shapes if isinstance(shape, Rect) and shape.height == 2]
    assert len(lines) == len(search.trials)
    assert len({shape.y for shape in lines}) == 1
    assert "nothing grows" in drawing.caption


def test_the_signs_of_the_slices_are_told_once(study: optuna.Study) -> None:
    captions = [d.caption for name, d in draw_all(SearchRecord.from_study(study), {}).items() if "slice" in name]
    assert "stopped" in captions[0]
    assert not any(captions[1:])
