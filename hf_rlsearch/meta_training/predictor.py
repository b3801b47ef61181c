"""Trains the predictor by likelihood to predict every candidate from every history, the second stage of meta-training.

Some histories are drawn, the others are searches that the predictor itself has just made; in the last part of the
training, trials are pruned in some of them. A part of the searches is read with names hidden, as the mixture reads all
of them once more. Resumable: the randomness of step k comes from (seed, k) alone, and checkpoints are written only
where new tasks are drawn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.agent.acquisition import log_expected_improvement
from hf_rlsearch.agent.mixture import hide_names_of
from hf_rlsearch.agent.network import BIN_EDGES, Arrays, NetworkConfig, Predictor, compress
from hf_rlsearch.meta_training.finished import digest, load_finished, save_finished
from hf_rlsearch.meta_training.stopped_histories import pruned_rollouts
from hf_rlsearch.observation.history import RUNNING
from hf_rlsearch.observation.observation import Observation, space_arrays
from hf_rlsearch.tasks import histories
from hf_rlsearch.tasks.mix import TaskMix, with_failures
from hf_rlsearch.tasks.prior import TaskBatch


@dataclass(frozen=True)
class PredictorTraining:
    """Settings of stage two.

    Attributes:
        steps: Gradient steps.
        batch_size: Tasks per step.
        n_candidates: Candidates per task, where the space has so many; one of these numbers each time that tasks are
            drawn. With small numbers only, the predictor would learn that long searches run out of good candidates.
        n_targets: Candidates scored per task; half at random, half close to the incumbent.
        reuse: Steps that share tasks and the searches on them; making these takes longer than the steps.
        rollout_share: Share of the steps that train on the first trials of searches that the predictor made.
        pruned_share: Share of the steps, at the end; every other one of them trains on searches with pruned trials.
        curve_share: Share of the draws from the bank whose tasks have the learning curves of their trainings.
        hidden_share: Share of the searches that are read with names hidden.
        learning_rate: Peak; rises over `warmup` steps, then falls as a cosine to zero.
        warmup: Steps.
        seed: Of everything; the members of an ensemble differ in it alone.
    """

    steps: int = 10_000
    batch_size: int = 64
    n_candidates: tuple[int, ...] = (128, 384, 1024)
    n_targets: int = 48
    reuse: int = 24
    rollout_share: float = 0.5
    pruned_share: float = 0.15
    curve_share: float = 0.5
    hidden_share: float = 0.35
    learning_rate: float = 1.5e-3
    warmup: int = 300
    seed: int = 0


LENGTHS = (2, 5, 10, 20, 40)
_LENGTH_SHARES = (0.15, 0.2, 0.25, 0.25, 0.15)
_ROLLOUT_LENGTHS, _ROLLOUT_SHARES = (8, 16, 24, 32), (0.15, 0.3, 0.35, 0.2)
_OWN_WEIGHT = 4.0  # of a running trial's own end in searches with pruned trials: the stop rule asks for that


def train_predictor(
    settings: PredictorTraining,
    config: NetworkConfig,
    mix: TaskMix,
    folder: Path,
    *,
    device: str = "cpu",
    log_every: int = 20,
    start_from: Mapping[str, Tensor] | None = None,
) -> Predictor:
    """Trains a predictor on tasks of `mix`, continuing from `folder` if it holds a checkpoint of the same settings.

    A new training starts from random weights, or from those of a predictor in `start_from`.
    After every `log_every` draws of tasks a line is added to `predictor.log.jsonl` and a checkpoint is written.
    """
    torch.manual_seed(settings.seed)
    network = Predictor(config).to(device)
    if start_from is not None:
        network.load_state_dict(dict(start_from))
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    made_from = {**asdict(settings), "tables": mix.seeds, "bank_share": mix.bank_share}
    made_from |= {"best_counts": mix.best_counts, "telling": mix.telling}
    if start_from is not None:
        made_from["start_from"] = digest(start_from)
    start = _resume(folder, network, optimizer, made_from)
    losses, began = [], time.perf_counter()
    every = log_every * settings.reuse
    for step in range(start, settings.steps):
        rng = np.random.default_rng([settings.seed, 1, step])
        if step % settings.reuse == 0:
            drawing = np.random.default_rng([settings.seed, 2, step // settings.reuse])
            searches = _Searches.of(drawing, network, mix, settings, step, device)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings)
        loss = _loss(network, searches, step, rng, settings, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            seconds = (time.perf_counter() - began) / len(losses)
            row = {"step": step + 1, "loss": float(np.mean(losses[-every:])), "seconds_per_step": seconds}
            with (folder / "predictor.log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            _save(folder, network, optimizer, made_from, step + 1)
    return network


def _schedule(step: int, settings: PredictorTraining) -> float:
    progress = max(0.0, (step - settings.warmup) / max(1, settings.steps - settings.warmup))
    return float(min(1.0, (step + 1) / settings.warmup) * 0.5 * (1 + np.cos(np.pi * min(1.0, progress))))


@dataclass(frozen=True)
class _Searches:
    """Tasks that some steps share, and searches of the predictor on them.

    `complete` is a search on each task with complete trials, in `failing` the same tasks where parts of some spaces
    fail. `pruned` has snapshots of another search on each, with pruned trials; empty before the last part of the
    training.
    """

    tasks: TaskBatch
    failing: TaskBatch
    complete: histories.Rollout
    pruned: list[histories.Trained]

    @classmethod
    def of(
        cls,
        rng: np.random.Generator,
        network: Predictor,
        mix: TaskMix,
        settings: PredictorTraining,
        step: int,
        device: str,
    ) -> _Searches:
        """Draws tasks for the `reuse` steps from `step` on, and searches them with the current predictor."""

        @torch.no_grad()
        def score(seen: Observation) -> FloatArray:
            chances = network(Arrays.of(seen, device)).softmax(-1)
            return np.asarray(log_expected_improvement(chances, network.bins).cpu())

        mix = replace(mix, curves=rng.random() < settings.curve_share)
        tasks = mix.draw(rng, settings.batch_size, int(rng.choice(settings.n_candidates)))
        failing = with_failures(rng, tasks)
        complete = histories.rollout(rng, failing, int(rng.choice(_ROLLOUT_LENGTHS, p=_ROLLOUT_SHARES)), score)
        late = _is_late(min(step + settings.reuse, settings.steps) - 1, settings)
        pruned = pruned_rollouts(rng, tasks, max(1, settings.reuse // 2), score) if late else []
        return cls(tasks, failing, complete, pruned)

    def history(
        self, rng: np.random.Generator, step: int, settings: PredictorTraining
    ) -> tuple[TaskBatch, histories.Trained, FloatArray]:
        """B tasks, a history of each, and B weights of the last trial as a target."""
        if _is_late(step, settings) and step % 2:
            tasks, trained = _shortened(rng, self.tasks, self.pruned[step // 2 % len(self.pruned)])
            runs = (trained.mask & (trained.status == RUNNING)).any(1)
            return tasks, trained, np.where(runs, _OWN_WEIGHT, 1.0)
        if rng.random() < settings.rollout_share:
            trained = histories.random_prefix(rng, self.failing, self.complete)
        else:
            trained = draw_trained(rng, self.failing)
        return self.failing, trained, np.ones(len(self.failing))


def _is_late(step: int, settings: PredictorTraining) -> bool:
    return step >= round((1 - settings.pruned_share) * settings.steps)


def _shortened(
    rng: np.random.Generator, tasks: TaskBatch, trained: histories.Trained
) -> tuple[TaskBatch, histories.Trained]:
    """Keeps fewer of the searches, the longer they are, so that all steps take about as long."""
    B, T = trained.mask.shape
    rows = rng.permutation(B)[: max(1, min(B, B * LENGTHS[-1] // max(T, 1)))]
    return histories.index_batch(tasks, rows), histories.index_batch(trained, rows)


def _loss(
    network: Predictor,
    searches: _Searches,
    step: int,
    rng: np.random.Generator,
    settings: PredictorTraining,
    device: str,
) -> Tensor:
    """Cross-entropy of the binned improvement over the incumbent, weighted mean over tasks and targets."""
    tasks, trained, own = searches.history(rng, step, settings)
    observation, labels, weight = ask(rng, tasks, trained, settings.n_targets)
    weight[:, -1] *= own
    hidden = torch.as_tensor(rng.random(len(tasks)) < settings.hidden_share, device=device)
    arrays = hide_names_of(hidden, Arrays.of(observation, device))
    return likelihood_loss(network(arrays), labels.to(device), weight)


def draw_trained(rng: np.random.Generator, tasks: TaskBatch) -> histories.Trained:
    """Draws a history of each task, with trials that are stopped, failed or still running."""
    chosen, mask = histories.draw_history(rng, tasks, int(rng.choice(LENGTHS, p=_LENGTH_SHARES)))
    return histories.train_partly(rng, tasks, chosen, mask, histories.measure(rng, tasks, chosen))


def ask(
    rng: np.random.Generator, tasks: TaskBatch, trained: histories.Trained, n_targets: int
) -> tuple[Observation, Tensor, FloatArray]:
    """Draws K targets of each task, and hides a part of the space of some searches without a trial.

    Returns:
        The observation of the histories and the targets, the B x K bins of their outcomes, and B x K weights: 0 for
        padding, else 1.
    """
    targets = _targets(rng, tasks, trained, n_targets)
    seen = histories.hide_hyperparameters(rng, tasks, trained.mask.sum(1) == 0)
    observation = histories.observe_tasks(space_arrays(seen), seen, trained, targets)
    labels = improvement_labels(tasks, trained.chosen, observation.incumbent, targets)
    return observation, labels, np.take_along_axis(tasks.candidate_mask, targets, 1).astype(np.float32)


def likelihood_loss(logits: Tensor, labels: Tensor, weight: FloatArray) -> Tensor:
    """Weighted mean of the cross-entropies of B x K x bins logits, by B x K labels and weights."""
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    weights = torch.as_tensor(weight, device=logits.device)
    return (losses * weights.flatten()).sum() / weights.sum()


def _targets(rng: np.random.Generator, tasks: TaskBatch, trained: histories.Trained, n_targets: int) -> IntArray:
    """B x n_targets candidates: half near the best trial, the rest at random, then the last trial; uses no values."""
    B, C = tasks.candidate_mask.shape
    noise, blocked = rng.random((B, C)), np.where(tasks.candidate_mask, 0.0, np.inf)
    if not trained.mask.shape[1]:
        return np.argpartition(noise + blocked, n_targets, axis=1)[:, :n_targets]
    best = np.where(trained.mask, np.nan_to_num(trained.values, nan=-np.inf), -np.inf).argmax(1)
    centre = np.take_along_axis(trained.chosen, best[:, None], 1)
    at = np.take_along_axis(tasks.candidates, centre[..., None], axis=1)
    step = np.abs(tasks.candidates - at) / np.maximum(tasks.n_levels - 1, 1)[:, None]
    distance = np.where(tasks.ordered[:, None], step, tasks.candidates != at).sum(2)
    half = n_targets // 2
    near = np.argpartition(distance + 0.6 * noise + blocked, half, axis=1)[:, :half]
    uniform = np.argpartition(noise + blocked, n_targets - half - 1, axis=1)[:, : n_targets - half - 1]
    last = np.take_along_axis(trained.chosen, np.maximum(trained.mask.sum(1, keepdims=True) - 1, 0), axis=1)
    return np.concatenate([near, uniform, last], axis=1)


def improvement_labels(tasks: TaskBatch, chosen: IntArray, incumbent: IntArray, targets: IntArray) -> Tensor:
    """B x K bin index of each target's noiseless improvement over the incumbent (over the median without one)."""
    utility = compress(torch.as_tensor(tasks.utility))
    best = torch.as_tensor(np.take_along_axis(chosen, np.maximum(incumbent, 0)[:, None], axis=1))
    reference = torch.gather(utility, 1, best).where(torch.as_tensor(incumbent >= 0)[:, None], torch.tensor(0.0))
    delta = torch.gather(utility, 1, torch.as_tensor(targets)) - reference
    return torch.bucketize(delta.float(), torch.tensor(BIN_EDGES))


def _save(
    folder: Path, network: Predictor, optimizer: torch.optim.Optimizer, made_from: Mapping[str, Any], step: int
) -> None:
    """Weights and both Adam moments in one safetensors file, the step in its header."""
    tensors = {f"weights.{k}": v for k, v in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": torch.as_tensor(v).clone() for k, v in state.items()}
    save_finished(folder / "predictor.checkpoint.safetensors", tensors, made_from, step=str(step))


def _resume(folder: Path, network: Predictor, optimizer: torch.optim.Optimizer, made_from: Mapping[str, Any]) -> int:
    """Loads the checkpoint, if there is one, and returns the step from which to continue."""
    path = folder / "predictor.checkpoint.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return 0
    tensors, header = load_finished(path, made_from)
    network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("weights.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(header["step"])
