"""Learning from own studies: what is read, what is refused, and that nothing is written without a proven gain."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

import hf_rlsearch
from hf_rlsearch.agent.agent import agent_for, load_agent
from hf_rlsearch.agent.checkpoint import load_weights, save_weights
from hf_rlsearch.cli import main
from hf_rlsearch.errors import ArgumentsError, StorageError, WeightsError
from hf_rlsearch.meta_training import learn as module
from hf_rlsearch.meta_training.learn import LEAST_STUDIES, MARGIN, Learnt, learn
from hf_rlsearch.optuna import RLSampler
from hf_rlsearch.optuna.confirmation import Gain
from hf_rlsearch.optuna.storage import open_studies
from hf_rlsearch.space import SearchSpace
from tests.helpers.searches import random_predictor

NAMES = (("learning_rate", "num_train_epochs", "other"), ("learning_rate", "per_device_train_batch_size"))
"""Names of which a study of `objective` has more than half, and no more than half."""

pytestmark = pytest.mark.usefixtures("quiet")


def objective(trial: optuna.Trial) -> float:
    """All studies have their best rate near 3e-4."""
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    return abs(np.log10(rate) + 3.5) + 0.1 * trial.suggest_int("num_train_epochs", 1, 3)


def make_studies(count: int, storage: Any = None, n_trials: int = 12) -> list[optuna.Study]:
    studies = []
    for seed in range(count):
        sampler = optuna.samplers.RandomSampler(seed=seed)
        studies.append(optuna.create_study(storage=storage, study_name=f"study-{seed}", sampler=sampler))
        studies[-1].optimize(objective, n_trials=n_trials)
    return studies


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of weights with one small predictor, for a short training."""
    monkeypatch.setattr(module, "Learning", partial(module.Learning, steps=20, n_own=6, n_prior=2, learning_rate=1e-2))
    monkeypatch.setattr(module, "_PRIOR_TASKS", 16)
    monkeypatch.setattr(module, "_TASKS_PER_STUDY", 4)
    predictor = random_predictor()
    card = load_weights()[1]
    path = tmp_path / "small.safetensors"
    tensors = {f"predictor.0.{k}": v for k, v in predictor.state_dict().items()}
    network = {name: int(size) for name, size in vars(predictor.config).items()}
    save_weights(path, tensors, module.replace(card, name="small", network=network, training={}, gates={}))
    return str(path)


def result(**changes: Any) -> Learnt:
    proven = {"skipped": [], "own": Gain(0.1, 0.05, 0.15), "prior": Gain(0.0, -0.01, 0.01), "regret_before": 0.3}
    return Learnt(n_studies=5, n_held_out=2, **{**proven, "regret_after": 0.2, **changes})


# ----------------------------------------------------------------------------------------------------------- what works
def test_what_was_learnt_is_written_and_used(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MARGIN", 9.0)  # an untrained network knows nothing to keep
    monkeypatch.setattr(Learnt, "is_better", True)
    lines: list[str] = []
    found = learn(make_studies(8), tmp_path / "mine", weights=small, log=lines.append)
    assert (found.n_studies, found.n_held_out, found.path) == (6, 2, tmp_path / "mine")
    assert found.own.mean > 0.1
    _, card = load_weights(tmp_path / "mine")
    assert (card.name, card.training["own_studies"]["of"]) == ("mine", "small")
    assert card.gates["own_studies"]["own"]["mean"] == found.own.mean
    assert {"agent.safetensors", "agent.json"} == {path.name for path in (tmp_path / "mine").iterdir()}
    assert load_agent(tmp_path / "mine").card == card
    study = optuna.create_study(sampler=RLSampler(seed=0, weights=tmp_path / "mine"))
    study.optimize(objective, n_trials=3)
    own, foreign = (
        SearchSpace.from_distributions({name: FloatDistribution(0, 1) for name in names}) for names in NAMES
    )
    assert agent_for(tmp_path / "mine", own) is load_agent(tmp_path / "mine")
    assert agent_for(tmp_path / "mine", foreign) is load_agent()
    assert lines[0].startswith("learning from 6 studies of ")
    assert "20 of 20" in lines[-1]


def test_the_same_studies_and_seed_give_the_same_figures(small: str, tmp_path: Path) -> None:
    first, second = (learn(make_studies(6), tmp_path / name, weights=small) for name in ("a", "b"))
    assert module.replace(first, path=None) == module.replace(second, path=None)


def test_studies_are_read_from_storages_too(small: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'search.db'}"
    make_studies(6, url)
    assert learn([tmp_path / "search.db"], tmp_path / "mine", weights=small).n_studies == 4


def test_one_storage_or_study_needs_no_list(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'search.db'}"
    study = make_studies(2, url)[0]
    for one, n_found in ((url, 2), (str(tmp_path / "search.db"), 2), (tmp_path / "search.db", 2), (study, 1)):
        with pytest.raises(ArgumentsError, match=f"{n_found} of {n_found} studies can be learnt from"):
            learn(one, tmp_path / "mine")


def test_nothing_is_written_without_a_gain(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learnt, "is_better", False)
    found = learn(make_studies(6), tmp_path / "mine", weights=small)
    assert (found.path, (tmp_path / "mine").exists()) == (None, False)
    assert "Nothing is written" in found.to_text()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"own": Gain(0.1, -0.001, 0.2)}, False),
        ({"regret_after": 0.31}, False),
        ({"prior": Gain(-0.01, -MARGIN, 0.0)}, False),
        ({"prior": Gain(-0.01, -0.99 * MARGIN, 0.0)}, True),
    ],
)
def test_the_gain_has_to_be_proven_on_held_out_studies_and_the_prior_kept(changes: Any, expected: bool) -> None:
    assert result(**changes).is_better == expected


def test_the_verdict_says_the_figures_either_way(tmp_path: Path) -> None:
    text = result(path=tmp_path, skipped=[("old", "all values are equal")]).to_text()
    assert "left out: old: all values are equal" in text
    assert "nats per configuration: +0.100 [+0.050, +0.150]" in text
    assert "regret after 5 trials: 0.300 before, 0.200 after" in text
    assert f"Written to {tmp_path}" in text
    assert "forgets more than 0.05" in result(prior=Gain(-0.1, -0.2, 0.0)).to_text()


def test_an_interval_is_students() -> None:
    gain = Gain.of([0.1, 0.3])
    assert gain.mean == pytest.approx(0.2)
    assert (gain.low, gain.high) == pytest.approx((0.2 - 12.706 * 0.1, 0.2 + 12.706 * 0.1), abs=1e-3)


# ----------------------------------------------------------------------------------------------------- what is refused
def test_too_few_studies_or_trials_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArgumentsError, match=f"5 of 5 studies can be learnt from, expected at least {LEAST_STUDIES}"):
        learn(make_studies(5), tmp_path / "mine")
    short = [*make_studies(5), optuna.create_study(study_name="short")]
    short[-1].optimize(objective, n_trials=4)
    with pytest.raises(ArgumentsError, match=r"5 of 6 studies.*'short': \d different complete configurations"):
        learn(short, tmp_path / "mine")


def test_studies_that_cannot_teach_are_left_out_with_the_reason(small: str, tmp_path: Path) -> None:
    constant = optuna.create_study(study_name="constant")
    constant.optimize(lambda trial: 0.0 * trial.suggest_int("x", 0, 11), n_trials=40)
    several = optuna.create_study(study_name="several", directions=["minimize", "minimize"])
    empty = optuna.create_study(study_name="empty")
    found = learn([*make_studies(6), constant, several, empty], tmp_path / "mine", weights=small)
    assert [name for name, _ in found.skipped] == ["constant", "several", "empty"]
    assert dict(found.skipped)["constant"] == "all values are equal"
    assert dict(found.skipped)["several"] == "it has several objectives"


def test_a_baseline_outside_of_the_space_is_no_trial_of_the_nearest_levels() -> None:
    studies = make_studies(LEAST_STUDIES)
    before, _ = module.read_studies(studies)
    outside = optuna.trial.create_trial(
        value=100.0,
        params={"num_train_epochs": 1},
        distributions={"num_train_epochs": IntDistribution(1, 3)},
        user_attrs={"rl:role": "baseline", "rl:outside": {"learning_rate": 1e-9}},
    )
    studies[0].add_trial(outside)
    after, skipped = module.read_studies(studies)
    assert not skipped
    assert all(one.equals(other) for one, other in zip(before, after, strict=True))


def test_a_trial_of_a_range_that_was_changed_later_is_no_trial_of_the_nearest_levels() -> None:
    study = optuna.create_study(study_name="changed")
    for x, high in ((50, 99), *((x, 9) for x in range(9))):
        distributions = {"x": IntDistribution(0, high)}
        study.add_trial(optuna.trial.create_trial(value=float(x), params={"x": x}, distributions=distributions))
    found, _ = module.read_studies([study, *make_studies(LEAST_STUDIES - 1)])
    assert sorted(found[0].rows[:, 0].tolist()) == list(range(9))


def test_a_copy_teaches_once_and_each_study_of_one_name_has_its_reason(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'search.db'}"
    studies = make_studies(6, url)
    shutil.copy(tmp_path / "search.db", tmp_path / "copy.db")
    copied = [*studies, *open_studies(url), *open_studies(tmp_path / "copy.db")]
    short = [optuna.create_study(study_name="search-1") for _ in range(2)]
    short[0].optimize(objective, n_trials=1)
    found, skipped = module.read_studies([*copied, *short])
    names = [study.study_name for study in studies]
    assert [study.name for study in found] == names
    copies = [(name, f"its trials are those of {name!r}, which was read before") for name in names]
    assert skipped[:-2] == 2 * copies
    assert [name for name, _ in skipped[-2:]] == ["search-1", "search-1"]
    assert skipped[-2][1] == "1 different complete configurations"
    with pytest.raises(ArgumentsError, match="5 of 10 studies can be learnt from"):
        module.read_studies(2 * studies[:5])


def test_a_study_whose_facts_cannot_be_read_is_left_out() -> None:
    studies = make_studies(7)
    studies[0].set_user_attr("rl:facts", [1, 2])
    found, [(name, reason)] = module.read_studies(studies)
    assert (len(found), name) == (6, "study-0")
    assert reason.startswith("The user attribute 'rl:facts' of the study is [1, 2], expected a dict")


def test_arguments_are_checked_before_the_training(tmp_path: Path) -> None:
    studies = make_studies(6)
    with pytest.raises(ArgumentsError, match="exists already: give another folder"):
        learn(studies, tmp_path)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "mine", tmp_path / "file" / "agents" / "mine"):
        with pytest.raises(ArgumentsError, match=r"mine' cannot be made, because '.*file' is no folder"):
            learn(studies, out)
    with pytest.raises(ArgumentsError, match="seed is -1, expected a whole number"):
        learn(studies, tmp_path / "mine", seed=-1)
    with pytest.raises(WeightsError, match="there are no weights 'gone'"):
        learn(studies, tmp_path / "mine", weights="gone")
    with pytest.raises(StorageError, match="There is no storage"):
        learn([tmp_path / "gone.db"], tmp_path / "mine")


def test_the_command_says_why_nothing_is_learnt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_studies(2, f"sqlite:///{tmp_path / 'search.db'}")
    assert main(["learn", str(tmp_path / "search.db"), "--out", str(tmp_path / "mine")]) == 1
    assert "2 of 2 studies can be learnt from, expected at least 6" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_command_learns_from_searches_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hf_rlsearch.cli.demo import hp_space, make_trainer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "Learning", partial(module.Learning, steps=40))
    url = f"sqlite:///{tmp_path / 'demo.db'}"
    for seed in range(LEAST_STUDIES):
        trainer = make_trainer(96, 96, seed, tmp_path / f"demo-{seed}")
        sampler = optuna.samplers.RandomSampler(seed=seed)
        hf_rlsearch.search(
            trainer, hp_space, n_trials=11, metric="accuracy", storage=url, study_name=f"demo-{seed}", sampler=sampler,
            pruner=None, keep_best_models=0,
        )  # fmt: skip
    code = main(["learn", url, "--out", "my-agent"])
    printed = capsys.readouterr().out
    assert "gain on those, nats per configuration:" in printed
    assert "gain on tasks of the prior:" in printed
    assert (code == 0) == Path("my-agent/agent.safetensors").exists() == ("Written to my-agent" in printed)
    if code == 0:
        study = optuna.create_study(sampler=RLSampler(weights="my-agent", seed=0))
        study.optimize(objective, n_trials=2)
