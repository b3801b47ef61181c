"""What is to be trained next, as all ranks are told, and the trial that ``model_init`` sees on each of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FixedTrial

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import SearchSpaceError


@dataclass(frozen=True)
class Plan:
    """What all ranks are to train next; travels as plain data.

    Attributes:
        number: The trial's number in the study.
        params: Every hyperparameter, those of ``model_init`` included; empty for the user's own arguments.
        values: What ``hp_space`` returned: training arguments by name.
        folder: Where the trial writes.
        name: What ``hp_name`` answered, or "run-<number>".
        role: "baseline" (the user's own arguments), "search" or "confirm".
        resume_from: A complete checkpoint of this trial, or of the one that it goes on with; None to begin anew.
    """

    number: int
    params: Params
    values: Params
    folder: str
    name: str
    role: str = "search"
    resume_from: str | None = None

    def to_json(self) -> Params:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """The inverse of ``to_json``."""
        return cls(**data)


class SharedTrial(FixedTrial):
    """What ``model_init(trial)`` and callbacks see on every rank: all values are known, none is drawn.

    Args:
        params: Every hyperparameter of the trial.
        number: The trial's number.
    """

    def __init__(self, params: Params, number: int) -> None:
        super().__init__(dict(params), number)

    @property
    def params(self) -> Params:
        """Every hyperparameter, suggested yet or not."""
        return dict(self._params)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            raise SearchSpaceError(
                f"model_init asks for {name!r}, which was not drawn for trial {self.number} (drawn: "
                f"{sorted(self._params)}). Let it ask for the same hyperparameters whenever hp_space gives the same "
                "values."
            )
        return super()._suggest(name, distribution)
