"""Provides the Trainer of each trial from the user's Trainer."""

import copy
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.compat import check_trainer, fresh_model, takes_trial
from hf_rlsearch.backend.default_space import DefaultSpace, space_for
from hf_rlsearch.backend.drawing import ConfigurationSampler
from hf_rlsearch.backend.found_space import build_configuration_sampler
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.plan import Plan, SharedTrial
from hf_rlsearch.backend.scopes import ScopedNames, attach, trial_arguments, trial_model_init
from hf_rlsearch.backend.seat import TrainerSeat
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.trial import Monitor
from hf_rlsearch.errors import ArgumentsError

# Attribute of arguments whose metric_for_best_model a search has set.
_FOLLOWED = "_hf_rlsearch_follows"


class TrainerProvider(Protocol):
    """Provides the Trainer of each trial; a context manager for the time of a search.

    Attributes:
        reference: A Trainer of the user's own configuration: the search reads its data, model and arguments.
        frozen: The arguments of ``reference``.
    """

    reference: Any
    frozen: FrozenArguments

    def __enter__(self) -> Self:
        """Begins the search."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the search; an error leaves the user's Trainer as it was before."""

    def configuration_sampler(self, settings: Settings) -> ConfigurationSampler:
        """Finds and checks the search space."""

    def default_space(self) -> DefaultSpace:
        """Returns the space of a search without ``hp_space``."""

    def probe(self) -> Any:
        """Returns the Trainer for an evaluation of the untrained model."""

    def trainer_for(self, plan: Plan, objective: Objective, monitor: Monitor | None) -> Any:
        """Returns a Trainer that is ready to train one configuration.

        Args:
            plan: The trial.
            objective: Decides which checkpoint is the best one.
            monitor: Receives each evaluation during the training.
        """

    def release(self) -> None:
        """Frees the memory of the last trial's Trainer."""

    def restore(self) -> None:
        """Gives the user's Trainer back as it was; nothing to do where a factory makes the Trainers."""
        return None

    def finish(self, values: Params, params: Params, load: Callable[[Any], None] | None, objective: Objective) -> None:
        """Leaves the best arguments and model in the user's Trainer; nothing to do where a factory makes the Trainers.

        Args:
            values: What ``hp_space`` returned in the best trial.
            params: Every hyperparameter of the best trial; empty for the user's own configuration.
            load: Puts the best weights into a Trainer; None where they are not on disk.
            objective: Of the search.
        """
        return None


def with_run(args: Any, plan: Plan, objective: Objective) -> Any:
    """Points a trial's arguments to its own folder and name, and its best checkpoint to the objective."""
    args.output_dir = plan.folder
    if plan.resume_from is not None and hasattr(args, "restore_callback_states_from_checkpoint"):
        # Early stopping continues to count its evaluations without improvement.
        args.restore_callback_states_from_checkpoint = True
    if hasattr(args, "run_name"):
        args.run_name = f"{args.run_name}-{plan.name}" if args.run_name else plan.name
    return following(args, objective.follows)


def following(args: Any, follows: Sequence[Any] | None) -> Any:
    """Points the best checkpoint of a training to the objective, where the user has named no metric for it.

    Args:
        args: Of the training.
        follows: See ``Objective.follows``.
    """
    # Not chosen by the user: "loss", which TrainingArguments fills in with load_best_model_at_end, and the metric that
    # an earlier search has set.
    unnamed = (None, "loss", "eval_loss", getattr(args, _FOLLOWED, None))
    if follows is not None and args.load_best_model_at_end and args.metric_for_best_model in unnamed:
        args.metric_for_best_model, args.greater_is_better = follows
        setattr(args, _FOLLOWED, args.metric_for_best_model)
    return args


class UserTrainerProvider(TrainerProvider):
    """Prepares the user's Trainer anew for each trial.

    Args:
        trainer: With a ``model_init``, or with a model that each trial gets a copy of, as it is now.

    Raises:
        ArgumentsError: It is no Trainer that can be searched.
    """

    def __init__(self, trainer: Any) -> None:
        check_trainer(trainer)
        if trainer.train_dataset is None:
            raise ArgumentsError("The Trainer has no train_dataset. Pass one to it.")
        self.reference = trainer
        self.frozen = FrozenArguments(trainer.args)
        self._seat = TrainerSeat(trainer)
        self._model_init = trainer.model_init or copies_of(trainer.model)

    def __enter__(self) -> Self:
        self._seat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seat.__exit__(kind, error, trace)

    def configuration_sampler(self, settings: Settings) -> ConfigurationSampler:
        """Finds and checks the search space; scoped names are allowed."""
        return build_configuration_sampler(
            settings.hp_space,
            self._model_init,
            self.frozen,
            roles=settings.roles,
            n_points=settings.n_points,
            scopes=ScopedNames(self.reference, self._model_init),
        )

    def default_space(self) -> DefaultSpace:
        """Returns the space that was published for the kind of model."""
        return space_for(self.reference, is_factory=False)

    def probe(self) -> Any:
        """Returns the Trainer with its own arguments, callbacks left out."""
        trainer = self._seat.prepare(self.frozen.original(), callbacks=False)
        if trainer.model is None:
            # As another backend's search leaves it.
            trainer.model = trainer.model_wrapped = trainer.callback_handler.model = fresh_model(trainer)
        return trainer

    def trainer_for(self, plan: Plan, objective: Objective, monitor: Monitor | None) -> Any:
        """Returns the Trainer, ready to train one configuration."""
        args = with_run(trial_arguments(self.frozen, plan.values), plan, objective)
        model_init = trial_model_init(self._model_init, plan.values)
        trainer = self._seat.prepare(args, model_init=model_init, name=plan.name, on_metrics=monitor)
        attach(trainer, plan.values)
        return trainer

    def release(self) -> None:
        """Frees what the last trial left."""
        self._seat.release()

    def restore(self) -> None:
        """Gives the Trainer back as it was."""
        self._seat.restore()

    def finish(self, values: Params, params: Params, load: Callable[[Any], None] | None, objective: Objective) -> None:
        """Leaves the best arguments and model in the Trainer; from now on ``model_init`` builds that model."""
        args = following(trial_arguments(self.frozen, values), objective.follows)
        self._seat.finish(args, model_init=final_model_init(self._model_init, params, values), load=load)
        attach(self.reference, values)


def final_model_init(model_init: Callable[..., Any], params: Params, values: Params) -> Callable[..., Any]:
    """``model_init`` that builds the best trial's model when called without a trial.

    Args:
        model_init: The user's.
        params: Every hyperparameter of the best trial; empty for the user's own configuration.
        values: What ``hp_space`` returned in it.
    """
    none: Params = {}
    inner, before = getattr(model_init, "scoped", (model_init, none))
    return trial_model_init(_bound(inner, params), {**before, **values})


def _bound(model_init: Callable[..., Any], params: Params) -> Callable[..., Any]:
    if not params or not takes_trial(model_init):
        return model_init
    original = getattr(model_init, "original", model_init)

    def best_model_init(trial: Any = None) -> Any:
        return original(SharedTrial(params, 0) if trial is None else trial)

    best_model_init.original = original  # type: ignore[attr-defined]
    return best_model_init


def copies_of(model: Any) -> Callable[[], Any]:
    """A ``model_init`` for a Trainer that was given a model: every trial begins with a copy of it."""
    original = copy.deepcopy(model).to("cpu")
    return lambda: copy.deepcopy(original)
