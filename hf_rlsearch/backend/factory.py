"""Provides a fresh trainer for each trial from a function of the user's."""

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.default_space import DefaultSpace, space_for
from hf_rlsearch.backend.drawing import ConfigurationSampler
from hf_rlsearch.backend.found_space import build_configuration_sampler
from hf_rlsearch.backend.made import TrainerProtocol, check_trainer_protocol
from hf_rlsearch.backend.memory import release_memory
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.plan import Plan
from hf_rlsearch.backend.seat import drop_progress
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.sources import TrainerProvider, UserTrainerProvider, with_run
from hf_rlsearch.backend.trial import Monitor
from hf_rlsearch.errors import ArgumentsError, SearchSpaceError

logger = logging.getLogger(__name__)


def trainer_provider(trainer: Any) -> TrainerProvider:
    """Returns the provider for what the user gave: a Trainer, or a function that makes trainers."""
    is_factory = callable(trainer) and not hasattr(trainer, "train")
    return FactoryProvider(trainer) if is_factory else UserTrainerProvider(trainer)


class FactoryProvider(TrainerProvider):
    """Makes a fresh trainer for each trial, for trainers that take no ``model_init`` or build their model themselves.

    Args:
        make_trainer: Called with the values of ``hp_space``; with an empty dict for the user's own configuration.

    Raises:
        ArgumentsError: ``make_trainer({})`` raises, or returns no trainer.
    """

    def __init__(self, make_trainer: Callable[[Params], Any]) -> None:
        self._make = make_trainer
        try:
            self.reference: Any = make_trainer({})
        except Exception as error:
            raise ArgumentsError(
                f"make_trainer({{}}) raised {type(error).__name__}: {error}. Without values it has to return your own "
                "configuration: use params.get('learning_rate', 5e-5)."
            ) from error
        check_trainer_protocol(self.reference)
        self.frozen = FrozenArguments(self.reference.args)
        self._current: TrainerProtocol | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def configuration_sampler(self, settings: Settings) -> ConfigurationSampler:
        """Finds and checks the search space; any name may be searched that ``make_trainer`` takes."""
        configurations = build_configuration_sampler(
            settings.hp_space, None, self.frozen, roles=settings.roles, n_points=settings.n_points
        )
        for name in sorted(configurations.searched - self.frozen.names):
            if hint := did_you_mean(name, self.frozen.names - configurations.searched, cutoff=0.8):
                logger.warning(
                    "hp_space sets %r, which is no field of the arguments: without effect if make_trainer does not "
                    "read it.%s",
                    name,
                    hint,
                )
        return configurations

    def default_space(self) -> DefaultSpace:
        """Returns the published space, of training arguments alone."""
        return space_for(self.reference, is_factory=True)

    def probe(self) -> Any:
        """Returns the trainer of the user's own configuration."""
        return self.reference

    def trainer_for(self, plan: Plan, objective: Objective, monitor: Monitor | None) -> Any:
        """Returns a fresh trainer of one configuration.

        Raises:
            SearchSpaceError: ``make_trainer`` refuses a name, with the nearest one that the arguments have.
            ArgumentsError: It returned no trainer, or one that trains the same weights again.
        """
        from transformers import set_seed

        # Most build their model before their trainer, which would set the seed.
        set_seed(int(plan.values.get("seed", self.frozen.value("seed"))))
        try:
            trainer = self._make(dict(plan.values))
        except TypeError as error:
            self._explain_unexpected(error, plan.values)
            raise
        check_trainer_protocol(trainer)
        self._current = trainer
        _refuse_shared_model(self.reference, trainer)
        with_run(trainer.args, plan, objective)
        drop_progress(trainer.callback_handler)
        if monitor is not None:
            trainer._report_to_hp_search = lambda trial, step, metrics: monitor(trainer, metrics)
        return trainer

    def release(self) -> None:
        """Drops the last trial's trainer."""
        if self._current is not None:
            self._current.accelerator.free_memory()
        self._current = None
        release_memory()

    def _explain_unexpected(self, error: TypeError, values: Params) -> None:
        """Raises a ``SearchSpaceError`` where a ``TypeError`` of ``make_trainer`` names a value that it was given."""
        for name in sorted(values.keys() - self.frozen.names, key=len, reverse=True):
            if repr(name) in str(error):
                hint = did_you_mean(name, self.frozen.names - values.keys())
                hint = hint or f" Take it out there: values.pop({name!r}, ...)."
                raise SearchSpaceError(
                    f"hp_space sets {name!r}, which make_trainer does not take (TypeError: {error}).{hint}"
                ) from error


def _refuse_shared_model(first: Any, fresh: Any) -> None:
    """Refuses trials that continue to train the weights of another trial: they look better than they are."""
    known = {id(parameter) for parameter in first.model.parameters() if parameter.requires_grad}
    if any(id(parameter) in known for parameter in fresh.model.parameters() if parameter.requires_grad):
        raise ArgumentsError(
            f"make_trainer returned a {type(fresh).__name__} that trains the same weights as the one before. Make "
            "model and trainer inside of it, so that every trial begins with the same weights."
        )
