"""Provides the Trainer of each trial from the user's Trainer."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, get_type_hints

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import ArgumentsError, SearchSpaceError
from hf_rlsearch.trainer.hyperparameters import ScopedNames, attach_optimizer, trial_arguments, trial_model_init
from hf_rlsearch.trainer.search.trial import EvaluationMonitor, SharedTrial, TrialPlan
from hf_rlsearch.trainer.session.arguments import FrozenArguments
from hf_rlsearch.trainer.session.compat import check_trainer, fresh_model, takes_trial
from hf_rlsearch.trainer.session.seeds_and_memory import release_memory
from hf_rlsearch.trainer.session.trainer_session import TrainerSession, remove_progress_callbacks
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.default_space import DefaultSpace, space_for
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler, build_configuration_sampler
from hf_rlsearch.trainer.setup.objective import Objective

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

    def configuration_sampler(self, settings: SearchConfig) -> ConfigurationSampler:
        """Finds and checks the search space."""

    def default_space(self) -> DefaultSpace:
        """Returns the space of a search without ``hp_space``."""

    def probe(self) -> Any:
        """Returns the Trainer for an evaluation of the untrained model."""

    def trainer_for(self, plan: TrialPlan, objective: Objective, monitor: EvaluationMonitor | None) -> Any:
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


def with_run(args: Any, plan: TrialPlan, objective: Objective) -> Any:
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
        self._seat = TrainerSession(trainer)
        self._model_init = trainer.model_init or copies_of(trainer.model)

    def __enter__(self) -> Self:
        self._seat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seat.__exit__(kind, error, trace)

    def configuration_sampler(self, settings: SearchConfig) -> ConfigurationSampler:
        """Finds and checks the search space; scoped names are allowed."""
        return build_configuration_sampler(
            settings.hp_space,
            self._model_init,
            self.frozen,
            roles=settings.roles,
            n_points=settings.n_points,
            scoped_names=ScopedNames(self.reference, self._model_init),
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

    def trainer_for(self, plan: TrialPlan, objective: Objective, monitor: EvaluationMonitor | None) -> Any:
        """Returns the Trainer, ready to train one configuration."""
        args = with_run(trial_arguments(self.frozen, plan.values), plan, objective)
        model_init = trial_model_init(self._model_init, plan.values)
        trainer = self._seat.prepare(args, model_init=model_init, name=plan.name, on_metrics=monitor)
        attach_optimizer(trainer, plan.values)
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
        attach_optimizer(self.reference, values)


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


class TrainerProtocol(Protocol):
    """Everything that a search uses of a trainer that it did not make itself; every ``transformers.Trainer`` has it.

    Attributes:
        args: A dataclass with a ``seed``. The search sets ``output_dir`` and ``run_name`` before the training. It reads
            the length of a training from ``max_steps``, ``num_train_epochs``, ``train_batch_size`` and
            ``gradient_accumulation_steps``, and the kept model from ``load_best_model_at_end`` and
            ``metric_for_best_model``.
        model: A torch module.
        state: ``global_step`` and ``max_steps`` of the training, its evaluations in ``log_history`` and its
            ``best_model_checkpoint``.
        train_dataset: Needs a length where the cost of a trial matters (``budget=``, ``timeout=``).
        eval_dataset: The search evaluates a few of its rows before the first trial.
        callback_handler: The search removes progress bars from its ``callbacks``.
        accelerator: The search frees its memory after each trial.
    """

    args: Any
    model: Any
    state: Any
    train_dataset: Any
    eval_dataset: Any
    callback_handler: Any
    accelerator: Any

    def train(self, *, resume_from_checkpoint: str) -> Any:
        """Trains to the end, from the checkpoint of an interrupted training if one is given.

        A trainer that evaluates during the training calls ``self._report_to_hp_search(trial, step, metrics)`` after
        each evaluation, as transformers does. The search sets that method; trials may then be stopped early.
        """

    def evaluate(self, rows: Any) -> Mapping[str, Any]:
        """Returns metrics by name, on ``eval_dataset`` or on the given rows; also of the untrained model."""

    def save_model(self, folder: str) -> Any:
        """Writes the model that ``evaluate`` scores, with its weights as safetensors."""

    def is_world_process_zero(self) -> bool:
        """Returns whether this process is the one that writes."""


_METHODS = tuple(name for name, value in vars(TrainerProtocol).items() if callable(value) and not name.startswith("_"))
_REQUIRED = (*get_type_hints(TrainerProtocol), *_METHODS)


def check_trainer_protocol(made: Any) -> None:
    """Refuses what ``make_trainer`` returned if it is no ``TrainerProtocol``.

    Raises:
        ArgumentsError: With the names that are missing.
    """
    missing = [name for name in _REQUIRED if not hasattr(made, name)]
    if not missing:
        return
    hint = ""
    if type(made).__module__.partition(".")[0] == "setfit":
        hint = (
            " SetFit has a search of its own, which takes our sampler: trainer.hyperparameter_search(..., "
            "backend='optuna', sampler=hf_rlsearch.RLSampler(n_trials=...))."
        )
    raise ArgumentsError(
        f"make_trainer returned {'None' if made is None else f'a {type(made).__name__}'}, expected a "
        f"transformers.Trainer. It has no {', '.join(missing)}.{hint}"
    )


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

    def configuration_sampler(self, settings: SearchConfig) -> ConfigurationSampler:
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

    def trainer_for(self, plan: TrialPlan, objective: Objective, monitor: EvaluationMonitor | None) -> Any:
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
        remove_progress_callbacks(trainer.callback_handler)
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
