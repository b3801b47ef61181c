import csv
import io

import optuna

from hf_rlsearch.report import to_csv, to_text


def test_text_marks_the_best_trial(study: optuna.Study) -> None:
    lines = to_text(study).splitlines()
    assert lines[0].split()[:3] == ["trial", "status", "eval_loss"]
    (best,) = [line for line in lines if line.startswith("*")]
    assert best.split()[0] == f"*{study.best_trial.number}"
    assert len(lines) == 1 + len(study.trials)


def test_csv_has_raw_numbers(study: optuna.Study) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(study))))
    assert len(rows) == len(study.trials)
    best = rows[study.best_trial.number]
    assert float(best["eval_loss"]) == study.best_value
    assert float(best["learning_rate"]) == study.best_params["learning_rate"]
    assert {row["status"] for row in rows} == {"complete", "pruned", "failed"}
    assert rows[0]["role"] == "baseline"
