"""``search(make_trainer, ...)`` with trainers of other libraries, which build or wrap their model themselves."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from optuna.trial import TrialState

from hf_rlsearch import embedded, search
from hf_rlsearch.errors import ArgumentsError, HfRlSearchError
from tests.backend.conftest import rates, states, tiny_model

ARGUMENTS: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "no",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture(autouse=True)
def _third_party() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that this project does not depend on
        yield
    transformers.logging.set_verbosity(before)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (None, "make_trainer returned None, expected a transformers.Trainer or a setfit.Trainer"),
        ("trainer", "make_trainer returned a str, .* It has no args, model,"),
    ],
)
def test_a_function_that_makes_no_trainer(made: Any, text: str) -> None:
    with pytest.raises(ArgumentsError, match=text):
        search(lambda values: made, rates)


def test_a_function_that_returns_one_trainer_again_is_refused(make_trainer: Any) -> None:
    made = make_trainer()
    with pytest.raises(HfRlSearchError, match="trains the same weights as the one before"):
        search(lambda values: made, rates, n_trials=3)


def test_a_trial_has_its_seed_before_its_model_is_built(make_trainer: Any) -> None:
    """The function builds the model itself, so the Trainer would set the seed too late for its new weights."""

    def factory(values: dict[str, Any]) -> transformers.Trainer:
        model = tiny_model()
        made: transformers.Trainer = make_trainer(model_init=lambda: model, **values)
        seeds.append(made.args.seed)
        return made

    seeds: list[int] = []
    result = search(factory, rates, n_trials=2, confirm=1, pruner=None).run_summary
    torch.manual_seed(7)
    assert [result.replay(factory, trial.number) for trial in result.trials] == [(t.value,) for t in result.trials]
    assert len(set(seeds)) > 2  # confirmations have their own


def found(factory: Any) -> Any:
    best = search(factory, rates, metric="loss", direction="minimize", n_trials=2, pruner=None)
    assert states(best.run_summary.study) == [TrialState.COMPLETE] * 2
    assert Path(best.run_summary.best_trial.user_attrs["checkpoint"]).is_dir()
    return best


def test_sentence_transformers(tmp_path: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    layer, losses = (pytest.importorskip(f"sentence_transformers.{name}") for name in ("models", "losses"))
    pairs = {"sentence1": ["one two", "three four"] * 4, "sentence2": ["one three", "five six"] * 4}
    rows = Dataset.from_dict({**pairs, "score": [0.9, 0.1] * 4})

    def make_trainer(values: dict[str, Any]) -> Any:
        layers = [layer.Transformer(embedded.path("bert-tiny"), max_seq_length=16)]
        layers.append(layer.Pooling(layers[0].auto_model.config.hidden_size))
        model = st.SentenceTransformer(modules=layers, device="cpu")
        args = st.SentenceTransformerTrainingArguments(output_dir=str(tmp_path), **{**ARGUMENTS, **values})
        loss = losses.CosineSimilarityLoss(model)
        return st.SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, loss=loss)

    found(make_trainer)


def test_trl(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    path = embedded.path("gpt2-tiny")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    rows = Dataset.from_dict({"prompt": ["one"] * 8, "completion": [" two three"] * 8})

    def make_trainer(values: dict[str, Any]) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(path)
        args = trl.SFTConfig(output_dir=str(tmp_path), max_length=16, **{**ARGUMENTS, **values})
        return trl.SFTTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)

    found(make_trainer)
