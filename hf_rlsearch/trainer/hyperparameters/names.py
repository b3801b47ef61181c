"""Checks scoped names and their values before anything is trained, and knows the user's own values."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import closest
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.trainer.hyperparameters.generation import generation_group
from hf_rlsearch.trainer.hyperparameters.model import model_group
from hf_rlsearch.trainer.hyperparameters.peft import is_adapted, peft_group
from hf_rlsearch.trainer.hyperparameters.scope import GEN, MODEL, PEFT, TRAIN, ParameterGroup, fields_of, prefix_of
from hf_rlsearch.trainer.hyperparameters.training import training_group


class ScopedNames:
    """The scopes of one Trainer; each is looked at only if a name is in it.

    Args:
        trainer: The user's.
        make_model: What the user's ``model_init`` returns; called where the Trainer has no model.
    """

    def __init__(self, trainer: Any, make_model: Callable[[], Any]) -> None:
        self._trainer, self._make_model = trainer, make_model
        self._scopes: dict[str, ParameterGroup] = {}
        self._made: Any = None

    def check(self, names: Iterable[str]) -> None:
        """Refuses a scoped name that names no field; other names are none of its business.

        Raises:
            SearchSpaceError: With the nearest field.
        """
        for name in sorted(names):
            prefix = prefix_of(name)
            if prefix is None:
                continue
            scope, field = self._scope(prefix), name.partition(".")[2]
            if field not in scope.defaults:
                near = closest(field, scope.defaults)
                hint = f"Did you mean '{prefix}.{near}'?" if near else f"It has {', '.join(sorted(scope.defaults))}."
                raise SearchSpaceError(f"hp_space sets {name!r}, but {scope.owner} has no field {field!r}. {hint}")

    def validate(self, values: Mapping[str, Any]) -> Params:
        """Checks the scoped values of one configuration together.

        Returns:
            All values, the scoped ones in their types: 1.0 layers are 1, and "0.5" is a number.

        Raises:
            SearchSpaceError: A name of no field, a value of the wrong type or out of range, or a combination that is
                refused.
        """
        self.check(values)
        fitting = dict(values)
        for prefix in sorted({prefix for prefix in map(prefix_of, values) if prefix is not None}):
            fields = fields_of(values, prefix)
            try:
                fitting |= {f"{prefix}.{name}": value for name, value in self._scope(prefix).validate(fields).items()}
            except (TypeError, ValueError) as error:
                shown = ", ".join(f"{prefix}.{name}={value!r}" for name, value in fields.items())
                raise SearchSpaceError(
                    f"hp_space gives {shown}, which {self._scope(prefix).owner} refuses: {error}."
                ) from error
        return fitting

    def default(self, name: str) -> Any:
        """The user's own value of a scoped name."""
        return self._scope(str(prefix_of(name))).defaults.get(name.partition(".")[2])

    def nearest(self, name: str) -> str | None:
        """A scoped name that an unknown name may have meant, None for none."""
        known = {field: prefix for prefix in (TRAIN, PEFT, MODEL) for field in self._fields(prefix)}
        full = {f"{prefix}.{field}": f"{prefix}.{field}" for field, prefix in known.items()}
        full |= {field: f"{prefix}.{field}" for field, prefix in known.items()}
        near = closest(name, full, cutoff=0.8)
        return full[near] if near else None

    def _fields(self, prefix: str) -> list[str]:
        try:
            return list(self._scope(prefix).defaults)
        except SearchSpaceError:
            return []

    def _scope(self, prefix: str) -> ParameterGroup:
        if prefix not in self._scopes:
            self._scopes[prefix] = self._look(prefix)
        return self._scopes[prefix]

    def _look(self, prefix: str) -> ParameterGroup:
        model = self._model()
        if prefix == PEFT:
            return peft_group(model)
        if prefix == MODEL:
            return model_group(_bare(model) if is_adapted(model) else model)
        return generation_group(self._trainer, model) if prefix == GEN else training_group(self._trainer, model)

    def _model(self) -> Any:
        if self._trainer.model is not None:
            return self._trainer.model
        if self._made is None:
            self._made = self._make_model()
        return self._made


def _bare(model: Any) -> Any:
    """A copy of the model below an adapter, as it was before the adapter was put on."""
    import copy

    from hf_rlsearch.trainer.hyperparameters.peft import base_of

    return base_of(copy.deepcopy(model))
