"""``gen.*`` is scored on the model of the trial that had the same training; nothing is trained a second time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from hf_rlsearch import SearchSpaceError
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.paused import Pausing, size_of
from hf_rlsearch.backend.rescoring import training_part
from hf_rlsearch.backend.scopes.generation import changed, generation_scope
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.standing import Standing
from tests.backend.conftest import Scripted, run
from tests.backend.scopes.seq2seq import copier, make_trainer

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


def test_what_differs_only_in_generation_is_not_trained_again(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, generation_num_beams=3)
    sampler = Scripted(**{RATE: [1e-2, 1e-2, 1e-3, 1e-2], BEAMS: [1, 4, 1, 2], PENALTY: [0.5, 2.0]})
    best = run(trainer, "rl", space, n_trials=4, sampler=sampler, **OPTIONS)
    trials = best.run_summary.trials
    assert trainer.trained == [1e-2, 1e-3]
    assert [trial.user_attrs.get("rescored_from") for trial in trials] == [None, 0, None, 0]
    assert [trial.user_attrs["steps"] for trial in trials] == [4, 0, 4, 0]
    losses = [trial.user_attrs["metrics"]["eval_loss"] for trial in trials]
    assert losses[0] == losses[1] == losses[3] != losses[2]
    # the trainer has the model that was trained in trial 0 and generates as trial 1 did, the only one on disk
    assert (best.objective, best.hyperparameters) == (4.0, {RATE: 1e-2, BEAMS: 4, PENALTY: 0.5})
    assert trainer.model.generation_config.length_penalty == 0.5
    assert trainer.args.generation_num_beams is None
    assert trainer.evaluate()["eval_loss"] == losses[0]
    assert [path.parent.name for path in tmp_path.rglob("model.safetensors")] == ["model"]
    assert Path(trials[1].user_attrs["checkpoint"]).parent.name == "run-0"
    again = make_trainer(tmp_path / "again")
    assert best.run_summary.replay(again, 1) == (4.0,)
    assert again.trained == [1e-2]


class Weighs(Scripted):
    """Notes at each choice how many bytes of models are on disk."""

    def __init__(self, folder: Path, **values: list[Any]) -> None:
        super().__init__(**values)
        self.folder, self.seen = folder, list[int]()

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        self.seen.append(sum(size_of(str(path.parent)) for path in self.folder.rglob("model.safetensors")))
        return {}


def test_the_best_models_stay_as_far_as_the_disk_budget_holds(tmp_path: Path) -> None:
    """Two fit. Of three trainings the worst goes, and is trained again; the second best is only scored again."""
    first = Weighs(tmp_path, **{RATE: [1e-2, 1e-3], BEAMS: [4, 2], PENALTY: [1.0, 1.0]})
    run(make_trainer(tmp_path / "a"), "rl", space, n_trials=2, sampler=first, **OPTIONS)
    size = first.seen[1]
    assert first.seen[0] == 0 < size
    rates, beams = [1e-2, 1e-3, 1e-4, 1e-3, 1e-4], [4, 2, 1, 1, 1]
    sampler = Weighs(tmp_path / "b", **{RATE: rates, BEAMS: beams, PENALTY: [1.0, 1.0]})
    trainer = make_trainer(tmp_path / "b")
    budget = {"disk_budget_gb": 2.5 * size / 1e9}
    result = run(trainer, "rl", space, n_trials=5, sampler=sampler, **budget, **OPTIONS).run_summary
    assert trainer.trained == [1e-2, 1e-3, 1e-4, 1e-4]
    assert [trial.user_attrs.get("rescored_from") for trial in result.trials] == [None, None, None, 1, None]
    assert [round(seen / size) for seen in sampler.seen] == [0, 1, 2, 2, 2]


def test_the_best_model_stays_whatever_the_disk_budget(tmp_path: Path) -> None:
    sampler = Scripted(**{RATE: [1e-3, 1e-2, 1e-3, 1e-2], BEAMS: [1, 4, 2, 2], PENALTY: [1.0] * 3})
    trainer = make_trainer(tmp_path)
    options = {"keep_checkpoints": 0, "disk_budget_gb": 0.0}
    result = run(trainer, "rl", space, n_trials=4, sampler=sampler, **options, **OPTIONS).run_summary
    assert trainer.trained == [1e-3, 1e-2, 1e-3]
    assert result.trials[3].user_attrs["rescored_from"] == 1
    assert list(tmp_path.rglob("model.safetensors")) == []


def test_a_model_that_another_process_scores_is_not_deleted(tmp_path: Path) -> None:
    """Its trial names where the model is from before it looks for it."""
    study = optuna.create_study(direction="maximize")
    for value in (1.0, 2.0):
        folder = tmp_path / f"run-{value}"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.safetensors").write_bytes(b"0" * 100)
        trial = study.ask()
        trial.set_user_attr("folder", str(folder))
        trial.set_user_attr("checkpoint", str(folder / "model"))
        study.tell(trial, value)
    settings = Settings(disk_budget_gb=0.0)
    objective = Objective(names=("eval_beams",), directions=("maximize",), multi=False, function=None, why="")
    standing = Standing(study, objective, settings, Pausing(study, settings, minimize=False), scores_again=True)
    study.ask().set_user_attr("rescored_from", 0)
    standing.discard_checkpoints()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-1.0", "run-2.0"]
    study.tell(2, state=optuna.trial.TrialState.FAIL)
    standing.discard_checkpoints()
    assert [path.name for path in tmp_path.iterdir()] == ["run-2.0"]


def test_trials_that_only_generate_begin_with_the_users_own_training(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, load_best_model_at_end=True, save_strategy="epoch")
    options = {"baseline": True, "sampler": Scripted(**{BEAMS: [2, 4]}), "keep_checkpoints": 0, "budget": 1.5}

    def beams_only(trial: Any) -> dict[str, Any]:
        # without an effect beside one beam, which transformers refuses to save
        return {BEAMS: trial.suggest_categorical(BEAMS, [1, 2, 4]), PENALTY: 0.5}

    result = run(trainer, "rl", beams_only, n_trials=3, **{**OPTIONS, **options}).run_summary
    assert len(trainer.trained) == 1
    assert [trial.values for trial in result.trials] == [[1.0], [2.0], [4.0]]
    assert result.baseline.user_attrs["hyperparameters"][BEAMS] == 1
    assert list(tmp_path.rglob("model.safetensors")) == []


def test_the_agent_decodes_a_new_best_again(tmp_path: Path) -> None:
    def beams_above_one(trial: Any) -> dict[str, Any]:
        rate = trial.suggest_float(RATE, 1e-4, 1e-1, log=True)
        return {RATE: rate, BEAMS: trial.suggest_categorical(BEAMS, [2, 3])}

    trainer = make_trainer(tmp_path)
    result = run(trainer, "rl", beams_above_one, n_trials=3, baseline=True, **OPTIONS).run_summary
    # trial 1 is better than the user's own one beam, so trial 2 decodes it with the other number
    _, first, second = result.trials
    assert second.params[RATE] == first.params[RATE]
    assert second.user_attrs["rescored_from"] == 1
    assert {first.params[BEAMS], second.params[BEAMS]} == {2, 3}
    assert len(trainer.trained) == 2


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


def test_a_training_is_told_by_what_changes_the_model() -> None:
    arguments = {"learning_rate": 1e-3, "seed": 1, "generation_num_beams": 2}
    part = training_part({"width": 8, BEAMS: 2}, {BEAMS: 2}, arguments, frozenset({"width"}))
    same = training_part(
        {"width": 8, BEAMS: 4}, {BEAMS: 4}, {**arguments, "generation_num_beams": None}, frozenset({"width"})
    )
    assert part == same
    others = [
        ({"width": 4}, {}, arguments),
        ({"width": 8}, {"model.dropout": 0.2}, arguments),
        ({"width": 8}, {}, {**arguments, "seed": 2}),
    ]
    assert part not in [training_part(*other, frozenset({"width"})) for other in others]


def test_what_has_no_effect_is_left_out() -> None:
    config = copier().generation_config
    assert changed(config, {"num_beams": 2, "length_penalty": 0.5}).length_penalty == 0.5
    greedy = changed(config, {"num_beams": 1, "length_penalty": 0.5, "top_p": 0.5})
    assert greedy.length_penalty != 0.5
    assert greedy.top_p != 0.5
    greedy.validate(strict=True)
    assert changed(config, {"do_sample": True, "top_p": 0.5}).top_p == 0.5


def test_values_have_their_type(tmp_path: Path) -> None:
    beams = generation_scope(make_trainer(tmp_path), copier()).fit({"num_beams": 2.0})["num_beams"]
    assert (beams, type(beams)) == (2, int)
