"""Weights files: what is read, what is refused and in which words, and that nothing is ever unpickled."""

import ast
import builtins
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

import hf_rlsearch
from hf_rlsearch.agent.agent import load_agent
from hf_rlsearch.agent.checkpoint import BUNDLED, Card, learnt_spaces, load_weights, resolve, save_weights
from hf_rlsearch.agent.decision_head import DecisionHead
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.curve_features import STOP_FEATURES
from hf_rlsearch.observation.observation import OBSERVATION_FORMAT
from tests.helpers.searches import random_predictor

CARD = Card(name="mine", observation_format=OBSERVATION_FORMAT, network={"width": 8}, prior="1")
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(1)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.safetensors"


def write(path: Path, card: Any) -> None:
    save_file(TENSORS, path, metadata={"card": card if isinstance(card, str) else json.dumps(card)})


# ----------------------------------------------------------------------------------------------------------- what works
def test_weights_and_card_come_back_as_they_were_saved(path: Path) -> None:
    save_weights(path, {**TENSORS, "c": torch.arange(6.0).reshape(2, 3).T}, CARD)
    tensors, card = load_weights(path)
    assert card == CARD
    torch.testing.assert_close(tensors["a"], TENSORS["a"])
    torch.testing.assert_close(tensors["c"], TENSORS["a"].T)
    assert Card.from_json(path.with_suffix(".json").read_text(), "the card beside") == CARD


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_weights_are_small_and_documented(name: str) -> None:
    tensors, card = load_weights(name)
    assert resolve(name).stat().st_size < 8e6
    assert card.name == name
    assert card.observation_format == OBSERVATION_FORMAT
    assert all(torch.isfinite(t).all() for t in tensors.values())
    assert json.loads(resolve(name).with_suffix(".json").read_text()) == json.loads(card.to_json())


def test_the_first_bundled_weights_are_the_default() -> None:
    assert resolve(None) == resolve(BUNDLED[0])


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"spaces": [["a", "b"], ["c"]]}, [{"a", "b"}, {"c"}]),
        ({"spaces": [["a", 1], "b", None]}, [{"a"}]),
        ({"spaces": 3}, []),
        ({}, []),
        ("text", []),
        (None, []),
    ],
)
def test_the_spaces_in_a_card_are_read_whatever_it_holds(own: Any, expected: list[set[str]]) -> None:
    assert learnt_spaces(replace(CARD, training={"own_studies": own})) == expected


def test_the_folder_of_an_agent_stands_for_its_file(tmp_path: Path) -> None:
    save_weights(tmp_path / "agent.safetensors", TENSORS, CARD)
    assert resolve(tmp_path) == tmp_path / "agent.safetensors"
    assert load_weights(str(tmp_path))[1] == CARD


def test_an_agent_of_the_hub_is_read_from_the_cache_of_huggingface_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, commit = tmp_path / "models--me--my-agent", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    save_weights(repository / "snapshots" / commit / "agent.safetensors", TENSORS, CARD)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_weights("me/my-agent")[1] == CARD
    with pytest.raises(WeightsError, match=r"no weights 'me/other' here, and the Hugging Face Hub gave no 'agent.safe"):
        load_weights("me/other")


def test_a_missing_file_is_not_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: pytest.fail("The Hub was asked."))
    for name in ("runs/gone.safetensors", "rl-v99", "./runs/gone", "/tmp/gone", "a/b/c"):
        with pytest.raises(WeightsError, match="there are no weights"):
            load_weights(name)


# ----------------------------------------------------------------------------------------------------- what is refused
def test_missing_weights_name_what_there_is(tmp_path: Path) -> None:
    for name in ("rl-v99", tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(WeightsError, match=r"there are no weights .*rl-v5.*\.safetensors"):
            load_weights(name)


@pytest.mark.parametrize("content", [b"", b"not weights", bytes(range(256)) * 16, b"\xff" * 64])
def test_a_corrupted_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"'mine.safetensors' is not a readable safetensors file"):
        load_weights(path)


def test_a_truncated_file_is_refused(path: Path) -> None:
    save_weights(path, TENSORS, CARD)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(WeightsError, match="Download or train it again"):
        load_weights(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_weights_of_something_else_are_refused(path: Path, metadata: dict[str, str] | None) -> None:
    save_file(TENSORS, path, metadata=metadata)
    with pytest.raises(WeightsError, match="holds no weights of hf_rlsearch: its header has no card"):
        load_weights(path)


def test_another_observation_format_is_refused(path: Path) -> None:
    save_weights(path, TENSORS, replace(CARD, observation_format=OBSERVATION_FORMAT + 1))
    text = f"observation format {OBSERVATION_FORMAT + 1}, this version .* reads {OBSERVATION_FORMAT}.*rl-v5"
    with pytest.raises(WeightsError, match=text):
        load_weights(path)


def test_a_card_with_unknown_keys_is_refused(path: Path) -> None:
    write(path, {**json.loads(CARD.to_json()), "licence": "none", "mood": "good"})
    with pytest.raises(WeightsError, match=r"unknown keys \['licence', 'mood'\]; install a newer hf_rlsearch"):
        load_weights(path)


@pytest.mark.parametrize("card", ["{", "", "[]", "null", '"text"', "{}", '{"name": "x"}'])
def test_an_unreadable_card_is_refused(path: Path, card: str) -> None:
    write(path, card)
    with pytest.raises(WeightsError, match="card"):
        load_weights(path)


DEEP = "[" * 100_000 + "]" * 100_000
GIVEN = CARD.to_json()


@pytest.mark.timeout(30)  # 100,000 blocks took 8 minutes and 11.6 GB
@pytest.mark.parametrize(
    ("card", "text"),
    [
        (GIVEN.replace('"prior": "1"', f'"prior": {DEEP}'), "no readable card .*recursion"),
        (GIVEN.replace('"gates": {}', f'"gates": {{"a": {DEEP[99_900:100_100]}}}'), "nested deeper than 20 levels"),
        (GIVEN.replace('"width": 8', f'"width": {"1" * 5000}'), "no readable card .*4300 digits"),
        (GIVEN.replace('"limits": ""', f'"limits": "{"x" * 2_000_000}"'), "at most 1,000,000 are read"),
        (GIVEN.replace('"width": 8', f'"width": {"1" * 4000}'), r"width is 1+\.\.\.1+, expected .* from 1 to 4096"),
        (GIVEN.replace('"width": 8', '"history_blocks": 100000'), "history_blocks is 100000, expected .* from 1 to 64"),
        (GIVEN.replace('"width": 8', '"candidate_blocks": 0'), "candidate_blocks is 0, expected a whole number"),
        (GIVEN.replace('"width": 8', '"heads": 3'), "width 64 cannot be divided among 3 heads"),
        (GIVEN.replace('"width": 8', '"heads": "many"'), "heads is 'many', expected a whole number"),
        (GIVEN.replace('"width": 8', '"heads": true'), "heads is True, expected a whole number"),
        (GIVEN.replace('"prior": "1"', '"prior": 1'), "prior is 1, expected a value of type str"),
        (GIVEN.replace('"name": "mine"', '"name": ["mine"]'), r"name is \['mine'\], expected a value of type str"),
    ],
    ids=lambda value: str(value)[:40] if "\n" not in value else "",
)
def test_a_card_of_odd_values_is_refused_at_once(path: Path, card: str, text: str) -> None:
    write(path, card)
    with pytest.raises(WeightsError, match=text) as raised:
        load_weights(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


NETWORK = {"width": 16, "heads": 2, "history_blocks": 1, "candidate_blocks": 1}


def all_parts() -> dict[str, torch.Tensor]:
    """Weights of all parts, of the sizes in NETWORK."""
    rule = {"stop.0.weight": (8, len(STOP_FEATURES) + 1), "stop.1.weight": (4, 8), "stop.2.weight": (2, 5)}
    rule |= {"stop.0.bias": (8,), "stop.1.bias": (4,), "stop.2.bias": (2,)}
    return {
        **{
            f"predictor.{i}.{name}": value.clone()
            for i in (0, 1)
            for name, value in random_predictor().state_dict().items()
        },
        **{f"head.{name}": value for name, value in DecisionHead().state_dict().items()},
        **{name: torch.zeros(shape) for name, shape in rule.items()},
    }


def test_weights_of_all_parts_are_loaded(path: Path) -> None:
    save_weights(path, all_parts(), replace(CARD, network=NETWORK))
    assert load_weights(path)[0].keys() == all_parts().keys()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("predictor.1.head.0.bias", torch.zeros(17), r"'predictor.1.head.0.bias' is \(17,\), expected \(16,\)"),
        ("predictor.1.head.0.bias", None, r"'predictor.1.head.0.bias' is missing, expected \(16,\)"),
        ("predictor.0.other", torch.zeros(1), r"'predictor.0.other' is \(1,\), expected no such tensor"),
        ("head.gate.4.bias", torch.zeros(2), r"'head.gate.4.bias' is \(2,\), expected \(1,\)"),
        ("stop.1.weight", torch.zeros(4, 9), r"'stop.1.weight' is \(4, 9\), expected \(4, 8\)"),
        ("stop.2.bias", torch.zeros(2, 1), r"'stop.2.bias' is \(2, 1\), expected \(2,\)"),
        ("stop.1.bias", torch.tensor(0.0), r"'stop.1.bias' is \(\), expected \(0,\)"),
        ("stop.2.bias", torch.zeros(2, dtype=torch.int64), "'stop.2.bias' is no tensor of float32"),
    ],
)
def test_tensors_of_other_shapes_are_refused(path: Path, name: str, value: torch.Tensor | None, text: str) -> None:
    tensors = {key: tensor for key, tensor in {**all_parts(), name: value}.items() if tensor is not None}
    save_weights(path, tensors, replace(CARD, network=NETWORK))
    with pytest.raises(WeightsError, match=f"weights 'mine' do not fit .*{text}"):
        load_weights(path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(path: Path, number: float) -> None:
    tensors = all_parts()
    tensors["stop.2.bias"] = torch.tensor([0.0, number])
    save_weights(path, tensors, replace(CARD, network=NETWORK))
    with pytest.raises(WeightsError, match=r"'mine.safetensors' holds numbers that are not finite, in 'stop.2.bias'"):
        load_weights(path)


def test_the_errors_are_value_errors_too() -> None:
    with pytest.raises(ValueError, match="rl-v99"):
        load_weights("rl-v99")


# ---------------------------------------------------------------------------------------------------------- no pickling
class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return builtins.open, (str(self.path), "w")


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_is_not_opened(path: Path, tmp_path: Path, writer: str) -> None:
    mark = tmp_path / "executed"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save({"a": Bomb(mark)}, path)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_weights(path)
    assert not mark.exists()


def test_loading_never_calls_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    load_agent.cache_clear()
    assert load_agent().card.name == BUNDLED[0]


def test_importing_and_loading_in_a_fresh_process_never_calls_pickle() -> None:
    code = (
        "import pickle\n"
        "def refuse(*_, **__): raise AssertionError('something was unpickled')\n"
        "pickle.load = pickle.loads = refuse\n"
        "import torch; torch.load = refuse\n"
        "from hf_rlsearch.agent.agent import load_agent; print(load_agent().card.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == (BUNDLED[0], 0), done.stderr


def test_no_module_unpickles_or_evaluates_what_it_reads() -> None:
    sources = sorted(Path(hf_rlsearch.__file__).parent.rglob("*.py"))
    assert len(sources) > 100
    for source in sources:
        nodes = list(ast.walk(ast.parse(source.read_text())))
        called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        unsafe = {ast.unparse(k) for node in nodes if isinstance(node, ast.Call) for k in node.keywords}
        modules = {
            alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
        }
        modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        assert not {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"} & modules, source
        assert not {"eval", "exec", "compile", "torch.load", "pandas.read_pickle"} & called, source
        assert not {"allow_pickle=True", "trust_remote_code=True", "weights_only=False"} & unsafe, source
