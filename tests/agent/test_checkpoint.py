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

import pytest
import torch
from safetensors.torch import save_file

import hf_rlsearch
from hf_rlsearch.agent.agent import load_agent
from hf_rlsearch.agent.checkpoint import BUNDLED, Card, load_weights, resolve, save_weights
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.observation import OBSERVATION_FORMAT

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


# ----------------------------------------------------------------------------------------------------- what is refused
def test_missing_weights_name_what_there_is(tmp_path: Path) -> None:
    for name in ("rl-v99", tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(WeightsError, match=r"there are no weights .*rl-v2.*\.safetensors"):
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
    text = f"observation format {OBSERVATION_FORMAT + 1}, this version .* reads {OBSERVATION_FORMAT}.*rl-v2"
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


@pytest.mark.parametrize("folder", ["weights", "policy", "tasks", "sampler", "."])
def test_no_module_around_the_agent_names_pickle(folder: str) -> None:
    package = Path(hf_rlsearch.__file__).parent
    for source in (package / folder).glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Name)}
        imports = [n for n in ast.walk(ast.parse(source.read_text())) if isinstance(n, (ast.Import, ast.ImportFrom))]
        modules = {alias.name for n in imports for alias in n.names} | {getattr(n, "module", None) for n in imports}
        assert not {"pickle", "cloudpickle", "joblib", "dill"} & (names | modules), source
        assert "torch.load(" not in source.read_text(), source
