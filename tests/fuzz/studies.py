"""Studies as people write them and as nobody would: space, objective and options are drawn from a seed."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hf_rlsearch import RLPruner, RLSampler

NAMES = [
    *("learning_rate", "weight_decay", "per_device_train_batch_size", "num_train_epochs", "warmup_steps", "seed"),
    *(
        "lr_scheduler_type",
        "optim",
        "adam_beta2",
        "dropout",
        "lora_r",
        "x",
        "y",
        "a b/c.d",
        "größe",
        "__x__",
        "n" * 200,
    ),
]
CHOICES: list[list[Any]] = [
    *([True, False], [None, "linear"], ["linear", "cosine", "constant"], ["only"], [8, 16, 32], [0.1, 1, "0.1", None]),
    *([0.0, 1e-300, 1e300], ["", " ", "\n", "größe"], list(range(300)), [f"choice {i}" for i in range(40)]),
]
VALUES = ["smooth", "smooth", "smooth", "constant", "huge", "tiny", "not finite", "seldom fails"]
MAGNITUDES = [1e-300, 1e-12, 1e-6, 1e-3, 0.1, 1.0, 3.0, 1e3, 1e9, 1e15, 1e300]
FAILS = (ValueError,)


def draw_float(rng: random.Random) -> FloatDistribution:
    low, high = sorted(rng.choice(MAGNITUDES) * rng.uniform(0.5, 1.5) for _ in range(2))
    kind = rng.choice(["plain", "plain", "log", "log", "signed", "equal", "close", "step"])
    if kind == "step":
        low = rng.choice([-1.0, 0.0, 0.1])
        return FloatDistribution(low, low + rng.choice([0.0, 0.3, 1.0, 1000.0]), step=rng.choice([0.1, 0.25, 7.0]))
    if kind == "equal":
        return FloatDistribution(low, low, log=rng.random() < 0.5)
    if kind == "close":
        return FloatDistribution(low, math.nextafter(low, math.inf))
    return FloatDistribution(-high if kind == "signed" else low, high, log=kind == "log")


def draw_int(rng: random.Random) -> IntDistribution:
    low = rng.choice([0, 1, 1, 8, -5, 2**40])
    high = low + rng.choice([0, 1, 3, 100, 2**20, 2**50])
    if low > 0 and rng.random() < 0.4:
        return IntDistribution(low, high, log=True)
    return IntDistribution(low, high, step=rng.choice([1, 1, 1, 2, 1000]))


def draw_distribution(rng: random.Random) -> BaseDistribution:
    kind = rng.random()
    if kind < 0.25:
        return CategoricalDistribution(rng.choice(CHOICES))
    return draw_float(rng) if kind < 0.7 else draw_int(rng)


def moved(distribution: BaseDistribution, number: int) -> BaseDistribution:
    """A range whose upper end depends on the trial."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None or distribution.high <= 0:
        return distribution
    high = min(1e308, distribution.high * (1 + number % 3))
    return FloatDistribution(distribution.low, high, log=distribution.log)


class Objective:
    """Suggests, reports and returns what the seed says.

    Some hyperparameters exist only with one choice of another, or have a range that moves from trial to trial.
    """

    def __init__(self, rng: random.Random, n_directions: int) -> None:
        self._n_directions = n_directions
        names = rng.sample(NAMES, rng.choice([1, 1, 2, 3, 4, 6, 10]))
        self._space = {name: draw_distribution(rng) for name in names}
        self._needs = {name: rng.randrange(2) for name in names[1:] if rng.random() < 0.2}
        self._moves = {name for name in names if rng.random() < 0.1}
        self._value = rng.choice(VALUES)
        self._steps = rng.choice([[], [1, 2, 3], list(range(10)), [1], [10**9, 2 * 10**9], [5, 3, 4]])
        self._reports_nan = rng.random() < 0.1
        self._noise = random.Random(rng.random())
        self.seen: dict[int, dict[str, BaseDistribution]] = {}

    def _suggest(self, trial: optuna.Trial) -> Iterator[float]:
        """The hyperparameters of a trial, each as a number in [0, 1]."""
        first = 0.0
        for i, (name, of_first_trial) in enumerate(self._space.items()):
            distribution = of_first_trial
            if name in self._needs and self._needs[name] != round(first):
                continue
            if name in self._moves:
                distribution = moved(distribution, trial.number)
            value = trial._suggest(name, distribution)
            assert type(value) is type(distribution.to_external_repr(distribution.to_internal_repr(value)))
            self.seen.setdefault(trial.number, {})[name] = distribution
            level = float(distribution.to_internal_repr(value))
            low, high = (getattr(distribution, end, None) for end in ("low", "high"))
            if low is None or high is None:
                low, high = 0, len(distribution.choices)  # type: ignore[attr-defined]
            position = 0.5 if high <= low else (level / 2 - low / 2) / (high / 2 - low / 2)
            first = position if i == 0 else first
            yield min(1.0, max(0.0, position))

    def __call__(self, trial: optuna.Trial) -> Any:
        positions = list(self._suggest(trial))
        value = sum((position - 0.3) ** 2 for position in positions) + 0.01 * self._noise.random()
        if self._n_directions == 1:
            for step in self._steps:
                trial.report(
                    math.nan if self._reports_nan and step == 2 else self._scaled(value + 1 / (1 + step)), step
                )
                if trial.should_prune():
                    raise optuna.TrialPruned
        if self._value == "seldom fails" and self._noise.random() < 0.3:
            raise FAILS[0]("boom")
        if self._value == "not finite" and self._noise.random() < 0.5:
            value = self._noise.choice([math.nan, math.inf, -math.inf])
        return self._scaled(value) if self._n_directions == 1 else (self._scaled(value), -value)

    def _scaled(self, value: float) -> float:
        if self._value == "constant":
            return 1.0
        if self._value == "huge":
            return math.copysign(1e308, value - 0.5)
        return value * 1e-300 if self._value == "tiny" else value


def run_study(seed: int, folder: Path) -> tuple[optuna.Study, Objective, int]:
    """The study of a seed, at its end, its objective, and the number of trials that were asked for."""
    rng = random.Random(seed)
    n_directions = 2 if rng.random() < 0.1 else 1
    n_trials = rng.choice([1, 2, 5, 8, 12])
    sampler = RLSampler(
        seed=seed,
        n_trials=rng.choice([None, n_trials, 100]),
        n_points=rng.choice([None, None, 1, 2, 5, 50]),
        max_resource=rng.choice([None, None, 10]),
    )
    pruner = rng.choice(
        [optuna.pruners.NopPruner(), RLPruner(), RLPruner(max_resource=10), RLPruner(max_resource=3, budget=4)]
    )
    storage = JournalStorage(JournalFileBackend(str(folder / "journal"))) if rng.random() < 0.1 else None
    study = optuna.create_study(
        sampler=sampler,
        pruner=pruner,
        storage=storage,
        directions=[rng.choice(["minimize", "maximize"]) for _ in range(n_directions)],
    )
    objective = Objective(rng, n_directions)
    study.optimize(objective, n_trials=n_trials, catch=FAILS)
    return study, objective, n_trials
