"""``fidelity="data"``: a configuration is trained on a ninth of the rows, on a third, and at last on all of them.

Each of these is a training of its own, from fresh weights and with the whole of its schedule: a model that was trained
on few rows and then on more is not the one that training on all of them gives. The first two are *looks*: their
objective is a point of the trial's learning curve, and the pruner decides whether the next training is worth its price.
Only a training on all rows makes a complete trial, so the best run always is one.

The axis of learning curves is what it is in every search, the share of the trial's own training that is done; here that
is the rows seen in all three trainings. So prices, budgets and the comparison with other trials hold as they are.

Source: successive halving with a factor of 3, Jamieson and Talwalkar 2016 (arXiv:1502.07943), on subsets of the data as
in FABOLAS, Klein et al. 2017 (arXiv:1605.07079); who is stopped is decided by the pruner and not by rank.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import optuna

from hf_rlsearch.backend import checkpoints
from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.checked import DATA
from hf_rlsearch.backend.curve import Curve
from hf_rlsearch.backend.plan import Plan
from hf_rlsearch.backend.result import SEARCH
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.trial import COMPLETE, FULL_TRAINING, PRUNED, Outcome
from hf_rlsearch.errors import ArgumentsError

PARTS = (9, 3)
"""The looks see the rows divided by these."""

WHOLE = 1 + sum(1 / part for part in PARTS)
"""What a trial costs whose looks go well, in trainings on all rows."""

POINTS = tuple(round(FULL_TRAINING * seen / WHOLE) for seen in accumulate(1 / part for part in PARTS))
"""Where on the axis of learning curves the looks end."""

# User attribute of a trial that may go on after a look: the point that it passed, and the seconds that it took so far.
LOOKS = "looks"


def trainings_of_a_trial(settings: Settings) -> float:
    """What a searched trial costs that is trained to its end, in trainings of its arguments on all rows."""
    return WHOLE if settings.fidelity == DATA else 1.0


class Looks:
    """The trainings of one trial, in order; rank 0's business.

    Args:
        trial: The running one, with what it reported before it was interrupted, and what it repeats of another one.
        plan: Of its training on all rows. The user's own configuration, confirmations and what is only scored have no
            other.
        curve: Of the trial.
        n_rows: Of the training data.
    """

    def __init__(self, trial: optuna.Trial, plan: Plan, curve: Curve, n_rows: int) -> None:
        known = trial.study._storage.get_trial(trial._trial_id)
        self._trial, self._whole, self._curve = trial, plan, curve
        self._values = dict(known.intermediate_values)
        passed = known.user_attrs.get(LOOKS) or {"passed": 0, "seconds": 0.0}
        self._passed, self._seconds = int(passed["passed"]), float(passed["seconds"])
        looks = plan.role == SEARCH and plan.score is None
        self._sizes = [n_rows // part for part in PARTS] if looks else []
        self._ends = [0, *POINTS, FULL_TRAINING] if looks else [0, FULL_TRAINING]

    def stopped(self) -> Outcome | None:
        """The end of a trial that was killed between a look and what the pruner says to it; None if it goes on."""
        reached = max(self._values, default=0)
        if reached not in POINTS or reached <= self._passed or not self._curve.add(reached, self._values[reached]):
            return None
        seen = reached / FULL_TRAINING
        return Outcome(status=PRUNED, values=(self._values[reached],), seconds=self._seconds, trained=seen)

    def next(self) -> Plan:
        """The training that comes next: the first look that was not reported yet, else all rows."""
        reached = max(self._values, default=0)
        left = [rows for rows, end in zip(self._sizes, POINTS, strict=False) if end > reached]
        return self._look(left[0]) if left else self._whole

    def after(self, plan: Plan, outcome: Outcome) -> Plan | None:
        """What comes after one of the trainings.

        Args:
            plan: Of it.
            outcome: How it ended; becomes that of the trial.

        Returns:
            The next training of the trial; None if the trial has ended.
        """
        at = len(self._sizes) if plan.rows is None else self._sizes.index(plan.rows)
        begin, end = self._ends[at : at + 2]
        self._seconds += outcome.seconds
        outcome.seconds = self._seconds
        outcome.trained = (begin + outcome.trained * (end - begin)) / FULL_TRAINING
        if plan.rows is not None:
            checkpoints.discard(plan.folder)
        if outcome.status != COMPLETE:
            return None
        stops = self._curve.add(end, outcome.values[0])
        if plan.rows is None:
            return None
        if stops:
            outcome.status = PRUNED
            return None
        self._trial.set_user_attr(LOOKS, {"passed": end, "seconds": self._seconds})
        self._values[end] = outcome.values[0]
        self._whole = replace(self._whole, values=plan.values)  # the batch may have been halved
        return self.next()

    def _look(self, rows: int) -> Plan:
        """A training on some rows; what an interrupted one has left is deleted, it begins anew."""
        folder, name = (f"{at}/rows-{rows}" for at in (self._whole.folder, self._whole.name))
        checkpoints.discard(folder)
        return replace(self._whole, rows=rows, folder=folder, name=name, resume_from=None)


def only_rows(trainer: Any, rows: int, frozen: FrozenArguments) -> None:
    """Makes a look of the training that a Trainer is ready for.

    The rows are the first of one random order, the same for all trials and ranks, so that each look sees those of the
    one before. What is given as a number of steps becomes smaller with them; save for the best model nothing is saved.

    Args:
        trainer: Prepared for the trial.
        rows: Number of training rows.
        frozen: The user's arguments; their seed draws the order.
    """
    trainer.args = args = copy.copy(trainer.args)
    n_rows = len(trainer.train_dataset)
    trainer.train_dataset = part_of(trainer.train_dataset, rows, seed=int(frozen.value("seed") or 0))
    if args.max_steps > 0:
        args.max_steps = max(1, round(args.max_steps * rows / n_rows))
    if args.warmup_steps >= 1:  # below it is a share of all steps
        args.warmup_steps = max(1, round(args.warmup_steps * rows / n_rows))
    if not args.load_best_model_at_end:
        args.save_strategy = type(args.save_strategy)("no")
    args.dataloader_drop_last = False  # one batch may hold all rows


def part_of(data: Any, rows: int, *, seed: int) -> Any:
    """Some rows of a data set, in their order.

    Args:
        data: With a length, readable by index.
        rows: How many; more rows of the same seed include these.
        seed: Of the random order of which the first are taken.
    """
    chosen = np.sort(np.random.default_rng(abs(seed)).permutation(len(data))[:rows]).tolist()
    if hasattr(data, "select"):
        return data.select(chosen)
    from torch.utils.data import Subset

    return Subset(data, chosen)


def check_fidelity(settings: Settings, trainer: Any) -> None:
    """Refuses training data that looks cannot be made of, before anything is trained.

    Args:
        settings: Of the search.
        trainer: The user's.

    Raises:
        ArgumentsError: The data have no length, cannot be read by index, or are too few.
    """
    if settings.fidelity != DATA:
        return
    from torch.utils.data import IterableDataset

    data: Any = getattr(trainer, "train_dataset", None)
    args = trainer.args
    readable = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if not readable or isinstance(data, (Mapping, IterableDataset)):
        raise ArgumentsError(
            f"fidelity={DATA!r} trains on parts of the training data, expected a data set with a length whose rows can "
            f"be read by index, given {type(data).__name__}. Leave fidelity out."
        )
    part, n_rows = max(PARTS), len(data)
    a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    if n_rows < part * a_step:
        raise ArgumentsError(
            f"fidelity={DATA!r} trains on a ninth of the rows first, which are {n_rows // part} of {n_rows}: less than "
            f"one step of {a_step} with your own arguments. Expected at least {part * a_step} rows. Leave fidelity out."
        )
