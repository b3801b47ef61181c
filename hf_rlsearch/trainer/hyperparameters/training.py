"""``train.*``: how a model is trained, as far as ``TrainingArguments`` has no field for it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.trainer.hyperparameters import layers
from hf_rlsearch.trainer.hyperparameters.peft import is_adapted
from hf_rlsearch.trainer.hyperparameters.scope import TRAIN, ParameterGroup, fields_of
from hf_rlsearch.trainer.session.arguments import cast_to

OURS = ("exponential", "step")

# Step decay holds the rate for a third of the training each: 1, then the root of the end, then the end.
_N_STEPS = 3


def make_schedule(name: str, optimizer: Any, *, n_warmup: int, n_steps: int, end: float) -> Any:
    """A schedule for the whole of a training.

    Args:
        name: One of ``OURS``.
        optimizer: Whose groups it drives.
        n_warmup: Training steps of linear warm-up.
        n_steps: Training steps in all.
        end: Share of the full rate at the end, in (0, 1].
    """
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, partial(share, name=name, n_warmup=n_warmup, n_steps=n_steps, end=end))


def share(step: int, *, name: str, n_warmup: int, n_steps: int, end: float) -> float:
    """The share of the full rate at one training step, in [0, 1]; arguments as ``make_schedule``."""
    if step < n_warmup:
        return step / n_warmup
    progress = min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))
    if name == "exponential":
        return float(end**progress)
    return float(end ** (min(int(_N_STEPS * progress), _N_STEPS - 1) / (_N_STEPS - 1)))


LR_END = 0.01


def training_group(trainer: Any, model: Any) -> ParameterGroup:
    """The names of ``train.*``, see ``docs/configuration.md`` for their meaning."""
    highest = layers.n_layers(model)
    schedule = getattr(trainer.args, "lr_scheduler_type", "linear")
    defaults = {
        "layer_decay": 1.0,
        "frozen_layers": 0,
        "reinit_layers": 0,
        "lr_schedule": getattr(schedule, "value", schedule),
        "lr_end": LR_END,
        "momentum": 0.0,
        "gradient_scale": 1.0,
    }
    checks: dict[str, Callable[[Any], Any]] = {
        "layer_decay": lambda value: _number(value, 0, 1, open_below=True),
        "frozen_layers": lambda value: _layers(value, highest),
        "reinit_layers": lambda value: _new_layers(value, highest, is_adapted(model)),
        "lr_schedule": _schedule,
        "lr_end": lambda value: _number(value, 0, 1, open_below=True),
        "momentum": lambda value: _number(value, 0, 1, open_above=True),
        "gradient_scale": lambda value: _number(value, 0, float("inf"), open_below=True, open_above=True),
    }
    return ParameterGroup(
        TRAIN, "the search", defaults, lambda fields: {name: checks[name](value) for name, value in fields.items()}
    )


def schedule_arguments(fields: Mapping[str, Any], args: Any) -> Params:
    """Training arguments that follow from ``train.lr_schedule``.

    Args:
        fields: The trial's.
        args: The user's own; the details of a schedule hold for that one only.
    """
    name = fields.get("lr_schedule")
    if name is None or getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type) == name:
        return {}
    # One of ours is made from the start; the argument only has to be harmless.
    return {"lr_scheduler_type": "constant_with_warmup" if name in OURS else name, "lr_scheduler_kwargs": {}}


def attach_optimizer(trainer: Any, values: Mapping[str, Any]) -> None:
    """Lets a Trainer make the optimizer and schedule of a configuration.

    Args:
        trainer: Changed in place; what was attached to it before and is not named now stays.
        values: What ``hp_space`` returned, scoped values in their types.
    """
    before = trainer.create_optimizer
    fields = {**(before.fields if isinstance(before, _Optimizer) else {}), **fields_of(values, TRAIN)}
    if not fields:
        return
    make_optimizer, make_schedule = before, trainer.create_scheduler
    if isinstance(make_optimizer, _Optimizer) and isinstance(make_schedule, _Schedule):
        make_optimizer, make_schedule = make_optimizer.inner, make_schedule.inner
    trainer.create_optimizer = _Optimizer(trainer, make_optimizer, fields)
    trainer.create_scheduler = _Schedule(trainer, make_schedule, fields)


class _Optimizer:
    """Stands in for ``Trainer.create_optimizer``."""

    def __init__(self, trainer: Any, inner: Callable[..., Any], fields: Params) -> None:
        self._trainer, self.inner, self.fields = trainer, inner, fields

    def __call__(self, *model: Any) -> Any:
        is_new = self._trainer.optimizer is None
        optimizer = self.inner(*model)
        if not is_new:
            return optimizer
        self._change(optimizer, model[0] if model and model[0] is not None else self._trainer.model)
        if self.fields.get("gradient_scale", 1.0) != 1.0:
            from hf_rlsearch.trainer.hyperparameters.reparameterized import ReparameterizedUpdate

            optimizer = ReparameterizedUpdate(optimizer, gradient_scale=self.fields["gradient_scale"])
            self._trainer.optimizer = optimizer
        return optimizer

    def _change(self, optimizer: Any, model: Any) -> None:
        if "momentum" in self.fields:
            for group in optimizer.param_groups:
                if "momentum" in group:
                    group["momentum"] = self.fields["momentum"]
        if self.fields.get("layer_decay", 1.0) != 1.0:
            layers.decay_rates(optimizer, model, self.fields["layer_decay"])


class _Schedule:
    """Stands in for ``Trainer.create_scheduler``."""

    def __init__(self, trainer: Any, inner: Callable[..., Any], fields: Params) -> None:
        self._trainer, self.inner, self.fields = trainer, inner, fields

    def __call__(self, num_training_steps: int, optimizer: Any = None) -> Any:
        trainer, name = self._trainer, self.fields.get("lr_schedule")
        if name not in OURS or trainer.lr_scheduler is not None:
            return self.inner(num_training_steps, optimizer)
        trainer.lr_scheduler = make_schedule(
            name,
            trainer.optimizer if optimizer is None else optimizer,
            n_warmup=trainer.args.get_warmup_steps(num_training_steps),
            n_steps=num_training_steps,
            end=self.fields.get("lr_end", LR_END),
        )
        trainer._created_lr_scheduler = True
        return trainer.lr_scheduler


def _number(value: Any, low: float, high: float, *, open_below: bool = False, open_above: bool = False) -> float:
    number = float(cast_to(float, value))
    inside = (number > low if open_below else number >= low) and (number < high if open_above else number <= high)
    if not inside:
        shown = f"{'(' if open_below else '['}{low:g}, {high:g}{')' if open_above else ']'}"
        raise ValueError(f"expected a number in {shown}")
    return number


def _layers(value: Any, highest: int) -> int:
    number: int = cast_to(int, value)
    if not 0 <= number <= highest:
        raise ValueError(f"expected 0 to {highest}, the number of layers that were found in the model")
    return number


def _new_layers(value: Any, highest: int, below_adapter: bool) -> int:
    number = _layers(value, highest)
    if number and below_adapter:
        raise ValueError("layers below an adapter are neither trained nor saved, so new ones would stay random; use 0")
    return number


def _schedule(value: Any) -> str:
    from transformers.trainer_utils import SchedulerType

    name = str(getattr(value, "value", value))
    if name in OURS:
        return name
    _try_schedule(SchedulerType(name))
    return name


def _try_schedule(kind: Any) -> None:
    """Some schedules of transformers need details that have no default; such a trial could only fail."""
    import torch
    from transformers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        get_scheduler(kind, optimizer=optimizer, num_warmup_steps=0, num_training_steps=1)
    except Exception as error:
        raise ValueError(
            f"transformers cannot make it without lr_scheduler_kwargs ({type(error).__name__}: {error}); search "
            "lr_scheduler_type with your own lr_scheduler_kwargs instead"
        ) from error
