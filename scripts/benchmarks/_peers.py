"""Adapts all samplers to one interface: `ask` returns the levels of a configuration, `tell` takes its objective.

Peers see the numbers of the levels, which suits them best; ours sees the levels themselves, as its users write them.
"""

from __future__ import annotations

import importlib.util
import os
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna

from _first_trials import FirstTrial, middle, published
from _flaml import FlamlSearch
from _hebo import HeboSearch
from _neps import NepsSearch
from hf_rlsearch import RLSampler
from hf_rlsearch._typing import IntArray, Params
from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.space import SearchSpace
from recorded_tasks import RecordedTask

# Facts that "ours, wrong facts" is told wrongly, and by how many decades.
_MISTAKABLE, _WRONG_BY = ("n_parameters", "n_examples", "n_steps"), 2.0


class Search(Protocol):
    """One search on a task."""

    def ask(self) -> list[int]:
        """Levels of the next configuration."""

    def tell(self, value: float) -> None:
        """Objective of the configuration asked for last."""

    def preload(self, levels: IntArray) -> None:
        """Takes T x H configurations of the past with their recorded objectives, without choosing them."""


@dataclass(frozen=True)
class Peer:
    """A method of the benchmark.

    Attributes:
        start: (task, seed, trials in all, weights) -> a search.
        needs: Module that has to be installed.
        install: What to give to `pip install` for it; its name where not given.
        ours: It depends on weights.
        first: Chooses its first configuration; the search itself where not given.
        same_as: The method that it equals in all but the first configuration, if there is one.
    """

    start: Callable[[RecordedTask, int, int, str | None], Search]
    needs: str = "optuna"
    install: str | None = None
    ours: bool = False
    first: FirstTrial | None = None
    same_as: str | None = None

    def missing(self) -> bool:
        """The module that it needs is not installed."""
        return importlib.util.find_spec(self.needs) is None


class OptunaSearch:
    """A study with any sampler and pruner.

    Args:
        task: To be tuned.
        sampler: Chooses.
        pruner: Of `report`ed checkpoints; none where not given.
        values: Suggest the levels themselves, as a categorical hyperparameter, instead of their numbers.
    """

    def __init__(
        self,
        task: RecordedTask,
        sampler: optuna.samplers.BaseSampler,
        pruner: optuna.pruners.BasePruner | None = None,
        *,
        values: bool,
    ) -> None:
        # Hyperband puts trials in brackets by the name of the study: a fixed one, or runs would differ.
        self.study = optuna.create_study(
            study_name=task.name, direction=task.direction, sampler=sampler, pruner=pruner or optuna.pruners.NopPruner()
        )
        self.task = task
        self.space = _distributions(task, values=values)

    def ask(self) -> list[int]:
        """Levels of the next configuration; all are suggested in the order of the table."""
        self.trial = self.study.ask()
        return self.levels({name: self.trial._suggest(name, d) for name, d in self.space.items()})

    def levels(self, params: Params) -> list[int]:
        """Levels of a configuration that is named by what the study suggests."""
        return [
            d.choices.index(params[name])
            if isinstance(d, optuna.distributions.CategoricalDistribution)
            else params[name]
            for name, d in self.space.items()
        ]

    def tell(self, value: float) -> None:
        """Objective of the configuration asked for last."""
        self.study.tell(self.trial, value)

    def preload(self, levels: IntArray) -> None:
        """Adds finished trials."""
        for row in levels:
            params = {
                name: d.choices[i] if isinstance(d, optuna.distributions.CategoricalDistribution) else int(i)
                for i, (name, d) in zip(row, self.space.items(), strict=True)
            }
            self.study.add_trial(
                optuna.trial.create_trial(params=params, distributions=self.space, value=self.task.value(row))
            )


def _distributions(task: RecordedTask, *, values: bool) -> dict[str, optuna.distributions.BaseDistribution]:
    """The space of a task, of levels or of their numbers; categories are always levels."""
    return {
        h.name: optuna.distributions.IntDistribution(0, len(h.levels) - 1)
        if h.ordered and not values
        else optuna.distributions.CategoricalDistribution(h.levels)
        for h in task.hyperparameters
    }


def _optuna(name: str, **settings: Any) -> Peer:
    """A sampler of Optuna, on level numbers."""

    def start(task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> Search:
        return OptunaSearch(task, getattr(optuna.samplers, name)(seed=seed, **settings), values=False)

    return Peer(start, "cmaes" if name == "CmaEsSampler" else "torch" if name == "GPSampler" else "optuna")


def _ours(task: RecordedTask, seed: int, n_trials: int, weights: str | None, *, roles: bool) -> Search:
    generic = {h.name: "generic_numeric" if h.ordered else "generic_categorical" for h in task.hyperparameters}
    sampler = RLSampler(seed=seed, n_trials=n_trials, weights=weights, roles=None if roles else generic)
    return OptunaSearch(task, sampler, values=True)


def _ours_with_facts(task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> Search:
    """Ours as a search of the product begins it: with the whole space and what the Trainer tells about the task."""
    sampler = RLSampler(seed=seed, n_trials=n_trials, weights=weights, **known_of(task))
    return OptunaSearch(task, sampler, values=True)


def _ours_with_wrong_facts(task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> Search:
    """The same, told that model and training are a hundred times larger, or in half of the searches smaller."""
    known, sign = known_of(task), 1 if seed % 2 else -1
    wrong = {name: value + sign * _WRONG_BY for name, value in known["facts"].items() if name in _MISTAKABLE}
    sampler = RLSampler(seed=seed, n_trials=n_trials, weights=weights, **known | {"facts": known["facts"] | wrong})
    return OptunaSearch(task, sampler, values=True)


def known_of(task: RecordedTask) -> dict[str, Any]:
    """The space of a table and its facts, as arguments of our sampler and pruner."""
    return {
        "search_space": SearchSpace.from_distributions(_distributions(task, values=True)),
        "facts": {name: value for name, value in task.facts.items() if name in FACTS},
    }


def _scratch(agent: str) -> Peer:
    """An agent of ours that starts untrained."""

    def start(task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> Search:
        return OptunaSearch(task, RLSampler(seed=seed, n_trials=n_trials, agent=agent), values=True)

    return Peer(start)


def _online(task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> Search:
    """Ours, whose decision head learns on within the search."""
    sampler = RLSampler(seed=seed, n_trials=n_trials, weights=weights, learn="online")
    return OptunaSearch(task, sampler, values=True)


def _flaml(searcher: str) -> Peer:
    """One of FLAML's searchers, from the middle of the space."""

    def start(task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> Search:
        return FlamlSearch(searcher, task, seed, n_trials)

    return Peer(start, "flaml", "flaml==2.8.0", first=middle)


class SmacSearch:
    """SMAC3's facade for hyperparameter optimisation, on level numbers."""

    def __init__(self, task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> None:
        import tempfile

        from ConfigSpace import Categorical, ConfigurationSpace, Integer
        from smac import HyperparameterOptimizationFacade, Scenario

        self.task = task
        self.space = ConfigurationSpace(seed=seed)
        for h in task.hyperparameters:
            n = len(h.levels)
            self.space.add(
                Integer(h.name, (0, n - 1)) if h.ordered else Categorical(h.name, [str(i) for i in range(n)])
            )
        self._folder = tempfile.TemporaryDirectory()
        # More trials than will be asked for: SMAC refuses to go on at its own limit.
        scenario = Scenario(
            self.space, deterministic=True, n_trials=n_trials + 400, seed=seed, output_directory=Path(self._folder.name)
        )
        design = HyperparameterOptimizationFacade.get_initial_design(scenario, n_configs=max(1, min(10, n_trials // 4)))
        self.facade = HyperparameterOptimizationFacade(
            scenario, lambda config, seed=0: 0.0, initial_design=design, overwrite=True, logging_level=False
        )

    def ask(self) -> list[int]:
        """Levels of the next configuration."""
        self.info = self.facade.ask()
        return [int(self.info.config[h.name]) for h in self.task.hyperparameters]

    def tell(self, value: float) -> None:
        """Objective of the configuration asked for last; SMAC minimises."""
        from smac.runhistory.dataclasses import TrialValue

        self.facade.tell(self.info, TrialValue(cost=-value if self.task.maximize else value))

    def preload(self, levels: IntArray) -> None:
        """Tells configurations that SMAC did not ask for."""
        from ConfigSpace import Configuration
        from smac.runhistory.dataclasses import TrialInfo

        for row in levels:
            own = {h.name: int(i) if h.ordered else str(i) for h, i in zip(self.task.hyperparameters, row, strict=True)}
            self.info = TrialInfo(Configuration(self.space, values=own), seed=0)
            self.tell(self.task.value(row))


_TPE = _optuna("TPESampler", n_startup_trials=4)

PEERS: dict[str, Peer] = {
    "random": _optuna("RandomSampler"),
    "TPE": _optuna("TPESampler"),
    "TPE, 4 start-up": _TPE,
    "middle, then TPE": replace(_TPE, first=middle, same_as="TPE, 4 start-up"),
    "published, then TPE": replace(_TPE, first=published, same_as="TPE, 4 start-up"),
    "GP": _optuna("GPSampler"),
    "GP, 4 start-up": _optuna("GPSampler", n_startup_trials=4, deterministic_objective=True),
    "CMA-ES": _optuna("CmaEsSampler", warn_independent_sampling=False),
    "HEBO": Peer(HeboSearch, "hebo"),
    "SMAC3": Peer(SmacSearch, "smac"),
    "NePS": Peer(NepsSearch, "neps", NepsSearch.INSTALL, first=middle),
    "FLAML BlendSearch": _flaml("BlendSearch"),
    "FLAML CFO": _flaml("CFO"),
    "PPO from scratch": _scratch("ppo-scratch"),
    "DQN from scratch": _scratch("dqn"),
    "ours": Peer(partial(_ours, roles=True), ours=True),
    "ours, facts": Peer(_ours_with_facts, ours=True),
    "ours, wrong facts": Peer(_ours_with_wrong_facts, ours=True),
    "ours, online": Peer(_online, ours=True),
    "ours, no roles": Peer(partial(_ours, roles=False), ours=True),
    "ours, no PPO": Peer(partial(_ours, roles=True), ours=True),
    "ours, from scratch": Peer(partial(_ours, roles=True), ours=True),
}
"""By name. Weights of ours come from `variants`."""


def variants(weights: str | None, folder: Path) -> dict[str, str | None]:
    """Weights of each of our methods; "ours, no PPO" is missing where the weights have nothing that PPO has trained.

    Args:
        weights: Of ours; the bundled ones where not given.
        folder: The files of the variants are written here.
    """
    import torch

    from hf_rlsearch.agent.checkpoint import load_weights, save_weights
    from hf_rlsearch.agent.network import NetworkConfig, Predictor

    tensors, card = load_weights(weights)
    torch.manual_seed(0)
    fresh = Predictor(NetworkConfig(**card.network)).state_dict()
    card = replace(card, training={}, gates={})
    save_weights(
        folder / "untrained.safetensors",
        {f"predictor.0.{k}": v for k, v in fresh.items()},
        replace(card, name="untrained"),
    )
    told = ("ours", "ours, facts", "ours, wrong facts", "ours, online", "ours, no roles")
    found = dict.fromkeys(told, weights) | {"ours, from scratch": str(folder / "untrained.safetensors")}
    without = {k: v for k, v in tensors.items() if not k.startswith("head.")}
    if len(without) < len(tensors):
        save_weights(folder / "no-ppo.safetensors", without, replace(card, name="no-ppo"))
        found["ours, no PPO"] = str(folder / "no-ppo.safetensors")
    return found


def prepare(seed: int) -> None:
    """Seeds what libraries draw from globally, and keeps them on one thread and quiet."""
    import torch

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    torch.set_num_threads(1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
