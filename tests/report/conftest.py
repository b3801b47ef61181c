"""Studies with a known answer, written trial by trial so that no training is needed."""

import json
import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

STARTED = datetime(2026, 1, 5, 9, 0, 0)
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "per_device_train_batch_size": CategoricalDistribution([8, 16, 32, 64]),
    "num_train_epochs": IntDistribution(1, 5),
    "weight_decay": FloatDistribution(0.0, 0.3),
    "lr_scheduler_type": CategoricalDistribution(["linear", "cosine", "constant"]),
}
OWN = {
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 3,
    "weight_decay": 0.0,
    "lr_scheduler_type": "linear",
}


def draw_params(rng: random.Random) -> dict[str, Any]:
    return {
        "learning_rate": 10 ** rng.uniform(-5, -2),
        "per_device_train_batch_size": rng.choice([8, 16, 32, 64]),
        "num_train_epochs": rng.randint(1, 5),
        "weight_decay": round(rng.uniform(0, 0.3), 3),
        "lr_scheduler_type": rng.choice(["linear", "cosine", "constant"]),
    }


def loss(params: dict[str, Any]) -> float:
    """Only the learning rate matters; the best is 8e-4."""
    return 0.35 + 0.18 * math.log10(params["learning_rate"] / 8e-4) ** 2


def decision(rng: random.Random, number: int, expected: float) -> dict[str, Any]:
    return {
        "source": "policy",
        "probability": 0.125,
        "improvement": 0.02,
        "chance": 0.31,
        "mean": round(0.5 - expected, 5),
        "spread": 0.04,
        "n_candidates": 256,
        "contributions": {"learning_rate": 0.4, "weight_decay": -0.1},
        "prior_contributions": {"learning_rate": 0.1},
        "alternative": {
            "probability": 0.11,
            "chance": 0.28,
            "mean": -0.3,
            "spread": 0.1,
            "params": {"learning_rate": 1e-3},
        },
        "attention": [[n, 0.25] for n in range(max(0, number - 3), number)],
    }


def reasons(rng: random.Random, number: int, final: float) -> dict[str, Any]:
    stop = {"fidelity": 0.25, "probability": 0.97, "chance": 0.02}
    return {"rl:decision": json.dumps(decision(rng, number, final)), "rl:stop": stop}


def make_trial(number: int, rng: random.Random, *, n_evals: int, best: float, clock: float) -> FrozenTrial:
    params = dict(OWN) if number == 0 else draw_params(rng)
    final = loss(params)
    steps = [round(10_000 * (k + 1) / n_evals) for k in range(n_evals)]
    state = TrialState.COMPLETE
    if number > 4 and final > best + 0.2:
        state, steps = TrialState.PRUNED, steps[: max(1, n_evals // 4)]
    elif number % 9 == 7:
        state, steps = TrialState.FAIL, steps[:1]
    seconds = 30.0 * steps[-1] / 10_000
    trial = create_trial(
        state=state,
        value=final if state == TrialState.COMPLETE else None,
        params=params,
        distributions=DISTRIBUTIONS,
        intermediate_values={s: final + 0.6 * math.exp(-s / 2_500) for s in steps},
        user_attrs={
            "rl:role": "baseline" if number == 0 else "search",
            "rl:seconds": seconds,
            "rl:peak_memory": 4.1e8 + 4e6 * params["per_device_train_batch_size"],
            "rl:resident_memory": 3.9e8,
            "rl:seed": 42,
            "rl:arguments": json.dumps(OWN),
            "rl:metrics": {"eval_loss": final},
            **(
                {"rl:failure": {"reason": "OutOfMemoryError: <64 rows>", "traceback": "File x"}}
                if state == TrialState.FAIL
                else {}
            ),
        },
        system_attrs={} if number == 0 else reasons(rng, number, final),
    )
    trial.datetime_start = STARTED + timedelta(seconds=clock)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=seconds)
    return trial


def build_study(
    n_trials: int = 24, n_evals: int = 8, *, storage: Any = None, name: str = "tiny-bert", seed: int = 0
) -> optuna.Study:
    rng = random.Random(seed)
    study = optuna.create_study(direction="minimize", storage=storage, study_name=name)
    study.set_user_attr("rl:objective", {"names": ["eval_loss"]})
    best, clock = math.inf, 0.0
    trials = []
    for number in range(n_trials):
        trial = make_trial(number, rng, n_evals=n_evals, best=best, clock=clock)
        clock += trial.user_attrs["rl:seconds"] + 0.5
        best = min(best, trial.value) if trial.value is not None else best
        trials.append(trial)
    study.add_trials(trials)
    return study


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def make_study() -> Callable[..., optuna.Study]:
    return build_study


@pytest.fixture(scope="session")
def study() -> optuna.Study:
    """24 trials in memory: complete, pruned and failed ones; not to be changed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return build_study()
