import csv
import io
import math
import re

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from hf_rlsearch.report import to_csv, to_dataframe, to_html_table, to_text
from hf_rlsearch.report.html import to_html


def test_text_marks_the_best_trial(study: optuna.Study) -> None:
    lines = to_text(study).splitlines()
    assert lines[0].split()[:4] == ["number", "state", "role", "eval_loss"]
    (best,) = [line for line in lines if line.startswith("*")]
    assert best.split()[0] == f"*{study.best_trial.number}"
    assert len(lines) == 1 + len(study.trials)


def test_csv_has_raw_numbers(study: optuna.Study) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(study))))
    assert len(rows) == len(study.trials)
    best = rows[study.best_trial.number]
    assert float(best["eval_loss"]) == study.best_value
    assert float(best["learning_rate"]) == study.best_params["learning_rate"]
    assert {row["state"] for row in rows} == {"complete", "pruned", "failed"}
    assert rows[0]["role"] == "baseline"
    (reason,) = {row["failure"] for row in rows if row["state"] == "failed"}
    assert reason == "OutOfMemoryError: <64 rows>"


def test_every_table_has_the_same_columns(study: optuna.Study) -> None:
    expected = ["number", "state", "role", "eval_loss", *study.best_params, "fidelity", "duration", "memory", "failure"]
    table = to_dataframe(study)
    assert list(table.columns) == expected
    assert to_csv(study).splitlines()[0].split(",") == expected
    assert to_text(study).splitlines()[0].split() == expected
    page = to_html(study).partition('<table class="sortable">')[2]
    assert re.findall(r'<th><button type="button">(.*?)</button>', page) == expected
    assert re.findall("<th>(.*?)</th>", to_html_table(study)) == expected
    best = table.loc[study.best_trial.number]
    assert (best["eval_loss"], best["fidelity"], best["duration"]) == (study.best_value, 1.0, 30.0)
    assert math.isnan(table["memory"].sum()) is False


def test_a_taken_name_gets_a_prefix() -> None:
    study = optuna.create_study()
    study.set_user_attr("rl:objective", {"names": ["duration"]})
    space = {name: FloatDistribution(0, 1) for name in ("state", "duration", "x")}
    study.add_trial(create_trial(value=3.0, params=dict.fromkeys(space, 0.5), distributions=space))
    table = to_dataframe(study)
    assert list(table.columns)[3:7] == ["metric_duration", "params_state", "params_duration", "x"]
    assert list(table.loc[0][["state", "metric_duration", "params_state"]]) == ["complete", 3.0, 0.5]


def test_a_line_break_in_a_name_or_value_breaks_no_line() -> None:
    study = optuna.create_study()
    study.set_user_attr("rl:objective", {"names": ["loss\n(validation)"]})
    study.add_trial(
        create_trial(value=1.0, params={"a\tb": "x\ny"}, distributions={"a\tb": CategoricalDistribution(["x\ny"])})
    )
    assert len(to_text(study).splitlines()) == 2


def test_a_long_table_is_cut_in_its_middle(study: optuna.Study) -> None:
    lines = to_text(study, most=4).splitlines()
    numbers = [line.split()[0].lstrip("*") for line in lines]
    assert numbers == ["number", "0", "1", "…", "22", "23"]
    assert to_html_table(study, most=4).count("<tr") == 1 + 4 + 1
    assert to_text(study, most=24) == to_text(study)


def test_a_table_for_a_notebook_holds_no_markup_of_names_and_values() -> None:
    bad = "<script>alert(1)</script>"
    study = optuna.create_study(study_name=bad)
    study.set_user_attr("rl:objective", {"names": [f"{bad}&"]})
    study.add_trial(create_trial(value=1.0, params={bad: bad}, distributions={bad: CategoricalDistribution([bad])}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"rl:failure": {"reason": bad}}))
    text = to_html_table(study)
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4
