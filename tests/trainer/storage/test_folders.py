"""A search works in its own folder, wherever that was copied or moved, and touches nothing outside of it."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from transformers import Trainer, TrainerCallback

from hf_rlsearch import SearchResult, StorageError, search
from hf_rlsearch.cli import main
from hf_rlsearch.observation.trial_attributes import FOLDER
from hf_rlsearch.optuna.storage import FILE, open_sqlite
from hf_rlsearch.trainer.storage.checkpoints import stored_path
from hf_rlsearch.trainer.storage.study import _free_folder, _mark
from tests.trainer.conftest import rates, run, states, stored
from tests.trainer.storage.test_resume import interrupted

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Of a search in a storage that others can write to."""
    return {"storage": f"sqlite:///{tmp_path / 's.db'}", "study_name": "s", "load_if_exists": True}


def files_of(folder: Path) -> dict[str, int]:
    """Every file in a folder, with the time when it was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def later_is_better(args: Any, state: Any) -> float:
    """A score by the number of the trial."""
    return 0.1 + 0.1 * int(Path(args.output_dir).name.removeprefix("run-") if state.global_step else 0)


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_a_copied_or_moved_search_goes_on_where_it_is(
    make_trainer: MakeTrainer, tmp_path: Path, how: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, new = tmp_path / "out", tmp_path / "new"
    run(make_trainer(score=later_is_better), "rl", n_trials=1)
    how(first, new)
    before = files_of(first)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        result = run(make_trainer(score=later_is_better, output_dir=str(new)), "rl", n_trials=2).run_summary
        again = run(make_trainer(score=later_is_better, output_dir=str(new)), "rl", n_trials=2).run_summary
    assert files_of(first) == before
    assert result.best_checkpoint == again.best_checkpoint == str(new / "run-1" / "model")
    assert not (new / "run-0").exists()
    assert caplog.text.count(f"copied or moved here from {first}: it continues in {new}") == 1
    assert "is not on disk" not in caplog.text


def test_an_interrupted_training_goes_on_where_it_was_copied_to(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """From its own checkpoint, and with the best one beside it: the Trainer stores the whole path of that one."""
    scores = {0.0: 0.1, 1.0: 0.9, 2.0: 0.2, 3.0: 0.3}
    args: dict[str, Any] = {
        "save_strategy": "epoch",
        "num_train_epochs": 3,
        "load_best_model_at_end": True,
        "score": lambda args, state: scores[round(state.epoch or 0.0)],
    }
    interrupted(make_trainer, 1, at_step=10, **args)
    shutil.copytree(tmp_path / "out", tmp_path / "new")
    shutil.rmtree(tmp_path / "new" / "run-0")  # of two equal trials the earlier one would be the best
    before = files_of(tmp_path / "out")
    result = run(make_trainer(output_dir=str(tmp_path / "new"), **args), "rl", n_trials=2, keep_best_models=2)
    second = result.run_summary.trials[1]
    assert files_of(tmp_path / "out") == before
    assert second.state == TrialState.COMPLETE
    assert (second.value, second.intermediate_values) == (0.9, {3333: 0.9, 6667: 0.2, 10000: 0.3})
    assert second.user_attrs["rl:checkpoint"] == "run-1/checkpoint-4"
    assert (tmp_path / "new" / "run-1" / "checkpoint-4").is_dir()


@pytest.fixture
def others(tmp_path: Path) -> dict[str, int]:
    """The files of a training of somebody else, beside ``out`` and, through a link, in it."""
    for name in ("checkpoint-4", "model"):
        (tmp_path / "others" / name).mkdir(parents=True)
        (tmp_path / "others" / name / "model.safetensors").write_text("weights")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "others")
    return files_of(tmp_path / "others")


def add_foreign_trial(study: optuna.Study, attribute: str, path: str) -> None:
    """Adds a trial as whoever can write to the storage may do."""
    space = {"learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True)}
    attributes = {"rl:folder": "run-0", "rl:role": "search", attribute: path}
    params = {"learning_rate": 1e-3}
    study.add_trial(optuna.create_trial(value=9.0, params=params, distributions=space, user_attrs=attributes))


@pytest.mark.parametrize(
    ("attribute", "path"),
    [
        ("rl:folder", "{}/others"),
        ("rl:folder", "."),
        ("rl:folder", "a\0b"),
        ("rl:checkpoint", "../others/model"),
        ("rl:paused", "link/checkpoint-4"),
    ],
)
def test_a_path_that_leads_out_of_the_folder_is_refused(
    make_trainer: MakeTrainer, tmp_path: Path, options: Any, others: dict[str, int], attribute: str, path: str
) -> None:
    study = optuna.create_study(storage=options["storage"], study_name="s")
    add_foreign_trial(study, attribute, path.format(tmp_path))
    with pytest.raises(StorageError, match="not inside of the search's folder") as told:
        run(make_trainer(), "rl", n_trials=3, **options)
    assert "\n" not in str(told.value)
    assert files_of(tmp_path / "others") == others
    assert len(study.trials) == 1


def test_a_path_that_is_stored_while_the_search_runs_is_refused(
    make_trainer: MakeTrainer, tmp_path: Path, options: Any, others: dict[str, int]
) -> None:
    def score(args: Any, state: Any) -> float:
        if state.global_step:
            add_foreign_trial(stored(options["storage"]), "rl:folder", str(tmp_path / "others"))
        return 0.5

    with pytest.raises(StorageError, match="not inside of the search's folder"):
        run(make_trainer(score=score), "rl", n_trials=3, **options)
    assert files_of(tmp_path / "others") == others


def test_the_folder_of_a_study_is_not_taken_from_a_shared_storage(
    make_trainer: MakeTrainer, tmp_path: Path, options: Any, others: dict[str, int]
) -> None:
    study = optuna.create_study(storage=options["storage"], study_name="s", direction="minimize")
    study.set_user_attr("rl:folder", str(tmp_path / "others"))
    result = run(make_trainer(), "rl", n_trials=2, **options).run_summary
    assert result.output_dir == str(tmp_path / "out")
    assert states(result.study) == [TrialState.COMPLETE] * 2
    assert files_of(tmp_path / "others") == others


def test_no_path_of_others_is_loaded_or_cleaned(tmp_path: Path, others: dict[str, int]) -> None:
    out = tmp_path / "out"
    for name, attribute in (("search-1", "rl:folder"), ("search-2", "rl:checkpoint")):
        study = optuna.create_study(storage=open_sqlite(out / "hf_rlsearch.db"), study_name=name)
        study.set_user_attr("rl:identity", {})
        add_foreign_trial(study, attribute, "../others/model" if name == "search-2" else "../others")
    with pytest.raises(StorageError, match="not inside of the search's folder"):
        _ = SearchResult(study, "loss", str(out), "n_trials", 1).best_checkpoint
    assert main(["clean", str(out), "--yes"]) == 1
    assert files_of(tmp_path / "others") == others


def test_each_search_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    """Whatever storages the searches are in, and whatever the names of their studies are."""

    def folder(study: optuna.Study) -> str:
        return os.path.relpath(_free_folder(study, str(tmp_path), is_shared=False), tmp_path)

    studies = [optuna.create_study(study_name=name) for name in ("a/b", "a/b", "a/b", "..", "mine")]
    found = [folder(study) for study in studies]
    assert found == [".", "a_b", "a_b-2", "search", "mine"]
    assert [folder(study) for study in studies] == found


def test_a_search_in_another_storage_leaves_the_models_of_the_first_alone(
    make_trainer: MakeTrainer, tmp_path: Path, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(make_trainer(), "rl", n_trials=1, **options).run_summary
    before = files_of(tmp_path / "out" / "run-0")
    other = {**options, "storage": f"sqlite:///{tmp_path / 'other.db'}"}
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        second = run(make_trainer(), "rl", n_trials=1, **other).run_summary
    third = run(make_trainer(), "rl", n_trials=1).run_summary
    out = tmp_path / "out"
    assert [each.output_dir for each in (first, second, third)] == [str(out), str(out / "s"), str(out / "search-1")]
    assert f"Another search has written to {out}: this one writes to {out / 's'}." in caplog.text
    assert files_of(out / "run-0") == before
    assert all(Path(str(each.best_checkpoint)).is_dir() for each in (first, second, third))


def test_a_stored_path_is_inside_of_the_folder(tmp_path: Path) -> None:
    trial = optuna.create_trial(value=0.0, user_attrs={"rl:folder": "run-0/..//run-1", "rl:paused": None})
    assert stored_path(trial, "rl:folder", str(tmp_path)) == str(tmp_path / "run-1")
    assert stored_path(trial, "rl:paused", str(tmp_path)) is None


def test_workers_with_folders_of_their_own_are_told(
    make_trainer: MakeTrainer, tmp_path: Path, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_trainer(score=later_is_better), "rl", n_trials=1, **options)
    before = files_of(tmp_path / "out")
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        trainer = make_trainer(score=later_is_better, output_dir=str(tmp_path / "new"))
        result = run(trainer, "rl", n_trials=2, **options).run_summary
    assert f"was started in {tmp_path / 'out'}, this process works in {tmp_path / 'new'}" in caplog.text
    assert files_of(tmp_path / "out") == before
    assert result.best_checkpoint == str(tmp_path / "new" / "run-1" / "model")


def test_a_search_of_a_version_that_marked_no_folder_keeps_its_own(tmp_path: Path) -> None:
    """Its folder is ``output_dir`` itself: a second search in the same storage gets another one."""
    study = optuna.create_study(storage=open_sqlite(tmp_path / FILE), study_name="search-1")
    study.set_user_attr(FOLDER, ".")
    later = optuna.create_study(storage=study._storage, study_name="search-2")
    assert _free_folder(later, str(tmp_path), is_shared=False) == str(tmp_path / "search-2")


def test_a_study_named_like_a_trial_gets_no_folder_of_trials(tmp_path: Path) -> None:
    for name in ("first", "run-0"):
        study = optuna.create_study(storage=open_sqlite(tmp_path / f"{name}.db"), study_name=name)
        folder = _free_folder(study, str(tmp_path), is_shared=True)
    assert folder == str(tmp_path / "search-run-0")


def test_the_file_that_tells_whose_a_folder_is_is_whole_or_not_there(tmp_path: Path) -> None:
    assert [_mark(tmp_path, key) for key in ("mine", "other")] == ["mine", "mine"]
    assert [file.name for file in tmp_path.iterdir()] == ["hf_rlsearch.search"]
    taken = tmp_path / "file"
    taken.write_text("")
    assert _mark(taken, "mine") == "mine"


class Notes(TrainerCallback):
    """Appends each evaluation to a file in ``output_dir``, which the Trainer's constructor makes."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with open(Path(args.output_dir, "notes.txt"), "a") as file:
            file.write(f"{state.global_step}\n")


@pytest.mark.parametrize("is_factory", [False, True])
def test_a_callback_writes_into_the_folder_of_its_trial(
    make_trainer: MakeTrainer, tmp_path: Path, is_factory: bool
) -> None:
    def factory(values: dict[str, Any]) -> Trainer:
        return make_trainer(callbacks=[Notes], **values)

    given = factory if is_factory else factory({})
    result = search(given, rates, n_trials=2, baseline=False, pruner=None)
    assert sorted(path.parent.name for path in tmp_path.glob("out/run-*/notes.txt")) == ["run-0", "run-1"]
    assert result.replay(given, 0) == result.trials[0].value


def test_a_folder_in_which_nothing_is_written_goes_with_its_trial(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    run(make_trainer(), "rl", n_trials=2, keep_best_models=0)
    assert not list(tmp_path.rglob("run-*"))
