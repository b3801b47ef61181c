"""SetFit's own search with our sampler, as docs/how_to/other_trainers.md shows it; and its error in our search."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from datasets import Dataset
from optuna.trial import TrialState

from hf_rlsearch import ArgumentsError, RLSampler, embedded, search
from tests.trainer.conftest import states

WORDS = [["open a file", "the path of a file", "read the file"], ["add two numbers", "a number and a sum", "the sum"]]
ROWS = Dataset.from_dict({"text": [*WORDS[0], *WORDS[1]] * 2, "label": [0, 0, 0, 1, 1, 1] * 2})


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A ``setfit.Trainer``, the warnings of its dependencies off, and no request sent to the Hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = transformers.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setfit = pytest.importorskip("setfit", reason="SetFit is not here: pip install setfit")
        transformers.logging.set_verbosity_error()
        yield setfit.Trainer(
            model_init=lambda params: setfit.SetFitModel.from_pretrained(embedded.path("bert-tiny")),
            args=setfit.TrainingArguments(
                output_dir=str(tmp_path), num_iterations=1, batch_size=4, report_to="none", show_progress_bar=False
            ),
            train_dataset=ROWS,
            eval_dataset=ROWS,
            metric=lambda found, known: {"accuracy": sum(map(_equal, found, known)) / len(known)},
        )
    transformers.logging.set_verbosity(before)


def _equal(found: Any, known: Any) -> bool:
    return bool(found == known)


def hp_space(trial: Any) -> dict[str, Any]:
    return {
        "body_learning_rate": trial.suggest_float("body_learning_rate", 1e-6, 1e-3, log=True),
        "num_epochs": trial.suggest_categorical("num_epochs", [1, 2]),
    }


def test_the_search_of_setfit_uses_our_sampler(trainer: Any) -> None:
    best = trainer.hyperparameter_search(
        hp_space=hp_space,
        compute_objective=lambda metrics: metrics["accuracy"],
        n_trials=4,
        direction="maximize",
        backend="optuna",
        sampler=RLSampler(n_trials=4, seed=0),
    )
    assert states(best.backend) == [TrialState.COMPLETE] * 4
    # The first trial suggests one value after the other, before the space is known.
    decisions = [[key for key in trial.system_attrs if key.startswith("rl:decision")] for trial in best.backend.trials]
    assert decisions[1:] == [["rl:decision"]] * 3
    trainer.apply_hyperparameters(best.hyperparameters, final_model=True)
    trainer.train()
    assert trainer.args.body_learning_rate[0] == best.hyperparameters["body_learning_rate"]
    assert trainer.evaluate()["accuracy"] == best.objective


def test_a_factory_of_setfit_trainers_is_refused_with_advice(trainer: Any) -> None:
    with pytest.raises(ArgumentsError, match=r"It has no .*accelerator.*backend='optuna', sampler=hf_rlsearch.RLSamp"):
        search(lambda values: trainer, hp_space)
