"""Meta-training from end to end, with a few steps of each stage."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_rlsearch.agent.acquisition import CANDIDATE_FEATURES
from hf_rlsearch.agent.agent import Agent
from hf_rlsearch.agent.checkpoint import Card, load_weights, save_weights
from hf_rlsearch.agent.stop_rule import StopRule
from hf_rlsearch.envs.search_env import BatchedSearch
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.meta_training.__main__ import _ranges, _with_earlier, main
from hf_rlsearch.meta_training.decision_head import acquisition, area_under_regret
from hf_rlsearch.meta_training.plan import Plan
from hf_rlsearch.meta_training.predictor import PredictorTraining
from hf_rlsearch.observation.curve_features import STOP_FEATURES
from hf_rlsearch.observation.observation import OBSERVATION_FORMAT
from hf_rlsearch.tasks.miniature.table import MiniatureSize
from hf_rlsearch.tasks.mix import TaskMix
from hf_rlsearch.tasks.prior import PRIOR_VERSION
from tests.helpers.searches import SPACE, random_history


def test_the_acquisition_takes_the_best_that_is_allowed() -> None:
    candidates = np.zeros((2, 4, len(CANDIDATE_FEATURES)))
    candidates[..., CANDIDATE_FEATURES.index("log_ei")] = [[0, 3, 2, 1], [0, -1, -2, -3]]
    mask = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 1, 1]])
    assert acquisition({"candidates": candidates, "mask": mask}).tolist() == [2, 2]


def test_the_area_under_regret_of_knowing_everything_is_small() -> None:
    def search() -> BatchedSearch:
        made = BatchedSearch(TaskMix().of(12), n_envs=20, budget=5, evaluations=1, seed=0)
        made.fix_noise(0)
        return made

    def best_first(searching: BatchedSearch) -> Any:
        return np.where(searching.action_masks()[:, :-1], searching.tasks.utility, -np.inf)

    known = area_under_regret(search(), best_first, lambda utility: utility.argmax(1))
    worst = area_under_regret(
        search(), best_first, lambda utility: np.where(np.isinf(utility), np.inf, utility).argmin(1)
    )
    assert known.shape == (20,)
    assert ((known >= 0) & (worst <= 1)).all()
    assert known.mean() < 0.3 < worst.mean()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meta_train")
    run(folder)
    return folder


PLAN = Plan(
    n_tables=14,
    n_predictors=2,
    predictor=PredictorTraining(steps=3, batch_size=4, n_targets=8),
    stop_steps=4096,
    head_steps=2560,
    test_tasks=192,
    size=MiniatureSize(n_configurations=(40, 48), n_rows=(64, 64), pretraining_steps=(5, 10), max_work=1e8),
)


def run(folder: Path, capsys: pytest.CaptureFixture[str] | None = None) -> str:
    """A whole meta-training of a few steps; returns what it prints last."""
    main(["--folder", str(folder), "--out", str(folder / "mine.safetensors"), "--jobs", "2"], PLAN)
    return capsys.readouterr().out.split("\n", 1)[1] if capsys is not None else ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
class TestWholeRun:
    def test_the_weights_can_be_used(self, trained: Path) -> None:
        tensors, card = load_weights(trained / "mine.safetensors")
        rows = SPACE.grid(1000)
        decision = Agent(tensors, card).decide(
            SPACE,
            random_history(4),
            rows,
            mask=np.ones(len(rows), bool),
            n_remaining=3,
            facts={},
            rng=np.random.default_rng(0),
        )
        assert 0 <= decision.index < len(rows)
        odds = StopRule(tensors).log_odds(np.zeros((2, len(STOP_FEATURES)), np.float32))
        assert np.isfinite(odds).all()
        assert (trained / "mine.safetensors").stat().st_size < 8e6

    def test_the_card_says_how_they_were_made(self, trained: Path) -> None:
        _, card = load_weights(trained / "mine.safetensors")
        assert card.name == "mine"
        assert card.observation_format == OBSERVATION_FORMAT
        assert card.prior == PRIOR_VERSION
        assert card.training["predictors"]["steps"] == 3
        assert card.training["bank"] == {"tables": 14, "seeds": "0-6, 750-756"}
        assert {"predictors", "stop_rule", "decision_head"} <= set(card.training)
        assert {"torch", "stable-baselines3"} <= set(card.versions)
        assert card.limits
        verdict = card.gates["decision_head"]
        assert verdict["tasks"] == 128
        assert verdict["interval"][0] <= verdict["difference"] <= verdict["interval"][1]
        assert verdict["difference"] == pytest.approx(verdict["area_head"] - verdict["area_acquisition"])
        stopping = card.gates["stop_rule"]
        assert stopping["tasks"] == 192
        assert set(stopping["areas"]) == {"equal_prices", "unequal_prices", "flat_first"}
        rules = {"trained", "never", "few_made_it_up", "gain_per_price"}
        for areas in stopping["areas"].values():
            assert all(areas["clairvoyant"] <= areas[rule] + 0.02 for rule in rules)

    def test_the_head_ships_only_if_it_passes_the_acceptance_test(self, trained: Path) -> None:
        tensors, card = load_weights(trained / "mine.safetensors")
        verdict = card.gates["decision_head"]
        assert verdict["ships"] == (verdict["interval"][1] < 0)
        assert any(name.startswith("head.") for name in tensors) == verdict["ships"]

    def test_a_second_run_continues_where_the_first_ended(
        self, trained: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, _ = load_weights(trained / "mine.safetensors")
        printed = run(trained, capsys)
        second, card = load_weights(trained / "mine.safetensors")
        assert json.loads(printed) == card.gates["decision_head"]
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            torch.testing.assert_close(second[name], tensor, rtol=0, atol=0)

    def test_two_ways_to_use_earlier_weights_are_one_too_many(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["--predictors-of", "rl-v5", "--stop-rule-of", "rl-v5"], PLAN)
        assert "not allowed with argument" in capsys.readouterr().err

    def test_a_single_earlier_predictor_learns_on(self, trained: Path, tmp_path: Path) -> None:
        tensors, card = load_weights(trained / "mine.safetensors")
        single = {name: tensor for name, tensor in tensors.items() if not name.startswith("predictor.1.")}
        save_weights(tmp_path / "single.safetensors", single, card)
        given = ["--folder", str(tmp_path), "--jobs", "2", "--until", "predictors"]
        main([*given, "--predictors-of", str(tmp_path / "single.safetensors")], PLAN)
        assert [folder.name for folder in tmp_path.glob("predictor-*")] == ["predictor-0"]

    def test_the_stop_rule_alone_is_trained_anew(self, trained: Path) -> None:
        """From tables that were not used before, the second time too; all other parts stay as they are."""
        given = ["--folder", str(trained), "--out", str(trained / "renewed.safetensors")]
        for part in trained.glob("stop*"):
            part.rename(part.with_name(f"before-{part.name}"))
        main([*given, "--stop-rule-of", str(trained / "mine.safetensors"), "--jobs", "1"], PLAN)
        (first, card), (second, renewed) = (load_weights(trained / f"{n}.safetensors") for n in ("mine", "renewed"))
        assert first.keys() == second.keys()
        changed = {name for name, tensor in first.items() if not torch.equal(second[name], tensor)}
        assert changed
        assert all(name.startswith("stop.") for name in changed)
        assert renewed.gates["decision_head"] == card.gates["decision_head"]
        assert renewed.training["other_parts"] == "of mine"
        assert renewed.training["stop_rule_bank"]["tables"] == PLAN.n_tables
        again = replace(renewed, training={**renewed.training, "stop_rule_bank": _with_earlier(renewed, PLAN)})
        used = [set(plan.seeds()) for plan in (PLAN, *map(PLAN.continuing, (card, renewed, again)))]
        assert sum(map(len, used)) == len(set.union(*used)) == 4 * PLAN.n_tables

    def test_another_run_gives_the_same_weights_bit_by_bit(self, trained: Path, tmp_path: Path) -> None:
        run(tmp_path)
        first, second = (load_weights(folder / "mine.safetensors")[0] for folder in (trained, tmp_path))
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            torch.testing.assert_close(second[name], tensor, rtol=0, atol=0)


def test_the_time_is_divided_by_fixed_shares() -> None:
    short, long = Plan.for_hours(1.0, 2), Plan.for_hours(2.0, 2)
    assert long.predictor.steps == pytest.approx(2 * short.predictor.steps, abs=1)
    assert long.n_tables == pytest.approx(2 * short.n_tables, abs=1)
    assert Plan.for_hours(1.0, 1).predictor.steps == pytest.approx(short.predictor.steps / 2, abs=1)  # one by one


def test_the_seeds_of_the_bank_are_as_many_as_its_tables() -> None:
    for n in (1, 14, 801, 1500, 2000):
        seeds = replace(PLAN, n_tables=n).seeds()
        assert len(seeds) == len(set(seeds)) == n


def card_of(**training: Any) -> Card:
    return replace(load_weights()[1], training=training)


def test_a_training_that_continues_has_other_tables() -> None:
    for n in (14, 801, 1500, 2000):
        first = replace(PLAN, n_tables=n)
        bank = {"bank": {"tables": n}}
        second = first.continuing(card_of(**bank))
        third = first.continuing(card_of(**bank, continues=bank))
        assert len({*first.seeds(), *second.seeds(), *third.seeds()}) == 3 * n
        assert second.predictor.learning_rate < first.predictor.learning_rate
    with pytest.raises(WeightsError, match="does not say its number of tables"):
        PLAN.continuing(card_of(bank="many"))


@pytest.mark.parametrize(
    ("numbers", "text"), [([0, 1, 2], "0-2"), ([5], "5-5"), ([0, 1, 750, 751, 9000], "0-1, 750-751, 9000-9000")]
)
def test_seeds_are_shown_as_ranges(numbers: list[int], text: str) -> None:
    assert _ranges(numbers) == text


def test_the_card_of_the_bundled_weights_is_short() -> None:
    assert len(load_weights()[1].to_json().splitlines()) < 200
