"""From a trial that the study asked for to a plan for all ranks: its values, its folder, where it continues from."""

import json
import os
import platform
import uuid
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import SearchFailed
from hf_rlsearch.observation.trial_attributes import (
    ARGUMENTS,
    ATTEMPTS,
    BASELINE,
    CONFIRM,
    CONTINUES,
    COST,
    FOLDER,
    HYPERPARAMETERS,
    OWNER,
    REEVALUATES,
    ROLE,
    SEARCH,
    SEED,
    STARTED_AT,
    VALUES,
    VERSIONS,
    WORLD_SIZE,
    role,
)
from hf_rlsearch.trainer.search.trial import SharedTrial, TrialPlan
from hf_rlsearch.trainer.session.arguments import plain, training_cost
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler, suggest
from hf_rlsearch.trainer.storage import checkpoints
from hf_rlsearch.trainer.storage.paused import PausedTrials, curve_step
from hf_rlsearch.trainer.storage.resume import this_process

# A trial that takes the whole process with it this often, without getting any further, is given up.
_MAX_ATTEMPTS = 10


class Planner:
    """Plans trials and writes into the storage what is needed to repeat them, before they are trained.

    Args:
        study: Of the search.
        folder: Where its trials write.
        configurations: Samples configurations.
        settings: Of the search.
        pausing: Which trainings wait on disk.
        config: Of the user's model, for the hyperparameters of his own configuration.
        n_rows: Of the training data, None where they have no length.
        world_size: Number of processes.
    """

    def __init__(
        self,
        study: optuna.Study,
        folder: str,
        configurations: ConfigurationSampler,
        settings: SearchConfig,
        pausing: PausedTrials,
        *,
        config: Any,
        n_rows: int | None,
        world_size: int,
    ) -> None:
        self._study, self._folder, self._configurations, self._settings = study, folder, configurations, settings
        self._pausing, self._config, self._n_rows, self._world_size = pausing, config, n_rows, world_size

    def plan(self, trial: optuna.Trial) -> tuple[TrialPlan, Params]:
        """The plan, and the exact hyperparameters for people to read.

        Raises:
            SearchFailed: The process has ended too often while it trained this trial.
            optuna.TrialPruned: ``hp_space`` or ``model_init`` refuses the combination.
        """
        begun = trial.user_attrs.get(FOLDER)
        trial.set_user_attr(OWNER, this_process())
        attempts = self._attempts(trial)
        if attempts > _MAX_ATTEMPTS:
            raise SearchFailed(f"The process ended {_MAX_ATTEMPTS} times while it trained trial {trial.number}.")
        params, values, exact = self._draw(trial)
        args = self._configurations.arguments(values)
        facts = self._facts(trial, args, values, exact)
        earlier = self._earlier(trial, facts) if begun is None else None
        name = self._name(trial, params, begun if earlier is None else earlier.user_attrs[FOLDER])
        folder = str(Path(self._folder, name))
        resume_from = None if begun is None and earlier is None else self._last_checkpoint(folder, args)
        if begun is None:
            facts[STARTED_AT] = 0 if resume_from is None else curve_step(resume_from)
        for key, value in {**facts, FOLDER: folder}.items():  # the folder last: with it the trial counts as begun
            trial.set_user_attr(key, value)
        checkpoints.discard_incomplete(folder, keep=resume_from)
        plan = TrialPlan(
            number=trial.number,
            params=params,
            values=values,
            folder=folder,
            name=name,
            role=str(trial.user_attrs[ROLE]),
            resume_from=resume_from,
        )
        return plan, exact

    def _draw(self, trial: optuna.Trial) -> tuple[Params, Params, Params]:
        """Params, values of training arguments and exact hyperparameters of a trial, by its role."""
        if trial.user_attrs.get(ROLE) == CONFIRM:
            return self._repeat(trial)
        if trial.user_attrs.get(ROLE) == BASELINE:
            recorded, exact = self._configurations.baseline_params(self._config)
            for name in recorded:
                suggest(trial, name, self._configurations.space.distributions[name])
            return {}, {}, exact
        params, values = self._configurations.sample(trial)
        trial.set_user_attr(ROLE, SEARCH)
        return params, values, params

    def _repeat(self, trial: optuna.Trial) -> tuple[Params, Params, Params]:
        """As ``_draw``, of the trial that this one confirms, under its own seed."""
        original = self._study.get_trials(deepcopy=False)[trial.user_attrs[REEVALUATES]]
        for name, distribution in original.distributions.items():
            suggest(trial, name, distribution)
        params = {} if role(original) == BASELINE else dict(original.params)
        values = {**original.user_attrs.get(VALUES, {}), "seed": trial.user_attrs[SEED]}
        return params, values, dict(original.user_attrs.get(HYPERPARAMETERS, original.params))

    def checkpoint_at(self, trial: optuna.Trial, point: int) -> str | None:
        """The whole checkpoint that a trial has left at a point of its learning curve, None if there is none."""
        args = self._configurations.arguments(trial.user_attrs[VALUES])
        found = self._last_checkpoint(trial.user_attrs[FOLDER], args)
        return found if found is not None and curve_step(found) == point else None

    def _facts(self, trial: optuna.Trial, args: Any, values: Params, exact: Params) -> Params:
        """User attributes, as they come back from a storage: all that a replay needs, and what the trial will cost."""
        own = self._configurations.frozen.original()
        facts = {
            ROLE: trial.user_attrs[ROLE],
            HYPERPARAMETERS: exact,
            VALUES: values,
            ARGUMENTS: self._configurations.frozen.to_json(args),
            SEED: getattr(args, "seed", None),
            WORLD_SIZE: self._world_size,
            VERSIONS: versions(),
            COST: training_cost(args, own, self._n_rows, self._world_size),
        }
        return dict(json.loads(json.dumps(facts)))

    def _earlier(self, trial: optuna.Trial, facts: Params) -> FrozenTrial | None:
        """The paused trial that this one goes on with, its reports repeated; None if it begins anew."""
        number = trial.user_attrs.get(CONTINUES)
        if number is None and facts[ROLE] == SEARCH:
            earlier = self._pausing.claim(trial, facts)
        else:  # killed before it could begin
            earlier = None if number is None else self._study.get_trials(deepcopy=False)[number]
        if earlier is not None:
            known = self._study._storage.get_trial(trial._trial_id).intermediate_values
            for step, value in sorted(earlier.intermediate_values.items()):
                if step not in known:
                    trial.report(value, step)
        return earlier

    def _last_checkpoint(self, folder: str, args: Any) -> str | None:
        by_epochs = plain(getattr(args, "eval_strategy", None)) == "epoch"
        return checkpoints.last_complete_checkpoint(folder, world_size=self._world_size, evaluates_epochs=by_epochs)

    @staticmethod
    def _attempts(trial: optuna.Trial) -> int:
        """How often the trial was begun since it last got further."""
        known = trial.study._storage.get_trial(trial._trial_id)
        reached = max(known.intermediate_values, default=0)
        last = known.user_attrs.get(ATTEMPTS) or {"n": 0, "reached": 0}
        n = 1 if reached > last["reached"] else last["n"] + 1
        trial.set_user_attr(ATTEMPTS, {"n": n, "reached": reached})
        return int(n)

    def _name(self, trial: optuna.Trial, params: Params, begun: str | None) -> str:
        """What ``hp_name`` answers, with a number behind it where that folder is another trial's or holds a model."""
        if begun is not None and Path(begun).is_relative_to(self._folder):
            return str(Path(begun).relative_to(self._folder))
        wanted = self._wanted_name(trial, params)
        others = self._study.get_trials(deepcopy=False)
        taken = {t.user_attrs.get(FOLDER) for t in others if t.number != trial.number}
        for name in (wanted, *(f"{wanted}-{i}" for i in range(2, len(others) + _MAX_ATTEMPTS))):
            folder = str(Path(self._folder, name))
            if folder not in taken and not checkpoints.holds_any(folder):
                return name
        return f"{wanted}-{uuid.uuid4().hex[:8]}"

    def _wanted_name(self, trial: optuna.Trial, params: Params) -> str:
        usual = f"run-{trial.number}"
        if self._settings.hp_name is None:
            return usual
        try:
            name = str(self._settings.hp_name(SharedTrial(params or dict(trial.params), trial.number)))
        except Exception:
            if params:
                raise
            # The user's own configuration may lack hyperparameters that only model_init knows.
            return usual
        inside = os.path.normpath(name)
        return usual if inside in ("", os.curdir) or inside.startswith((os.pardir, os.sep)) else name


def versions() -> Params:
    """The versions that decide whether a replay can be exact."""
    import torch
    import transformers

    from hf_rlsearch._version import __version__

    return {
        "hf_rlsearch": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
