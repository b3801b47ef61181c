"""Fuzzed studies: whatever the space and the objective, each trial ends and lies in its space.

``make fuzz`` runs a thousand; a single one is ``pytest tests/fuzz -k "test_a_fuzzed_study[17]" --studies 18``.
"""

from pathlib import Path

import pytest

from hf_rlsearch.report import explain
from tests.fuzz.studies import run_study

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    # What Optuna says of a step that does not divide its range, of other types of choices and of odd reports.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each seed."""
    metafunc.parametrize("seed", range(metafunc.config.getoption("--studies")))


def test_a_fuzzed_study(seed: int, tmp_path: Path) -> None:
    study, objective, n_trials = run_study(seed, tmp_path)
    assert len(study.trials) == n_trials
    for trial in study.trials:
        assert trial.state.is_finished()
        assert trial.params.keys() == objective.seen.get(trial.number, {}).keys()
        for name, distribution in objective.seen.get(trial.number, {}).items():
            assert distribution._contains(distribution.to_internal_repr(trial.params[name]))
    assert explain(study, n_trials - 1).to_text()
    again, _, _ = run_study(seed, tmp_path) if seed % 10 == 0 else (study, None, None)
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]
