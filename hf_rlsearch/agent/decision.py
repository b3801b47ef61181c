"""Describes a decision of the agent and its reasons as plain data that is stored with the trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_rlsearch._typing import Params

# Which of the values of `Decision.source` predict, and what.
_PREDICTING = ("policy", "predictor")
_PREDICTED = ("improvement", "chance", "mean", "spread")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A predicted outcome of one candidate, of the mixture of all readings of the history, see `agent.mixture`.

    Differences are on the task's scale: 1 = from its median to its best.

    Attributes:
        probability: Of choosing it, among the candidates, in [0, 1].
        improvement: Expected improvement over the best trial.
        chance: Predicted probability of any improvement.
        mean: Predicted mean difference to the best trial.
        spread: Predicted standard deviation, which includes how far the readings disagree.
    """

    probability: float = 1.0
    improvement: float = 0.0
    chance: float = 0.0
    mean: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Alternative(Prediction):
    """The candidate that would have been chosen without the chosen one; `params` is its configuration."""

    params: Params


@dataclass(frozen=True, kw_only=True)
class Decision(Prediction):
    """Which candidate to train next, and why.

    Attributes:
        index: Row of the candidates.
        source: What decided: of the meta-trained agent "policy", "predictor" or "design", else the agent's name.
        n_candidates: How many could have been chosen.
        alternative: The second best; None where there was no other, or no prediction.
        contributions: By hyperparameter, how much its value moves the predicted mean, see `agent.shapley`.
        prior_contributions: The same for a prediction without any trial, from the agent's general knowledge alone.
        attention: (trial number, attention weight in [0, 1]) of the trials with the largest weights, largest first;
            means over the readings of the networks.
        feasibility: Predicted probability that it violates no constraint; None in a study without constraints.
        price: Cost of its training, or of the rest of one that it resumes, in full trainings; None without a limit of
            training or time, and before any training was timed.
        fitting: Candidates whose trainings fit what is left of time or budget; None where all do.
        too_long: Candidates whose trainings do not; None where all fit. They are chosen only where none fits.
    """

    index: int
    source: str
    n_candidates: int = 1
    alternative: Alternative | None = None
    contributions: Mapping[str, float] = field(default_factory=dict)
    prior_contributions: Mapping[str, float] = field(default_factory=dict)
    attention: tuple[tuple[int, float], ...] = ()
    feasibility: float | None = None
    price: float | None = None
    fitting: float | None = None
    too_long: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, rounded, small enough to store with every trial; without what is empty or not predicted."""
        stored = {name: value for name, value in asdict(self).items() if value is not None and value not in ({}, ())}
        if self.source not in _PREDICTING:
            stored = {name: value for name, value in stored.items() if name not in _PREDICTED}
        rounded: dict[str, Any] = _rounded(stored)
        if self.alternative is not None:  # params are values to train with: they are not rounded
            rounded["alternative"]["params"] = self.alternative.params
        return rounded


def _rounded(value: Any) -> Any:
    """The same with floats of five decimals, and lists for tuples."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, tuple | list) else value
