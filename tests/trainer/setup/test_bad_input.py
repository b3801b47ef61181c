"""Bad input is a clear error before the first training, and the Trainer is what it was."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_rlsearch import ArgumentsError, ObjectiveError, RLSampler, SearchSpaceError, StorageError, WeightsError, search
from tests.helpers import seq2seq
from tests.trainer.conftest import rates, run, tiny_model

MakeTrainer = Callable[..., Trainer]
FIELDS = {field.name for field in dataclasses.fields(TrainingArguments)}


class NeverTrains(Trainer):
    def train(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("The search began to train.")


@pytest.fixture
def trainer(make_trainer: MakeTrainer) -> Trainer:
    return make_trainer(cls=NeverTrains, score=lambda args, state: 0.5)


def refuses(error: Any, match: str, trainer: Trainer, hp_space: Any = rates, **options: Any) -> None:
    """The search raises, and leaves every attribute of the Trainer as it was."""
    before, arguments = dict(vars(trainer)), trainer.args.to_dict()
    callbacks = list(trainer.callback_handler.callbacks)
    with pytest.raises(error, match=match):
        run(trainer, "rl", hp_space, **options)
    assert {name for name, value in vars(trainer).items() if before.get(name) is not value} == set()
    assert set(vars(trainer)) == set(before)
    assert trainer.args.to_dict() == arguments
    assert trainer.callback_handler.callbacks == callbacks
    trainer.evaluate()


def one(name: str, *choices: Any) -> Any:
    return lambda trial: {name: trial.suggest_categorical(name, choices)}


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (one("learnig_rate", 1e-4, 1e-3), "'learnig_rate'.*Did you mean 'learning_rate'"),
        pytest.param(
            one("warmup_ratio", 0.1, 0.2),
            "warmup_steps takes a fraction",
            marks=pytest.mark.skipif("warmup_ratio" in FIELDS, reason="this transformers still has warmup_ratio"),
        ),
        (one("per_device_train_batch_size", 4, "many"), "per_device_train_batch_size='many'.*int"),
        (one("per_device_train_batch_size", 0, 4), "per_device_train_batch_size=0, expected at least 1"),
        (one("per_device_train_batch_size", 4, 4.5), "4.5.*whole number"),
        (one("learning_rate", -1.0, 1e-3), "learning_rate=-1.0, expected not negative"),
        (one("learning_rate", "fast", 1e-3), "learning_rate='fast'.*float"),
        (one("dataloader_drop_last", "maybe", "no"), "dataloader_drop_last='maybe'.*True or False"),
        (one("lr_scheduler_type", "linear", "cosin"), "cosin is not a valid SchedulerType"),
        (one("output_dir", "a", "b"), "'output_dir'.*Leave it out"),
        (one("metric_for_best_model", "loss", "accuracy"), "'metric_for_best_model'.*Leave it out"),
        (lambda trial: (trial.set_user_attr("rl:role", "x"), rates(trial))[1], "user attribute 'rl:role'"),
        (lambda trial: {"learning_rate": 1e-4}, "empty"),
        (lambda trial: trial.suggest_float("learning_rate", 1e-5, 1e-1), "expected a dict"),
        (lambda trial: {}[trial.number], "hp_space"),
    ],
)
def test_search_space(trainer: Trainer, space: Any, match: str) -> None:
    refuses(SearchSpaceError, match, trainer, space)


@pytest.mark.parametrize("bad", range(12))
def test_every_choice_is_tried_before_the_first_training(trainer: Trainer, bad: int) -> None:
    choices = [*range(1, bad + 1), "many", *range(bad + 1, 12)]
    refuses(SearchSpaceError, "'many'.*int", trainer, one("per_device_train_batch_size", *choices))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"metric": "f1"}, "metric='f1' is not among.*eval_accuracy"),
        ({"metric": "acuracy"}, "Did you mean 'eval_accuracy'"),
        ({"direction": "minimize"}, "direction='minimize' contradicts 'eval_accuracy'"),
        ({"direction": "down"}, "direction='down'.*'minimize' or 'maximize'"),
        ({"direction": None}, "direction=None given"),
        ({"metric": 5}, "metric=5 given, expected the name"),
        ({"direction": ["maximize", "minimize"]}, "2 directions"),
        ({"compute_objective": lambda m: m["eval_accuracy"] + m["eval_loss"]}, "given without direction"),
        ({"compute_objective": lambda m: 0.5, "direction": "minimize"}, "constant"),
        ({"compute_objective": lambda m: m.get("runtime", 0.0), "direction": "minimize"}, "constant"),
        ({"compute_objective": lambda m: m["eval_f1"], "direction": "maximize"}, "KeyError"),
        ({"compute_objective": lambda m: (m["eval_loss"], 0.5), "direction": "minimize"}, r"2 value\(s\)"),
        ({"compute_objective": lambda m: str(m["eval_accuracy"]), "direction": "maximize"}, "expected one number"),
        ({"compute_objective": lambda m: m["eval_accuracy"], "direction": "minimize"}, "contradicts 'eval_accuracy'"),
        ({"compute_objective": lambda m: m["eval_loss"], "metric": "loss"}, "both given"),
    ],
)
def test_objective(trainer: Trainer, options: Any, match: str) -> None:
    refuses(ObjectiveError, match, trainer, **options)


class OfRay:
    """Stands for ``ray.tune.loguniform``: Ray is not installed everywhere."""

    __module__ = "ray.tune.search.sample"


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        ({"learning_rate": OfRay()}, "written for Ray Tune.*trial.suggest_float\\('learning_rate'"),
        ({"method": "random", "parameters": {"seed": {"values": [1, 2]}}}, "written for Weights & Biases.*'seed'"),
    ],
)
def test_a_space_for_another_backend_is_named(trainer: Trainer, returned: Any, match: str) -> None:
    refuses(SearchSpaceError, match, trainer, lambda trial: returned)


@pytest.mark.parametrize("returned", [0.5, None])
def test_compute_metrics_that_returns_no_dict_is_named(make_trainer: MakeTrainer, returned: Any) -> None:
    def compute(prediction: Any) -> Any:
        return returned

    trainer = make_trainer(cls=NeverTrains, metrics=compute)
    with pytest.raises(ObjectiveError, match=f"compute_metrics returned {returned}, a .*expected a dict"):
        run(trainer, "rl", metric="loss")
    assert trainer.compute_metrics is compute


def test_a_forgotten_predict_with_generate_is_named(tmp_path: Path) -> None:
    def compute(prediction: Any) -> Any:
        raise TypeError("argument 'ids': 'list' object cannot be interpreted as an integer")

    trainer = seq2seq.make_trainer(tmp_path, predict_with_generate=False)
    trainer.compute_metrics = compute
    with pytest.raises(ObjectiveError, match=r"raised TypeError: argument.*predict_with_generate=True"):
        run(trainer, "rl")


def test_a_metric_of_unknown_direction_is_asked_for(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(cls=NeverTrains, metrics=lambda p: {"zog": 0.5})
    refuses(ObjectiveError, "'eval_zog' does not tell.*Pass direction='maximize'", trainer)


def test_several_metrics_are_ambiguous(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(cls=NeverTrains, metrics=lambda p: {"accuracy": 0.5, "f1": 0.25})
    refuses(ObjectiveError, "several metrics: eval_accuracy, eval_f1", trainer)


def test_a_metric_that_is_a_list_cannot_be_named(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(cls=NeverTrains, metrics=lambda p: {"bleu": 0.5, "precisions": [0.5, 0.25]})
    refuses(ObjectiveError, "eval_precisions is .*list", trainer, metric="precisions")


def test_greater_is_better_must_fit_the_metric(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(cls=NeverTrains, metrics=lambda p: {"wer": 0.5}, metric_for_best_model="wer")
    refuses(ObjectiveError, "greater_is_better=True contradicts", trainer)


def test_an_evaluation_that_fails_is_found_first(make_trainer: MakeTrainer) -> None:
    def broken(prediction: Any) -> Any:
        raise KeyError("labels")

    before = make_trainer(cls=NeverTrains, metrics=broken)
    with pytest.raises(ObjectiveError, match="Evaluating the untrained model raised KeyError"):
        run(before, "rl")


RANDOM = optuna.samplers.RandomSampler()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_trials": 0}, "n_trials=0 given, expected a whole number, at least 1"),
        ({"n_trials": 2.5}, "n_trials=2.5"),
        ({"n_jobs": 2}, "n_jobs=2 given, expected 1"),
        ({"timeout": 0}, "timeout=0"),
        ({"keep_best_models": -1}, "keep_best_models=-1"),
        ({"roles": "learning_rate"}, "roles='learning_rate' given, expected a dict"),
        ({"max_failed_trials": 0}, "max_failed_trials=0"),
        ({"n_trials": None}, "n_trials=None"),
        ({"timeout": "10"}, "timeout='10' given, expected a number"),
        ({"budget": "a"}, "budget='a' given, expected a number"),
        ({"target": "x"}, "target='x' given, expected a number"),
        ({"hp_name": "x"}, "hp_name='x' given, expected a function"),
        ({"study_name": 3}, "study_name=3 given, expected text"),
        ({"storage": 5}, "storage=5 given, expected an Optuna storage"),
        ({"sampler": "tpe"}, r"sampler='tpe' given.*TPESampler\(\)"),
        ({"sampler": optuna.samplers.TPESampler}, "the class TPESampler; call it"),
        ({"pruner": "median"}, r"pruner='median' given.*MedianPruner\(\)"),
        ({"catch": "RuntimeError"}, "catch='RuntimeError' given, expected an exception class"),
        ({"catch": None}, "catch=None given"),
        ({"published": {"learning_rate": 1e-3}}, "expected a list of dicts"),
        ({"published": [{"learnig_rate": 1e-3}]}, "none of which is searched.*Did you mean 'learning_rate'"),
        ({"confirm": 1, "direction": ["minimize"]}, "confirm=1 given with a list of directions"),
        (
            {"target": 0.5, "metric": ["loss"], "direction": ["minimize"]},
            "target=0.5 given, expected a list of 1 numbers for eval_loss",
        ),
        ({"target": [0.5], "metric": "loss"}, r"target=\[0.5\] given, expected a number: there is one objective"),
        ({"target": [0.5, "x"]}, r"target=\[0.5, 'x'\] given, expected a number, a list"),
        ({"target": float("nan")}, "target=nan given, expected a number"),
        ({"target": {"los": 0.5}, "metric": "loss"}, "target names 'los'.*some of loss. Did you mean 'loss'"),
        ({"constraints": {"peak_memory": 16}}, "constraints names 'peak_memory'.*Did you mean 'peak_memory_gb'"),
        ({"constraints": {"seconds": 0}}, "constraints has seconds=0, expected a number greater than 0"),
        ({"constraints": {"seconds": "60"}}, "constraints has seconds='60', expected a number"),
        ({"constraints": {}}, r"constraints={} given, expected a dict such as {'peak_memory_gb': 16"),
        ({"constraints": ["seconds"]}, r"constraints=\['seconds'\] given, expected a dict"),
        ({"patience": 0}, "patience=0 given, expected a whole number, at least 1"),
        ({"patience": 2.5}, "patience=2.5 given"),
        ({"patience": "never"}, "patience='never' given, expected a whole number, at least 1, 'auto'"),
        ({"patience": "auto", "direction": ["minimize"]}, "patience='auto' given with a list of directions"),
        (
            {"min_gain_per_hour": 0.1, "sampler": optuna.samplers.RandomSampler()},
            "min_gain_per_hour=0.1 given with sampler=RandomSampler, which estimates no gain",
        ),
        (
            {"patience": "auto", "sampler": RLSampler(agent="dqn")},
            r"patience='auto' given with sampler=RLSampler\(agent='dqn'\), which estimates no gain",
        ),
        ({"patience": "auto", "agent": "dqn"}, "patience='auto' given with agent='dqn', which estimates no gain"),
        ({"agent": "dqn", "sampler": RANDOM}, "agent='dqn' given with sampler=RandomSampler, which does not read it"),
        ({"learn": "online", "sampler": RANDOM}, "learn='online' given with sampler=RandomSampler"),
        ({"weights": "w", "sampler": RANDOM, "pruner": None}, "weights='w' given with sampler=RandomSampler"),
        ({"min_gain_per_hour": 0}, "min_gain_per_hour=0 given, expected a number greater than 0"),
    ],
)
def test_arguments(trainer: Trainer, options: Any, match: str) -> None:
    refuses(ArgumentsError, match, trainer, **options)


def test_unknown_keyword(trainer: Trainer) -> None:
    refuses(TypeError, "'n_trails'.*Did you mean 'n_trials'", trainer, n_trails=3)
    refuses(TypeError, "unexpected keyword argument 'halve_batch'", trainer, halve_batch=True)


def test_no_model_init(make_trainer: MakeTrainer) -> None:
    reference = make_trainer()
    trainer = Trainer(
        model=tiny_model(),
        args=reference.args,
        train_dataset=reference.train_dataset,
        eval_dataset=reference.eval_dataset,
    )
    with pytest.raises(RuntimeError, match="model_init"):
        run(trainer, "rl")
    assert trainer.hp_search_backend is None


def test_no_eval_dataset(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(eval_strategy="no")
    trainer.eval_dataset = None
    with pytest.raises(ObjectiveError, match="no eval_dataset"):
        search(trainer, rates)


def test_no_trainer_at_all() -> None:
    class Something:
        def train(self) -> None: ...

    with pytest.raises(ArgumentsError, match="Something has no"):
        search(Something(), rates)


@pytest.mark.parametrize("content", [b"not weights", b""])
def test_foreign_weights(trainer: Trainer, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content)
    refuses(WeightsError, "mine", trainer, weights=str(path))


@pytest.mark.parametrize("given", ["search.db", "sqlite:search.db", Path("search.db")])
def test_a_path_is_no_storage(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    monkeypatch.chdir(tmp_path)
    match = r"For an SQLite file write storage='sqlite:///search\.db'; .*JournalFileBackend\('search\.db'\)"
    refuses(ArgumentsError, f"storage='{given}' given, expected a URL.*{match}", trainer, storage=given)
    assert not (tmp_path / "search.db").exists()


def test_foreign_storage_file(trainer: Trainer) -> None:
    folder = Path(trainer.args.output_dir)
    folder.mkdir(exist_ok=True)
    (folder / "hf_rlsearch.db").write_text("This is not a database, and somebody may need it.")
    refuses(StorageError, "is not an SQLite file", trainer)


def test_truncated_storage_file(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    run(make_trainer(score=lambda args, state: 0.5), "rl", n_trials=1)
    file = tmp_path / "out" / "hf_rlsearch.db"
    file.write_bytes(file.read_bytes()[:20_000])
    refuses(StorageError, "damaged|cannot be used", make_trainer(cls=NeverTrains, score=lambda args, state: 0.5))


def test_storage_of_another_space(trainer: Trainer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = optuna.create_study(study_name="s", storage=url, direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("learning_rate", 1, 2), n_trials=1)
    options = {"storage": url, "study_name": "s"}
    refuses(StorageError, "another search space: learning_rate", trainer, load_if_exists=True, **options)
    refuses(optuna.exceptions.DuplicatedStudyError, "already exists", trainer, **options)


def test_storage_of_another_direction(trainer: Trainer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    optuna.create_study(study_name="s", storage=url, direction="minimize")
    refuses(StorageError, "has directions", trainer, storage=url, study_name="s", load_if_exists=True)


def test_storage_of_another_objective(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    options: Any = {"storage": f"sqlite:///{tmp_path / 'studies.db'}", "study_name": "s", "load_if_exists": True}
    metrics = lambda prediction: {"f1": 0.9, "accuracy": 0.1}  # noqa: E731
    run(make_trainer(metrics=metrics), "rl", n_trials=1, metric="f1", **options)
    other = make_trainer(cls=NeverTrains, metrics=metrics)
    refuses(StorageError, "another objective: .*eval_f1.*eval_accuracy", other, metric="accuracy", **options)
    computed = {"compute_objective": lambda m: m["eval_accuracy"], "direction": "maximize", **options}
    refuses(StorageError, "another objective", other, **computed)


def test_the_trainer_is_restored_after_an_error_in_the_middle(make_trainer: MakeTrainer) -> None:
    def score(args: Any, state: Any) -> float:
        if state.global_step:
            raise KeyboardInterrupt
        return 0.5

    trainer = make_trainer(score=score)
    before, weights = dict(vars(trainer)), trainer.model.state_dict()
    with pytest.raises(KeyboardInterrupt):
        run(trainer, "rl", n_trials=2)
    assert {name for name, value in before.items() if vars(trainer)[name] is not value} == set()
    assert trainer.hp_search_backend is None
    assert all(torch.equal(value, weights[name]) for name, value in trainer.model.state_dict().items())


def test_a_storage_that_cannot_be_opened_hides_its_password(make_trainer: MakeTrainer) -> None:
    with pytest.raises(StorageError) as told:
        run(make_trainer(), "rl", storage="nosuchdb://me:secret@host/searches")
    assert "nosuchdb://me:***@host/searches" in str(told.value)
    assert "secret" not in str(told.value)
