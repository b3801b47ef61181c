"""``fidelity="data"``: a ninth of the rows, a third, all of them; only trainings on all rows are complete."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import Trainer, TrainerCallback

from hf_rlsearch import search
from hf_rlsearch.backend.fidelity import POINTS, WHOLE
from tests.backend.conftest import Scripted, rates, run, states, tiny_model

MakeTrainer = Callable[..., Trainer]
RATES = [1e-2, 1e-3, 5e-3, 1e-3]
"""Trials 1 to 4; the last one is of the same configuration as trial 2."""
ARGS: dict[str, Any] = {"per_device_train_batch_size": 4, "num_train_epochs": 2}
# Optimizer steps of 2 epochs on 7, 21 and 64 rows.
STEPS = [4, 12, 32]


class Stops(optuna.pruners.BasePruner):
    """Stops trials after so many looks."""

    def __init__(self, **after: int) -> None:
        self._after = {int(name.removeprefix("trial_")): n for name, n in after.items()}

    def prune(self, study: Any, trial: Any) -> bool:
        return len(trial.intermediate_values) == self._after.get(trial.number)


class Notes(Trainer):
    """Notes of each training its folder, rows, first weights, first step and learning rates."""

    trainings: ClassVar[list[dict[str, Any]]] = []

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.noted: dict[str, Any] = {"folder": Path(self.args.output_dir).name, "rows": rows_of(self.train_dataset)}
        self.noted |= {"rates": [], "from": kwargs.get("resume_from_checkpoint")}
        Notes.trainings.append(self.noted)
        return super().train(*args, **kwargs)

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        assert self.lr_scheduler is not None
        self.noted["rates"].append(self.lr_scheduler.get_last_lr()[0])  # type: ignore[no-untyped-call]
        self.noted.setdefault("first", [p.detach().clone() for p in model.parameters()])
        return super().training_step(model, *args, **kwargs)


def rows_of(data: Any) -> list[int]:
    """The indices of a subset, all of them of the whole set."""
    return list(data.indices) if isinstance(data, torch.utils.data.Subset) else list(range(len(data)))


@pytest.fixture(autouse=True)
def nothing_noted() -> Iterator[None]:
    Notes.trainings.clear()
    yield
    Notes.trainings.clear()


def looks(make_trainer: MakeTrainer, *, rates: list[float] | None = None, **given: Any) -> Any:
    """A search by rows: the user's own configuration, then trials with these learning rates; returns its result."""
    rates = rates or RATES
    names = ("pruner", "n_trials", "confirm", "budget", "hp_space", "halve_batch", "catch")
    options = {"n_trials": 1 + len(rates), **{name: given.pop(name) for name in names if name in given}}
    options = {"pruner": Stops(trial_1=1, trial_2=2), "baseline": True, "fidelity": "data", **options}
    sampler = Scripted(learning_rate=rates)
    return run(make_trainer(cls=Notes, **{**ARGS, **given}), "rl", sampler=sampler, **options).run_summary


def test_only_trainings_on_all_rows_are_complete(make_trainer: MakeTrainer) -> None:
    """Stopped trials end with the value of their last look, and each counts for the rows that it has seen."""
    result = looks(make_trainer, rates=RATES[:3], confirm=1)
    assert [t.state.name for t in result.trials[:4]] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert all(t.state == TrialState.COMPLETE for t in result.trials[4:])
    assert len(result.trials) > 4
    ends = [list(t.intermediate_values) for t in result.trials]
    assert ends == [[10_000], [POINTS[0]], list(POINTS), [*POINTS, 10_000], *[[10_000]] * (len(ends) - 4)]
    for trial in result.trials:
        assert trial.value == pytest.approx(trial.intermediate_values[max(trial.intermediate_values)])
    spent = [t.user_attrs["spent"] for t in result.trials[:4]]
    assert spent == pytest.approx([1, 1 / 9, 1 / 9 + 1 / 3, 1 / 9 + 1 / 3 + 1], abs=1e-3)
    sizes = [len(noted["rows"]) for noted in Notes.trainings]
    assert sizes == [64, 7, 7, 21, 7, 21, 64, *[64] * (len(ends) - 4)]


def test_looks_are_nested_and_the_same_for_every_trial(make_trainer: MakeTrainer) -> None:
    looks(make_trainer, rates=RATES[:3], n_trials=4)
    (small,) = {tuple(noted["rows"]) for noted in Notes.trainings if len(noted["rows"]) == 7}
    (middle,) = {tuple(noted["rows"]) for noted in Notes.trainings if len(noted["rows"]) == 21}
    assert set(small) < set(middle) < set(range(64))
    assert list(small) != list(range(7))


def test_each_training_begins_anew_with_a_schedule_of_its_own(make_trainer: MakeTrainer) -> None:
    """Warm-up steps become fewer with the rows; the learning rate is one step from nothing in the last one."""
    looks(make_trainer, rates=[1e-2], pruner=Stops(), warmup_steps=8)
    own = Notes.trainings[0]
    trainings = Notes.trainings[1:]
    assert [len(noted["rates"]) for noted in trainings] == STEPS
    for noted, warmup in zip(trainings, (1, 3, 8), strict=True):
        assert noted["rates"].index(max(noted["rates"])) == warmup
        assert max(noted["rates"]) == pytest.approx(1e-2)
        assert noted["rates"][-1] == pytest.approx(1e-2 / (len(noted["rates"]) - warmup))
        assert all(torch.equal(a, b) for a, b in zip(noted["first"], own["first"], strict=True))
        assert noted["from"] is None


def test_a_complete_trial_is_what_a_search_without_looks_gives(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """Dropout makes the random state matter: the looks leave no trace in the training on all rows."""
    init = {"model_init": lambda: tiny_model(0.3)}
    result = looks(make_trainer, rates=RATES[:1], pruner=Stops(), **init)
    plain = run(
        make_trainer(output_dir=str(tmp_path / "plain"), **ARGS, **init),
        "rl",
        sampler=Scripted(learning_rate=RATES[:1]),
        n_trials=1,
    ).run_summary
    assert result.trials[1].value == plain.trials[0].value
    assert result.replay(make_trainer(**ARGS, **init), 1) == (result.trials[1].value,)


def test_a_stopped_configuration_goes_on_after_its_last_look(make_trainer: MakeTrainer) -> None:
    result = looks(make_trainer, save_strategy="epoch")
    again = result.trials[4]
    assert again.user_attrs["rl:continues"] == 2
    assert again.state == TrialState.COMPLETE
    assert list(again.intermediate_values) == [*POINTS, 10_000]
    assert again.user_attrs["spent"] == pytest.approx(1.0, abs=1e-3)
    assert [len(noted["rows"]) for noted in Notes.trainings[-1:]] == [64]
    assert [noted["from"] for noted in Notes.trainings] == [None] * 8


def test_no_look_leaves_a_checkpoint(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """With ``load_best_model_at_end`` a look writes them, and is scored by its best evaluation."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    scores = {0: 0.5, 1: 0.9, 2: 0.7}
    trainer = {"score": lambda args, state: scores[round(state.epoch or 0)], "save_strategy": "epoch", **best}
    result = looks(make_trainer, rates=RATES[:2], pruner=Stops(trial_1=1, trial_2=2), **trainer)
    assert [t.value for t in result.trials] == [0.9] * 3
    left = {path.parent.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("checkpoint-*")}
    assert left == {Path("run-0")}


def test_a_budget_counts_rows(make_trainer: MakeTrainer) -> None:
    """One training on all rows and nine looks at a ninth are two."""
    after = {f"trial_{n}": 1 for n in range(1, 20)}
    rates = [10 ** -(2 + n / 10) for n in range(19)]
    result = looks(make_trainer, rates=rates, pruner=Stops(**after), budget=1.5, n_trials=20, eval_strategy="no")
    assert result.stopped_by == "budget"
    assert states(result.study) == [TrialState.COMPLETE] + [TrialState.PRUNED] * 5


def test_max_steps_become_fewer_with_the_rows(make_trainer: MakeTrainer) -> None:
    result = looks(make_trainer, rates=RATES[:1], pruner=Stops(), max_steps=18, num_train_epochs=1)
    assert [len(noted["rates"]) for noted in Notes.trainings] == [18, 2, 6, 18]
    assert result.trials[1].user_attrs["rl:cost"] == pytest.approx(WHOLE)


def test_a_look_that_fails_fails_its_trial_only(make_trainer: MakeTrainer) -> None:
    def score(args: Any, state: Any) -> float:
        return float("nan") if args.learning_rate == RATES[0] else 0.5

    result = looks(make_trainer, rates=RATES[:2], score=score, pruner=Stops(trial_2=2))
    assert [t.state.name for t in result.trials] == ["COMPLETE", "FAIL", "PRUNED"]
    assert 0 < result.trials[1].user_attrs["spent"] <= 0.112
    assert list(result.trials[2].intermediate_values) == list(POINTS)


def test_a_batch_that_was_halved_stays_so(make_trainer: MakeTrainer) -> None:
    class Full(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if args.learning_rate == RATES[0] and args.per_device_train_batch_size > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    result = looks(make_trainer, rates=RATES[:1], pruner=Stops(), halve_batch=True, callbacks=[Full()])
    assert [len(noted["rows"]) for noted in Notes.trainings] == [64, 7, 7, 21, 64]
    assert result.trials[1].user_attrs["arguments"]["per_device_train_batch_size"] == 2


def test_trainers_from_a_function(make_trainer: MakeTrainer) -> None:
    def make(values: dict[str, Any]) -> Trainer:
        return make_trainer(cls=Notes, **{**ARGS, **values})

    sampler = Scripted(learning_rate=RATES[:1])
    result = search(make, rates, fidelity="data", n_trials=2, sampler=sampler, pruner=Stops()).run_summary
    assert [len(noted["rows"]) for noted in Notes.trainings] == [64, 7, 21, 64]
    assert states(result.study) == [TrialState.COMPLETE] * 2


@pytest.mark.parametrize("moment", ["second look", "all rows", "pruner asked", "stop recorded"])
def test_interrupted_anywhere(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Run again, no look is trained twice that was reported, and all is as if nothing had happened."""
    rates, pruner = RATES[:2], Stops(trial_2=2)
    options: dict[str, Any] = {"pruner": pruner, "save_strategy": "steps", "save_steps": 10, "num_train_epochs": 1}
    whole = looks(make_trainer, rates=rates, output_dir=str(tmp_path / "whole"), **options)
    n_trainings = len(Notes.trainings)

    def dies(self: Any, *args: Any, **kwargs: Any) -> Any:
        sizes = [len(noted["rows"]) for noted in Notes.trainings[n_trainings:]]
        at = {
            "second look": sizes[1:] == [7, 21],
            "all rows": sizes[1:] == [7, 21, 64] and len(Notes.trainings[-1]["rates"]) == 15,
            "pruner asked": sizes[1:] == [7, 21],
            "stop recorded": sizes[1:] == [7, 21, 64, 7, 21],
        }
        if at[moment]:
            raise SystemExit
        return original(self, *args, **kwargs)

    where = {"pruner asked": (optuna.Trial, "should_prune"), "stop recorded": (optuna.Study, "tell")}
    owner, name = where.get(moment, (Notes, "training_step"))
    with monkeypatch.context() as patch:
        original = getattr(owner, name)
        patch.setattr(owner, name, dies)
        with pytest.raises(SystemExit):
            looks(make_trainer, rates=rates, **options)
    left = {"second look": 1, "all rows": 1, "pruner asked": 1, "stop recorded": 2}[moment]
    broken = looks(make_trainer, rates=rates[left:], n_trials=3, **options)
    for part in ("state", "value", "intermediate_values", "params"):
        assert [getattr(t, part) for t in broken.trials] == [getattr(t, part) for t in whole.trials], part
    spent = [[t.user_attrs["spent"] for t in result.trials] for result in (broken, whole)]
    assert spent[0] == spent[1]
    sizes = [len(noted["rows"]) for noted in Notes.trainings[n_trainings:]]
    repeated = {"second look": [21], "all rows": [64], "pruner asked": [], "stop recorded": []}[moment]
    assert sorted(sizes) == sorted([64, 7, 21, 64, 7, 21, *repeated])
    resumed = [noted["from"] for noted in Notes.trainings[n_trainings:] if noted["from"] is not None]
    assert [Path(path).name for path in resumed] == (["checkpoint-10"] if moment == "all rows" else [])


def test_another_fidelity_is_another_search(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    class Dies(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise SystemExit

    with pytest.raises(SystemExit):
        looks(make_trainer, callbacks=[Dies()])
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        again = run(make_trainer(**ARGS), "rl", sampler=Scripted(learning_rate=RATES[:1]), n_trials=1)
    assert again.run_summary.study.study_name == "search-2"
    assert 'differs: fidelity: "data" -> null' in caplog.text
