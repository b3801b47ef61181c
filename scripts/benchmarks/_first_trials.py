"""Chooses the first configuration of a search: the middle of the space, a random one, or what a paper recommends.

Each function takes a task and the seed of a search, and returns H levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from hf_rlsearch._typing import IntArray, Params
from hf_rlsearch.space.presets import preset
from hf_rlsearch.space.roles import infer_role
from recorded_tasks import RecordedHyperparameter, RecordedTask

FirstTrial = Callable[[RecordedTask, int], IntArray]

_SETTINGS: dict[str, tuple[str, Params]] = {
    "bert-tiny": ("bert", {"learning_rate": 5e-5}),
    "minilm": ("bert", {"learning_rate": 5e-5}),
    "gpt2-tiny": ("gpt2", {}),
    "t5": ("t5", {}),
    "bart": ("bart", {"learning_rate": 7e-4}),
    "bert-tiny with LoRA": ("lora", {"peft.r": 8}),
    "minilm with LoRA": ("lora", {"peft.r": 8}),
    "gpt2-tiny with LoRA": ("lora", {"peft.r": 4}),
}
"""By model of a table: the family of `presets.toml`, and values of which the first published setting that has them is
taken. BART is trained from scratch here; the settings for LoRA are those of RoBERTa and of GPT-2."""
_VIT: Params = {
    "learning_rate": 3e-3, "weight_decay": 0.3, "model.hidden_dropout_prob": 0.1, "lr_scheduler_type": "cosine",
}  # fmt: skip
"""The package has none for vision transformers: ViT-B/16 on ImageNet from scratch, Dosovitskiy et al. 2021
(arXiv:2010.11929), table 3, without its batch size of 4,096."""
_TRAINER: Params = {"optim": "adamw_torch", "lr_scheduler_type": "linear"}
"""What the Trainer does where a setting says nothing else, and what these papers did."""


def middle(task: RecordedTask, seed: int) -> IntArray:
    """The middle level of every ordered hyperparameter, the lower one of two; categories are drawn by the seed."""
    rng = np.random.default_rng(seed)
    return np.array(
        [(len(h.levels) - 1) // 2 if h.ordered else rng.integers(len(h.levels)) for h in task.hyperparameters]
    )


def at_random(task: RecordedTask, seed: int) -> IntArray:
    """A configuration that the seed draws, each with the same chance."""
    return np.asarray(np.random.default_rng(seed).integers(task.n_levels))


def published(task: RecordedTask, seed: int) -> IntArray:
    """The levels nearest to a published setting for such a task; `middle` where it names nothing."""
    named = {_role(name, [value]): value for name, value in published_setting(task).items()}
    levels = middle(task, seed)
    for i, hyperparameter in enumerate(task.hyperparameters):
        value = _in_units_of(hyperparameter, named.get(_role(hyperparameter.name, hyperparameter.levels)), task)
        if value is not None:
            levels[i] = _nearest(hyperparameter, value, otherwise=int(levels[i]))
    return levels


def published_setting(task: RecordedTask) -> Params:
    """The setting that was published for the model of a task; the first of the generic ones where it is unknown."""
    model = str(task.meta.get("model"))
    family, values = _SETTINGS.get(f"{model} with LoRA" if task.meta.get("lora") else model, ("generic", {}))
    settings = [_VIT] if model == "vit" else preset(family).published
    return {**_TRAINER, **next(setting for setting in settings if values.items() <= setting.items())}


def _role(name: str, levels: Any) -> str:
    return infer_role(name, CategoricalDistribution(tuple(levels)))


def _in_units_of(hyperparameter: RecordedHyperparameter, value: Any, task: RecordedTask) -> Any:
    """A published value as the table counts it; None where there is none, or where it means something else there."""
    role = _role(hyperparameter.name, hyperparameter.levels)
    if value is None:
        return None
    if role == "learning_rate" and task.meta.get("arguments", {}).get("optim") == "sgd":
        return None  # all of them are rates of Adam or AdaFactor
    if role == "warmup" and max(hyperparameter.levels) > 1:  # in steps, published as a share
        n_steps = task.meta.get("facts", {}).get("planned_steps")
        return None if n_steps is None else value * n_steps
    return value


def _nearest(hyperparameter: RecordedHyperparameter, value: Any, *, otherwise: int) -> int:
    """The level nearest to a value, the lower one of two; of categories the same one, `otherwise` if there is none."""
    levels = hyperparameter.levels
    if not hyperparameter.ordered:
        return levels.index(value) if value in levels else otherwise
    scale: Callable[[float], float] = math.log if hyperparameter.log else float
    return min(range(len(levels)), key=lambda i: abs(scale(levels[i]) - scale(value)))
