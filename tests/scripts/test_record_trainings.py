"""Recording tables: the definitions are a fair yardstick, and real trainings end in files that the benchmarks read."""

import csv
import gzip
import importlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import optuna
import pytest
import torch
import transformers

from _recording_tables import TABLES, Table, batch, check_tables, momentum, rate, steps
from _recording_trainers import FROM_SCRATCH, N_CLASSES
from hf_rlsearch.space.roles import ROLES
from recorded_tasks import load_tasks

RECORDED = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "tables"
BY_NAME = {table.name: table for table in TABLES}


@pytest.fixture
def recorder() -> Iterator[ModuleType]:
    """The script, in a process whose settings are put back."""
    before = optuna.logging.get_verbosity(), transformers.logging.get_verbosity(), torch.get_num_threads()
    script = importlib.import_module("record_trainings")
    script.be_quiet()
    yield script
    optuna.logging.set_verbosity(before[0])
    transformers.logging.set_verbosity(before[1])
    torch.set_num_threads(before[2])
    transformers.logging.enable_progress_bar()
    datasets.enable_progress_bars()


def small(name: str, **changes: Any) -> Table:
    """A table of seconds."""
    sizes = {"n_train": 32, "n_eval": 20, "evaluations": 2, "configurations": 2}
    return replace(BY_NAME[name], **{**sizes, **changes})


def digits(**changes: Any) -> Table:
    """A table of short trainings on images."""
    args = {"optim": "sgd", "per_device_train_batch_size": 8}
    space = (rate(1e-2, 1.0, 3), batch(8, 16), steps(2, 4))
    return small("vit_digits_sgd", args=args, space=space, configurations=4, **changes)


def lines(out: Path, table: Table) -> list[dict[str, str]]:
    """The trainings of a written table."""
    with gzip.open(out / table.part / f"{table.name}.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_times(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def test_the_definitions_are_a_fair_yardstick() -> None:
    check_tables()
    assert len(TABLES) >= 24
    parts = Counter(table.part for table in TABLES)
    assert parts["validation"] == parts["test"]
    assert all(table.configurations >= 80 and table.evaluations >= 5 for table in TABLES)
    assert {h.role for table in TABLES for h in table.space} <= set(ROLES)
    assert all(list(h.levels) == sorted(h.levels) for table in TABLES for h in table.space if h.ordered)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"part": "validation"}, "'vit' has tables in"),
        ({"part": "tset"}, "'vit' has tables in"),
        ({"part": "second_test"}, "expected both of"),
        ({"configurations": 10**6}, "add levels"),
        ({"name": "vit_digits_adamw"}, "two tables have the name 'vit_digits_adamw'"),
        ({"seed": BY_NAME["vit_digits_adamw"].seed}, "two tables have the seed"),
    ],
)
def test_unfair_definitions_are_refused(changes: dict[str, Any], problem: str) -> None:
    pair = BY_NAME["vit_digits_adamw"], BY_NAME["vit_digits_sgd"]
    check_tables(pair)
    with pytest.raises(ValueError, match=problem):
        check_tables((pair[0], replace(pair[1], **changes)))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_configurations_are_drawn_once_each_and_more_begin_with_the_same(table: Table) -> None:
    drawn = table.draw()
    assert len({tuple(params.values()) for params in drawn}) == table.configurations
    assert replace(table, configurations=7).draw() == drawn[:7]
    assert all(params[h.name] in h.levels for params in drawn for h in table.space)


def test_a_table_continues_after_a_kill_and_equals_one_recorded_at_once(recorder: ModuleType, tmp_path: Path) -> None:
    table, killed, whole = digits(), tmp_path / "killed", tmp_path / "whole"
    recorder.record(replace(table, configurations=2), killed, None)
    work = killed / "work" / table.name
    study = recorder.open_study(table, work)
    study.ask()  # a trial whose process is gone
    with (work / "events.jsonl").open("a") as file:
        file.write('{"event": "begin", "run": "run-2", "st')
    recorder.record(table, killed, None)
    recorder.record(table, whole, None)
    assert without_times(lines(killed, table)) == without_times(lines(whole, table))
    assert recorder.is_finished(table, killed)
    assert not recorder.is_finished(replace(table, configurations=5), killed)


def test_the_benchmarks_read_what_was_recorded(recorder: ModuleType, tmp_path: Path) -> None:
    table = digits()
    recorder.record(table, tmp_path, None)
    rows = lines(tmp_path, table)
    (task,) = load_tasks(tmp_path)
    assert (task.name, task.family, task.direction) == (table.name, "vit", "maximize")
    for params, row in zip(table.draw(), rows, strict=True):
        levels = [h.levels.index(params[h.name]) for h in table.space]
        assert task.value(levels) == float(row["objective"])
        assert task.curve(levels)[-1] == task.value(levels)
        assert row["steps"] == row["planned_steps"] == str(params["max_steps"])
        assert [int(step) for step in row["curve_steps"].split()] == [params["max_steps"] // 2, params["max_steps"]]
        metrics = json.loads(row["metrics"])
        assert sorted(metrics) == ["accuracy", "f1", "loss", "mcc"]
        assert metrics["accuracy"][-1] == task.value(levels)
        assert float(row["seconds"]) > 0
    facts = json.loads((tmp_path / table.part / "tasks.json").read_text())[table.name]["facts"]
    assert (facts["n_train"], facts["n_eval"], facts["n_classes"], facts["planned_steps"]) == (32, 20, 10, 12)
    assert facts["trainable_share"] == 1.0
    assert facts["from_scratch"]
    assert task.facts["n_examples"] == pytest.approx(1.505, abs=1e-3)
    assert task.facts["untrained"] == facts["untrained"]["accuracy"]
    assert 0 <= facts["untrained"]["accuracy"] < 0.5


def test_a_diverged_training_has_the_worst_objective(recorder: ModuleType, tmp_path: Path) -> None:
    rates = replace(rate(1e-2, 1.0, 2), levels=(1e-2, 1e30))
    table = replace(digits(), space=(rates, momentum(0.0, 0.9)))
    table = replace(table, args={**table.args, "max_steps": 4, "max_grad_norm": 0.0})
    recorder.record(table, tmp_path, None)
    by_rate: dict[str, list[dict[str, str]]] = {"0.01": [], "1e+30": []}
    for row in lines(tmp_path, table):
        by_rate[row["hp:learning_rate"]].append(row)
    assert {row["status"] for row in by_rate["0.01"]} == {"complete"}
    assert {row["status"] for row in by_rate["1e+30"]} == {"diverged"}
    worst = min(float(row["objective"]) for row in by_rate["0.01"])
    assert {float(row["objective"]) for row in by_rate["1e+30"]} == {worst}
    assert load_tasks(tmp_path)[0].has_curves


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21 reads it
@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("lora_bert-tiny_topics", ["accuracy", "f1", "loss", "mcc"]),
        ("gpt2-tiny_topics_adamw", ["accuracy", "f1", "loss", "mcc"]),
        ("gpt2-tiny_docstrings_adamw", ["loss"]),
        ("t5_numbers_optimizers", ["bleu", "chrf", "loss"]),
        ("bart_numbers_adamw", ["bleu", "chrf", "loss"]),
    ],
)
def test_each_kind_of_training_is_recorded(recorder: ModuleType, tmp_path: Path, name: str, metrics: list[str]) -> None:
    space = tuple(h for h in BY_NAME[name].space if h.role not in ("epochs", "batch_size"))
    args = {**BY_NAME[name].args, "max_steps": 2}
    table = small(name, space=space, args=args, configurations=1)
    recorder.record(table, tmp_path, None)
    (row,) = lines(tmp_path, table)
    assert sorted(json.loads(row["metrics"])) == metrics
    assert row["curve_steps"] == "1 2"
    entry = json.loads((tmp_path / table.part / "tasks.json").read_text())[name]
    assert (entry["facts"]["trainable_share"] < 1) == (table.lora is not None)
    assert entry["facts"]["from_scratch"] == name.startswith(("t5", "bart"))


def test_facts_of_the_recorded_tables_are_those_of_their_definitions() -> None:
    """Only what a definition says is read here: tables for testing are not to be looked at."""
    for task in load_tasks(RECORDED):
        table, facts = BY_NAME[task.name], task.meta["facts"]
        assert task.meta["part"] == task.path.parent.name == table.part
        assert (facts["n_train"], facts["n_eval"]) == (table.n_train, table.n_eval)
        assert facts["from_scratch"] == (table.model in FROM_SCRATCH)
        assert facts["n_classes"] == N_CLASSES.get(table.data)
        assert (task.facts["trainable"] < 0) == (table.lora is not None) == (task.facts["lora"] == 1)


def test_what_is_printed_tells_nothing_of_the_results(
    recorder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    table, other = digits(), replace(digits(), name="vit_digits_adamw", part="validation", seed=99)
    missing = replace(BY_NAME["bert-tiny_sst2_adamw"], name="missing")
    monkeypatch.setattr(recorder, "TABLES", (table, other, missing))
    monkeypatch.setattr(recorder, "check_tables", lambda: None)
    assert recorder.main(["--out", str(tmp_path)]) == 0
    assert recorder.main(["--out", str(tmp_path), "--part", "test", "--tables", table.name]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert [line.split("  ", 1)[1].split(",")[0] for line in out.splitlines()] == [
        "1/3 vit_digits_sgd (test): recorded",
        "2/3 vit_digits_adamw (validation): recorded",
        "3/3 missing (second_test): skipped",
        "1/1 vit_digits_sgd (test): finished before",
    ]
    assert "--data" in out
    objectives = {row["objective"] for t in (table, other) for row in lines(tmp_path, t)}
    assert not any(text in out for text in objectives if "." in text)


def test_two_processes_do_not_record_into_one_folder(recorder: ModuleType, tmp_path: Path) -> None:
    with recorder.alone(tmp_path), pytest.raises(SystemExit, match="another process records"), recorder.alone(tmp_path):
        pass
