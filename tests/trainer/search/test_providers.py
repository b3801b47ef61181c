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
from hf_rlsearch.errors import ArgumentsError, HfRlSearchError, SearchFailed
from tests.trainer.conftest import rates, states, tiny_model

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
        (None, r"make_trainer returned None, expected a transformers.Trainer\. It has no args, model,"),
        ("trainer", "make_trainer returned a str, .* It has no args, model,"),
    ],
)
def test_make_trainer_has_to_return_a_trainer(made: Any, text: str) -> None:
    with pytest.raises(ArgumentsError, match=text):
        search(lambda values: made, rates)


def test_make_trainer_has_to_return_a_fresh_trainer(make_trainer: Any) -> None:
    made = make_trainer()
    with pytest.raises(HfRlSearchError, match="trains the same weights as the one before"):
        search(lambda values: made, rates, n_trials=3)


def with_more(name: str, *choices: Any) -> Any:
    return lambda trial: {**rates(trial), name: trial.suggest_categorical(name, choices)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("weight_decai", "'weight_decai', which make_trainer does not take .*Did you mean 'weight_decay'?"),
        (
            "scoped.rank",
            r"'scoped.rank', which .* unexpected keyword .* remove that name: values.pop\(",
        ),
    ],
)
def test_a_name_that_make_trainer_does_not_take_fails_the_trial(make_trainer: Any, name: str, text: str) -> None:
    made: list[Any] = []

    def factory(values: dict[str, Any]) -> transformers.Trainer:
        trainer: transformers.Trainer = make_trainer(**values)
        trainer.train = made.append  # type: ignore[method-assign, assignment]
        return trainer

    with pytest.raises(SearchFailed, match=text):
        search(factory, with_more(name, 0.0, 0.1), n_trials=3, max_failed_trials=1, baseline=False)
    assert made == []


def test_a_name_close_to_a_field_is_a_warning(make_trainer: Any, caplog: pytest.LogCaptureFixture) -> None:
    def factory(values: dict[str, Any]) -> transformers.Trainer:
        return make_trainer(learning_rate=values.get("learning_rate", 1e-3))  # type: ignore[no-any-return]

    search(factory, with_more("weight_decai", 0.0, 0.1), n_trials=1, pruner=None)
    assert "hp_space sets 'weight_decai', which is no field of the arguments" in caplog.text
    assert "Did you mean 'weight_decay'?" in caplog.text


def test_a_push_that_make_trainer_asks_for_is_answered_by_one_warning(
    make_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def factory(values: dict[str, Any]) -> transformers.Trainer:
        trainer: transformers.Trainer = make_trainer(**values)
        trainer.args.push_to_hub = True
        return trainer

    search(factory, rates, n_trials=1, pruner=None)
    warned = [record.getMessage() for record in caplog.records if "push_to_hub=True" in record.getMessage()]
    assert len(warned) == 1
    assert "publishes nothing" in warned[0]
    assert "`hf upload REPOSITORY FOLDER`" in warned[0]


def test_what_hp_space_changes_is_set_while_make_trainer_is_called(make_trainer: Any) -> None:
    settings, seen = {"dropout": 0.2}, []

    def factory(values: dict[str, Any]) -> transformers.Trainer:
        seen.append(settings["dropout"])
        return make_trainer(model_init=lambda: tiny_model(settings["dropout"]), **values)  # type: ignore[no-any-return]

    def hp_space(trial: Any) -> dict[str, Any]:
        settings["dropout"] = trial.suggest_categorical("dropout", [0.3, 0.4])
        return rates(trial)

    result = search(factory, hp_space, n_trials=3, pruner=None)
    assert seen == [0.2, 0.2, *(trial.params["dropout"] for trial in result.trials[1:])]


def test_a_name_that_make_trainer_reads_is_searched(make_trainer: Any, caplog: pytest.LogCaptureFixture) -> None:
    def factory(values: dict[str, Any]) -> transformers.Trainer:
        dropout = values.pop("dropout_rate", 0.1)
        return make_trainer(model_init=lambda: tiny_model(dropout), **values)  # type: ignore[no-any-return]

    result = search(factory, with_more("dropout_rate", 0.0, 0.4), n_trials=2, pruner=None)
    assert states(result.study) == [TrialState.COMPLETE] * 2
    assert "dropout_rate" not in caplog.text


def test_each_trial_makes_one_trainer(make_trainer: Any) -> None:
    given: list[dict[str, Any]] = []

    def factory(values: dict[str, Any]) -> transformers.Trainer:
        given.append(dict(values))
        values.pop("focus", None)
        trainer: transformers.Trainer = make_trainer(**values)
        return trainer

    search(factory, with_more("focus", 1, 2), n_trials=2, pruner=None)
    assert [sorted(values) for values in given] == [[], [], ["focus", "learning_rate"]]


def test_the_seed_is_set_before_make_trainer_builds_the_model(make_trainer: Any) -> None:
    """The function builds the model itself, so the Trainer would set the seed too late for its new weights."""

    def factory(values: dict[str, Any]) -> transformers.Trainer:
        model = tiny_model()
        made: transformers.Trainer = make_trainer(model_init=lambda: model, **values)
        seeds.append(made.args.seed)
        return made

    seeds: list[int] = []
    result = search(factory, rates, n_trials=2, confirm=1, pruner=None)
    torch.manual_seed(7)
    assert [result.replay(factory, trial.number) for trial in result.trials] == [t.value for t in result.trials]
    assert len(set(seeds)) > 2  # confirmations have their own


def check(factory: Any) -> None:
    result = search(factory, rates, metric="loss", direction="minimize", n_trials=2, pruner=None)
    assert states(result.study) == [TrialState.COMPLETE] * 2
    assert Path(str(result.best_checkpoint)).is_dir()


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

    check(make_trainer)


def test_trl(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    path = embedded.path("gpt2-tiny")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    rows = Dataset.from_dict({"prompt": ["one"] * 8, "completion": [" two three"] * 8})

    def make_trainer(values: dict[str, Any]) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(path)
        args = trl.SFTConfig(output_dir=str(tmp_path), max_length=16, **{**ARGUMENTS, **values})
        return trl.SFTTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)

    check(make_trainer)
