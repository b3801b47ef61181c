"""Stage one of meta-training: it learns, and an interruption changes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_rlsearch.agent.network import BIN_EDGES, N_BINS, NetworkConfig, Predictor
from hf_rlsearch.meta_training import predictor as predictor_training
from hf_rlsearch.meta_training import stopped_histories
from hf_rlsearch.meta_training.predictor import (
    PredictorTraining,
    improvement_labels,
    train_predictor,
)
from hf_rlsearch.observation.history import RUNNING
from hf_rlsearch.tasks.mix import TaskMix
from hf_rlsearch.tasks.prior import draw
from tests.helpers.searches import random_predictor

TINY = NetworkConfig(width=8, heads=2, history_blocks=1, candidate_blocks=1)
MIX = TaskMix()
SETTINGS = PredictorTraining(steps=7, batch_size=3, n_targets=8, reuse=3, pruned_share=0.5, warmup=3, seed=5)


@pytest.fixture(autouse=True)
def short_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stopping, where a training asks for them."""
    monkeypatch.setattr(stopped_histories, "BUDGETS", ((2, 4), (3, 3)))


class Interrupted(Exception):
    pass


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the process die in the middle of a step, some steps after the last checkpoint."""
    real, calls = predictor_training._loss, []

    def loss(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > step:
            raise Interrupted
        return real(*arguments)

    monkeypatch.setattr(predictor_training, "_loss", loss)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_resumed_training_equals_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole = train_predictor(SETTINGS, TINY, MIX, tmp_path / "whole", log_every=1)
    with monkeypatch.context() as patched:
        interrupt_at(step, patched)
        with pytest.raises(Interrupted):
            train_predictor(SETTINGS, TINY, MIX, tmp_path / "parts", log_every=1)
    torch.rand(3)  # a new process would be in another state of chance
    resumed = train_predictor(SETTINGS, TINY, MIX, tmp_path / "parts", log_every=1)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_a_finished_training_is_only_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train_predictor(SETTINGS, TINY, MIX, tmp_path)
    interrupt_at(0, monkeypatch)
    again = train_predictor(SETTINGS, TINY, MIX, tmp_path)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train_predictor(SETTINGS, TINY, MIX, tmp_path)
    with pytest.raises(ValueError, match=r"has other settings.*Choose another folder or delete it"):
        train_predictor(replace(SETTINGS, seed=6), TINY, MIX, tmp_path)
    with pytest.raises(ValueError, match="has other settings or inputs"):
        train_predictor(SETTINGS, TINY, TaskMix(bank_share=0.1), tmp_path)


def test_the_log_has_a_line_per_checkpoint(tmp_path: Path) -> None:
    train_predictor(SETTINGS, TINY, MIX, tmp_path, log_every=1)
    rows = [json.loads(line) for line in (tmp_path / "predictor.log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6, 7]
    assert all(0 < row["loss"] < 10 for row in rows)


SEARCHED = replace(SETTINGS, steps=8, reuse=8, batch_size=6)


def searched(settings: PredictorTraining = SEARCHED) -> predictor_training._Searches:
    return predictor_training._Searches.of(np.random.default_rng(0), random_predictor(), MIX, settings, 0, "cpu")


def test_every_other_one_of_the_last_steps_has_a_search_with_pruned_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches, rng = searched(), np.random.default_rng(0)
    assert len(searches.pruned) == 4
    monkeypatch.setattr(predictor_training, "_shortened", lambda rng, tasks, trained: (tasks, trained))
    seen = [searches.history(rng, step, SEARCHED)[1] for step in range(8)]
    used = [[i for i, snapshot in enumerate(searches.pruned) if snapshot is trained] for trained in seen]
    assert used == [[], [], [], [], [], [2], [], [3]]
    assert not searched(replace(SEARCHED, pruned_share=0, steps=7)).pruned


def test_the_end_of_a_running_trial_weighs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else weighs anything against it, the loss is that of the last trials alone."""
    searches = searched()
    _, trained, own = searches.history(np.random.default_rng(0), 7, SEARCHED)
    running = (trained.mask & (trained.status == RUNNING)).any(1)
    assert running.any()
    np.testing.assert_array_equal(own, np.where(running, 4.0, 1.0))

    def loss() -> float:
        rng = np.random.default_rng(1)
        return predictor_training._loss(random_predictor(), searches, 7, rng, SEARCHED, "cpu").item()

    monkeypatch.setattr(predictor_training, "_OWN_WEIGHT", 1e9)
    weighed, targets = loss(), predictor_training._targets
    monkeypatch.setattr(predictor_training, "_targets", lambda *arguments: targets(*arguments)[:, -1:])
    assert weighed == pytest.approx(loss(), rel=1e-5)


def test_long_searches_are_fewer_and_each_keeps_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_training, "LENGTHS", (2, 3))
    searches = searched(replace(SEARCHED, batch_size=8))
    trained = searches.pruned[-1]
    assert trained.mask.shape[1] > predictor_training.LENGTHS[-1]
    tasks, some = predictor_training._shortened(np.random.default_rng(0), searches.tasks, trained)
    assert 1 <= len(tasks) == len(some.chosen) < 8
    for median, chosen in zip(tasks.median, some.chosen, strict=True):
        row = int(np.flatnonzero(searches.tasks.median == median)[0])
        np.testing.assert_array_equal(chosen, trained.chosen[row])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_loss_falls(tmp_path: Path) -> None:
    settings = PredictorTraining(steps=250, batch_size=16, n_targets=16, warmup=20, learning_rate=3e-3)
    train_predictor(settings, NetworkConfig(width=16, heads=2), tmp_path, log_every=4)
    rows = [json.loads(line) for line in (tmp_path / "predictor.log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    assert rows[-1]["loss"] < np.log(N_BINS)


def test_labels_are_bins_of_the_improvement_over_the_incumbent() -> None:
    tasks = draw(np.random.default_rng(0), 2, 6)
    tasks.utility[:] = [[0.0, 0.5, 1.0, -3.0, 0.2, 0.5]] * 2
    chosen, targets = np.array([[4, 1], [4, 1]]), np.tile(np.arange(6), (2, 1))
    labels = improvement_labels(tasks, chosen, np.array([1, -1]), targets)
    values = np.array([[-0.5, 0.0, 0.5], [0.0, 0.5, 1.0]])  # over the incumbent's 0.5; over the median
    np.testing.assert_array_equal(labels[:, :3], np.searchsorted(BIN_EDGES, values))
    assert labels[0, 3] < labels[0, 0]


def test_the_rate_of_learning_rises_and_falls() -> None:
    settings = PredictorTraining(steps=100, warmup=10)
    rates = [predictor_training._schedule(step, settings) for step in range(100)]
    assert max(rates) == rates[9] == pytest.approx(1)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.01
    assert (np.diff(rates[10:]) < 0).all()


def test_checkpoints_hold_the_weights_of_the_network(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    network = train_predictor(SETTINGS, TINY, MIX, tmp_path)
    stored = load_file(tmp_path / "predictor.checkpoint.safetensors")
    names = {f"weights.{name}" for name in Predictor(TINY).state_dict()}
    assert names <= set(stored)
    torch.testing.assert_close(stored["weights.scales.bias"], network.scales.bias.detach())
    assert not (tmp_path / "predictor.partial").exists()


def test_a_training_that_continues_starts_from_the_given_weights(tmp_path: Path) -> None:
    start, config = random_predictor().state_dict(), replace(TINY, width=16)
    still = replace(SETTINGS, steps=1, learning_rate=0.0)
    kept = train_predictor(still, config, MIX, tmp_path / "kept", start_from=start).state_dict()
    for name, tensor in start.items():
        torch.testing.assert_close(kept[name], tensor, rtol=0, atol=0, msg=name)
    with pytest.raises(ValueError, match="has other settings or inputs"):
        train_predictor(still, config, MIX, tmp_path / "kept")
