"""``SearchResult.load`` and ``hf-rlsearch``: a search is opened again by its folder; how a result shows itself."""

import pickle
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from transformers import Trainer

from hf_rlsearch import ArgumentsError, SearchResult, StorageError
from hf_rlsearch.cli import main
from tests.trainer.conftest import Scripted, run

MakeTrainer = Callable[..., Trainer]


def stops(args: Any, state: Any) -> float:
    if args.learning_rate == 1e-3:
        raise KeyboardInterrupt
    return float(args.learning_rate)


def test_a_finished_search_is_opened_by_its_folder(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    args: dict[str, Any] = {"score": lambda args, state: args.learning_rate, "save_strategy": "epoch"}
    result = run(make_trainer(**args), "rl", n_trials=2, baseline=True).run_summary
    out = tmp_path / "out"
    for source in (out, str(out), out / "hf_rlsearch.db", f"sqlite:///{out / 'hf_rlsearch.db'}"):
        loaded = SearchResult.load(source)
        assert loaded.to_json() == result.to_json()
        assert loaded.best_checkpoint == result.best_checkpoint is not None
        assert loaded.summary() == result.summary()
    again = loaded.replay(make_trainer(**args), 1)
    assert again == result.trials[1].value
    assert again.values == (again,)
    assert again.metrics["eval_accuracy"] == again
    assert again.seconds > 0
    assert pickle.loads(pickle.dumps(again)).metrics == again.metrics
    before = Path(str(result.best_checkpoint)).relative_to(out)
    moved = shutil.move(out, tmp_path / "moved")
    assert SearchResult.load(moved).best_checkpoint == str(moved / before)


def test_the_newest_of_several_searches_and_an_interrupted_one(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    run(make_trainer(), "rl", n_trials=1, study_name="first")
    with pytest.raises(KeyboardInterrupt):
        run(make_trainer(score=stops), "rl", n_trials=3, sampler=Scripted(learning_rate=[1e-2, 1e-3]))
    out = tmp_path / "out"
    newest = SearchResult.load(out)
    assert (newest.study.study_name, newest.metric, newest.stopped_by) == ("search-1", "eval_accuracy", "")
    assert (newest.best_value, newest.n_trials) == (1e-2, 3)
    assert newest.summary().splitlines()[-1].startswith("hyperparameters: ")
    first = SearchResult.load(out, "first")
    assert (first.metric, first.stopped_by) == ("eval_loss", "n_trials")
    with pytest.raises(StorageError, match=r"no study 'frist'; it has 'first', 'search-1'\. Did you mean 'first'"):
        SearchResult.load(out, "frist")


def test_a_journal_in_the_folder(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "out" / "journal.log")))
    args: dict[str, Any] = {"save_strategy": "epoch"}
    result = run(make_trainer(**args), "rl", n_trials=1, storage=storage, study_name="shared").run_summary
    for source in (tmp_path / "out", tmp_path / "out" / "journal.log", storage):
        assert SearchResult.load(source).to_json() == result.to_json()
        assert SearchResult.load(source).best_checkpoint == result.best_checkpoint is not None


def test_what_is_no_search_of_a_trainer(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"There is no storage at .*none'\. Give the output_dir of a search"):
        SearchResult.load(tmp_path / "none")
    with pytest.raises(StorageError, match="There is no search in"):
        SearchResult.load(tmp_path)
    optuna.create_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'mine.db'}")
    with pytest.raises(StorageError, match="Study 'mine' is no search of a Trainer"):
        SearchResult.load(tmp_path)


@pytest.mark.parametrize("objective", [["a"], {"names": 1}, {"names": [1]}, "x"])
def test_an_objective_that_another_program_has_changed(tmp_path: Path, objective: Any) -> None:
    study = optuna.create_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'mine.db'}")
    study.set_user_attr("rl:objective", objective)
    with pytest.raises(StorageError, match=r"'rl:objective' of study 'mine' is .*, expected a dict with the names"):
        SearchResult.load(tmp_path)


@pytest.mark.parametrize("n", [-1, 1.5])
def test_a_number_of_configurations_that_is_none(n: Any) -> None:
    result = SearchResult(optuna.create_study(), "loss", "out", "n_trials", 1)
    with pytest.raises(ArgumentsError, match=f"n={n} given, expected a whole number, at least 0"):
        result.best_configurations(n)


def test_commands_take_the_folder_and_name_the_other_studies(
    make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        run(make_trainer(), "rl", n_trials=1, study_name=name)
    out, page = str(tmp_path / "out"), tmp_path / "report.html"
    capsys.readouterr()
    said = "hf-rlsearch: 'second' is the newest study; --study NAME opens another one: 'first'\n"
    for command in (["explain", out], ["replay", out], ["report", out, "--table", "-o", str(page)]):
        assert main(command) == 0
        printed = capsys.readouterr()
        assert printed.err == said
        assert printed.out
    assert "second" in page.read_text()
    assert main(["explain", out, "--study", "first"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["report", str(tmp_path)]) == 1
    assert f"Did you mean '{out}'?" in capsys.readouterr().err


class Tags(HTMLParser):
    """The names of the tags of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.add(tag)


def test_a_result_shows_its_summary_and_its_trials() -> None:
    bad = "<img src=x onerror=alert(1)>"
    study = optuna.create_study(study_name="s", direction="maximize")
    for value in range(30):
        study.add_trial(
            optuna.trial.create_trial(
                value=value / 30,
                params={"x": bad},
                distributions={"x": optuna.distributions.CategoricalDistribution([bad])},
            )
        )
    result = SearchResult(study, bad, "out", "n_trials", 30)
    lines = repr(result).splitlines()
    assert lines[:2] == ["SearchResult of study 's'", f"{bad}: 0.9667 in trial 29 of 30"]
    assert lines[4].split()[:4] == ["number", "state", "role", "objective"]
    assert len(lines) == 4 + 1 + 20 + 1
    assert lines[-1].startswith("*29")
    text = result._repr_html_()
    assert Tags(text).names == {"pre", "table", "thead", "tbody", "tr", "th", "td"}
    assert "&lt;img src=x onerror=alert(1)&gt;: 0.9667 in trial 29 of 30" in text
