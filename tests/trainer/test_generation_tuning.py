"""``result.tune_generation`` searches how the best model generates, and trains nothing."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import Trainer

from hf_rlsearch import ArgumentsError, ObjectiveError, SearchFailed, SearchSpaceError
from tests.helpers.seq2seq import Counts, make_trainer
from tests.trainer.conftest import Scripted, rates, run

RATE = "learning_rate"
LENGTH: dict[str, Any] = {"metric": "length", "direction": "maximize"}


class Measures(Counts):
    """Its metric "length" is the mean number of tokens that it generates."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "compute_metrics": self.length})
        self.evaluations = 0

    def length(self, prediction: Any) -> dict[str, float]:
        self.evaluations += 1
        return {"length": float((prediction.predictions[:, 1:] > 0).sum(1).mean())}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Tied weights are in no checkpoint, and transformers warns of each."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def searched(folder: Path, *, n_trials: int = 2, metric: str = "length", **args: Any) -> tuple[Measures, Any]:
    """A Trainer after a search, and its result."""
    trainer = make_trainer(folder, cls=Measures, **args)
    sampler = Scripted(**{RATE: [1e-2, 1e-3]})
    result = run(trainer, "rl", n_trials=n_trials, sampler=sampler, metric=metric, direction="maximize").run_summary
    return trainer, result


def lengths(*choices: int, name: str = "gen.max_new_tokens") -> Callable[[Any], dict[str, Any]]:
    return lambda trial: {name: trial.suggest_categorical(name, list(choices))}


@pytest.mark.parametrize("name", ["gen.max_new_tokens", "max_new_tokens"])
def test_the_best_settings_are_found_and_applied(tmp_path: Path, name: str) -> None:
    trainer, result = searched(tmp_path, generation_max_length=4)
    weights = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    n_trained, n_logged = len(trainer.trained), len(trainer.state.log_history)
    tuned = result.tune_generation(trainer, lengths(1, 2, 8, name=name), n_trials=4)
    assert len(trainer.trained) == n_trained
    assert len(trainer.state.log_history) == n_logged
    assert all(torch.equal(value, weights[key]) for key, value in trainer.model.state_dict().items())
    assert tuned.metric == "eval_length"
    assert tuned.baseline_value == result.best_trial.value == 3.0  # of 4 tokens the first is given
    assert (tuned.best_params, tuned.value, tuned.gain) == ({"max_new_tokens": 8}, 8.0, 5.0)
    assert sorted(trial.value for trial in tuned.study.trials[1:]) == [1.0, 2.0, 8.0]
    assert trainer.model.generation_config.max_new_tokens == 8
    assert trainer.args.generation_max_length is None
    assert trainer.evaluate()["eval_length"] == 8.0
    assert trainer.model_init().generation_config.max_new_tokens == 8
    trainer.save_model(str(tmp_path / "saved"))
    assert '"max_new_tokens": 8' in (tmp_path / "saved" / "generation_config.json").read_text()


def test_the_settings_of_the_best_trial_stay_if_none_is_better(tmp_path: Path) -> None:
    trainer, result = searched(tmp_path)
    arguments, config = trainer.args, trainer.model.generation_config
    tuned = result.tune_generation(trainer, lengths(1, 2), n_trials=3)
    assert (tuned.value, tuned.gain) == (tuned.baseline_value, 0.0)
    assert tuned.best_params == {"max_new_tokens": None}
    assert trainer.args is arguments
    assert trainer.model.generation_config is config


def test_after_a_search_of_generation_its_winner_is_trial_0(tmp_path: Path) -> None:
    def space(trial: Any) -> dict[str, Any]:
        beams = trial.suggest_categorical("gen.num_beams", [1, 2, 4])
        if beams == 1:
            return {"gen.num_beams": beams}
        penalty = trial.suggest_categorical("gen.length_penalty", [0.5, 1.0])
        return {"gen.num_beams": beams, "gen.length_penalty": penalty}

    trainer = make_trainer(tmp_path)
    sampler = Scripted(**{"gen.num_beams": [1, 2], "gen.length_penalty": [0.5]})
    options = {"sampler": sampler, "metric": "beams", "direction": "maximize"}
    result = run(trainer, "rl", space, n_trials=2, **options).run_summary
    tuned = result.tune_generation(trainer, space, n_trials=5)
    assert tuned.study.trials[0].params == {"gen.num_beams": 2, "gen.length_penalty": 0.5}
    assert tuned.study.trials[0].values == result.best_trial.values == [2.0]
    assert tuned.best_params["num_beams"] == trainer.model.generation_config.num_beams == 4
    assert len({tuple(sorted(trial.params.items())) for trial in tuned.study.trials}) == 5  # of 5 that there are


def test_settings_are_evaluated_once_and_it_ends_when_no_others_are_left(tmp_path: Path) -> None:
    trainer, result = searched(tmp_path)
    before = trainer.evaluations
    tuned = result.tune_generation(trainer, lengths(1, 2), n_trials=6)
    assert len(tuned.study.trials) == trainer.evaluations - before == 3  # those of the search, and two lengths


def test_the_stored_result_of_a_finished_search_can_be_tuned(tmp_path: Path) -> None:
    first, _ = searched(tmp_path)
    trainer, result = searched(tmp_path)
    assert (len(first.trained), len(trainer.trained)) == (2, 0)
    assert result.tune_generation(trainer, lengths(3, 8), n_trials=3).value == 8.0


def test_sampled_text_does_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    trainer, result = searched(tmp_path)

    def sampling(trial: Any) -> dict[str, Any]:
        return {"do_sample": True, "temperature": trial.suggest_categorical("temperature", [0.5, 5.0])}

    state = torch.get_rng_state()
    first = result.tune_generation(trainer, sampling, n_trials=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    again, other = searched(tmp_path)
    second = other.tune_generation(again, sampling, n_trials=3)
    assert [trial.value for trial in first.study.trials] == [trial.value for trial in second.study.trials]


def test_a_setting_that_fails_does_not_end_the_tuning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, result = searched(tmp_path)
    real = trainer.evaluate

    def out_of_memory(*args: Any, **kwargs: Any) -> Any:
        if trainer.model.generation_config.max_new_tokens == 9:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*args, **kwargs)

    trainer.evaluate = out_of_memory  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, logger="hf_rlsearch"):
        tuned = result.tune_generation(trainer, lengths(8, 9), n_trials=3)
    assert tuned.best_params == {"max_new_tokens": 8}
    assert sorted(trial.state.name for trial in tuned.study.trials) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert "failed: OutOfMemoryError: CUDA out of memory." in caplog.text


def test_an_interrupt_leaves_the_settings_as_they_were(tmp_path: Path) -> None:
    trainer, result = searched(tmp_path)
    arguments, config, real = trainer.args, trainer.model.generation_config, trainer.evaluate

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if trainer.model.generation_config.max_new_tokens == 8:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    trainer.evaluate = interrupted  # type: ignore[method-assign]
    callbacks = trainer.callback_handler.callbacks
    with pytest.raises(KeyboardInterrupt):
        result.tune_generation(trainer, lengths(8), n_trials=2)
    assert trainer.args is arguments
    assert trainer.model.generation_config is config
    assert trainer.callback_handler.callbacks is callbacks


def test_a_model_other_than_the_best_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, result = searched(tmp_path)
    with caplog.at_level(logging.WARNING, logger="hf_rlsearch"):
        result.tune_generation(trainer, lengths(1), n_trials=2)
        assert "is it the model of that trial?" not in caplog.text
        trainer.model.generation_config.max_length = 3
        result.tune_generation(trainer, lengths(1), n_trials=2)
    assert (
        "The model in the Trainer has eval_length = 2, but trial 0 had 5: is it the model of that trial?" in caplog.text
    )


# --------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("hp_space", "match"),
    [
        (lengths(1, 2, name="gen.new_tokens"), "GenerationConfig has no field 'new_tokens'. Did you mean"),
        (lengths(1, 2, name="seed"), "GenerationConfig has no field 'seed'"),
        (lengths(1, 2, name="model.d_model"), "sets 'model.d_model', but tune_generation trains nothing"),
        (lambda trial: {}, "no hyperparameter was suggested"),
    ],
)
def test_only_fields_of_generation_are_searched(tmp_path: Path, hp_space: Any, match: str) -> None:
    trainer, result = searched(tmp_path, n_trials=1)
    before = trainer.evaluations
    with pytest.raises(SearchSpaceError, match=match):
        result.tune_generation(trainer, hp_space, n_trials=2)
    assert trainer.evaluations == before


def test_evaluation_has_to_generate(tmp_path: Path, make_trainer: Callable[..., Trainer]) -> None:
    trainer, result = searched(tmp_path, n_trials=1)
    trainer.args.predict_with_generate = False
    with pytest.raises(SearchSpaceError, match=r"evaluation generates nothing.*predict_with_generate=True"):
        result.tune_generation(trainer, lengths(1, 2), n_trials=2)
    classifier = make_trainer(output_dir=str(tmp_path / "classifier"), score=lambda args, state: 0.5)
    best = run(classifier, "rl", n_trials=1).run_summary
    with pytest.raises(SearchSpaceError, match=r"evaluation generates nothing.*Use a Seq2SeqTrainer"):
        best.tune_generation(classifier, lengths(1, 2), n_trials=2)


def test_a_loss_cannot_be_tuned_by_generation(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    result = run(trainer, "rl", n_trials=1, metric="loss").run_summary
    with pytest.raises(ObjectiveError, match="eval_loss, which does not depend on how text is generated"):
        result.tune_generation(trainer, lengths(1, 2), n_trials=2)


def test_several_objectives_and_no_best_model_are_refused(tmp_path: Path) -> None:
    both = {"metric": ["beams", "accuracy"], "direction": ["maximize", "maximize"]}
    trainer = make_trainer(tmp_path)
    result = run(trainer, "rl", n_trials=1, **both)[0].run_summary
    with pytest.raises(ArgumentsError, match="needs one objective, this search has eval_beams, eval_accuracy"):
        result.tune_generation(trainer, lengths(1, 2), n_trials=2)

    def refused(trial: Any) -> dict[str, Any]:
        if isinstance(trial, optuna.Trial):
            raise optuna.TrialPruned
        return rates(trial)

    trainer = make_trainer(tmp_path / "none")
    nothing = run(trainer, "rl", refused, n_trials=1, metric="beams", direction="maximize").run_summary
    assert nothing.trials[0].state == TrialState.PRUNED
    with pytest.raises(SearchFailed, match="no trial completed"):
        nothing.tune_generation(trainer, lengths(1, 2), n_trials=2)


@pytest.mark.parametrize("n_trials", [0, -1, 1.5])
def test_a_number_of_trials_that_is_none(tmp_path: Path, n_trials: Any) -> None:
    trainer, result = searched(tmp_path, n_trials=1)
    with pytest.raises(ArgumentsError, match="n_trials"):
        result.tune_generation(trainer, lengths(1, 2), n_trials=n_trials)
