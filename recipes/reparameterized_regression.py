"""Linear regression by gradient descent with the re-parameterised update: the agent searches eta and lambda.

    python recipes/reparameterized_regression.py            # needs no network, takes seconds

A step is ``w <- w - eta * (lambda * gradient)``: the gradient is scaled first, by ``1 / sqrt(T)`` for ``T`` steps
unless lambda is searched, then applied with rate eta. The test error is printed beside that of the closed-form one,
which no number of steps can beat on the training rows.
"""

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
import torch
from sklearn.datasets import make_regression

from common import is_first_process, parse_args
from hf_rlsearch import RLSampler
from hf_rlsearch.trainer.hyperparameters.reparameterized import ReparameterizedUpdate


@dataclass
class Args:
    """Searches the rate and the gradient scale of gradient descent on sklearn.datasets.make_regression."""

    offline: bool = field(default=True, metadata={"help": "the data are generated: no network is ever used"})
    smoke: bool = field(default=False, metadata={"help": "few trials of few steps, to see that everything runs"})
    n_trials: int = field(default=20, metadata={"help": "trials, trial 0 (eta 0.01, lambda 1/sqrt(T)) included"})
    n_steps: int = field(default=200, metadata={"help": "gradient steps T of every trial"})
    n_rows: int = field(default=600, metadata={"help": "rows: 60 %% to train, 20 %% to validate, 20 %% to test"})
    n_features: int = field(default=20, metadata={"help": "columns"})
    noise: float = field(default=5.0, metadata={"help": "standard deviation of the noise in the target"})
    seed: int = field(default=42, metadata={"help": "seed of the rows and the search"})


Rows = tuple[torch.Tensor, torch.Tensor]


def make_rows(args: Args) -> tuple[Rows, Rows, Rows]:
    """Returns the rows to train, validate and test on: N x (D + 1) with a column of ones, and N x 1 targets."""
    if args.n_rows < 3:
        raise SystemExit(f"n_rows={args.n_rows} given, expected at least 3, to train, validate and test on.")
    columns, target = make_regression(args.n_rows, args.n_features, noise=args.noise, random_state=args.seed)
    inputs = np.hstack([columns, np.ones((len(columns), 1))])
    first, second = int(0.6 * args.n_rows), int(0.8 * args.n_rows)
    parts = (slice(0, first), slice(first, second), slice(second, None))
    train, validation, test = ((torch.from_numpy(inputs[at]), torch.from_numpy(target[at])[:, None]) for at in parts)
    return train, validation, test


def error(weights: torch.Tensor, rows: Rows) -> float:
    """The mean squared error of (D + 1) x 1 weights."""
    inputs, target = rows
    return float((inputs @ weights - target).square().mean())


def closed_form(rows: Rows) -> torch.Tensor:
    """The (D + 1) x 1 weights of the least squares solution."""
    return torch.linalg.lstsq(*rows).solution


def descend(rows: Rows, *, eta: float, gradient_scale: float | None, n_steps: int) -> torch.Tensor:
    """Returns the (D + 1) x 1 weights after ``n_steps`` of gradient descent on the mean squared error, from zero.

    Args:
        rows: N x (D + 1) inputs and N x 1 targets.
        eta: the rate.
        gradient_scale: lambda; ``1 / sqrt(n_steps)`` if None.
        n_steps: T.
    """
    inputs, target = rows
    weights = torch.zeros(inputs.shape[1], 1, dtype=inputs.dtype, requires_grad=True)
    optimizer = ReparameterizedUpdate(
        torch.optim.SGD([weights], lr=eta),
        gradient_scale=gradient_scale,
        n_steps=n_steps if gradient_scale is None else None,
    )
    for _ in range(n_steps):
        optimizer.zero_grad()
        (inputs @ weights - target).square().mean().backward()
        optimizer.step()
    return weights.detach()


def search(args: Args, train: Rows, validation: Rows) -> optuna.Study:
    """Lets the agent choose eta and lambda; a pair that diverges is a failed trial, which it learns from as well."""
    untrained = error(torch.zeros_like(train[0][:1]).T, validation)

    def validation_error(trial: optuna.Trial) -> float:
        """The decimal logarithm of the validation error, because the errors span many powers of ten."""
        eta = trial.suggest_float("eta", 1e-3, 10.0, log=True)
        gradient_scale = trial.suggest_float("gradient_scale", 1e-3, 1.0, log=True)
        reached = error(descend(train, eta=eta, gradient_scale=gradient_scale, n_steps=args.n_steps), validation)
        return math.log10(reached) if reached < 10 * untrained else math.nan

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = RLSampler(seed=args.seed, n_trials=args.n_trials)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    study.enqueue_trial({"eta": 0.01, "gradient_scale": 1 / math.sqrt(args.n_steps)})
    study.optimize(validation_error, n_trials=args.n_trials)
    return study


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Reads the arguments, searches, prints and returns the errors."""
    args = parse_args(Args, argv)
    if args.smoke:
        args = replace(args, n_trials=4, n_steps=30, n_rows=100, n_features=5)
    started = time.monotonic()
    train, validation, test = make_rows(args)
    study = search(args, train, validation)
    found = descend(train, **study.best_params, n_steps=args.n_steps)
    first = descend(train, eta=0.01, gradient_scale=None, n_steps=args.n_steps)
    errors = {
        "trial 0": error(first, test),
        "found by the search": error(found, test),
        "closed form": error(closed_form(train), test),
    }
    if is_first_process():  # without a Trainer nothing is shared: each process makes the same search
        print(f"{len(study.trials)} trials of {args.n_steps} steps, {time.monotonic() - started:.0f} s")
        print(f"best: {study.best_params}")
        for name, value in errors.items():
            print(f"test error, {name}: {value:.4f}")
    return {"best": study.best_params, **errors}


if __name__ == "__main__":
    main()
