"""``import hf_rlsearch`` and ``import transformers`` in any order; the enum member behaves like the others."""

import copy
import importlib
import pickle
import subprocess
import sys

import pytest
from transformers import Seq2SeqTrainer, Trainer
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS, default_hp_search_backend
from transformers.trainer_utils import HPSearchBackend

import hf_rlsearch
from hf_rlsearch.trainer.register import register

CHECK = """
from transformers.trainer_utils import HPSearchBackend
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS
assert HPSearchBackend("rl").value == "rl"
assert list(ALL_HYPERPARAMETER_SEARCH_BACKENDS) == list(HPSearchBackend)
"""


def in_a_fresh_interpreter(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_table_and_enum_hold_the_same() -> None:
    assert list(ALL_HYPERPARAMETER_SEARCH_BACKENDS) == list(HPSearchBackend)
    assert HPSearchBackend("rl") is HPSearchBackend.RL is HPSearchBackend["RL"]  # type: ignore[attr-defined]
    assert isinstance(HPSearchBackend("rl"), HPSearchBackend)
    assert HPSearchBackend("rl") == "rl"
    assert "rl" in repr(HPSearchBackend("rl"))


def test_the_default_backend_stays() -> None:
    assert default_hp_search_backend() == "optuna"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_member_survives_pickle_and_copy(protocol: int) -> None:
    member = HPSearchBackend("rl")
    assert pickle.loads(pickle.dumps(member, protocol)) is member
    assert copy.copy(member) is copy.deepcopy(member) is member


def test_registering_again_changes_nothing() -> None:
    before, wrapped = list(HPSearchBackend), Trainer.hyperparameter_search
    register()
    importlib.reload(hf_rlsearch)
    assert list(HPSearchBackend) == before
    assert Trainer.hyperparameter_search is wrapped
    assert sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path) == 1


def test_seq2seq_trainer_has_it_too() -> None:
    assert Seq2SeqTrainer.hyperparameter_search is Trainer.hyperparameter_search


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import hf_rlsearch\n" + CHECK,
        "import transformers\nimport hf_rlsearch\n" + CHECK,
        "from transformers import Trainer\nimport hf_rlsearch\n" + CHECK,
        "import hf_rlsearch\nfrom transformers import Trainer\n"
        + CHECK
        + "assert Trainer.hyperparameter_search._hf_rlsearch",
        "import hf_rlsearch, pickle\n"
        "b'' and 0\nfrom transformers.trainer_utils import HPSearchBackend\n"
        "assert pickle.loads(pickle.dumps(HPSearchBackend('rl'))).value == 'rl'",
        "import hf_rlsearch, importlib\nimport transformers.hyperparameter_search as t\nimportlib.reload(t)\n" + CHECK,
    ],
)
def test_any_order_of_imports(code: str) -> None:
    in_a_fresh_interpreter(code)
