"""Turns an Optuna trial into a plan for all ranks: its values, its folder, the checkpoint to resume from."""

import itertools
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from hf_rlsearch._typing import Params
from hf_rlsearch._version import __version__
from hf_rlsearch.errors import SearchFailed
from hf_rlsearch.observation import trial_attributes as attr
from hf_rlsearch.observation.trial_attributes import BASELINE, CONFIRM, SEARCH
from hf_rlsearch.trainer.search.budget import CostModel
from hf_rlsearch.trainer.search.replay import replay_plan
from hf_rlsearch.trainer.search.trial import SharedTrial, TrialPlan, stored_trial
from hf_rlsearch.trainer.session.arguments import plain
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler
from hf_rlsearch.trainer.storage import checkpoints
from hf_rlsearch.trainer.storage.paused import PausedTrials, checkpoint_curve_step
from hf_rlsearch.trainer.storage.resume import MAX_ATTEMPTS, Lease

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans trials, and stores what is needed to repeat them before they are trained.

    Attributes:
        folder: The folder of the search; each trial writes to a folder in it.
        lease: Makes this process the owner of each trial that it plans.
        baseline: The user's configuration: params to record and exact values, see ``baseline_params``.
        hp_name: Names trials; None for "run-<number>".
    """

    study: optuna.Study
    folder: str
    lease: Lease
    configurations: ConfigurationSampler
    baseline: tuple[Params, Params]
    cost_model: CostModel
    paused: PausedTrials
    hp_name: Callable[[Any], str] | None
    world_size: int

    def plan(self, trial: optuna.Trial) -> TrialPlan:
        """Plans a running trial, new or interrupted, and stores in the trial what is needed to repeat it.

        Raises:
            SearchFailed: The process has ended too often while it trained this trial.
            optuna.TrialPruned: ``hp_space`` or ``model_init`` refuses the combination.
        """
        started = checkpoints.stored_path(trial, attr.FOLDER, self.folder)
        self.lease.hold(trial)
        self._count_attempt(trial)
        params, values, exact, changes = self._sample(trial)
        args = self.configurations.arguments(values)
        attributes = self._attributes(trial, args, values, exact)
        if changes:
            attributes[attr.CHANGES] = changes
        earlier = self._paused_trial(trial, attributes) if started is None else None
        taken_over = started if earlier is None else checkpoints.stored_path(earlier, attr.FOLDER, self.folder)
        name = self._name(trial, params, taken_over)
        folder = str(Path(self.folder, name))
        resume_from = None if taken_over is None else self._last_checkpoint(folder, args)
        if earlier is not None:
            stop = earlier.system_attrs.get(attr.STOP) or {"reason": None}
            attributes[attr.JUDGED] = "reason" not in stop or bool(earlier.user_attrs.get(attr.JUDGED))
        if started is None:
            attributes[attr.STARTED_AT] = 0 if resume_from is None else checkpoint_curve_step(resume_from)
        # The folder last: a trial that has one counts as started.
        for key, value in {**attributes, attr.FOLDER: name}.items():
            trial.set_user_attr(key, value)
        checkpoints.discard_incomplete(folder, keep=resume_from)
        if resume_from is not None:
            checkpoints.point_to_best_beside(resume_from)
        return TrialPlan(
            number=trial.number,
            params=params,
            values=values,
            folder=folder,
            name=name,
            role=str(trial.user_attrs[attr.ROLE]),
            resume_from=resume_from,
            changes=changes,
        )

    def checkpoint_at(self, trial: optuna.Trial, point: int) -> str | None:
        """Returns the complete checkpoint that a trial left at a point in 1..FULL_TRAINING; None if there is none."""
        args = self.configurations.arguments(trial.user_attrs[attr.VALUES])
        folder = checkpoints.stored_path(trial, attr.FOLDER, self.folder)
        found = None if folder is None else self._last_checkpoint(folder, args)
        return found if found is not None and checkpoint_curve_step(found) == point else None

    @staticmethod
    def _count_attempt(trial: optuna.Trial) -> None:
        """Counts how often the trial was started since its learning curve last grew."""
        known = stored_trial(trial)
        reached = known.last_step or 0
        last = known.user_attrs.get(attr.ATTEMPTS) or {"n": 0, "reached": 0}
        n = 1 if reached > last["reached"] else last["n"] + 1
        trial.set_user_attr(attr.ATTEMPTS, {"n": n, "reached": reached})
        if n > MAX_ATTEMPTS:
            raise SearchFailed(f"The process ended {MAX_ATTEMPTS} times while it trained trial {trial.number}.")

    def _sample(self, trial: optuna.Trial) -> tuple[Params, Params, Params, list[str]]:
        """Of a trial the params, the returned values, the exact hyperparameters and the names of further changes."""
        if trial.user_attrs.get(attr.ROLE) == CONFIRM:
            return self._repeat(trial)
        if trial.user_attrs.get(attr.ROLE) == BASELINE:
            recorded, exact = self.baseline
            for name in recorded:
                # The public methods of Optuna take no distribution.
                trial._suggest(name, self.configurations.space.distributions[name])
            params, values = self.configurations.earlier
            return params, values, exact, []
        params, values, changes = self.configurations.sample(trial)
        trial.set_user_attr(attr.ROLE, SEARCH)
        # hp_space may return constants, and values under other names than the suggested ones.
        return params, values, {**values, **params}, changes

    def _repeat(self, trial: optuna.Trial) -> tuple[Params, Params, Params, list[str]]:
        """Does what ``_sample`` does for a trial that trains an earlier trial again under a new seed."""
        original = self.study.get_trials(deepcopy=False)[trial.user_attrs[attr.REEVALUATES]]
        for name, distribution in original.distributions.items():
            trial._suggest(name, distribution)
        earlier = replay_plan(self.study, original)
        values = {**earlier.values, "seed": trial.user_attrs[attr.SEED]}
        exact = dict(original.user_attrs.get(attr.HYPERPARAMETERS, original.params))
        return earlier.params, values, exact, earlier.changes

    def _attributes(self, trial: optuna.Trial, args: "TrainingArguments", values: Params, exact: Params) -> Params:
        """The user attributes that a replay needs, and what the trial will cost, as they come back from a storage."""
        attributes = {
            attr.ROLE: trial.user_attrs[attr.ROLE],
            attr.HYPERPARAMETERS: exact,
            attr.VALUES: values,
            attr.ARGUMENTS: self.configurations.frozen.to_json(args),
            attr.SEED: getattr(args, "seed", None),
            attr.WORLD_SIZE: self.world_size,
            attr.VERSIONS: versions(),
            attr.COST: self.cost_model.cost_of(args),
        }
        if self.configurations.earlier[0]:
            attributes[attr.EARLIER_PARAMS] = self.configurations.earlier[0]
        return dict(json.loads(json.dumps(attributes)))

    def _paused_trial(self, trial: optuna.Trial, attributes: Params) -> FrozenTrial | None:
        """The paused trial to resume, with its intermediate values copied; None for a fresh start."""
        number = trial.user_attrs.get(attr.CONTINUES)
        if number is None and attributes[attr.ROLE] == SEARCH:
            earlier = self.paused.claim(trial, attributes)
        else:  # the process was killed after this trial had claimed a paused trial
            earlier = None if number is None else self.study.get_trials(deepcopy=False)[number]
        if earlier is not None:
            known = stored_trial(trial).intermediate_values
            for step, value in sorted(earlier.intermediate_values.items()):
                if step not in known:
                    trial.report(value, step)
        return earlier

    def _last_checkpoint(self, folder: str, args: "TrainingArguments") -> str | None:
        by_epochs = plain(getattr(args, "eval_strategy", None)) == "epoch"
        return checkpoints.last_complete_checkpoint(folder, world_size=self.world_size, evaluates_epochs=by_epochs)

    def _name(self, trial: optuna.Trial, params: Params, folder: str | None) -> str:
        """The name that ``hp_name`` returns, with a number if that folder is another trial's or holds a model.

        A training that has started already keeps its folder.
        """
        if folder is not None:
            return os.path.relpath(folder, self.folder)
        wanted = self._wanted_name(trial, params)
        others = self.study.get_trials(deepcopy=False)
        taken = {checkpoints.stored_path(t, attr.FOLDER, self.folder) for t in others if t.number != trial.number}
        for name in itertools.chain([wanted], (f"{wanted}-{i}" for i in itertools.count(2))):
            path = os.path.normpath(Path(self.folder, name))
            if path not in taken and not checkpoints.holds_any(path):
                break
        return name

    def _wanted_name(self, trial: optuna.Trial, params: Params) -> str:
        name = ""
        try:
            if self.hp_name is not None:
                name = str(self.hp_name(SharedTrial(params or dict(trial.params), trial.number)))
        except Exception:
            if params:  # the baseline may lack hyperparameters that only model_init knows
                raise
        path = os.path.normpath(name)
        is_outside = path == os.curdir or path.startswith((os.pardir, os.sep))
        return f"run-{trial.number}" if is_outside else name


def versions() -> Params:
    """Returns the versions that decide whether a replay can be exact."""
    import torch
    import transformers

    return {
        "hf_rlsearch": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
