"""``gen.*`` names are searched as any other hyperparameter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from hf_rlsearch import SearchSpaceError
from hf_rlsearch.trainer.hyperparameters.generation import generation_group, updated_config
from tests.helpers.seq2seq import copier, make_trainer
from tests.trainer.conftest import Scripted, rates, run

RATE, BEAMS, PENALTY = "learning_rate", "gen.num_beams", "gen.length_penalty"
OPTIONS: dict[str, Any] = {"metric": "beams", "direction": "maximize"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Tied weights are in no checkpoint, and transformers warns of each."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def space(trial: Any) -> dict[str, Any]:
    beams = trial.suggest_categorical(BEAMS, [1, 2, 4])
    return {
        RATE: trial.suggest_float(RATE, 1e-4, 1e-1, log=True),
        BEAMS: beams,
        **({PENALTY: trial.suggest_float(PENALTY, 0.5, 2.0)} if beams > 1 else {}),
    }


def test_generation_is_searched_with_the_training(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, generation_num_beams=3)
    sampler = Scripted(**{RATE: [1e-2, 1e-2, 1e-3], BEAMS: [1, 4, 2], PENALTY: [0.5, 2.0]})
    best = run(trainer, "rl", space, n_trials=3, sampler=sampler, **OPTIONS)
    trials = best.run_summary.trials
    assert trainer.trained == [1e-2, 1e-2, 1e-3]
    assert [trial.values for trial in trials] == [[1.0], [4.0], [2.0]]
    assert (best.objective, best.hyperparameters) == (4.0, {RATE: 1e-2, BEAMS: 4, PENALTY: 0.5})
    assert trainer.model.generation_config.length_penalty == 0.5
    assert trainer.args.generation_num_beams is None
    assert trainer.evaluate()["eval_loss"] == trials[1].user_attrs["rl:metrics"]["eval_loss"]
    assert [path.parent.parent.name for path in tmp_path.rglob("model.safetensors")] == ["run-1"]
    again = make_trainer(tmp_path / "again")
    assert best.run_summary.replay(again, 1) == 4.0
    assert again.trained == [1e-2]


@pytest.mark.parametrize("hp_space", [rates, space])
def test_trials_generate_as_the_arguments_say(tmp_path: Path, hp_space: Any) -> None:
    """The constructor of a Seq2SeqTrainer gives ``generation_config`` to its first model alone."""
    config = GenerationConfig(num_beams=3, max_length=6, no_repeat_ngram_size=2, pad_token_id=0, eos_token_id=1)
    config.decoder_start_token_id = 0
    trainer = make_trainer(tmp_path, generation_config=config)
    sampler = Scripted(**{RATE: [1e-2], BEAMS: [4], PENALTY: [0.5]})
    best = run(trainer, "rl", hp_space, n_trials=2, baseline=True, sampler=sampler, **OPTIONS)
    assert [trial.values for trial in best.run_summary.trials] == [[3.0], [3.0 if hp_space is rates else 4.0]]
    assert trainer.model.generation_config.no_repeat_ngram_size == 2
    assert run(make_trainer(tmp_path, generation_config=config), "rl", hp_space, n_trials=2, **OPTIONS).objective == (
        best.objective
    )


def test_the_baseline_generates_as_the_user_does(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, load_best_model_at_end=True, save_strategy="epoch")

    def beams_only(trial: Any) -> dict[str, Any]:
        # without an effect beside one beam, which transformers refuses to save
        return {BEAMS: trial.suggest_categorical(BEAMS, [1, 2, 4]), PENALTY: 0.5}

    options = {"baseline": True, "sampler": Scripted(**{BEAMS: [2, 4]}), **OPTIONS}
    result = run(trainer, "rl", beams_only, n_trials=3, **options).run_summary
    assert [trial.values for trial in result.trials] == [[1.0], [2.0], [4.0]]
    assert result.baseline.user_attrs["rl:hyperparameters"][BEAMS] == 1


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        (BEAMS, [0, 2], "gen.num_beams=0, which GenerationConfig refuses: expected at least 1 beam"),
        (BEAMS, ["many"], "gen.num_beams='many', which GenerationConfig refuses"),
        ("gen.max_new_tokens", [-1], "max_new_tokens` must be greater than 0"),
        ("gen.beams", [1, 2], "GenerationConfig has no field 'beams'. Did you mean 'gen.num_beams'"),
    ],
)
def test_wrong_settings_stop_before_any_training(tmp_path: Path, name: str, values: list[Any], match: str) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(SearchSpaceError, match=match):
        run(trainer, "rl", lambda trial: {name: trial.suggest_categorical(name, values)}, **OPTIONS)
    assert trainer.trained == []


def test_settings_without_effect_are_reset() -> None:
    config = copier().generation_config
    assert updated_config(config, {"num_beams": 2, "length_penalty": 0.5}).length_penalty == 0.5
    greedy = updated_config(config, {"num_beams": 1, "length_penalty": 0.5, "top_p": 0.5})
    assert greedy.length_penalty != 0.5
    assert greedy.top_p != 0.5
    greedy.validate(strict=True)
    assert updated_config(config, {"do_sample": True, "top_p": 0.5}).top_p == 0.5


def test_values_have_their_type(tmp_path: Path) -> None:
    beams = generation_group(make_trainer(tmp_path), copier()).validate({"num_beams": 2.0})["num_beams"]
    assert (beams, type(beams)) == (2, int)
