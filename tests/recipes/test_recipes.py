"""Each recipe runs as it stands: offline, in its smoke setting, from a file of arguments, and says what is missing."""

import importlib
import json
import math
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import transformers

from hf_rlsearch import recipe_tools

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NEEDS = {
    "glue": "sklearn",
    "image_classification": "sklearn",
    "lora": "peft",
    "reparameterized_regression": "sklearn",
    "sft": "trl",
    "summarization": "rouge_score",
    "translation": "sacrebleu",
}
QUICK = ("glue", "reparameterized_regression", "image_classification")
SEARCHES = tuple(sorted(path.stem for path in RECIPES.glob("*.py")))
OTHERS = tuple(name for name in SEARCHES if name not in QUICK)


@pytest.fixture(autouse=True)
def _as_a_program_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A recipe quiets its process and must not open a connection; here it shares the process with other tests."""
    import datasets

    def refuse(*_: Any) -> None:
        raise AssertionError("a recipe opened a connection with --offline")

    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    level = transformers.logging.get_verbosity()
    with warnings.catch_warnings():
        # third-party code of peft and trl that this project cannot mend
        warnings.filterwarnings("ignore", module=r"(peft|trl|torch|transformers)(\.|$)")
        yield
    transformers.logging.set_verbosity(level)
    transformers.logging.enable_progress_bar()
    datasets.enable_progress_bars()


def recipe(name: str) -> ModuleType:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return importlib.import_module(name)


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
    assert f"{best.objective:.4f}" in printed
    assert "gain over trial 0" in printed


@pytest.mark.parametrize("name", [name for name in QUICK if name != "reparameterized_regression"])
def test_smoke(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(smoke(name, tmp_path), capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_slower_smoke(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(smoke(name, tmp_path), capsys.readouterr().out)


@pytest.mark.slow
def test_masked_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(smoke("language_modeling", tmp_path, "--masked"), capsys.readouterr().out)


@pytest.mark.slow
def test_other_backend_runs_the_same_recipe(tmp_path: Path) -> None:
    best = smoke("glue", tmp_path, "--backend", "optuna")
    assert math.isfinite(best.objective)


def test_arguments_from_a_file(tmp_path: Path) -> None:
    glue = recipe("glue")
    (tmp_path / "a.yaml").write_text("task: cola\nn_trials: 3\nbf16: true\n")
    (tmp_path / "a.json").write_text(json.dumps({"task": "cola", "n_trials": 3, "bf16": True}))
    expected = glue.Args(task="cola", n_trials=3, bf16=True)
    assert recipe_tools.read_args(glue.Args, [str(tmp_path / "a.yaml")]) == expected
    assert recipe_tools.read_args(glue.Args, [str(tmp_path / "a.json")]) == expected
    assert recipe_tools.read_args(glue.Args, ["--task", "cola", "--n_trials", "3", "--bf16"]) == expected


@pytest.mark.parametrize("name", SEARCHES)
def test_help_explains_every_argument(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = recipe(name)
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, field in module.Args.__dataclass_fields__.items():
        assert f"--{name}" in text
        assert field.metadata["help"].split(",")[0].replace("%%", "%")[:30] in text


def test_hub_name_without_network_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glue = recipe("glue")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub")

    monkeypatch.setattr(glue, "load_dataset", unreachable)
    with pytest.raises(SystemExit, match=r"'nyu-mll/glue' could not be loaded: Couldn't reach .*\n.*--offline"):
        glue.main(["--output", str(tmp_path)])


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
@pytest.mark.timeout(300)
def test_two_processes_train_one_search(tmp_path: Path) -> None:
    # --multi_gpu is what makes accelerate start two processes; without a GPU they talk through gloo
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += [str(RECIPES / "glue.py"), "--offline", "--smoke", "--output", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("gain over trial 0") == 1
