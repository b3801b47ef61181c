"""Searches ``train.*``: settings of a training that ``TrainingArguments`` has no field for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import describe
from hf_rlsearch.trainer.hyperparameters import layers
from hf_rlsearch.trainer.hyperparameters.peft import is_adapted
from hf_rlsearch.trainer.hyperparameters.scope import TRAIN, ParameterGroup, fields_of
from hf_rlsearch.trainer.session.arguments import cast_to

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import Trainer, TrainingArguments

OWN_SCHEDULES = ("exponential", "step")
# Share of the full learning rate at which these schedules end.
LR_END = 0.01

# A step decay has three equal parts, in which the rate is multiplied by 1, sqrt(lr_end) and lr_end.
_N_STEPS = 3


def training_group(trainer: "Trainer", model: Any) -> ParameterGroup:
    """Returns the fields of ``train.*``; ``docs/reference/hyperparameters.md`` says what they mean."""
    highest = layers.n_layers(model)
    schedule: Any = getattr(trainer.args, "lr_scheduler_type", "linear")
    # field -> value in the baseline, and a function that casts a value and raises ValueError outside of its range
    table: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "layer_decay": (1.0, _number("(0, 1]", lambda x: 0 < x <= 1)),
        "frozen_layers": (0, lambda value: _n_layers(value, highest)),
        "reinit_layers": (0, lambda value: _n_layers(value, highest, below_adapter=is_adapted(model))),
        "lr_schedule": (getattr(schedule, "value", schedule), _schedule),
        "lr_end": (LR_END, _number("(0, 1]", lambda x: 0 < x <= 1)),
        "momentum": (0.0, _number("[0, 1)", lambda x: 0 <= x < 1)),
        "gradient_scale": (1.0, _number("(0, inf)", lambda x: 0 < x < math.inf)),
    }
    defaults = {name: default for name, (default, _) in table.items()}
    return ParameterGroup(
        "the search", defaults, lambda fields: {name: table[name][1](value) for name, value in fields.items()}
    )


def _number(interval: str, is_inside: Callable[[float], bool]) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        number = float(cast_to(float, value))
        if not is_inside(number):
            raise ValueError(f"expected a number in {interval}")
        return number

    return check


def _n_layers(value: Any, highest: int, *, below_adapter: bool = False) -> int:
    number: int = cast_to(int, value)
    if not 0 <= number <= highest:
        raise ValueError(f"expected 0 to {highest}, the number of layers that were found in the model")
    if number and below_adapter:
        raise ValueError("layers below an adapter are neither trained nor saved, so new ones would stay random; use 0")
    return number


def _schedule(value: Any) -> str:
    import torch
    from transformers.optimization import get_scheduler
    from transformers.trainer_utils import SchedulerType

    name = str(getattr(value, "value", value))
    if name in OWN_SCHEDULES:
        return name
    schedule = SchedulerType(name)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        # Some schedules of transformers need details that have no default; such a trial could only fail.
        get_scheduler(schedule, optimizer=optimizer, num_warmup_steps=0, num_training_steps=1)
    except Exception as error:
        raise ValueError(
            f"transformers cannot make this schedule without lr_scheduler_kwargs ({describe(error)}); "
            "search lr_scheduler_type with your own lr_scheduler_kwargs instead"
        ) from error
    return name


def schedule_arguments(fields: Mapping[str, Any], args: "TrainingArguments") -> Params:
    """Returns the training arguments that follow from ``train.lr_schedule`` and the user's arguments."""
    name, own = fields.get("lr_schedule"), args.lr_scheduler_type
    if name is None or getattr(own, "value", own) == name:
        return {}
    # attach_optimizer makes our own schedules; the argument then only has to be harmless. The user's kwargs are for
    # the user's schedule.
    return {"lr_scheduler_type": "constant_with_warmup" if name in OWN_SCHEDULES else name, "lr_scheduler_kwargs": {}}


def attach_optimizer(trainer: "Trainer", values: Mapping[str, Any]) -> None:
    """Lets a Trainer create the optimizer and the schedule of a configuration, whose scoped values are validated.

    What was attached before, of the best trial of an earlier search, is taken off.
    """
    before = getattr(trainer.create_optimizer, "__self__", None)
    if isinstance(before, _TrialOptimizer):
        trainer.create_optimizer = before.make_optimizer  # type: ignore[method-assign]
        if trainer.create_scheduler == before.create_scheduler:
            trainer.create_scheduler = before.make_scheduler  # type: ignore[method-assign]
    if fields := fields_of(values, TRAIN):
        attached = _TrialOptimizer(trainer, trainer.create_optimizer, trainer.create_scheduler, fields)
        trainer.create_optimizer = attached.create_optimizer  # type: ignore[assignment, method-assign]
        trainer.create_scheduler = attached.create_scheduler  # type: ignore[method-assign]


@dataclass(frozen=True)
class _TrialOptimizer:
    """Creates optimizer and schedule in place of the Trainer's two methods of the same names, which it calls."""

    trainer: Any
    make_optimizer: Callable[..., Any]
    make_scheduler: Callable[..., Any]
    fields: Params

    def create_optimizer(self, *model: Any) -> Any:
        is_new = self.trainer.optimizer is None
        optimizer = self.make_optimizer(*model)
        if not is_new:  # the optimizer of an earlier training, which has the changes already
            return optimizer
        for group in optimizer.param_groups:
            if "momentum" in self.fields and "momentum" in group:
                group["momentum"] = self.fields["momentum"]
        if self.fields.get("layer_decay", 1.0) != 1.0:
            given = model[0] if model and model[0] is not None else self.trainer.model
            layers.decay_rates(optimizer, given, self.fields["layer_decay"])
        if self.fields.get("gradient_scale", 1.0) != 1.0:
            from hf_rlsearch.trainer.hyperparameters.reparameterized import ReparameterizedUpdate

            optimizer = ReparameterizedUpdate(optimizer, gradient_scale=self.fields["gradient_scale"])
            self.trainer.optimizer = optimizer
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: "Optimizer | None" = None) -> Any:
        from torch.optim.lr_scheduler import LambdaLR

        trainer, name = self.trainer, self.fields.get("lr_schedule")
        if name not in OWN_SCHEDULES or trainer.lr_scheduler is not None:
            return self.make_scheduler(num_training_steps, optimizer)
        n_warmup, end = trainer.args.get_warmup_steps(num_training_steps), self.fields.get("lr_end", LR_END)
        trainer.lr_scheduler = LambdaLR(
            trainer.optimizer if optimizer is None else optimizer,
            partial(rate_factor, name=name, n_warmup=n_warmup, n_steps=num_training_steps, end=end),
        )
        trainer._created_lr_scheduler = True  # the next training then makes a new schedule
        return trainer.lr_scheduler


def rate_factor(step: int, *, name: str, n_warmup: int, n_steps: int, end: float) -> float:
    """Returns the share of the full learning rate at one training step of ``n_steps``, counted from 0.

    The share rises linearly over ``n_warmup`` steps and then falls from 1 to ``end`` by one of ``OWN_SCHEDULES``.
    """
    if step < n_warmup:
        return step / n_warmup
    progress = min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))
    if name == "exponential":
        return float(end**progress)
    return float(end ** (min(int(_N_STEPS * progress), _N_STEPS - 1) / (_N_STEPS - 1)))
