"""Draws the search spaces of miniature trainings: names as people write them, levels, and configurations.

Letters: H hyperparameters, L levels, M configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_rlsearch._typing import IntArray
from hf_rlsearch.tasks.miniature.training import DEFAULTS, Settings, steps_of

FULL, ADAPTERS, SCRATCH = "full", "adapters", "scratch"
METHODS: tuple[str, ...] = (FULL, ADAPTERS, SCRATCH)
"""All weights of a pretrained network are trained, low-rank adapters of it, or a network from random weights."""
_METHOD_SHARES = (0.5, 0.3, 0.2)

# log10 of the rates that usually do best in a miniature of some 100 steps (measured); ranges are drawn around them.
REFERENCE_RATES: Mapping[str, Mapping[str, float]] = {
    "adamw_torch": {FULL: -1.65, ADAPTERS: -1.65, SCRATCH: -1.3},
    "sgd": {FULL: -1.1, ADAPTERS: -1.3, SCRATCH: -0.8},
    "lion_32bit": {FULL: -2.3, ADAPTERS: -2.1, SCRATCH: -2.0},
    "adafactor": {FULL: -1.9, ADAPTERS: -1.85, SCRATCH: -1.4},
}
_FIXED_OPTIMIZERS = {"adamw_torch": 0.76, "sgd": 0.08, "lion_32bit": 0.06, "adafactor": 0.1}
_MOST_HYPERPARAMETERS = 9
_MOST_NETWORKS = 6  # different architectures of a space
_FEWEST_STEPS, SMALLEST_BATCH = 12, 2


@dataclass(frozen=True)
class _Hyperparameter:
    """One setting that may be searched.

    Attributes:
        setting: A key of `DEFAULTS`, or a part of the architecture.
        names: What people call it.
        levels: Usual values.
        chances: That it is searched, by method.
    """

    setting: str
    names: tuple[str, ...]
    levels: tuple[Any, ...]
    chances: tuple[float, float, float]


_HYPERPARAMETERS: tuple[_Hyperparameter, ...] = (
    _Hyperparameter(
        "batch_size",
        ("per_device_train_batch_size", "batch_size", "train_batch_size"),
        (4, 8, 16, 32, 64),
        (0.6, 0.55, 0.5),
    ),
    _Hyperparameter("accumulation", ("gradient_accumulation_steps",), (1, 2, 4), (0.07, 0.08, 0.03)),
    _Hyperparameter("epochs", ("num_train_epochs", "epochs"), (1, 2, 3, 4, 6, 8, 10), (0.45, 0.4, 0.2)),
    _Hyperparameter("max_steps", ("max_steps",), (20, 40, 80, 160, 320), (0.06, 0.08, 0.1)),
    _Hyperparameter("weight_decay", ("weight_decay", "wd"), (0.0, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3), (0.42, 0.3, 0.4)),
    _Hyperparameter("warmup_ratio", ("warmup_ratio",), (0.0, 0.03, 0.06, 0.1, 0.2, 0.3), (0.35, 0.25, 0.2)),
    _Hyperparameter("dropout", ("hidden_dropout_prob", "dropout"), (0.0, 0.05, 0.1, 0.2, 0.3, 0.5), (0.22, 0.05, 0.35)),
    _Hyperparameter("label_smoothing", ("label_smoothing_factor",), (0.0, 0.02, 0.05, 0.1, 0.2), (0.12, 0.06, 0.15)),
    _Hyperparameter("max_grad_norm", ("max_grad_norm", "grad_clip"), (0.03, 0.1, 0.3, 1.0, 3.0), (0.14, 0.1, 0.1)),
    _Hyperparameter("adam_beta1", ("adam_beta1", "beta1"), (0.0, 0.5, 0.8, 0.9, 0.95), (0.06, 0.04, 0.1)),
    _Hyperparameter("adam_beta2", ("adam_beta2", "beta2"), (0.9, 0.95, 0.98, 0.99, 0.999), (0.1, 0.06, 0.15)),
    _Hyperparameter("adam_epsilon", ("adam_epsilon",), (1e-10, 1e-8, 1e-6, 1e-4, 1e-2), (0.06, 0.03, 0.1)),
    _Hyperparameter("momentum", ("momentum",), (0.0, 0.5, 0.8, 0.9, 0.95), (0.6, 0.5, 0.6)),
    _Hyperparameter("layer_decay", ("train.layer_decay", "layer_decay"), (0.3, 0.5, 0.65, 0.8, 0.9, 1.0), (0.12, 0, 0)),
    _Hyperparameter("frozen_layers", ("train.frozen_layers", "frozen_layers"), (0, 1, 2, 3, 4), (0.12, 0.0, 0.0)),
    _Hyperparameter("l1", ("l1", "l1_reg"), (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01), (0.01, 0.0, 0.12)),
    _Hyperparameter("l2", ("l2", "l2_reg"), (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01), (0.02, 0.0, 0.15)),
    _Hyperparameter("linear_decay", ("linear_decay",), (1e-5, 1e-4, 3e-4, 1e-3, 3e-3), (0.01, 0.0, 0.1)),
    _Hyperparameter("exponential_decay", ("exponential_decay",), (1e-5, 1e-4, 1e-3, 3e-3, 0.01), (0.02, 0.0, 0.12)),
    _Hyperparameter("lora_rank", ("peft.r", "lora_r", "lora_rank"), (1, 2, 4, 8, 16), (0.0, 0.7, 0.0)),
    _Hyperparameter("lora_alpha", ("peft.lora_alpha", "lora_alpha"), (1, 2, 4, 8, 16, 32, 64), (0.0, 0.5, 0.0)),
    _Hyperparameter("lora_dropout", ("peft.lora_dropout", "lora_dropout"), (0.0, 0.05, 0.1, 0.2, 0.4), (0, 0.25, 0)),
    _Hyperparameter("width", ("hidden_size", "d_model"), (8, 12, 16, 24, 32, 48, 64), (0.0, 0.0, 0.4)),
    _Hyperparameter("depth", ("num_hidden_layers", "n_layer"), (1, 2, 3, 4), (0.0, 0.0, 0.4)),
    _Hyperparameter(
        "schedule", ("lr_scheduler_type", "scheduler"),
        ("linear", "cosine", "constant_with_warmup", "inverse_sqrt"), (0.25, 0.15, 0.15),
    ),
    _Hyperparameter(
        "optimizer", ("optim", "optimizer"), ("adamw_torch", "sgd", "lion_32bit", "adafactor"), (0.12, 0.07, 0.12)
    ),
    _Hyperparameter("activation", ("hidden_act",), ("relu", "gelu", "tanh", "silu"), (0.0, 0.0, 0.15)),
    _Hyperparameter("model", ("model_name_or_path", "backbone"), ("a", "b", "c", "d"), (0.13, 0.2, 0.0)),
)  # fmt: skip


@dataclass(frozen=True)
class MiniatureSpace:
    """A search space, and the configurations of it that are trained.

    Attributes:
        method: One of `METHODS`.
        settings: H keys of `DEFAULTS`, or ``"width"``, ``"depth"``, ``"activation"``, ``"model"``.
        names: H names.
        levels: H arrays of ascending numbers, or of texts.
        cells: M x H level indices.
        defaults: Values of what is not searched.
        reference_rate: log10 of a usual rate, see `REFERENCE_RATES`.
    """

    method: str
    settings: tuple[str, ...]
    names: tuple[str, ...]
    levels: tuple[npt.NDArray[Any], ...]
    cells: IntArray
    defaults: Mapping[str, Any]
    reference_rate: float

    def values(self, setting: str) -> npt.NDArray[Any]:
        """M values of one setting."""
        if setting not in self.settings:
            return np.broadcast_to(np.asarray(self.defaults[setting]), len(self.cells))
        h = self.settings.index(setting)
        return np.asarray(self.levels[h][self.cells[:, h]])

    def training_settings(self, network: IntArray) -> Settings:
        """What `training.train` needs of M configurations whose networks have these indices."""
        return {name: network if name == "network" else self.values(name) for name in DEFAULTS}

    @property
    def smallest_batch(self) -> int:
        """The smallest batch size of a configuration."""
        return int(self.values("batch_size").min())

    def with_batches(self, factor: float) -> MiniatureSpace:
        """The same space with all batch sizes larger or smaller."""
        scaled = [
            (factor * levels).astype(int) if setting == "batch_size" else levels
            for setting, levels in zip(self.settings, self.levels, strict=True)
        ]
        defaults = {**self.defaults, "batch_size": max(int(factor * self.defaults["batch_size"]), 1)}
        return replace(self, levels=tuple(scaled), defaults=defaults)


def draw_space(
    rng: np.random.Generator, body: str, n_configurations: tuple[int, int], max_steps: int
) -> MiniatureSpace:
    """Draws a space of at least as many cells as the fewest configurations, and configurations of it, none twice.

    Args:
        rng: Source of randomness.
        body: Of the networks, see `NetworkShape`; those of attention are less deep.
        n_configurations: Fewest and most; the number between them is drawn.
        max_steps: The most steps that a hyperparameter of this name may have.
    """
    while True:
        method = str(rng.choice(METHODS, p=_METHOD_SHARES))
        optimizer = str(rng.choice(list(_FIXED_OPTIMIZERS), p=list(_FIXED_OPTIMIZERS.values())))
        found, names = _draw_levels(rng, method, optimizer, max_steps)
        shape = [len(levels) for levels in found.values()]
        n_networks = np.prod([len(found.get(part, [0])) for part in ("width", "depth", "activation", "model")])
        if n_networks <= _MOST_NETWORKS and np.prod(shape) >= n_configurations[0]:
            break
    reference = REFERENCE_RATES[optimizer][method]
    defaults = _draw_defaults(rng, method, optimizer, reference, 2 if body == "attention" else 4)
    n = int(min(rng.integers(n_configurations[0], n_configurations[1] + 1), np.prod(shape)))
    cells = np.stack(np.unravel_index(rng.choice(int(np.prod(shape)), n, replace=False), shape), 1)
    return MiniatureSpace(
        method, tuple(found), tuple(names), tuple(np.array(levels) for levels in found.values()), cells, defaults,
        reference,
    )  # fmt: skip


def fit_batches(space: MiniatureSpace, n_rows: int, max_steps: int) -> MiniatureSpace:
    """Halves or doubles all batch sizes until trainings have from `_FEWEST_STEPS` to `max_steps` steps, if they can."""

    def steps(space: MiniatureSpace) -> IntArray:
        return steps_of(space.training_settings(np.zeros(len(space.cells), int)), n_rows)

    if "max_steps" in space.settings:
        return space
    while steps(space).min() < _FEWEST_STEPS and space.smallest_batch >= 2 * SMALLEST_BATCH:
        space = space.with_batches(0.5)
    while steps(space).max() > max_steps:
        space = space.with_batches(2)
    return space


def _draw_levels(
    rng: np.random.Generator, method: str, optimizer: str, max_steps: int
) -> tuple[dict[str, list[Any]], list[str]]:
    """Levels by setting, and the names of the settings."""
    found: dict[str, list[Any]] = {}
    names = []
    eagerness = rng.uniform(0.4, 1.7)  # some people search everything, some only two things
    for hyperparameter in _HYPERPARAMETERS:
        chance = hyperparameter.chances[METHODS.index(method)] * eagerness
        chance *= _applies(hyperparameter.setting, optimizer) and not (
            hyperparameter.setting == "max_steps" and "epochs" in found
        )
        if rng.random() < chance:
            levels = hyperparameter.levels
            if hyperparameter.setting == "max_steps":
                levels = tuple(level for level in levels if level <= max_steps)
            found[hyperparameter.setting] = _some(rng, levels)
            names.append(str(rng.choice(hyperparameter.names)))
    for setting in list(rng.permutation(list(found)))[_MOST_HYPERPARAMETERS - 1 :]:
        del names[list(found).index(setting)], found[setting]
    if rng.random() < 0.97 or len(found) < 2:
        centre = REFERENCE_RATES[optimizer][method] + 0.45 * rng.standard_normal()
        width = rng.uniform(1.2, 4.2)
        count = int(rng.integers(5, 18))
        found["learning_rate"] = list(10 ** np.linspace(centre - width / 2, centre + width / 2, count))
        names.append(str(rng.choice(["learning_rate", "lr"], p=[0.85, 0.15])))
    return found, names


def _applies(setting: str, optimizer: str) -> bool:
    """False for a setting that this optimizer does not have."""
    if setting == "momentum":
        return optimizer == "sgd"
    if setting == "adam_epsilon":
        return optimizer == "adamw_torch"
    return not (setting.startswith("adam_beta") and optimizer not in ("adamw_torch", "lion_32bit"))


def _some(rng: np.random.Generator, levels: tuple[Any, ...]) -> list[Any]:
    """Two or more of the levels: neighbours if they are numbers."""
    count = int(rng.integers(2, len(levels) + 1))
    if isinstance(levels[0], str):
        return [levels[i] for i in np.sort(rng.permutation(len(levels))[:count])]
    first = int(rng.integers(0, len(levels) - count + 1))
    return list(levels[first : first + count])


def _draw_defaults(
    rng: np.random.Generator, method: str, optimizer: str, reference: float, most_layers: int
) -> dict[str, Any]:
    """Values of everything that is not searched; people leave most of them as they are."""
    usual = {
        **DEFAULTS,
        "learning_rate": 10 ** (reference + 0.2 * rng.standard_normal()),
        "optimizer": optimizer,
        "batch_size": int(rng.choice([4, 8, 16, 32])),
        "epochs": int(rng.choice([1, 2, 3, 4, 5])),
        "weight_decay": float(rng.choice([0.0, 0.01, 0.1], p=[0.6, 0.3, 0.1])),
        "warmup_ratio": float(rng.choice([0.0, 0.06, 0.1], p=[0.5, 0.2, 0.3])),
        "schedule": str(rng.choice(["linear", "cosine", "constant_with_warmup"], p=[0.7, 0.2, 0.1])),
        "dropout": float(rng.choice([0.0, 0.1], p=[0.5, 0.5])),
        "momentum": float(rng.choice([0.0, 0.9])) if optimizer == "sgd" else 0.0,
        "width": int(rng.choice([16, 24, 32, 48])),
        "depth": int(rng.integers(1, most_layers + 1)),
        "activation": str(rng.choice(["relu", "gelu"])),
        "model": "a",
    }
    if method == ADAPTERS:
        usual["lora_rank"], usual["lora_alpha"] = int(rng.choice([2, 4, 8])), int(rng.choice([4, 8, 16]))
    return usual
