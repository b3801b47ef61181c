"""Notes for optuna-dashboard, read back as it reads them."""

from collections.abc import Callable

import optuna
import pytest
from optuna.trial import create_trial

from hf_rlsearch.report import explain
from hf_rlsearch.report.notes import note_study, note_trial, to_markdown


def note(study: optuna.Study, prefix: str = "dashboard:") -> str:
    """As ``optuna_dashboard.get_note``: the pieces in order."""
    attrs = study._storage.get_study_system_attrs(study._study_id)
    pieces = [key for key in attrs if key.startswith(f"{prefix}note_str:")]
    return "".join(attrs[f"{prefix}note_str:{i}"] for i in range(len(pieces)))


@pytest.mark.parametrize("storage", [None, "sqlite:///{}/search.db"])
def test_a_trial_has_its_reasons_as_a_note(
    make_study: Callable[..., optuna.Study], storage: str | None, tmp_path: object
) -> None:
    study = make_study(6, storage=storage and storage.format(tmp_path))
    note_trial(study, 3)
    written = note(study, f"dashboard:{study.trials[3]._trial_id}:")
    assert written == to_markdown(explain(study, 3))
    assert "| learning_rate | +0.400 | +0.100 |" in written
    assert "Looked at most: trial 0" in written


def test_a_note_that_somebody_wrote_stays(make_study: Callable[..., optuna.Study]) -> None:
    study = make_study(3)
    prefix = f"dashboard:{study.trials[1]._trial_id}:"
    for key, value in (("note_ver", 1), ("note_str:0", "mine")):
        study._storage.set_study_system_attr(study._study_id, prefix + key, value)
    note_trial(study, 1)
    assert note(study, prefix) == "mine"


def test_the_study_has_a_note_that_shrinks_and_grows(make_study: Callable[..., optuna.Study]) -> None:
    study = make_study(2)
    for text in ("a\n" * 3000, "short"):
        note_study(study, text)
        assert note(study) == "\n\n".join(text.splitlines())
    study._storage.set_study_system_attr(study._study_id, "dashboard:note_ver", 2)
    note_study(study, "ours")
    assert note(study) == "short"


def test_the_dashboard_reads_them(make_study: Callable[..., optuna.Study]) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard")
    study = make_study(4)
    note_study(study, "the summary")
    assert dashboard.get_note(study) == "the summary"


def test_a_bar_in_a_name_ends_no_column() -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=1.0, system_attrs={"rl:decision": {"contributions": {"a|b": 0.1}}}))
    assert "| a\\|b | +0.100 |" in to_markdown(explain(study, 0))
