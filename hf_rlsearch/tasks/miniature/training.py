"""Trains many configurations of one miniature task side by side, and evaluates them on the way.

Configurations that share network, batch size, optimizer and adapters form a group: its trainings differ in numbers
only, and one batched matrix product is a layer of all of them. Every training has its own order of rows, its own head
and its own dropout, and does what the Trainer would do: epochs of permuted rows, a last batch that is smaller, the
gradient's norm clipped, a schedule per step. One that diverges is not mended.

Letters: N trainings, D weights of one, E evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.tasks.miniature.network import (
    Forward,
    Layout,
    NetworkShape,
    Parameter,
    adapters_of,
    draw_weights,
    parameters_of,
)
from hf_rlsearch.tasks.miniature.optimizers import OPTIMIZERS
from hf_rlsearch.tasks.miniature.scores import SCORES, mean_loss, scores

DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "batch_size": 8,
    "accumulation": 1,
    "epochs": 3,
    "max_steps": 0,
    "weight_decay": 0.0,
    "warmup_ratio": 0.0,
    "schedule": "linear",
    "linear_decay": 0.0,
    "exponential_decay": 0.0,
    "l1": 0.0,
    "l2": 0.0,
    "optimizer": "adamw_torch",
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "max_grad_norm": 1.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "momentum": 0.0,
    "layer_decay": 1.0,
    "frozen_layers": 0,
    "lora_rank": 0,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "network": 0,
}
"""Every setting of a training with its usual value, those of ``TrainingArguments`` where it has the field.

``max_steps`` above 0 replaces the epochs; ``lora_rank`` above 0 trains adapters and a new head only; ``frozen_layers``
counts from the input; ``l1`` and ``l2`` are penalties in the loss; ``linear_decay`` and ``exponential_decay`` shrink
the rate per step on top of its schedule, as in TaskSet (Metz et al. 2020); ``network`` is an index into the networks of
the task.
"""

Settings = Mapping[str, npt.NDArray[Any]]
"""A value for each of N trainings by the names of `DEFAULTS`."""

_SECONDS_A_STEP, _FLOPS_A_SECOND = 0.02, 2e7  # of the imagined machine whose seconds are recorded


@dataclass(frozen=True)
class Rows:
    """Rows of data: inputs R x n_inputs or R x T tokens, targets R (R x T where every token has one)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.inputs)


@dataclass(frozen=True)
class Start:
    """A network to begin with.

    Attributes:
        shape: Its architecture.
        weights: Pretrained ones, each of its own shape; None to begin with random ones.
        new_head: The head of `weights` is replaced by a new one.
    """

    shape: NetworkShape
    weights: Mapping[str, Tensor] | None = None
    new_head: bool = True


@dataclass(frozen=True)
class Results:
    """What N trainings gave.

    Attributes:
        scores: N x (E + 1) x the scores of `SCORES`; the first evaluation is of the model before the first step.
        train_loss: N x E mean loss of the training steps since the evaluation before.
        steps: N steps of a whole training.
        trainable: N share of a network's weights that were trained.
        seconds: N, what the training would take on an imagined machine; in proportion to its work.
    """

    scores: FloatArray
    train_loss: FloatArray
    steps: IntArray
    trainable: FloatArray
    seconds: FloatArray


def settings_of(n: int, **chosen: npt.ArrayLike) -> dict[str, npt.NDArray[Any]]:
    """Settings of `n` trainings: what was chosen, one value or `n`, and the usual values of all others."""
    return {name: np.broadcast_to(np.asarray(chosen.get(name, usual)), n) for name, usual in DEFAULTS.items()}


def steps_of(settings: Settings, n_rows: int) -> IntArray:
    """N steps that each training takes on so many rows."""
    an_epoch = -(-n_rows // (settings["batch_size"] * settings["accumulation"]))
    return np.where(settings["max_steps"] > 0, settings["max_steps"], an_epoch * settings["epochs"]).astype(int)


def train(
    kind: str,
    starts: list[Start],
    data: Rows,
    validation: Rows,
    settings: Settings,
    seed: int,
    n_evaluations: int = 8,
    *,
    one_seed: bool = False,
) -> Results:
    """Trains N configurations.

    Args:
        kind: Of the loss, a key of `SCORES`.
        starts: The networks that ``settings["network"]`` counts.
        data: Rows to train on.
        validation: Rows to evaluate on.
        settings: A value per training and setting, see `settings_of`.
        seed: Of all randomness.
        n_evaluations: E, evenly spread over each training, the last one at its end.
        one_seed: All trainings begin with the same new weights, and see the rows in the same order where their batches
            are equally large, as the trials of a search with one seed do.
    """
    n = len(settings["batch_size"])
    steps = steps_of(settings, len(data))
    results = Results(
        np.full((n, n_evaluations + 1, len(SCORES[kind])), np.nan), np.full((n, n_evaluations), np.nan), steps,
        np.ones(n), np.zeros(n),
    )  # fmt: skip
    generator = torch.Generator(data.inputs.device).manual_seed(seed)
    batch = settings["batch_size"] * settings["accumulation"]
    keys = list(zip(settings["network"], batch, settings["optimizer"], settings["lora_rank"] > 0, strict=True))
    for key in sorted(set(keys)):
        of_group = np.flatnonzero([other == key for other in keys])
        # The longest first: those that still run are always the first ones.
        of_group = of_group[np.argsort(-steps[of_group], kind="stable")]
        if one_seed:
            generator.manual_seed(seed)
        own = {name: values[of_group] for name, values in settings.items()}
        group = _Group(kind, starts[key[0]], data, own, generator, one_seed=one_seed)
        group.run(validation, results, of_group)
    return results


def pretrain(
    kind: str, shape: NetworkShape, data: Rows, generator: torch.Generator, *, steps: int, rate: float
) -> dict[str, Tensor]:
    """Trains one network from random weights by AdamW; returns its weights."""
    settings = settings_of(1, max_steps=steps, learning_rate=rate, batch_size=32, warmup_ratio=0.1, schedule="cosine")
    group = _Group(kind, Start(shape), data, settings, generator)
    for step in range(steps):
        group.step(step)
    return {name: weight[0].clone() for name, weight in group.layout.unpack(group.flat).items()}


class _Group:
    """N trainings of one network with one batch size and optimizer, the longest first."""

    def __init__(
        self,
        kind: str,
        start: Start,
        data: Rows,
        settings: Settings,
        generator: torch.Generator,
        *,
        one_seed: bool = False,
    ) -> None:
        self.kind, self.shape, self.data, self.generator = kind, start.shape, data, generator
        self.one_seed = one_seed
        self.batch = int(settings["batch_size"][0] * settings["accumulation"][0])
        self.steps = steps_of(settings, len(data))
        self.layout, self.flat, self.shared = _weights(start, settings, generator, one_seed)
        column = {
            name: torch.as_tensor(values.astype(np.float32), device=generator.device)[:, None]
            for name, values in settings.items()
            if values.dtype.kind in "iuf"
        }
        self.optimizer = OPTIMIZERS[str(settings["optimizer"][0])](self.flat, self.layout, column)
        self.rates = column["learning_rate"] * torch.as_tensor(
            _schedules(settings, self.steps), dtype=torch.float32, device=generator.device
        )
        self.by_layer, self.ranks = self._layer_factors(settings), settings["lora_rank"]
        self.clip = column["max_grad_norm"]
        penalties = (column["l1"], column["l2"])
        self.penalties = penalties if any(bool((penalty > 0).any()) for penalty in penalties) else None
        self.smoothing = _where_used(column["label_smoothing"][:, 0])
        self.scale = (column["lora_alpha"] / column["lora_rank"].clamp(min=1))[..., None] if self.shared else None
        self.dropout = _where_used(column["dropout"][..., None])
        self.adapter_dropout = _where_used(column["lora_dropout"][..., None])
        self.order = torch.empty(0)

    def run(self, validation: Rows, results: Results, place: IntArray) -> None:
        """Trains all to their ends, and writes what the evaluations give into the rows `place` of the results."""
        n_evaluations = results.train_loss.shape[1]
        at = -(-np.arange(1, n_evaluations + 1) * self.steps[:, None] // n_evaluations)  # N x E
        results.trainable[place], work = self._work(len(validation) * n_evaluations)
        results.seconds[place] = _SECONDS_A_STEP * self.steps + work / _FLOPS_A_SECOND
        results.scores[place, 0] = self._evaluate(np.arange(len(self.steps)), validation)
        losses, since = torch.zeros(len(self.steps), device=self.flat.device), np.zeros(len(self.steps))
        for step in range(int(self.steps[0])):
            loss = self.step(step)
            losses[: len(loss)] += loss
            since[: len(loss)] += 1
            due = at == step + 1
            rows = np.flatnonzero(due.any(1))
            if len(rows):
                found = self._evaluate(rows, validation)
                r, e = np.nonzero(due[rows])
                results.scores[place[rows[r]], e + 1] = found[r]
                results.train_loss[place[rows[r]], e] = (losses.cpu().numpy() / np.maximum(since, 1))[rows[r]]
                losses[rows], since[rows] = 0.0, 0.0

    def step(self, step: int) -> Tensor:
        """Takes step number `step`, from 0, of the n trainings that have not ended; returns their n losses."""
        n = int((self.steps > step).sum())
        inputs, targets = self._rows(step, n)
        weights = {name: part.detach().requires_grad_() for name, part in self.layout.unpack(self.flat[:n]).items()}
        dropout, adapter_dropout = (r if r is None else r[:n] for r in (self.dropout, self.adapter_dropout))
        scale = None if self.scale is None else self.scale[:n]
        outputs = Forward(self.shape, self.shared | weights, scale, dropout, adapter_dropout, self.generator)(inputs)
        losses = mean_loss(self.kind, outputs, targets, None if self.smoothing is None else self.smoothing[:n])
        gradient = torch.cat([g.flatten(1) for g in torch.autograd.grad(losses.sum(), list(weights.values()))], 1)
        if self.penalties is not None:
            l1, l2 = (penalty[:n] for penalty in self.penalties)
            gradient += l1 * self.flat[:n].sign() + l2 * self.flat[:n]
        rate = self.rates[:n, step : step + 1]
        if self.by_layer is not None:
            gradient = gradient * (self.by_layer[:n] > 0)
            rate = rate * self.by_layer[:n]
        gradient *= (self.clip[:n] / (gradient.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
        self.optimizer.step(gradient, rate, step + 1)
        return losses.detach()

    def _rows(self, step: int, n: int) -> tuple[Tensor, Tensor]:
        """The next batch of n trainings; each has its own order of rows in every epoch."""
        an_epoch = -(-len(self.data) // self.batch)
        if step % an_epoch == 0:
            device = self.generator.device
            keys = torch.rand(1 if self.one_seed else n, len(self.data), generator=self.generator, device=device)
            self.order = keys.argsort(1).expand(n, -1)
        first = step % an_epoch * self.batch
        chosen = self.order[:n, first : first + self.batch]
        return self.data.inputs[chosen], self.data.targets[chosen]

    def _evaluate(self, rows: IntArray, validation: Rows) -> FloatArray:
        """Scores of the trainings `rows` as they stand."""
        found = []
        for part in np.array_split(rows, -(-len(rows) // 32)):  # of many at once the activations leave the cache
            index = torch.as_tensor(part, device=self.flat.device)
            weights = self.shared | self.layout.unpack(self.flat[index])
            inputs = validation.inputs.expand(len(part), *validation.inputs.shape)
            scale, smoothing = (values if values is None else values[index] for values in (self.scale, self.smoothing))
            with torch.no_grad():
                outputs = Forward(self.shape, weights, scale)(inputs)
                found.append(scores(self.kind, outputs, validation.targets, smoothing))
        return np.concatenate(found)

    def _layer_factors(self, settings: Settings) -> Tensor | None:
        """N x D factors of the rate: 0 in frozen layers, a power of the decay below the head; None where all are 1."""
        decay, frozen = settings["layer_decay"][:, None], settings["frozen_layers"][:, None]
        if (decay == 1).all() and (frozen == 0).all():
            return None
        head = self.shape.depth + 1
        factors = decay ** (head - self.layout.layers) * (self.layout.layers >= np.minimum(frozen, head))
        return torch.as_tensor(factors, dtype=torch.float32, device=self.flat.device)

    def _work(self, evaluated: int) -> tuple[FloatArray, FloatArray]:
        """N shares of weights that are trained, and N numbers of floating-point operations."""
        n_all = trained = np.full(len(self.steps), float(self.flat.shape[1]))
        if self.by_layer is not None:
            trained = (self.by_layer > 0).sum(1).cpu().numpy().astype(float)
        if self.shared:
            factors = sum(prod(p.shape) for name, p in self.layout.parameters.items() if name.endswith((".a", ".b")))
            trained = trained - factors * (1 - self.ranks / self.ranks.max())
            n_all = trained + sum(weight.numel() for weight in self.shared.values())
        tokens = max(self.shape.length, 1)
        step = self.batch * tokens * (4.0 * n_all + 2.0 * trained)
        return trained / n_all, self.steps * step + evaluated * 2.0 * tokens * n_all


def _weights(
    start: Start, settings: Settings, generator: torch.Generator, one_seed: bool
) -> tuple[Layout, Tensor, dict[str, Tensor]]:
    """The weights that N trainings begin with.

    Returns:
        The layout of what is trained, its N x D values, and the weights that all trainings share and none changes.
    """
    n, everything = len(settings["batch_size"]), parameters_of(start.shape)
    head = {name: p for name, p in everything.items() if name.startswith("head")}
    if settings["lora_rank"][0] > 0:
        ranks = settings["lora_rank"]
        layout = Layout(adapters_of(everything, int(ranks.max())) | (head if start.new_head else {}))
        drawn = _draw(layout.parameters, n, generator, one_seed, new_head=True)
        # A smaller rank: columns that are zero get no gradient, for the other factor begins at zero.
        used = torch.as_tensor(np.arange(ranks.max()) < ranks[:, None], device=generator.device)
        drawn |= {name: weight * used[:, None] for name, weight in drawn.items() if name.endswith(".a")}
        assert start.weights is not None  # a space has adapters only where networks are pretrained
        shared = {name: weight for name, weight in start.weights.items() if name not in drawn}
        return layout, layout.pack(drawn), shared
    layout = Layout(everything)
    new = everything if start.weights is None else head if start.new_head else {}
    drawn = _draw(new, n, generator, one_seed, new_head=start.weights is not None)
    kept = {name: weight.expand(n, *weight.shape) for name, weight in (start.weights or {}).items()}
    return layout, layout.pack(kept | drawn), {}


def _draw(
    parameters: Mapping[str, Parameter], n: int, generator: torch.Generator, one_seed: bool, *, new_head: bool
) -> dict[str, Tensor]:
    drawn = draw_weights(parameters, 1 if one_seed else n, generator, new_head=new_head)
    return {name: weight.expand(n, *weight.shape[1:]) for name, weight in drawn.items()}


def _where_used(rates: Tensor) -> Tensor | None:
    return rates if bool((rates > 0).any()) else None


def _schedules(settings: Settings, steps: IntArray) -> FloatArray:
    """N x most steps factors of the rate, as the schedules of transformers give them."""
    step, total = np.arange(int(steps.max())), steps[:, None]
    warm = np.ceil(steps * settings["warmup_ratio"])[:, None]
    progress = np.clip((step - warm) / np.maximum(total - warm, 1), 0, 1)
    timescale = np.where(warm > 0, warm, 10_000)
    name = settings["schedule"][:, None]
    falls = {
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + np.cos(np.pi * progress)),
        "inverse_sqrt": np.sqrt(timescale / np.maximum(step - warm + timescale, 1)),
    }
    after = np.select([name == fall for fall in falls], list(falls.values()), 1.0)  # else constant_with_warmup
    linear, exponential = settings["linear_decay"][:, None], settings["exponential_decay"][:, None]
    shrunk = np.maximum(1 - linear * step, 0) * np.exp(-exponential * step)
    return np.asarray(np.where(step < warm, step / np.maximum(warm, 1), after) * shrunk)
