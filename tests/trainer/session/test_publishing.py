"""``push_to_hub=True``: the best model is published once, and nothing of the trials."""

from pathlib import Path

import pytest

from tests.helpers.hub import Hub, hub
from tests.helpers.processes import run_code

CODE = """
import logging
import sys

logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
sys.path.insert(0, {root!r})
from tests.trainer.conftest import Rows, rates, tiny_arguments, tiny_model
from transformers import Trainer

args = tiny_arguments("out", num_train_epochs=1, save_strategy="epoch", push_to_hub=True, hub_token="hf_x", {more})
trainer = Trainer(
    args=args, model_init=lambda: tiny_model(), train_dataset=Rows(64, 0), eval_dataset=Rows(32, 1)
)
best = trainer.hyperparameter_search(rates, backend="rl", n_trials=3)
print("learning rate", trainer.args.learning_rate == best.hyperparameters["learning_rate"], trainer.args.output_dir)
print("pushes", trainer.args.push_to_hub)
{then}
"""


def search(server: Hub, folder: Path, more: str = "", then: str = "") -> str:
    code = CODE.format(root=str(Path(__file__).parents[3]), more=more, then=then)
    return run_code(code, folder, HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")


@pytest.mark.slow
def test_only_the_best_model_is_published_and_once(tmp_path: Path) -> None:
    with hub() as server:
        printed = search(server, tmp_path, 'hub_model_id="me/best"')
    assert "learning rate True" in printed
    assert "pushes True" in printed
    assert [summary for summary, _ in server.commits] == ["Best model of a hyperparameter search"]
    files = server.commits[0][1]
    assert {"model.safetensors", "config.json", "training_args.bin", "README.md"} <= set(files)
    assert not [name for name in files if name.startswith(("run-", "hf_rlsearch", "checkpoint"))]
    assert b"# best" in files["README.md"]
    kept = next((tmp_path / "out").glob("run-*/checkpoint-*/model.safetensors"))
    assert files["model.safetensors"] == kept.read_bytes()
    assert not list((tmp_path / "out").glob("_*"))


@pytest.mark.slow
def test_a_finished_search_that_runs_again_publishes_what_was_not_published(tmp_path: Path) -> None:
    with hub() as server:
        server.fails = True
        search(server, tmp_path, 'hub_model_id="me/best"')
        server.fails = False
        search(server, tmp_path, 'hub_model_id="me/best"')
        assert len(server.commits) == 1
        search(server, tmp_path, 'hub_model_id="me/best"')
        assert len(server.commits) == 1


@pytest.mark.slow
def test_a_push_of_the_users_own_names_what_the_hub_leaves_out(tmp_path: Path) -> None:
    with hub() as server:
        search(server, tmp_path, 'hub_model_id="me/best"', then="trainer.push_to_hub()")
    assert len(server.commits) == 2
    assert server.gitignores[-1] is not None
    assert {"hf_rlsearch.db*", "run-*/", "checkpoint-*/"} <= set(server.gitignores[-1].splitlines())


@pytest.mark.slow
def test_a_push_that_fails_loses_nothing(tmp_path: Path) -> None:
    with hub() as server:
        server.fails = True
        printed = search(server, tmp_path, 'hub_model_id="me/best"')
    assert "could not be pushed to the Hub: " in printed
    assert "learning rate True" in printed
