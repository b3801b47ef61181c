"""The recipes as modules, each run as if it were a program of its own."""

import importlib
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
import transformers
from huggingface_hub import constants

import common

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NEEDS = {
    "glue": "sklearn",
    "image_classification": "sklearn",
    "lora": "peft",
    "reparameterized_regression": "sklearn",
    "preferences": "trl",
    "sentence_embeddings": "sentence_transformers",
    "sft": "trl",
    "summarization": "rouge_score",
    "translation": "sacrebleu",
}
SEARCHES = tuple(sorted(path.stem for path in RECIPES.glob("*.py") if path.stem != "common"))


@pytest.fixture(autouse=True)
def _as_a_program_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A recipe silences libraries and switches the Hub off for its whole process, which the tests share."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    level = transformers.logging.get_verbosity()
    with warnings.catch_warnings():
        # third-party code of peft and trl that this project cannot mend
        warnings.filterwarnings("ignore", module=r"(peft|trl|torch|transformers|sentence_transformers)(\.|$)")
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
    common._hub_answers.cache_clear()
    return tried


def recipe(name: str) -> ModuleType:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return importlib.import_module(name)
