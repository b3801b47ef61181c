"""Studies that nobody planned for: a report is made of them all the same."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hf_rlsearch.report import SearchRecord, explain, to_csv, to_text, write_plots, write_report
from hf_rlsearch.report.html import to_html

UNIT = {"x": FloatDistribution(0, 1)}
CONTROL = "\x00\x1b[31m\ud800"


def of(*trials: FrozenTrial, **attributes: Any) -> optuna.Study:
    study = optuna.create_study(study_name="odd")
    for name, value in attributes.items():
        study.set_user_attr(name, value)
    study.add_trials(trials)
    return study


def complete(value: float, *, spaces: dict[str, BaseDistribution] | None = None, **given: Any) -> FrozenTrial:
    return create_trial(value=value, **{"params": {"x": 0.5}, "distributions": spaces or UNIT, **given})


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
