"""Prepares the user's Trainer for each trial, or makes a fresh trainer with the user's function."""

import copy
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, Self, get_type_hints

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import ArgumentsError, SearchSpaceError, describe
from hf_rlsearch.space.side_effects import Change
from hf_rlsearch.trainer.hyperparameters import (
    ScopedNames,
    attach_optimizer,
    prefix_of,
    trial_arguments,
    trial_model_init,
    without_scoped_values,
)
from hf_rlsearch.trainer.search.trial import EvaluationMonitor, SharedTrial, TrialPlan
from hf_rlsearch.trainer.session.arguments import FrozenArguments, chosen_best_metric
from hf_rlsearch.trainer.session.compat import (
    arguments_in_use,
    check_optimizers,
    check_trainer,
    fresh_model,
    given_generation_config,
    takes_trial,
)
from hf_rlsearch.trainer.session.failures import ignore_lost_device
from hf_rlsearch.trainer.session.seeds_and_memory import preserve_random_state, release_memory, set_training_seed
from hf_rlsearch.trainer.session.trainer_session import TrainerSession, remove_progress_callbacks
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler, SideEffects, build_configuration_sampler

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

logger = logging.getLogger(__name__)

# Attribute of a model_init that a search has left in a Trainer: the user's, and the params that it gets.
_WITH_PARAMS = "_hf_rlsearch_with_params"
# Attribute of a model_init that makes something of the models of another one: the user's.
_WRAPPED = "_hf_rlsearch_wrapped"
# Of the baseline's trainer, which a factory makes before its own seed is known.
_SEED = 42


class UserTrainerProvider(TrainerSession):
    """Prepares the user's Trainer for each trial.

    Args:
        trainer: With a ``model_init``, or with a model of which each trial gets a copy.

    Attributes:
        reference: A Trainer of the baseline: the search reads its data, model and arguments.
        frozen: The arguments of ``reference``.
        model_function: Makes the models, without what an earlier search has left in the Trainer.
        side_effects: Repeats in a trial what ``hp_space`` changes besides returning values.

    Raises:
        ArgumentsError: ``trainer`` is no Trainer, has no training data, or has an optimizer of the user's already.
    """

    def __init__(self, trainer: "Trainer") -> None:
        check_trainer(trainer)
        if trainer.train_dataset is None:
            raise ArgumentsError("The Trainer has no train_dataset. Pass one to it.")
        check_optimizers(trainer)
        self.reference = trainer
        self.frozen = FrozenArguments(arguments_in_use(trainer))
        super().__init__(trainer)
        self._model_init: Callable[..., Any] = (
            _copies_of(trainer.model) if trainer.model_init is None else trainer.model_init
        )
        inner, earlier = without_scoped_values(self._model_init)
        self._earlier_values = {name: value for name, value in earlier.items() if prefix_of(name) is not None}
        self.side_effects = SideEffects()
        self._earlier_params: Params
        function, self._earlier_params = getattr(inner, _WITH_PARAMS, (inner, {}))
        self.model_function: Callable[..., Any] = _generating_as_given(function, trainer)
        if function is self._model_init:
            self._model_init = self.model_function
        # Whether the Trainer has the model of ``initial_model``, and the baseline starts from the same.
        self._has_initial_model = False

    def configuration_sampler(self, settings: SearchConfig) -> ConfigurationSampler:
        """Checks the search space, which may hold scoped names, and returns the sampler of its configurations."""
        configurations = build_configuration_sampler(
            settings.hp_space,
            self._model_init,
            self.frozen,
            roles=settings.roles,
            n_points=settings.n_points,
            scoped_names=ScopedNames(self.reference, self._model_init),
            earlier=(self._earlier_params, self._earlier_values),
            trainer=self.reference,
            initial_trials=settings.initial_trials,
        )
        self.side_effects = SideEffects(settings.hp_space, sampled=configurations.sampled)
        return configurations

    def probe(self) -> "Trainer":
        """Returns a Trainer that evaluates the untrained model, without the user's callbacks."""
        trainer: Trainer = self.prepare(self.frozen.original(), callbacks=False)
        if trainer.model is None:
            # The search of another backend leaves a Trainer without a model.
            trainer.model = trainer.model_wrapped = trainer.callback_handler.model = fresh_model(trainer)
        return trainer

    def untrained(self) -> "Trainer":
        """Returns a Trainer with the model that the training of the baseline starts from, to be released after use.

        The Trainer's own model may be the best one of an earlier search.
        """
        if self._has_initial_model:
            set_training_seed(self.reference.args)  # an evaluation may draw at random
            return self.reference
        trainer: Trainer = self.prepare(self.frozen.original(), model_init=self._model_init, callbacks=False)
        trainer.model = trainer.model_wrapped = trainer.callback_handler.model = fresh_model(trainer)
        return trainer

    def initial_model(self) -> Any:
        """Returns a model that has not been trained, made under the seed of the arguments; to be released after use."""
        trainer: Trainer = self.prepare(self.frozen.original(), model_init=self.model_function, callbacks=False)
        before, model = trainer.model, fresh_model(trainer)
        self._has_initial_model = self.model_function is self._model_init
        if before is not None and _train_the_same_weights(before, model):
            logger.warning(
                "model_init returns the same model each time it is called, so each trial trains a copy of it. Make the "
                "model inside of model_init."
            )
            self.model_function = _wrapped(self.model_function, copy.deepcopy)
            model = copy.deepcopy(model)
        trainer.model = trainer.model_wrapped = trainer.callback_handler.model = model
        return trainer.model

    def release(self) -> None:
        """Drops the model that the Trainer has now, with all that belongs to it."""
        self._has_initial_model = False
        super().release()

    def trainer_for(self, plan: TrialPlan, monitor: EvaluationMonitor) -> "Trainer":
        """Returns the Trainer, ready to train one configuration; it calls the monitor at each evaluation."""
        args = _point_to_trial(trial_arguments(self.frozen, plan.values, plan.arguments), plan, monitor)
        model_init = trial_model_init(self.model_function, plan.values)
        trainer: Trainer = self.prepare(
            args, model_init=model_init, name=plan.name, on_metrics=monitor, change=self._change(plan)
        )
        attach_optimizer(trainer, plan.values)
        return trainer

    def finish(self, best: TrialPlan, load: Callable[[Any], None] | None, follows: Sequence[Any] | None) -> None:
        """Leaves the best arguments and model in the Trainer, whose ``model_init`` builds that model from now on.

        Args:
            best: The best trial.
            load: Loads the best weights into a Trainer; None where they are not kept.
            follows: See ``Objective.follows``.
        """
        args = _follow(trial_arguments(self.frozen, best.values, best.arguments), follows)
        model_init = trial_model_init(_with_params(self.model_function, best.params), best.values)
        self.keep_best(args, model_init=model_init, load=load, change=self._change(best))
        self.side_effects.left = [*self._changes[len(self.side_effects.left) :]]
        attach_optimizer(self.reference, best.values)

    def _change(self, plan: TrialPlan) -> Callable[[], Sequence[Change]]:
        return functools.partial(self.side_effects.apply, self.reference, plan)


def _copies_of(model: Any) -> Callable[[], Any]:
    """Returns a ``model_init`` that copies a model as it is now."""
    original = copy.deepcopy(model).to("cpu")
    return lambda: copy.deepcopy(original)


def _generating_as_given(model_init: Callable[..., Any], trainer: Any) -> Callable[..., Any]:
    """Returns a ``model_init`` whose models have the generation configuration of the Trainer's arguments, if any."""
    config = given_generation_config(trainer)

    def configured(model: Any) -> Any:
        model.generation_config = copy.deepcopy(config)
        return model

    return model_init if config is None else _wrapped(model_init, configured)


def _wrapped(model_init: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    """Returns a ``model_init`` whose models are what ``change`` makes of those of the given one."""

    @functools.wraps(model_init)  # the Trainer looks whether it takes a trial
    def changed(*trial: Any) -> Any:
        return change(model_init(*trial))

    setattr(changed, _WRAPPED, users_model_init(model_init))
    return changed


def users_model_init(model_init: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the user's function of one that the search has wrapped; any other function as it is."""
    return getattr(model_init, _WRAPPED, model_init)


def _with_params(model_init: Callable[..., Any], params: Params) -> Callable[..., Any]:
    """Returns a ``model_init`` that suggests the given params where the Trainer calls it without a trial."""
    if not params or not takes_trial(model_init):
        return model_init

    def best_model_init(trial: Any = None) -> Any:
        return model_init(SharedTrial(params, 0) if trial is None else trial)

    # For a later search of the same Trainer.
    setattr(best_model_init, _WITH_PARAMS, (model_init, params))
    return best_model_init


class TrainerProtocol(Protocol):
    """Lists the attributes and methods of a trainer that a search uses; every ``transformers.Trainer`` has them.

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
        """Returns whether this process writes the files."""


_METHODS = tuple(name for name, value in vars(TrainerProtocol).items() if callable(value) and not name.startswith("_"))
_REQUIRED = (*get_type_hints(TrainerProtocol), *_METHODS)


class FactoryProvider:
    """Makes a fresh trainer for each trial, for trainers that take no ``model_init`` or build their model themselves.

    Args:
        make_trainer: Called with the values of ``hp_space``; with an empty dict for the baseline.

    Raises:
        ArgumentsError: ``make_trainer({})`` raises, or returns no trainer.
    """

    def __init__(self, make_trainer: Callable[[Params], Any]) -> None:
        from transformers import set_seed

        self._make = make_trainer
        try:
            # Under one seed, so that a script that runs again starts from the same weights, and its search is known.
            with preserve_random_state():
                set_seed(_SEED)
                self.reference: Any = make_trainer({})
        except Exception as error:
            raise ArgumentsError(
                f"make_trainer({{}}) raised {describe(error)}. Without values make_trainer has to "
                "return your own configuration: use params.get('learning_rate', 5e-5)."
            ) from error
        _check_trainer_protocol(self.reference)
        self.frozen = FrozenArguments(self.reference.args)
        self._current: TrainerProtocol | None = None
        self.side_effects = SideEffects()
        self._changes: Sequence[Change] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def configuration_sampler(self, settings: SearchConfig) -> ConfigurationSampler:
        """Checks the search space, which may hold any name, and returns the sampler of its configurations."""
        configurations = build_configuration_sampler(
            settings.hp_space,
            None,
            self.frozen,
            roles=settings.roles,
            n_points=settings.n_points,
            initial_trials=settings.initial_trials,
        )
        self.side_effects = SideEffects(settings.hp_space, sampled=configurations.sampled)
        if getattr(self.reference.args, "push_to_hub", False):
            logger.warning(
                "push_to_hub=True publishes nothing of a search with make_trainer. Afterwards, "
                "`hf upload REPOSITORY FOLDER` uploads the best model: FOLDER is the result's best_checkpoint."
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

    def probe(self) -> Any:
        """Returns the trainer of the baseline, which evaluates the untrained model."""
        return self.reference

    def untrained(self) -> Any:
        """Returns the trainer of the baseline, which the search never trains."""
        remove_progress_callbacks(self.reference.callback_handler)
        return self.reference

    @property
    def model_function(self) -> Callable[..., Any]:
        """The function that makes the models, within trainers."""
        return self._make

    def initial_model(self) -> Any:
        """Returns the model of the baseline's trainer, which the search never trains."""
        return self.reference.model

    def trainer_for(self, plan: TrialPlan, monitor: EvaluationMonitor) -> Any:
        """Returns a fresh trainer of one configuration.

        Raises:
            SearchSpaceError: ``make_trainer`` refuses a name, with the nearest one that the arguments have.
            ArgumentsError: It returned no trainer, or one that trains the same weights again.
        """
        # Most functions build the model first, and the seed would be set only by the trainer that they build next.
        args = self.frozen.original()
        args.seed = int(plan.values.get("seed", args.seed))
        set_training_seed(args)
        self._changes = self.side_effects.apply(None, plan)
        try:
            trainer = self._make(dict(plan.values))
        except TypeError as error:
            self._check_refused_name(error, plan.values)
            raise
        _check_trainer_protocol(trainer)
        self._current = trainer
        _check_fresh_weights(self.reference, trainer)
        _point_to_trial(trainer.args, plan, monitor)
        remove_progress_callbacks(trainer.callback_handler)
        trainer._report_to_hp_search = lambda trial, step, metrics: monitor(trainer, metrics)
        return trainer

    @ignore_lost_device()
    def release(self) -> None:
        """Drops the last trial's trainer."""
        if self._current is not None:
            self._current.accelerator.free_memory()
        self._current = None
        for change in reversed(self._changes):
            change.undo()
        self._changes = ()
        release_memory()

    def restore(self) -> None:
        """Does nothing: the search changes no trainer of the user."""

    def finish(self, best: TrialPlan, load: Callable[[Any], None] | None, follows: Sequence[Any] | None) -> None:
        """Does nothing: the best model is in its checkpoint."""

    @property
    def repository(self) -> None:
        """Nothing is published: no trainer of the user's holds the best model."""

    def publish(self) -> bool:
        """Returns False."""
        return False

    def _check_refused_name(self, error: TypeError, values: Params) -> None:
        """Raises a ``SearchSpaceError`` where a ``TypeError`` of ``make_trainer`` names a value that it was given."""
        for name in sorted(values.keys() - self.frozen.names, key=len, reverse=True):
            if repr(name) in str(error):
                hint = did_you_mean(name, self.frozen.names - values.keys())
                hint = hint or f" Let make_trainer remove that name: values.pop({name!r}, ...)."
                raise SearchSpaceError(
                    f"hp_space sets {name!r}, which make_trainer does not take (TypeError: {error}).{hint}"
                ) from error


TrainerProvider = UserTrainerProvider | FactoryProvider
"""Either provider; both have the same methods."""


def trainer_provider(trainer: Any) -> TrainerProvider:
    """Returns the provider for a Trainer, or for a function that makes trainers.

    Raises:
        ArgumentsError: There is no trainer that can be searched.
    """
    is_factory = callable(trainer) and not hasattr(trainer, "train")
    return FactoryProvider(trainer) if is_factory else UserTrainerProvider(trainer)


def _check_trainer_protocol(trainer: Any) -> None:
    missing = [name for name in _REQUIRED if not hasattr(trainer, name)]
    if not missing:
        return
    hint = ""
    if type(trainer).__module__.partition(".")[0] == "setfit":
        hint = (
            " SetFit has a search of its own, which takes our sampler: trainer.hyperparameter_search(..., "
            "backend='optuna', sampler=hf_rlsearch.RLSampler(n_trials=...))."
        )
    raise ArgumentsError(
        f"make_trainer returned {'None' if trainer is None else f'a {type(trainer).__name__}'}, expected a "
        f"transformers.Trainer. It has no {', '.join(missing)}.{hint}"
    )


def _check_fresh_weights(first: TrainerProtocol, fresh: TrainerProtocol) -> None:
    """Refuses a trial that trains the weights of another trial further, which would favour later trials."""
    if _train_the_same_weights(first.model, fresh.model):
        raise ArgumentsError(
            f"make_trainer returned a {type(fresh).__name__} that trains the same weights as the one before. Make "
            "model and trainer inside of make_trainer, so that every trial starts from the same weights."
        )


def _train_the_same_weights(first: Any, second: Any) -> bool:
    known = {id(parameter) for parameter in first.parameters() if parameter.requires_grad}
    return any(id(parameter) in known for parameter in second.parameters() if parameter.requires_grad)


# Attribute of arguments whose metric_for_best_model a search has set.
_FOLLOWED = "_hf_rlsearch_follows"
# Schedules that watch metric_for_best_model, too: another metric would make another training.
_WATCHING = ("reduce_lr_on_plateau", "greedy")


def _point_to_trial(args: Any, plan: TrialPlan, monitor: EvaluationMonitor) -> Any:
    """Gives arguments the folder and the run name of a trial, and the objective as metric for the best checkpoint."""
    args.output_dir = plan.folder
    if getattr(args, "should_save", True):
        # As the Trainer's constructor does: callbacks may write there. Whoever cannot write there will say so.
        with suppress(OSError):
            os.makedirs(plan.folder, exist_ok=True)
    if hasattr(args, "push_to_hub"):
        args.push_to_hub = False  # only the best model is published, once, at the end
    if plan.resume_from is not None and hasattr(args, "restore_callback_states_from_checkpoint"):
        # Early stopping continues to count its evaluations without improvement.
        args.restore_callback_states_from_checkpoint = True
    if hasattr(args, "run_name"):
        args.run_name = f"{args.run_name}-{plan.name}" if args.run_name else plan.name
    return _follow(args, monitor.objective.follows)


def _follow(args: "TrainingArguments", follows: Sequence[Any] | None) -> "TrainingArguments":
    """Makes the objective the metric for the best checkpoint, where neither the user nor the schedule has one."""
    if follows is None or not args.load_best_model_at_end:
        return args
    schedule = getattr(args, "lr_scheduler_type", None)
    is_watched = getattr(schedule, "value", schedule) in _WATCHING
    if not is_watched and chosen_best_metric(args) in (None, getattr(args, _FOLLOWED, None)):
        args.metric_for_best_model, args.greater_is_better = follows
        setattr(args, _FOLLOWED, args.metric_for_best_model)
    return args
