"""Searches generation settings for the best model of a search, without training: ``SearchResult.tune_generation``."""

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ArgumentsError, ObjectiveError, SearchFailed, SearchSpaceError
from hf_rlsearch.observation.trial_attributes import GENERATION, OBJECTIVE
from hf_rlsearch.optuna import RLSampler
from hf_rlsearch.space import SearchSpace, generic_role, record
from hf_rlsearch.trainer.hyperparameters import ScopedNames, trial_model_init
from hf_rlsearch.trainer.hyperparameters.generation import cleared_arguments, generation_group, updated_config
from hf_rlsearch.trainer.hyperparameters.scope import GEN, fields_of, prefix_of
from hf_rlsearch.trainer.session.failures import DEVICE, failure_kind
from hf_rlsearch.trainer.session.progress import quiet_libraries
from hf_rlsearch.trainer.session.seeds_and_memory import preserve_random_state, set_training_seed
from hf_rlsearch.trainer.setup.objective import Objective

logger = logging.getLogger(__name__)

# Relative difference to the best trial's value above which the Trainer is likely to hold another model.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class GenerationResult:
    """The outcome of tuning generation settings.

    Attributes:
        study: In memory; trial 0 has the settings of the search's best trial.
        metric: Name of the objective.
        best_params: Fields of ``GenerationConfig`` with the best values; those of the best trial if none are better.
        value: Objective with the best settings.
        baseline_value: Objective with the settings of the search's best trial.
    """

    study: optuna.Study
    metric: str
    best_params: Params
    value: float
    baseline_value: float

    @property
    def gain(self) -> float:
        """How much better the best settings score than those of the search's best trial; 0 if none are better."""
        return abs(self.value - self.baseline_value)


def tune_generation(
    trainer: Any,
    searched: optuna.Study,
    best_trial: FrozenTrial | None,
    hp_space: Callable[[Any], Params],
    *,
    n_trials: int,
    compute_objective: Callable[[dict[str, Any]], Any] | None = None,
) -> GenerationResult:
    """Searches generation settings; see ``SearchResult.tune_generation``."""
    objective = _objective(searched, best_trial, compute_objective)
    tuning = _Tuning(trainer, hp_space, objective)
    sampler = RLSampler(seed=abs(int(trainer.args.seed)), n_trials=n_trials, search_space=tuning.space)
    with quiet_libraries(), ExitStack() as on_failure:
        on_failure.callback(tuning.apply, {})
        study = optuna.create_study(direction=searched.directions[0], sampler=sampler)
        tuning.add_baseline(study)
        _warn_if_other_model(best_trial, study.trials[0].values[0], objective)
        for _ in range(n_trials - 1):
            if sampler.is_exhausted(study):
                break
            tuning.run_trial(study)
        baseline, best = study.trials[0], study.best_trial
        if not objective.better(best.values[0], baseline.values[0]):
            best = baseline
        fields = best.user_attrs[GENERATION]
        tuning.apply({} if best is baseline else fields)
        on_failure.pop_all()
    return GenerationResult(study, objective.names[0], fields, float(best.values[0]), float(baseline.values[0]))


def _objective(
    searched: optuna.Study, best_trial: FrozenTrial | None, compute_objective: Callable[[dict[str, Any]], Any] | None
) -> Objective:
    if best_trial is None:
        raise SearchFailed("There is no best model whose generation could be tuned: no trial completed.")
    objective = Objective.from_json(searched.user_attrs[OBJECTIVE], compute_objective)
    if len(objective.directions) > 1:
        raise ArgumentsError(
            f"tune_generation needs one objective, this search has {', '.join(objective.names)}: several objectives "
            "have no best model."
        )
    if objective.names == ("eval_loss",):
        raise ObjectiveError(
            "The objective of this search is eval_loss, which does not depend on how text is generated. Search with "
            "metric= set to a metric that compute_metrics computes from generated text."
        )
    return objective


def _warn_if_other_model(best: FrozenTrial | None, value: float, objective: Objective) -> None:
    assert best is not None
    expected = float(best.values[0])
    if not math.isclose(value, expected, rel_tol=_TOLERANCE):
        logger.warning(
            "The model in the Trainer has %s = %.4g, but trial %d had %.4g: is it the model of that trial? Its "
            "generation is tuned as it is.",
            objective.names[0],
            value,
            best.number,
            expected,
        )


class _Tuning:
    """Evaluates one model with one generation setting after another.

    Raises:
        ArgumentsError: The Trainer has no model.
        SearchSpaceError: Evaluation generates nothing, or a name is no field of the generation configuration.
    """

    def __init__(self, trainer: Any, hp_space: Callable[[Any], Params], objective: Objective) -> None:
        if getattr(trainer, "model", None) is None:
            raise ArgumentsError("The Trainer has no model. Pass the Trainer that was searched: it has the best model.")
        self._trainer, self._hp_space, self._objective = trainer, hp_space, objective
        defaults = generation_group(trainer, trainer.model).defaults
        self._config, self._arguments = trainer.model.generation_config, trainer.args
        self._known: dict[str, float] = {}
        with preserve_random_state():
            seen = record(hp_space)
        for name in sorted(seen.returned):
            if prefix_of(name) not in (None, GEN):
                raise SearchSpaceError(
                    f"hp_space sets {name!r}, but tune_generation trains nothing: only fields of the generation "
                    "configuration can be searched, such as 'gen.num_beams'."
                )
        self._names = ScopedNames(trainer, lambda: trainer.model)
        self._names.check({_scoped(name) for name in seen.returned})
        self._defaults = {field: defaults[field] for field in sorted(map(_field, seen.returned))}
        self.space = SearchSpace.from_distributions(
            seen.distributions,
            roles={name: generic_role(distribution) for name, distribution in seen.distributions.items()},
            conditional=seen.conditional,
        )

    def add_baseline(self, study: optuna.Study) -> None:
        """Adds trial 0: the settings that the Trainer has, as params of the space where the space contains them."""
        value = self._evaluate({})
        params = self._baseline_params()
        distributions = {name: self.space.distributions[name] for name in params}
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=distributions, value=value, user_attrs={GENERATION: dict(self._defaults)}
            )
        )

    def run_trial(self, study: optuna.Study) -> None:
        """Evaluates the next settings; one that fails is recorded and does not end the tuning."""
        trial = study.ask()
        try:
            values = self._hp_space(trial)
            fitted = self._names.validate({_scoped(name): value for name, value in values.items()})
            fields = fields_of(fitted, GEN)
            trial.set_user_attr(GENERATION, fields)
            value = self._evaluate(fields)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except Exception as error:
            study.tell(trial, state=TrialState.FAIL)
            # The other ranks may be waiting in a collective, and a lost device fails all that follows.
            if self._trainer.args.world_size > 1 or failure_kind(error) == DEVICE:
                raise
            logger.warning("Generation trial %d failed: %s: %s", trial.number, type(error).__name__, error)
        else:
            study.tell(trial, value)
            logger.info("Generation trial %d: %s = %.4g with %s", trial.number, self._objective.names[0], value, fields)

    def apply(self, fields: Params) -> None:
        """Makes the Trainer, and the models that it builds from now on, generate with these settings.

        The other settings stay what they were before the tuning.
        """
        trainer = self._trainer
        self._set(fields)
        if fields and trainer.model_init is not None:
            trainer.model_init = trial_model_init(trainer.model_init, {_scoped(name): v for name, v in fields.items()})

    def _set(self, fields: Params) -> None:
        trainer = self._trainer
        trainer.args = copy.copy(self._arguments) if fields else self._arguments
        trainer.model.generation_config = updated_config(self._config, fields) if fields else self._config
        for name, value in cleared_arguments(fields, frozenset(vars(trainer.args))).items():
            setattr(trainer.args, name, value)

    def _evaluate(self, fields: Params) -> float:
        """The objective with these settings; the same settings are evaluated once."""
        key = repr(sorted({**self._defaults, **fields}.items()))
        if key not in self._known:
            self._set(fields)
            with preserve_random_state(), _unlogged(self._trainer):
                # Decoding that samples starts every setting from the same random state.
                set_training_seed(self._trainer.args)
                (value,) = self._objective(self._trainer.evaluate())
            if math.isnan(value):
                raise ObjectiveError(f"{self._objective.names[0]} is nan with the generation settings {fields}.")
            self._known[key] = value
        return self._known[key]

    def _baseline_params(self) -> Params:
        """The Trainer's settings as params of the space; empty if a setting lies outside of the space."""
        trial = FixedTrial({name: self._defaults.get(_field(name)) for name in self.space.names})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a FixedTrial only warns of a value outside of its range
                self._hp_space(trial)
        except Exception:
            return {}
        return dict(trial.params)


def _field(name: str) -> str:
    return name.removeprefix(f"{GEN}.")


def _scoped(name: str) -> str:
    return f"{GEN}.{_field(name)}"


@contextmanager
def _unlogged(trainer: Any) -> Iterator[None]:
    """Suppresses the output of evaluations to console and trackers: they are no part of the training's curve."""
    handler, log = trainer.callback_handler, trainer.state.log_history
    callbacks, n_logged = handler.callbacks, len(log)
    handler.callbacks = []
    try:
        yield
    finally:
        handler.callbacks = callbacks
        del log[n_logged:]
