"""Studies that nobody planned for: a report is made of them all the same."""

import csv
import io
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hf_rlsearch.report import SearchRecord, explain, to_csv, to_text, write_plots, write_report
from hf_rlsearch.report.chart_data import datasets
from hf_rlsearch.report.html import to_html

UNIT = {"x": FloatDistribution(0, 1)}
BEYOND, DIGITS = 10**400, "9" * 5000
AMOUNTS = ("rl:seconds", "rl:spent", "rl:peak_memory", "rl:resident_memory", "rl:cost", "rl:started_at")
ODD = (-1, -1e300, 1e300, BEYOND, -BEYOND, math.nan, math.inf, DIGITS)
CONTROL = "\x00\x1b[31m\ud800"


def of(*trials: FrozenTrial, **attributes: Any) -> optuna.Study:
    study = optuna.create_study(study_name="odd")
    for name, value in attributes.items():
        study.set_user_attr(name, value)
    study.add_trials(trials)
    return study


def complete(value: float, *, spaces: dict[str, BaseDistribution] | None = None, **given: Any) -> FrozenTrial:
    return create_trial(value=value, **{"params": {"x": 0.5}, "distributions": spaces or UNIT, **given})


def dated(seconds: float) -> FrozenTrial:
    trial, start = complete(0.1), datetime(2026, 1, 1)
    trial.datetime_start, trial.datetime_complete = start, start + timedelta(seconds=seconds)
    return trial


def failed(**attributes: Any) -> FrozenTrial:
    return create_trial(state=TrialState.FAIL, params={"x": 0.5}, distributions=UNIT, user_attrs=attributes)


STUDIES: dict[str, Callable[[], optuna.Study]] = {
    "one row, one hyperparameter": lambda: of(complete(0.5)),
    "one value": lambda: of(complete(0.5, params={"x": "a"}, spaces={"x": CategoricalDistribution(["a"])})),
    "no hyperparameter": lambda: of(complete(0.5, params={}, distributions={})),
    "all failed": lambda: of(failed(), failed(failure={"reason": CONTROL, "traceback": CONTROL})),
    "all pruned": lambda: of(
        *(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.3, 2: math.nan}) for _ in range(3))
    ),
    "too large for a difference": lambda: of(
        *(complete(v, intermediate_values={1: v, 2: v / 2}) for v in (1e308, -1e308, 1e308, 0.0, 1e-320))
    ),
    "all too large": lambda: of(*(complete(1e308) for _ in range(5))),
    "infinite": lambda: of(complete(math.inf), complete(-math.inf), complete(1.0)),
    "nan is a choice": lambda: of(
        *(
            complete(0.1, params={"c": v}, spaces={"c": CategoricalDistribution([math.nan, None, True, 1, "1"])})
            for v in (math.nan, None, "1", 1)
        )
    ),
    "no XML": lambda: of(
        *(
            complete(0.1 * i, params={"c": CONTROL}, spaces={"c": CategoricalDistribution([CONTROL, "b"])})
            for i in range(4)
        )
    ),
    "as wide as a float": lambda: of(
        *(
            complete(v, params={"x": v}, spaces={"x": FloatDistribution(1e-300, 1e300, log=True)})
            for v in (1e-300, 1.0, 1e300)
        )
    ),
    "other meanings of our names": lambda: of(
        complete(0.1, intermediate_values={3: 0.2}, user_attrs={"rl:role": "x", "rl:seed": "a", "rl:reevaluates": "b"}),
        complete(0.1, user_attrs={"rl:role": "confirm", "rl:seed": "a", "rl:reevaluates": "b"}),
        complete(
            0.1,
            user_attrs={"rl:role": ["x"], "rl:continues": "q", "rl:failure": 3, "rl:versions": 4, "rl:metrics": [1]},
        ),
        identity="me",
        metric=5,
        n_trials="many",
    ),
    "damaged reasons": lambda: of(
        complete(0.1),
        complete(
            0.1,
            system_attrs={
                "rl:decision": {
                    "source": ["a"],
                    "chance": math.nan,
                    "mean": math.inf,
                    "contributions": {"x": math.nan, "y": math.inf},
                    "attention": [[0, math.nan]],
                },
                "rl:stop": {"probability": math.nan, "fidelity": math.inf},
            },
        ),
    ),
    "amounts that cannot be true": lambda: of(*(complete(0.1, user_attrs=dict.fromkeys(AMOUNTS, v)) for v in ODD)),
    "a clock set back": lambda: of(complete(0.2), dated(-3600), dated(60), dated(1e9)),
    "numbers beyond float": lambda: of(
        complete(
            0.1,
            params={"x": 3},
            spaces={"x": IntDistribution(1, BEYOND)},
            intermediate_values={1: 0.2, BEYOND: 0.3},
            user_attrs={"rl:hyperparameters": {"x": BEYOND}, "rl:values": {"x": 10**5000}},
            system_attrs={"rl:decision": {"mean": BEYOND, "n_candidates": BEYOND, "source": 10**5000}},
        ),
        complete(0.2, params={"x": 5}, spaces={"x": IntDistribution(1, BEYOND)}),
    ),
    "five thousand digits": lambda: of(
        complete(0.1, params={"c": DIGITS}, spaces={"c": CategoricalDistribution([DIGITS, "1"])}),
        complete(0.2, user_attrs={"rl:arguments": DIGITS, "rl:metrics": DIGITS}, system_attrs={"rl:stop": DIGITS}),
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_everything_is_made(name: str, tmp_path: Path) -> None:
    study = STUDIES[name]()
    assert write_report(study, tmp_path / "r.html").read_text(encoding="utf-8").endswith("</html>\n")
    for trial in study.trials:
        assert explain(study, trial.number).to_text()
    assert to_text(study)
    assert len(to_csv(study).splitlines()) == len(study.trials) + 1
    for path in write_plots(study, tmp_path / "plots"):
        drawing = ElementTree.parse(path).getroot()
        places = [v for mark in drawing.iter() for k, v in mark.attrib.items() if k in {"x", "y", "cx", "cy", "points"}]
        assert not any("nan" in place or "inf" in place for place in places), path.name


def test_amounts_that_cannot_be_true_are_unknown() -> None:
    odd = SearchRecord.from_study(STUDIES["amounts that cannot be true"]())
    assert {(t.memory, t.resident, t.spent, t.cost, t.started_at) for t in odd.trials} == {(None, None, 1.0, 1.0, 0.0)}
    assert all(t.seconds is not None and 0 <= t.seconds < 60 for t in odd.trials)  # what Optuna measured
    back = SearchRecord.from_study(STUDIES["a clock set back"]())
    assert [t.seconds for t in back.trials[1:]] == [None, 60.0, 1e9]
    assert all(row["start"] <= row["end"] for row in datasets(back, {}, [])["trials"])


def test_no_cell_of_a_csv_file_is_a_formula() -> None:
    texts = ["=1+1", "+cmd", "-1+1", "@sum", "-5", "a=1"]
    choices: dict[str, BaseDistribution] = {"=c": CategoricalDistribution(texts), "n": FloatDistribution(-1, 1)}
    study = of(*(complete(-0.5, params={"=c": text, "n": -0.25}, spaces=choices) for text in texts))
    study.set_user_attr("rl:objective", {"names": ["@metric"]})
    rows = list(csv.DictReader(io.StringIO(to_csv(study))))
    assert [row["'=c"] for row in rows] == ["'=1+1", "'+cmd", "'-1+1", "'@sum", "-5", "a=1"]
    assert {(row["'@metric"], row["n"]) for row in rows} == {("-0.5", "-0.25")}


def test_attributes_of_others_are_not_taken_for_ours() -> None:
    search = SearchRecord.from_study(STUDIES["other meanings of our names"]())
    assert not search.confirmations
    assert search.metrics == ("objective",)
    assert [t.role for t in search.trials] == ["search", "confirm", "search"]
    alone = SearchRecord.from_study(of(complete(0.1, intermediate_values={3: 0.2}, user_attrs={"rl:role": "x"})))
    assert (alone.fractions, alone.max_step) == (False, 3)


def test_links_lead_somewhere() -> None:
    assert 'href="#why"' not in to_html(of())
    assert 'href="#why"' in to_html(of(complete(0.5)))
