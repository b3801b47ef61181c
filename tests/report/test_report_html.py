import html
import html.parser
import re
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from hf_rlsearch.observation.trial_attributes import CONFIRM, N_TRIALS, ROLE
from hf_rlsearch.report import SearchRecord, write_report
from hf_rlsearch.report.charts import javascript
from hf_rlsearch.report.html import to_copy, to_html


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


def own_part(text: str) -> str:
    """The page without the library, which names addresses of standards and of its own documentation."""
    library = javascript().replace("</script", "<\\/script")
    assert library in text
    return text.replace(library, "")


def test_page_is_one_file_that_loads_nothing(study: optuna.Study, tmp_path: Path) -> None:
    path = write_report(study, tmp_path / "new" / "report.html")
    text = own_part(path.read_text(encoding="utf-8"))
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
        trial.user_attrs["rl:failure"] = bad
        study.add_trial(trial)
    text = own_part(to_html(study))
    assert "<script>alert" not in text
    assert "<img" not in text
    assert Balanced(text).open == []


def test_captions_explain_the_marks_that_are_there(
    make_study: Callable[..., optuna.Study], study: optuna.Study
) -> None:
    text = to_html(study)
    assert text.count("<figcaption>Diamonds are trials that were stopped") == 1  # on the first of five slices
    assert "level lines mean that nothing grows" in text
    assert "two hyperparameters that mattered most:" in text
    unmeasured = optuna.create_study()
    for trial in make_study(3).trials:
        del trial.user_attrs["rl:resident_memory"]
        unmeasured.add_trial(trial)
    text = to_html(unmeasured)
    assert "level lines" not in text
    assert "that mattered most:" not in text  # three trials do not tell
    assert "first two hyperparameters, as it was not measured which mattered most:" in text


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
    started = time.process_time()  # on the processor, so that a busy machine fails no test
    path = write_report(study, tmp_path / "report.html")
    assert time.process_time() - started < 10
    assert path.stat().st_size < 3e6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_trials_are_one_page_of_less_than_ten_megabytes_in_a_minute(
    make_study: Callable[..., optuna.Study], tmp_path: Path
) -> None:
    """On the processor, so that a busy machine fails no test."""
    study = make_study(n_trials=10_000, n_evals=8)
    began = time.process_time()
    page = write_report(study, tmp_path / "big.html")
    seconds, megabytes = time.process_time() - began, page.stat().st_size / 1e6
    print(f"{seconds:.0f} s on the processor, {megabytes:.1f} MB")
    assert seconds < 60
    assert megabytes < 10
    text = page.read_text()
    assert text.count("<tr data-trial=") == 10_000
    assert "Charts and reasons show 1,000 of 10,000 trials" in text


def test_a_pruned_trial_is_counted_where_stopping_saved_next_to_nothing() -> None:
    study = optuna.create_study()
    for _ in range(400):
        study.add_trial(create_trial(value=1.0, user_attrs={"rl:role": "search", "rl:cost": 1.0, "rl:spent": 1.0}))
    attrs = {"rl:role": "search", "rl:cost": 1.0, "rl:spent": 0.9}
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={9000: 2.0}, user_attrs=attrs))
    text = to_html(study)
    assert "none was stopped" not in text
    assert "less than 1% saved by stopping 1" in text


def test_trials_under_new_seeds_are_counted_apart() -> None:
    study = optuna.create_study()
    study.set_user_attr(N_TRIALS, 3)
    for attrs in ({ROLE: "baseline"}, {ROLE: "search"}, {ROLE: CONFIRM}, {ROLE: CONFIRM}):
        study.add_trial(create_trial(value=1.0, user_attrs=attrs))
    assert "2 of 3 trials and 2 under new seeds: 4 complete" in to_html(study)


def test_more_trials_than_planned_are_not_counted_against_the_plan() -> None:
    """Trials that were stopped use up a part of `n_trials` only, so there can be more trials than that."""
    study = optuna.create_study()
    study.set_user_attr(N_TRIALS, 1)
    for _ in range(2):
        study.add_trial(create_trial(value=1.0, user_attrs={ROLE: "search"}))
    assert "· 2 trials: 2 complete" in to_html(study)


def test_what_is_there_to_copy_is_python_with_training_arguments_apart() -> None:
    study = optuna.create_study()
    choice = CategoricalDistribution(["a'b"])
    suggested = {"learning_rate": 1e-3, "model.dropout": 0.1, "peft.r": 8, "gen.num_beams": 4, "width": 64}
    attrs = {
        "rl:hyperparameters": {**suggested, "train.layer_decay": 0.9, "log_decay": "a'b"},
        "rl:values": {**suggested, "train.layer_decay": 0.9, "weight_decay": 0.01},
        "rl:arguments": {"learning_rate": 1e-3, "weight_decay": 0.01, "seed": 42},
    }
    attrs["rl:values"].pop("width")  # suggested in model_init
    study.add_trial(
        create_trial(value=1.0, params={"log_decay": "a'b"}, distributions={"log_decay": choice}, user_attrs=attrs)
    )
    code = to_copy(SearchRecord.from_study(study).trials[0])
    pasted: dict[str, object] = {}
    exec(code, {}, pasted)
    assert pasted == {
        "args": {"learning_rate": 1e-3, "weight_decay": 0.01},
        "model": {"dropout": 0.1},
        "peft": {"r": 8},
        "gen": {"num_beams": 4},
        "train": {"train.layer_decay": 0.9},
        "suggested": {"log_decay": "a'b", "width": 64},
    }
    assert code in html.unescape(to_html(study))


def test_names_of_a_foreign_study_count_as_training_arguments() -> None:
    study = optuna.create_study()
    choice = CategoricalDistribution([2])
    study.add_trial(create_trial(value=1.0, params={"lambda": 2}, distributions={"lambda": choice}))
    pasted: dict[str, object] = {}
    exec(to_copy(SearchRecord.from_study(study).trials[0]), {}, pasted)
    assert pasted == {"args": {"lambda": 2}}


def test_several_objectives_have_no_single_gain() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for number, values in enumerate([(0.5, 0.5), (0.4, 0.4), (0.9, 0.1), (0.3, 0.9)]):
        attrs = {"rl:role": "baseline" if number == 0 else "search"}
        study.add_trial(create_trial(values=values, user_attrs=attrs))
    study.set_user_attr("rl:objective", {"names": ["loss", "accuracy"]})
    text = to_html(study)
    assert "<span>Gain</span>" not in text
    assert "<span>Best loss</span><strong>0.3</strong>" in text
    assert "<span>Pareto front</span><strong>1</strong>" in text
