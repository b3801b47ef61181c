"""Finds the state that trials share through the objects of one Trainer, and puts it back before each trial.

Each trial has a fresh model, and copies of the callbacks. Collator, data, loss and metrics stay the user's own: they
may draw from a random generator, and a callback may change what they read.
"""

import dis
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_rlsearch._validation import words
from hf_rlsearch.space.side_effects import Watch, is_of_user
from hf_rlsearch.trainer.session.seeds_and_memory import restorer

if TYPE_CHECKING:
    import torch

_FUNCTIONS = ("data_collator", "compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics", "model_init")
# What each trial gets anew, or what no callback changes.
_NOT_FOLLOWED = words(
    """
    args model model_wrapped optimizer lr_scheduler accelerator state control callback_handler processing_class
    train_dataloader eval_dataloader deepspeed
    """
)
# Numbers of a module whose values are kept: a loss may have that many, another whole model has more.
_MAX_NUMBERS = 10_000_000


class SharedState:
    """Remembers the state of what the trials share, as it is now.

    It remembers the random generators of collator, data, loss and metrics, the contents of what callbacks share with
    these, and the contents of the dicts, lists, sets and modules that a subclass of the user's has given to the
    Trainer. Lists that only grow and new keys of dicts are records of the user's, and stay.

    Attributes:
        objects: What collator, data, loss and metrics can reach, by id: a copy of a callback refers to the same.
    """

    def __init__(self, trainer: Any) -> None:
        attributes = {name: value for name, value in vars(trainer).items() if value is not None}
        without = [trainer, *(attributes[name] for name in attributes.keys() & _NOT_FOLLOWED)]
        followed = {name: attributes[name] for name in attributes.keys() - _NOT_FOLLOWED - {"model_init"}}
        own = {name: followed[name] for name in own_attributes(trainer).keys() & followed.keys()}
        functions = [attributes[name] for name in _FUNCTIONS if name in attributes]
        self._watch = Watch(*functions, *_own_methods(trainer), objects=followed, without=without)
        self.objects = self._watch.reached()
        callbacks = {f"callback {i}": each for i, each in enumerate(trainer.callback_handler.callbacks)}
        contents = {name: each for name, each in own.items() if isinstance(each, dict | list | set)}
        self._changing = Watch(objects={**callbacks, **contents}, without=without).reached()
        # Of callbacks that metrics or data name, and that are not copied therefore.
        self._of_callbacks = {id(part): part for each in callbacks.values() for part in (each, *vars(each).values())}
        self._with_attributes = {key: each for key, each in self.objects.items() if hasattr(each, "__dict__")}
        modules = (*own.values(), attributes.get("compute_loss_func"))
        found = [*map(restorer, self.objects.values()), *map(_module_restorer, modules)]
        self._restorers = [each for each in found if each is not None]

    def restore(self) -> None:
        """Puts the state back."""
        for change in self._watch.changes_in(self._with_attributes):
            if restorer(change.after) is not None:  # a generator that the training has made
                change.undo()
        for change in self._watch.changes_in(self._of_callbacks):
            change.undo()
        for change in self._watch.changes_in(self._changing):
            if not (change.is_record or change.is_new):
                change.undo()
        for restore in self._restorers:
            restore()


def own_attributes(trainer: Any) -> dict[str, Any]:
    """The attributes of a Trainer that a script or a subclass of the user's has set, with their values."""
    names = vars(trainer).keys() - _set_by_libraries(type(trainer))
    return {name: vars(trainer)[name] for name in sorted(names)}


def _set_by_libraries(cls: type) -> set[str]:
    """The names of the attributes that methods of installed packages set."""
    methods = [each for owner in cls.__mro__ if not _is_own(owner) for each in vars(owner).values()]
    functions = [inspect.unwrap(each) for each in methods if isinstance(each, types.FunctionType)]
    return {step.argval for each in functions for step in dis.get_instructions(each) if step.opname == "STORE_ATTR"}


def _own_methods(trainer: Any) -> Iterator[Callable[..., Any]]:
    """The methods that the user has written, of the Trainer and of its data."""
    for owner in (trainer, trainer.train_dataset, trainer.eval_dataset):
        for cls in filter(_is_own, type(owner).__mro__):
            yield from (each for each in vars(cls).values() if isinstance(each, types.FunctionType))


def _is_own(cls: type) -> bool:
    """Whether the user has written a class."""
    module = sys.modules.get(cls.__module__)
    return module is not None and is_of_user(vars(module))


def _module_restorer(module: Any) -> Callable[[], object] | None:
    """Returns what gives a module its weights of now again; None for a large module and for any other object."""
    import torch

    if not isinstance(module, torch.nn.Module):
        return None
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    if any(map(torch.nn.parameter.is_lazy, state.values())):
        return None  # a lazy layer, which has no weights yet
    if sum(value.numel() for value in state.values()) > _MAX_NUMBERS:
        return None
    return partial(_load, module, {name: value.detach().clone() for name, value in state.items()})


def _load(module: "torch.nn.Module", state: dict[str, Any]) -> None:
    for name, value in module.state_dict().items():
        if name in state and state[name].shape == value.shape:
            value.copy_(state[name])
    module.zero_grad()  # the Trainer clears the gradients of its model alone
