"""Which names ``model_init`` reads of its trial, and what becomes of what ``hp_space`` changes."""

import copy
import json
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optuna.trial import TrialState
from transformers import Trainer, default_data_collator

from hf_rlsearch import ArgumentsError, SearchSpaceError
from hf_rlsearch.trainer.setup.hp_space import AccessRecorder
from tests.trainer.conftest import Scripted, rates, run, states, tiny_model

MakeTrainer = Callable[..., Trainer]


@pytest.mark.parametrize(
    "read",
    [
        lambda values: {**values},
        lambda values: dict(values),
        lambda values: dict(**values),
        lambda values: values | {},
        lambda values: values.copy(),
        lambda values: list(values.items()),
        lambda values: next(iter(values)),
        lambda values: values.pop("a", 1),
        lambda values: values.get("a"),
        lambda values: values["a"],
        lambda values: "a" in values and values["a"],
        lambda values: json.dumps(values),
        lambda values: copy.copy(values)["a"],
    ],
)
def test_every_way_of_reading_a_value_is_noticed(read: Any) -> None:
    names: set[str] = set()
    read(AccessRecorder({"a": 1}, names))
    assert names == {"a"}
    assert AccessRecorder({"a": 1}, names) == {"a": 1}


def test_other_names_are_not_noted() -> None:
    names: set[str] = set()
    assert AccessRecorder({"a": 1, "b": 2}, names)["a"] == 1
    assert names == {"a"}


class Weighted(Trainer):
    """Has an attribute and a collator that scripts change in ``hp_space``."""

    gamma = 2.0
    trained: list[Any]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.trained.append((self.args.output_dir.rpartition("-")[2], self.gamma, self.data_collator.share, LOSS["w"]))
        return super().training_step(*args, **kwargs)


class ShareCollator:
    """A collator with a setting."""

    share = 0.0

    def __call__(self, rows: Any) -> Any:
        return default_data_collator(rows)


LOSS = {"w": 1.0}


def test_what_hp_space_changes_is_set_in_its_trial_alone(make_trainer: MakeTrainer) -> None:
    def score(args: Any, state: Any) -> float:
        return trainer.gamma + args.seed / 1e4

    trainer: Any = make_trainer(cls=Weighted, score=score)
    trainer.data_collator, trainer.trained, asked = ShareCollator(), [], []

    def hp_space(trial: Any) -> dict[str, Any]:
        trainer.gamma = trial.suggest_categorical("gamma", [1.0, 2.0, 3.0])
        trainer.data_collator.share = LOSS["w"] = trainer.gamma / 2
        asked.append(trial.number)
        return rates(trial)

    sampler = Scripted(learning_rate=[1e-3] * 3, gamma=[1.0, 3.0, 2.0])
    result = run(trainer, "rl", hp_space, n_trials=4, baseline=True, confirm=1, sampler=sampler).run_summary
    expected = {"0": (2.0, 0.0, 1.0), "1": (1.0, 0.5, 0.5), "2": (3.0, 1.5, 1.5), "3": (2.0, 1.0, 1.0)}
    confirmed = {t.number: t.user_attrs["rl:reevaluates"] for t in result.trials if "rl:reevaluates" in t.user_attrs}
    assert set(confirmed.values()) == {0, 2}
    for number, *setting in trainer.trained:
        assert tuple(setting) == expected[str(confirmed.get(int(number), number))]
    assert asked == [1, 2, 3], "dry runs and repetitions leave no trace in records"
    assert (trainer.gamma, trainer.data_collator.share, LOSS["w"]) == expected["2"], "those of the best trial"
    for trial in result.trials:
        assert result.replay(trainer, trial.number) == trial.value
    assert (trainer.gamma, trainer.data_collator.share, LOSS["w"]) == expected["2"]
    with pytest.raises(ArgumentsError, match=r"Trial 1 depends on .*trainer\.gamma.* Trainer that was searched"):
        result.replay(make_trainer(cls=Weighted, score=score), 1)
    LOSS["w"] = 1.0


@pytest.mark.parametrize("part", ["args.max_grad_norm", "args.mine", "model.config.hidden_dropout_prob"])
def test_changes_that_a_trial_would_lose_are_refused_by_name(make_trainer: MakeTrainer, part: str) -> None:
    trainer = make_trainer()
    before = trainer.args.max_grad_norm

    def hp_space(trial: Any) -> dict[str, Any]:
        owner, _, name = part.rpartition(".")
        setattr(operator.attrgetter(owner)(trainer), name, trial.suggest_float("x", 0.1, 0.2))
        return rates(trial)

    with pytest.raises(SearchSpaceError, match=rf"hp_space changes trainer\.{part}, .* would be lost"):
        run(trainer, "rl", hp_space, n_trials=1)
    assert (trainer.args.max_grad_norm, hasattr(trainer.args, "mine")) == (before, False)


def test_what_model_init_changes_is_none_of_hp_spaces(make_trainer: MakeTrainer) -> None:
    config = tiny_model().config

    def model_init(trial: Any = None) -> Any:
        if trial is not None:
            config.hidden_dropout_prob = trial.suggest_float("dropout", 0.0, 0.5)
        return type(tiny_model())(config)

    result = run(make_trainer(model_init=model_init), "rl", n_trials=2).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 2


def test_dry_runs_of_model_init_leave_no_setting_behind(make_trainer: MakeTrainer) -> None:
    """The baseline, whose model_init gets no trial, would be trained with it."""
    settings, loaded, trained = {"share": 0.5}, {}, []

    class Noted(Trainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            trained.append(settings["share"])
            return super().train(*args, **kwargs)

    def model_init(trial: Any = None) -> Any:
        if trial is not None:
            settings["share"] = trial.suggest_categorical("share", [0.1, 0.9])
        if not loaded:
            loaded["config"] = tiny_model().config
        return tiny_model()

    result = run(make_trainer(cls=Noted, model_init=model_init), "rl", n_trials=2, baseline=True).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 2
    assert (trained[0], list(loaded)) == (0.5, ["config"])


def test_what_hp_space_changes_may_depend_on_the_study(make_trainer: MakeTrainer) -> None:
    trained = []

    class Weighted(Trainer):
        gamma = 1.0

        def train(self, *args: Any, **kwargs: Any) -> Any:
            trained.append(self.gamma)
            return super().train(*args, **kwargs)

    trainer = make_trainer(cls=Weighted)

    def space(trial: Any) -> dict[str, Any]:
        if len(trial.study.trials) > 1:
            trainer.gamma = 2.0
        return rates(trial)

    result = run(trainer, "rl", space, n_trials=3).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 3
    assert trained[-1] == 2.0


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("odd", ["sparse", "sparse_csr", "sparse_csc", "itself"])
def test_a_function_may_name_anything(make_trainer: MakeTrainer, odd: str) -> None:
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    named = itself if odd == "itself" else getattr(torch.eye(3), f"to_{odd}")()

    def model_init() -> Any:
        assert named is not None
        return tiny_model()

    assert run(make_trainer(model_init=model_init), "rl", n_trials=1).run_summary.best_trial is not None
