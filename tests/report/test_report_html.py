import html
import html.parser
import re
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from hf_rlsearch.report import write_report
from hf_rlsearch.report.html import to_html


class Balanced(html.parser.HTMLParser):
    """Complains about a tag that is closed out of order."""

    void = frozenset({"meta", "link", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_one_file_that_loads_nothing(study: optuna.Study, tmp_path: Path) -> None:
    path = write_report(study, tmp_path / "new" / "report.html")
    text = path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert re.findall(r'(?:src|href)="(?!#|data:)', text) == []
    assert re.findall(r"url\(|@import|https?:", text) == []


def test_page_is_well_formed_and_has_every_part(study: optuna.Study) -> None:
    page = Balanced(to_html(study))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    wanted = {"progress", "allocation", "space", "cost", "why", "failures", "trials"}
    wanted |= {f"plot-{name}" for name in ("best-so-far", "gantt", "learning-curves", "parallel", "heat-map", "memory")}
    assert wanted <= set(page.ids)


def test_names_and_values_cannot_become_markup() -> None:
    study = optuna.create_study(study_name="<script>alert(1)</script>")
    bad = "<img src=x onerror=alert(2)>"
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        trial = create_trial(value=value, params={bad: bad}, distributions={bad: CategoricalDistribution([bad, "b"])})
        trial.user_attrs["failure"] = bad
        study.add_trial(trial)
    text = to_html(study)
    assert "<script>alert" not in text
    assert "<img" not in text
    assert Balanced(text).open == []


@pytest.mark.parametrize("n_running", [0, 1])
def test_page_of_a_search_without_results(n_running: int) -> None:
    study = optuna.create_study()
    for _ in range(n_running):
        study.ask().suggest_float("x", 0, 1)
    text = to_html(study)
    assert Balanced(text).open == []
    assert "No trial is complete yet" in text


def test_page_while_the_search_runs(make_study: Callable[..., optuna.Study]) -> None:
    study = make_study(5)
    trial = study.ask()
    trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
    trial.report(0.5, 2500)
    text = to_html(study)
    assert "1 running" in text
    assert Balanced(text).open == []


def test_two_objectives_make_a_page() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: (t.suggest_float("x", 0, 1) ** 2, t.params["x"]), n_trials=8)
    assert "plot-trade-off" in Balanced(to_html(study)).ids


def test_conditional_and_odd_hyperparameters_make_a_page() -> None:
    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", [None, True, 1.5, "a"])
        return 0.0 if kind is None else trial.suggest_float(f"only with {kind}", 1e-3, 1.0, log=True)

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=12)
    text = to_html(study)
    assert Balanced(text).open == []


def test_a_big_search_stays_small_and_fast(make_study: Callable[..., optuna.Study], tmp_path: Path) -> None:
    study = make_study(200, 100)
    begun = time.process_time()  # on the processor, so that a busy machine fails no test
    path = write_report(study, tmp_path / "report.html")
    assert time.process_time() - begun < 10
    assert path.stat().st_size < 5e6


@pytest.mark.parametrize(("name", "head"), [("learning_rate", "dict("), ("model.dropout", "{"), ("lambda", "{")])
def test_what_is_there_to_copy_is_python(name: str, head: str) -> None:
    study = optuna.create_study()
    study.add_trial(
        create_trial(value=1.0, params={name: "a'b"}, distributions={name: CategoricalDistribution(["a'b"])})
    )
    (code,) = re.findall(r"<pre>(.*?)</pre>", to_html(study), re.DOTALL)
    assert code.startswith(head)
    assert eval(html.unescape(code)) == {name: "a'b"}


def test_several_objectives_have_no_single_gain() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for number, values in enumerate([(0.5, 0.5), (0.4, 0.4), (0.9, 0.1), (0.3, 0.9)]):
        attrs = {"role": "baseline" if number == 0 else "search"}
        study.add_trial(create_trial(values=values, user_attrs=attrs))
    study.set_user_attr("metric", ["loss", "accuracy"])
    text = to_html(study)
    assert "<span>Gain</span>" not in text
    assert "<span>Best loss</span><strong>0.3</strong>" in text
    assert "<span>Not beaten</span><strong>1</strong>" in text
