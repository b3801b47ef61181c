"""What a recipe is given: arguments, names on the Hub, data. What cannot work is one clear line before any work."""

import gzip
import json
import re
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
import transformers

import common
from hf_rlsearch import embedded
from tests.recipes.conftest import SEARCHES, recipe

FROM_THE_HUB = {name: [] for name in ("glue", "language_modeling", "lora", "sft", "summarization")} | {
    "translation": ["--data", "wmt/wmt16"]
}


def test_arguments_from_a_file(tmp_path: Path) -> None:
    glue = recipe("glue")
    (tmp_path / "a.yaml").write_text("task: cola\nn_trials: 3\nbf16: true\n")
    (tmp_path / "a.json").write_text(json.dumps({"task": "cola", "n_trials": 3, "bf16": True}))
    expected = glue.Args(task="cola", n_trials=3, bf16=True)
    assert common.parse_args(glue.Args, [str(tmp_path / "a.yaml")]) == expected
    assert common.parse_args(glue.Args, [str(tmp_path / "a.json")]) == expected
    assert common.parse_args(glue.Args, ["--task", "cola", "--n_trials", "3", "--bf16"]) == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--taks", "cola"], "'--taks' is no argument of this recipe. Did you mean '--task'? --help lists them."),
        (["--taks=cola"], "'--taks' is no argument"),
        (["cola"], "'cola' is no argument"),
        (["task", "cola"], "'task' is no argument"),
        (["a.yaml"], "'a.yaml' could not be read: Some keys are not used by the HfArgumentParser: ['n_trails']"),
        (["b.json"], "'b.json' could not be read: expected names with values, such as 'n_trials: 8'"),
        (["c.yaml"], "'c.yaml' could not be read"),
        (["d.yaml"], "'d.yaml' could not be read: expected names with values"),
        (["e.yaml"], "'e.yaml' could not be read: mapping values are not allowed here"),
    ],
)
def test_wrong_arguments_are_one_clear_line(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("n_trails: 3\n")
    Path("b.json").write_text("[1]")
    Path("d.yaml").write_text("# nothing\n")
    Path("e.yaml").write_text("a: b: c\n")
    with pytest.raises(SystemExit, match=re.escape(text)):
        common.parse_args(recipe("glue").Args, words)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("n_trials: three", "n_trials='three' given, expected int"),
        ("n_trials: 2.5", "n_trials=2.5 given, expected int"),
        ("n_trials: true", "n_trials=True given, expected int"),
        ("n_trials: 0", "n_trials=0 given, expected a whole number of at least 1"),
        ("n_trials: null", "n_trials=None given, expected int"),
        ("timeout: [1]", "timeout=[1] given, expected float | None"),
        ("bf16: maybe", "bf16='maybe' given, expected bool"),
        ("task: colaa", "task='colaa' given, expected one of cola, sst2"),
    ],
)
def test_values_of_a_file_are_checked(line: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(line)
    with pytest.raises(SystemExit, match=re.escape(text)):
        common.parse_args(recipe("glue").Args, [str(tmp_path / "a.yaml")])


def test_a_file_may_say_none_and_hold_words_and_folders_with_blanks(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n\t"timeout": null,\n\t"bf16": false,\n\t"data": "my data/-1"\n}')
    assert common.parse_args(recipe("glue").Args, [str(tmp_path / "a.json")]) == recipe("glue").Args(data="my data/-1")


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
        recipe(name).main([*FROM_THE_HUB[name], "--n_trials", "2", "--output", str(tmp_path)])
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
    with pytest.raises(SystemExit, match="could not be loaded: "), common.friendly_hub_errors(str(tmp_path)):
        transformers.AutoConfig.from_pretrained(str(tmp_path))
    assert attempts == []


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
        common.take(rows, None, None, seed=0)


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
